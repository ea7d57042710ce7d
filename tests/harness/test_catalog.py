"""The catalog of task names, held against lm-eval's own index, and task managers that index no more than is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phibench.errors import UserError
from phibench.harness import catalog as catalog_module
from phibench.harness.catalog import OURS, catalog, lm_eval_tasks, manager_for
from phibench.harness.tasks import task_leaves

OUR_TASKS = [
    "dialogsum", "dialogsum_loss", "orca_dpo_pairs", "piqa_pairs", "webglm_pairs", "webglm_qa", "webglm_qa_loss",
    "mini_arc_challenge", "mini_arc_easy", "mini_dialogsum", "mini_dialogsum_loss", "mini_hellaswag", "mini_piqa",
    "mini_webglm_pairs", "mini_webglm_qa", "mini_webglm_qa_loss", "mini_winogrande",
]  # fmt: skip
# One of each way in which lm-eval's files name things.
PLAIN = ["arc_easy", "arc_challenge", "hellaswag", "piqa", "winogrande", "gsm8k", "wikitext", "ifeval"]
QUOTED = "AraDiCE_ArabicMMLU_high_stem_physics_egy"  # "task": "..."
IN_PYTHON = "squadv2"  # class: !function
IN_PYTHON_WITH_GROUP = "scrolls_qasper"  # group, task and class in one file
TASK = """task: {name}
dataset_path: owner/mine
output_type: generate_until
test_split: test
doc_to_text: "{{{{a}}}}"
doc_to_target: "{{{{b}}}}"
"""


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", [*OUR_TASKS, *PLAIN, QUOTED, IN_PYTHON, IN_PYTHON_WITH_GROUP])
def test_tasks_are_found_in_the_file_that_defines_them(name: str) -> None:
    (path,) = catalog().tasks[name]
    assert path.is_relative_to(OURS if name in OUR_TASKS else lm_eval_tasks())
    assert name in path.read_text(encoding="utf-8")
    assert catalog().files(name) == [str(path)]


@pytest.mark.parametrize(("name", "kind"), [
    ("phibench_mini", "tags"), ("mmlu", "groups"), ("ai2_arc", "tags"), ("leaderboard", "groups"),
    ("bertaqa", "tags"),  # named in a file to include, whose name has no suffix
])  # fmt: skip
def test_groups_and_tags_are_found(name: str, kind: str) -> None:
    known = catalog()
    assert [k for k in ("tasks", "groups", "tags") if name in getattr(known, k)] == [kind]
    assert name in known


def test_what_nothing_defines_is_not_in_it() -> None:
    assert "no_such_task" not in catalog()
    assert catalog().files("no_such_task") == []
    assert "scrolls" not in catalog().groups  # lm-eval's files say `group: scrolls` but make no such group


@pytest.mark.parametrize(("name", "near"), [
    ("arc_esy", "arc_easy"),
    ("arc-easy", "arc_easy"),
    ("ARC_Easy", "arc_easy"),
    ("helaswag", "hellaswag"),
    ("mini_webglm", "mini_webglm_qa"),
    ("phibench-mini", "phibench_mini"),
    ("qzxwvk", None),
])  # fmt: skip
def test_near_matches(name: str, near: str | None) -> None:
    assert catalog().near(name) == near


def test_names_are_read_in_every_form_that_yaml_has_for_them(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        plain="task: one # a comment\n",
        quoted='"task": "two"\n',
        single="'task' : 'three'\n".replace(" :", ":"),
        flow="task: four\ntag: [red, 'blue']\n",
        block="task: five\ntag:\n  - green\n- yellow\n",
        group="group: six\ntask:\n  - one\n  - task: inner\n",
        python="task: seven\ngroup: eight\nclass: !function task.Seven\n",
        nested="task: nine\nmetadata:\n  task: ten\n",
        crlf="task: eleven\r\ntag:\r\n  - pink\r\n",
    )
    (folder / "_shared").write_text("tag: orange\ntask: twelve\n", encoding="utf-8")
    (folder / "notes.md").write_text("task: thirteen\n", encoding="utf-8")
    known = catalog((folder,))

    def new(kind: str) -> set[str]:
        return set(getattr(known, kind)) - set(getattr(catalog(), kind))

    assert new("tasks") == {"one", "two", "three", "four", "five", "seven", "nine", "eleven"}
    assert new("groups") == {"six"}
    assert new("tags") == {"red", "blue", "green", "yellow", "orange", "pink"}


def test_lm_evals_names_are_read_once_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog()
    read: list[Path] = []
    original = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, **how: read.append(self) or original(self, **how))
    catalog((write(tmp_path, t="task: my_own\n"),))
    assert read == [tmp_path / "t.yaml"]


# ---- task managers


def config_of(manager: Any, name: str) -> dict[str, Any]:
    return dict(manager.task_index[name].cfg)


def test_plain_names_index_only_their_folders() -> None:
    manager = manager_for(["arc_easy", "piqa", "mini_piqa"])
    assert {"arc_easy", "arc_challenge", "piqa", "mini_piqa", "dialogsum"} <= set(manager.all_subtasks)
    assert "hellaswag" not in manager.task_index
    assert len(manager.task_index) < 40


def test_a_manager_for_plain_names_can_make_their_tasks() -> None:
    manager = manager_for(["mini_piqa"])
    task = manager.load(["mini_piqa"])["tasks"]["mini_piqa"]
    assert len(task.eval_docs) > 40


def test_an_own_task_goes_before_one_of_the_same_name(tmp_path: Path) -> None:
    folder = write(tmp_path, mine=TASK.format(name="arc_easy"))
    manager = manager_for(["arc_easy"], [folder])
    assert config_of(manager, "arc_easy")["dataset_path"] == "owner/mine"
    assert config_of(manager_for(["arc_easy"]), "arc_easy")["dataset_path"] == "allenai/ai2_arc"
    assert catalog((folder,)).files("arc_easy")[0] == str(folder / "mine.yaml")


def test_an_unknown_name_is_refused_before_anything_is_indexed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lm_eval.tasks.TaskManager", None)
    with pytest.raises(UserError, match='no task, group or tag is called "arc_esy"') as caught:
        manager_for(["mini_piqa", "arc_esy"])
    assert 'did you mean "arc_easy"?' in str(caught.value.fix)


def test_a_file_that_lm_eval_passes_over_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, bad="task: my_bad\n  output_type: [\n")
    with pytest.raises(UserError, match='cannot read the file of the task "my_bad"') as caught:
        manager_for(["my_bad"], [folder])
    assert caught.value.where == str(folder / "bad.yaml")


def test_without_lm_eval_the_fix_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="lm-eval is not installed") as caught:
        lm_eval_tasks()
    assert "pip install" in str(caught.value.fix)


@pytest.mark.model
def test_all_agrees_with_lm_evals_full_index() -> None:
    """Takes as long as lm-eval takes to parse its 14,000 files."""
    full = manager_for([*PLAIN, "phibench_mini"])  # a tag: everything is indexed
    known = catalog()
    assert set(known.tasks) == set(full.all_subtasks)
    assert set(known.groups) == set(full.all_groups)
    # A tag in a file to include is no tag where each task that includes it has tags of its own.
    assert set(full.all_tags) <= set(known.tags)
    assert len(set(known.tags) - set(full.all_tags)) < 10

    sample = [*PLAIN, *OUR_TASKS, QUOTED, IN_PYTHON, IN_PYTHON_WITH_GROUP, *sorted(known.tasks)[::500]]
    few = manager_for(sample)
    assert len(few.task_index) < len(full.task_index) / 3
    assert [name for name in sample if config_of(few, name) != config_of(full, name)] == []

    assert sorted(leaf for leaf, _ in task_leaves(full, "phibench_mini")) == sorted(
        name for name in OUR_TASKS if name.startswith("mini_") and not name.endswith(("_loss", "_pairs"))
    )
    assert len(list(task_leaves(full, "mmlu"))) == 57
