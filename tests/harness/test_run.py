"""`phibench run` from end to end on a tiny model: what it writes, what it keeps, and how it fails."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phibench.cli import main
from phibench.harness import variant_run
from phibench.harness.engine.head import Head
from phibench.harness.engine.plain import PlainEngine
from phibench.harness.engine.scoring import TreeEngine
from phibench.harness.engine.tree import Forward
from phibench.harness.records import read_records
from phibench.harness.results import CellResult, Manifest, Results, read_manifest, read_results
from support.models import linear4bit
from support.tiny import save_tiny_adapter, save_tiny_model, tiny_tokenizer

YAML = Path(__file__).parent / "yaml"
TEXTS = [
    "The old bridge in the north was built of stone.",
    "Bread rises because yeast makes gas.",
    "Hello, how are you today?",
]

SUITE = """
name = "tiny"
include = ["{yaml}"]
[base]
model = "{base}"
dtype = "float32"
[quantizations.nf4]
load_in_4bit = true
bnb_4bit_quant_type = "nf4"
[adapters.a]
path = "{adapter}"
[matrix]
adapter = "a"
quantization = "nf4"
kinds = {kinds}
[[tasks]]
name = "mini_arc_easy"
[[tasks]]
name = "test_rolling"
[[tasks]]
name = "test_last_word"
[[tasks]]
name = "test_sampled"
[data]
"test/rolling" = "{data}"
"""

Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    base = save_tiny_model(folder / "base")
    return base, save_tiny_adapter(folder / "adapter", base)


@pytest.fixture
def suite(tmp_path: Path, models: tuple[Path, Path]) -> Path:
    return write_suite(tmp_path, models)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the command line in this process; gives its exit code and all it printed."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["phibench", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return int(stopped.value.code or 0), printed.out + printed.err

    return call


def write_suite(
    folder: Path, models: tuple[Path, Path], *, kinds: list[str] | None = None, extra: str = "", data: str = ""
) -> Path:
    base, adapter = models
    rows = folder / "rows.jsonl"
    if not rows.exists():
        rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    text = SUITE.format(
        yaml=YAML,
        base=base,
        adapter=adapter,
        data=data or rows,
        kinds=json.dumps(kinds or ["base", "adapter-q", "merged"]),
    )
    if kinds is not None and not any("q" in kind for kind in kinds):
        text = text.replace('quantization = "nf4"\n', "").replace(
            text[text.index("[quant") : text.index("[adapters")], ""
        )
    path = folder / "suite.toml"
    path.write_text(text + extra, encoding="utf-8")
    return path


def statuses(out: Path) -> dict[tuple[str, str], str]:
    return {(cell.variant, cell.task): cell.status for cell in read_results(out).cells}


def test_a_whole_run(run: Run, suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, printed = run("run", suite, "--out", out, "--limit", 4)
    assert code == 0, printed
    manifest, results = read_manifest(out), read_results(out)
    assert isinstance(manifest, Manifest)
    assert isinstance(results, Results)
    assert manifest.status == "done"
    assert [v.kind for v in manifest.variants] == ["base", "adapter-nf4", "merged"]
    assert len({v.identity for v in manifest.variants}) == 3
    assert [t.name for t in manifest.tasks] == ["mini_arc_easy", "test_rolling", "test_last_word", "test_sampled"]
    assert manifest.tasks[1].data_files[0].sha256
    assert all(cell.status == "done" and cell.seconds > 0 and cell.peak_memory_bytes for cell in results.cells)
    for cell in results.cells:
        records = read_records(out / str(cell.records))
        assert len(records) == cell.items == (4 if cell.task == "mini_arc_easy" else len(TEXTS))
        assert all(record.metrics and record.responses and record.prompt_hash for record in records)
    sampled = read_records(out / str(results.cell("base", "test_sampled").records))  # type: ignore[union-attr]
    assert {metric.filter for metric in sampled[0].metrics} == {"first", "vote"}
    assert len(sampled[0].responses) == 2
    html = (out / "report.html").read_text(encoding="utf-8")
    assert "adapter-nf4" in html
    assert "merged" in (out / "report.md").read_text(encoding="utf-8")
    assert not list(out.rglob("*.part"))
    assert not (out / "journal" / "base" / "mini_arc_easy.jsonl").exists()


def test_a_chat_template_of_ours_by_its_name(run: Run, suite: Path, tmp_path: Path) -> None:
    """A name, and no file beside the suite: what a base without a template of its own is told to use."""
    text = suite.read_text(encoding="utf-8").replace('dtype = "float32"', 'dtype = "float32"\nchat_template = true')
    suite.write_text(text, encoding="utf-8")
    code, printed = run("run", suite, "--out", tmp_path / "none", "--only", "base")
    assert code == 2
    assert 'set chat_template = "chatml"' in " ".join(printed.split())
    suite.write_text(text.replace("chat_template = true", 'chat_template = "chatml"'), encoding="utf-8")
    code, printed = run("check", suite)
    assert code == 0, printed
    out = tmp_path / "out"
    code, printed = run("run", suite, "--out", out, "--limit", 1, "--only", "base", "--only", "mini_arc_easy")
    assert code == 0, printed
    [record] = read_records(out / str(read_results(out).cell("base", "mini_arc_easy").records))  # type: ignore[union-attr]
    assert record.prompt is not None and record.prompt.startswith("<|im_start|>user\nQuestion: ")


def test_an_adapter_that_is_asked_in_a_template_of_its_own_is_told_of(
    run: Run, models: tuple[Path, Path], tmp_path: Path
) -> None:
    """Differences are paired item by item, so the items had better be asked alike."""
    base = shutil.copytree(models[0], tmp_path / "base")
    adapter = shutil.copytree(models[1], tmp_path / "adapter")
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    for folder, text in ((base, template), (adapter, f"<{template}>")):
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = text
        tokenizer.save_pretrained(folder)
    suite = write_suite(tmp_path, (base, adapter), kinds=["base", "adapter"])
    text = suite.read_text().replace('dtype = "float32"', 'dtype = "float32"\nchat_template = {}')
    for chat, told in (("true", True), ('"chatml"', False)):
        suite.write_text(text.format(chat), encoding="utf-8")
        out = tmp_path / f"out-{told}"
        code, printed = run("run", suite, "--out", out, "--limit", 2, "--only", "mini_arc_easy")
        assert code == 0, printed
        says = "adapter is asked other prompts than base on 2 of 2 items of mini_arc_easy"
        assert (says in " ".join(printed.split())) == told
        assert any(says in warning for warning in read_manifest(out).warnings) == told


def test_scores_are_stock_lm_evals(run: Run, suite: Path, tmp_path: Path, models: tuple[Path, Path]) -> None:
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    import phibench.suites.tasks

    more = ("mini_winogrande", "mini_dialogsum", "mini_webglm_qa")
    extra = "".join(f'\n[[tasks]]\nname = "{task}"\n' for task in more)
    suite.write_text(suite.read_text().replace("[data]", extra + "[data]"), encoding="utf-8")
    out = tmp_path / "out"
    assert run("run", suite, "--out", out, "--limit", 3, "--only", "base")[0] == 0
    from lm_eval.tasks import TaskManager

    ours = str(Path(phibench.suites.tasks.__path__[0]))
    stock = lm_eval.simple_evaluate(
        model=HFLM(pretrained=str(models[0]), dtype="float32", batch_size=1, device="cpu"),
        tasks=["mini_arc_easy", "mini_winogrande", "mini_dialogsum", "mini_webglm_qa"],
        task_manager=TaskManager(include_path=ours, include_defaults=False),
        limit=3,
        bootstrap_iters=0,
    )
    checked = 0
    for task, expected in stock["results"].items():
        cell = read_results(out).cell("base", task)
        assert cell is not None
        scores = {f"{score.metric},{score.filter}": score.value for score in cell.scores}
        for key, value in expected.items():
            if isinstance(value, float) and "stderr" not in key:
                assert scores[key] == pytest.approx(value, abs=1e-9), (task, key)
                checked += 1
    assert checked > 20
    for task in ("mini_arc_easy", "mini_winogrande"):
        records = read_records(out / "records" / "base" / f"{task}.parquet")
        for record, sample in zip(records, stock["samples"][task], strict=True):
            found = [response.loglikelihood for response in record.responses]
            assert found == pytest.approx([float(resp[0][0]) for resp in sample["resps"]], abs=2e-4)


def test_a_second_run_reuses_every_cell(run: Run, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    assert run("run", suite, "--out", out, "--limit", 2)[0] == 0
    before = (out / "records" / "base" / "mini_arc_easy.parquet").stat().st_mtime_ns
    monkeypatch.setattr(variant_run, "TreeEngine", _never)
    code, printed = run("run", suite, "--out", out, "--limit", 2)
    assert code == 0, printed
    assert "already here" in printed
    assert (out / "records" / "base" / "mini_arc_easy.parquet").stat().st_mtime_ns == before


def test_another_adapters_answers_are_never_reused(run: Run, tmp_path: Path, models: tuple[Path, Path]) -> None:
    base, adapter = models
    mine = Path(shutil.copytree(adapter, tmp_path / "mine"))
    suite = write_suite(tmp_path, (base, mine))
    out = tmp_path / "out"
    assert run("run", suite, "--out", out, "--limit", 2)[0] == 0
    first = read_manifest(out)
    answers = read_records(out / "records" / "merged" / "mini_arc_easy.parquet")
    save_tiny_adapter(mine, base, seed=99)  # same path, other weights
    assert run("run", suite, "--out", out, "--limit", 2)[0] == 0
    second = read_manifest(out)
    assert first.variants[0].identity == second.variants[0].identity
    assert first.variants[2].identity != second.variants[2].identity
    again = read_records(out / "records" / "merged" / "mini_arc_easy.parquet")
    assert [r.loglikelihood for r in again[0].responses] != [r.loglikelihood for r in answers[0].responses]


def test_an_interrupted_run_goes_on_where_it_stopped(
    run: Run, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    real = Head.score
    calls = {"n": 0}

    def stops(self: Head, hidden: Any, forward: Forward, output: Any) -> Any:
        calls["n"] += 1
        if calls["n"] == 3:
            raise KeyboardInterrupt
        return real(self, hidden, forward, output)

    small = "\n[engine]\nbatch_tokens = 200\n"
    suite.write_text(suite.read_text() + small, encoding="utf-8")
    monkeypatch.setattr(Head, "score", stops)
    code, printed = run("run", suite, "--out", out, "--limit", 4)
    assert code == 130
    assert "Traceback" not in printed
    assert read_manifest(out).status == "interrupted"
    assert (out / "report.md").exists()
    kept = (out / "journal" / "base" / "mini_arc_easy.jsonl").read_text().splitlines()
    assert len(kept) > 1
    asked: list[int] = []

    def counts(self: Head, hidden: Any, forward: Forward, output: Any) -> Any:
        asked.append(len(forward.owners))
        return real(self, hidden, forward, output)

    monkeypatch.setattr(Head, "score", counts)
    assert run("run", suite, "--out", out, "--limit", 4)[0] == 0
    first_pass = sum(asked)
    asked.clear()
    assert run("run", suite, "--out", whole, "--limit", 4)[0] == 0
    assert first_pass == sum(asked) - (len(kept) - 1)
    for path in sorted((whole / "records").rglob("*.parquet")):
        mine, other = read_records(out / path.relative_to(whole)), read_records(path)
        for a, b in zip(mine, other, strict=True):
            assert [(r.loglikelihood, r.text) for r in a.responses] == [
                (pytest.approx(r.loglikelihood, abs=1e-4) if r.loglikelihood else None, r.text) for r in b.responses
            ]


def test_a_variant_that_cannot_be_made_says_so_and_the_rest_goes_on(
    run: Run, tmp_path: Path, models: tuple[Path, Path]
) -> None:
    from peft import PromptTuningConfig, TaskType, get_peft_model
    from transformers import AutoModelForCausalLM

    base = models[0]
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=3),
    )
    model.save_pretrained(tmp_path / "prompt")
    suite = write_suite(tmp_path, (base, tmp_path / "prompt"), kinds=["base", "adapter", "merged"])
    out = tmp_path / "out"
    code, printed = run("run", suite, "--out", out, "--limit", 2)
    assert code == 3
    assert "Traceback" not in printed
    assert "cannot be merged" in printed
    found = statuses(out)
    assert {status for (variant, _), status in found.items() if variant != "merged"} == {"done"}
    assert {status for (variant, _), status in found.items() if variant == "merged"} == {"failed"}
    assert "cannot be merged" in (out / "report.md").read_text(encoding="utf-8")


def test_a_bug_in_one_cell_keeps_its_traceback_and_the_rest_goes_on(
    run: Run, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: TreeEngine, requests: Any) -> Any:
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr(TreeEngine, "generate", broken)
    out = tmp_path / "out"
    code, printed = run("run", suite, "--out", out, "--limit", 2, "--only", "base")
    assert code == 3
    assert "Traceback" in printed
    assert "a bug of ours" in (out / "log.txt").read_text(encoding="utf-8")
    assert statuses(out)["base", "test_sampled"] == "failed"
    assert statuses(out)["base", "mini_arc_easy"] == "done"


def test_a_full_disk_keeps_what_is_finished(
    run: Run, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from phibench.harness import finishing

    real = finishing.write_records

    def full(path: Path, records: Any) -> None:
        if path.stem == "test_rolling":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, records)

    monkeypatch.setattr(finishing, "write_records", full)
    out = tmp_path / "out"
    code, printed = run("run", suite, "--out", out, "--limit", 2)
    assert code == 2
    assert "disk is full" in printed
    assert "Traceback" not in printed
    assert statuses(out)["base", "mini_arc_easy"] == "done"
    monkeypatch.setattr(finishing, "write_records", real)
    assert run("run", suite, "--out", out, "--limit", 2)[0] == 0


def test_only_works_on_what_it_names_and_keeps_the_rest(run: Run, suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("run", suite, "--out", out, "--limit", 2, "--only", "merged", "--only", "mini_arc_easy")[0] == 0
    found = statuses(out)
    assert found == {
        ("base", "mini_arc_easy"): "pending",
        ("adapter-nf4", "mini_arc_easy"): "pending",
        ("merged", "mini_arc_easy"): "done",
    }
    assert run("run", suite, "--out", out, "--limit", 2, "--only", "base", "--only", "test_rolling")[0] == 0
    found = statuses(out)
    assert found["merged", "mini_arc_easy"] == found["base", "test_rolling"] == "done"
    assert read_manifest(out).status == "incomplete"


def test_another_suite_does_not_go_into_the_same_folder(run: Run, suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("run", suite, "--out", out, "--limit", 2, "--only", "base")[0] == 0
    code, printed = run("run", suite, "--out", out, "--limit", 3, "--only", "base")
    assert code == 2
    assert "--fresh" in printed
    assert run("run", suite, "--out", out, "--limit", 3, "--only", "base", "--fresh", "--yes")[0] == 0
    assert {cell.items for cell in read_results(out).cells if cell.status == "done"} == {3}


def test_two_runs_do_not_share_a_folder(run: Run, suite: Path, tmp_path: Path) -> None:
    from filelock import FileLock

    out = tmp_path / "out"
    out.mkdir()
    with FileLock(out / ".lock"):
        code, printed = run("run", suite, "--out", out)
    assert code == 2
    assert "another run" in printed


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "empty"),
        ([{"words": "no text here"}], "column"),
        ("not json\n", "rows.jsonl:1"),
    ],
)
def test_data_that_cannot_be_used(run: Run, tmp_path: Path, models: tuple[Path, Path], rows: Any, says: str) -> None:
    text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(text or "\n", encoding="utf-8")
    code, printed = run("run", write_suite(tmp_path, models), "--out", tmp_path / "out")
    assert code == 2, printed
    assert says in printed.replace("\n", " ")
    assert "Traceback" not in printed


def test_prompts_longer_than_the_context_are_counted_and_said(
    run: Run, tmp_path: Path, models: tuple[Path, Path]
) -> None:
    long = {"text": "The old bridge in the north was built of stone, and the rain falls on it. " * 20 + "Yes"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(long) + "\n", encoding="utf-8")
    out = tmp_path / "out"
    suite = write_suite(tmp_path, models)
    assert run("run", suite, "--out", out, "--only", "base", "--only", "test_last_word")[0] == 0
    cell = read_results(out).cell("base", "test_last_word")
    assert isinstance(cell, CellResult)
    assert cell.truncated_items == 1
    assert cell.truncated_tokens > 0
    assert "were cut" in read_manifest(out).warnings[0]


def test_prompts_are_left_out_when_asked(run: Run, suite: Path, tmp_path: Path) -> None:
    suite.write_text(suite.read_text() + "\n[output]\nprompts = false\n", encoding="utf-8")
    out = tmp_path / "out"
    assert run("run", suite, "--out", out, "--limit", 2, "--only", "base")[0] == 0
    records = read_records(out / "records" / "base" / "mini_arc_easy.parquet")
    assert all(record.prompt is None and record.choices == [] for record in records)


def _never(*_: Any, **__: Any) -> Any:
    raise AssertionError("nothing was to be asked")


def test_another_process_finds_every_cell_again(suite: Path, tmp_path: Path) -> None:
    more = ("mini_winogrande", "mini_dialogsum", "mini_webglm_qa")  # tasks with Python functions in their YAML
    extra = "".join(f'\n[[tasks]]\nname = "{task}"\n' for task in more)
    suite.write_text(suite.read_text().replace("[data]", extra + "[data]"), encoding="utf-8")
    call = [sys.executable, "-m", "phibench", "run", str(suite), "--out", str(tmp_path / "out"), "--limit", "2"]
    for _ in range(2):
        ran = subprocess.run([*call, "--only", "base"], capture_output=True, text=True, check=True)
    assert "every cell is already here" in ran.stdout


def test_a_change_of_a_tasks_code_asks_its_cells_again(tmp_path: Path) -> None:
    from phibench.harness.suite import Suite
    from phibench.harness.tasks import Prompting, build, load_tasks

    (tmp_path / "task.yaml").write_text(
        "task: coded\ntest_split: test\noutput_type: generate_until\ncustom_dataset: !function code.rows\n"
        "doc_to_text: '{{q}}'\ndoc_to_target: '{{q}}'\nprocess_results: !function code.judge\n"
        "generation_kwargs: {until: ['.'], max_gen_toks: 4}\n"
        "metric_list: [{metric: right, aggregation: mean, higher_is_better: true}]\n",
        encoding="utf-8",
    )
    suite = Suite(name="s", base={"model": "m"}, tasks=[{"name": "coded"}], include=[str(tmp_path)], allow_code=True)  # type: ignore[arg-type]
    hashes = []
    for helper in ("1.0", "1.0", "0.5"):
        (tmp_path / "code.py").write_text(
            "from datasets import Dataset, DatasetDict\n"
            "def rows(**_):\n    return DatasetDict(test=Dataset.from_list([{'q': 'a'}]))\n"
            "def judge(doc, results):\n    return {'right': helper()}\n"
            f"def helper():\n    return {helper}\n",
            encoding="utf-8",
        )
        [loaded] = load_tasks(suite, suite.tasks)
        hashes.append(build(suite, loaded, Prompting(), None).info.config_hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_generation_that_leaves_no_room_for_a_prompt_fails_its_cells_alone(
    run: Run, suite: Path, tmp_path: Path
) -> None:
    suite.write_text(suite.read_text() + "\n[generation]\nmax_gen_toks = 9999\n", encoding="utf-8")
    out = tmp_path / "out"
    code, printed = run("run", suite, "--out", out, "--limit", 2, "--only", "base")
    assert code == 3
    assert "leaves no room" in printed
    assert "Traceback" not in printed
    assert statuses(out)["base", "test_sampled"] == "failed"
    assert statuses(out)["base", "mini_arc_easy"] == "done"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ('{ judge = { kind = "lexical", treshold = 0.5 } }', "treshold"),
        ('{ judge = { kind = "nli", model = "no/such" } }', "metric_options"),
        ("{ judgement = 1 }", "judgement"),
    ],
)
def test_metric_options_that_cannot_work_are_told_before_a_model_is_asked(
    run: Run, suite: Path, tmp_path: Path, options: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variant_run, "TreeEngine", _never)
    task = f'\n[[tasks]]\nname = "mini_webglm_qa"\nmetric_options = {options}\n'
    suite.write_text(suite.read_text().replace("[data]", task + "[data]"), encoding="utf-8")
    code, printed = run("run", suite, "--out", tmp_path / "out", "--limit", 2, "--only", "base", "--offline")
    assert code == 2, printed
    assert says in printed
    assert "Traceback" not in printed


def test_records_that_were_damaged_are_made_again(run: Run, suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call = ("run", suite, "--out", out, "--limit", 2, "--only", "base")
    assert run(*call)[0] == 0
    path = out / "records" / "base" / "mini_arc_easy.parquet"
    path.write_bytes(b"garbage")
    assert run(*call)[0] == 0
    assert len(read_records(path)) == 2


def test_the_smaller_limit_counts(run: Run, suite: Path, tmp_path: Path) -> None:
    suite.write_text(suite.read_text().replace('"mini_arc_easy"', '"mini_arc_easy"\nlimit = 1'), encoding="utf-8")
    out = tmp_path / "out"
    assert run("run", suite, "--out", out, "--limit", 2, "--only", "base")[0] == 0
    cells = {cell.task: cell.items for cell in read_results(out).cells if cell.status == "done"}
    assert cells == {"mini_arc_easy": 1, "test_rolling": 2, "test_last_word": 2, "test_sampled": 2}


def test_few_shot_examples_need_rows(run: Run, tmp_path: Path, models: tuple[Path, Path]) -> None:
    suite = write_suite(tmp_path, models)
    suite.write_text(
        suite.read_text().replace('"test_last_word"', '"test_last_word"\nnum_fewshot = 3'), encoding="utf-8"
    )
    code, printed = run("run", suite, "--out", tmp_path / "out", "--only", "base")
    assert code == 2
    assert "few-shot" in printed
    assert "Traceback" not in printed


def test_names_that_differ_never_share_a_file(tmp_path: Path) -> None:
    from phibench.harness.run_folder import RunFolder

    folder = RunFolder(tmp_path)
    names = ["a::b", "a__b", "a/b", "A__b", "a b", "arc_easy"]
    assert len({str(folder.records("base", name)).lower() for name in names}) == len(names)
    assert folder.records("base", "arc_easy").name == "arc_easy.parquet"


def test_standard_errors_fork_no_process(
    run: Run, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import multiprocessing

    monkeypatch.setattr(multiprocessing, "Pool", _never)
    out = tmp_path / "out"
    code, printed = run("run", suite, "--out", out, "--limit", 3, "--only", "base", "--only", "test_last_word")
    assert code == 0, printed
    assert "bootstrapping" not in printed
    cell = read_results(out).cell("base", "test_last_word")
    assert cell is not None
    assert next(score for score in cell.scores if score.metric == "perplexity").stderr is not None


def test_weights_dequantised_once_give_the_same_records(
    run: Run, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []
    real = variant_run.ask

    def watched(engine: PlainEngine, built: Any, *args: Any, **kwargs: Any) -> Any:
        layers = len(list(linear4bit(engine.model)))
        asked.append((built.info.name, layers))
        return real(engine, built, *args, **kwargs)

    quantised = ("run", suite, "--limit", 3, "--only", "adapter-nf4")
    assert run(*quantised, "--out", tmp_path / "real")[0] == 0
    assert read_manifest(tmp_path / "real").variants[1].real_form is None
    monkeypatch.setattr(variant_run, "ask", watched)
    monkeypatch.setattr(variant_run, "free_bytes", lambda device: 2**40)  # as if there were a card with room
    assert run(*quantised, "--out", tmp_path / "once")[0] == 0
    assert {"mini_arc_easy", "test_rolling", "test_last_word", "test_sampled"} <= {name for name, _ in asked}
    assert {layers for _, layers in asked} == {0}
    info = read_manifest(tmp_path / "once").variants[1]
    assert info.real_form is not None
    assert info.real_form.tokens_in > 0
    assert "dequantised once" in str(info.scoring)
    assert "dequantised once" in (tmp_path / "once" / "report.md").read_text(encoding="utf-8")
    for path in sorted((tmp_path / "real" / "records").rglob("*.parquet")):
        ours = read_records(tmp_path / "once" / path.relative_to(tmp_path / "real"))
        for a, b in zip(ours, read_records(path), strict=True):
            assert a.responses == b.responses
            assert a.metrics == b.metrics


@pytest.mark.parametrize(("scoring", "says"), [("auto", "prefix trees"), ("plain", "plain: the suite says so")])
def test_the_report_says_how_log_likelihoods_were_computed(
    run: Run, suite: Path, tmp_path: Path, scoring: str, says: str
) -> None:
    suite.write_text(suite.read_text() + f'\n[engine]\nscoring = "{scoring}"\n', encoding="utf-8")
    assert run("run", suite, "--out", tmp_path / "out", "--limit", 2, "--only", "base")[0] == 0
    assert says in str(read_manifest(tmp_path / "out").variants[0].scoring)
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert says in report
    assert ("packed, over a cache of our own" in report) == (scoring == "auto")


def test_a_model_that_trees_do_not_serve_is_scored_the_plain_way_and_the_report_says_so(
    run: Run, models: tuple[Path, Path], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer, BloomConfig, BloomForCausalLM

    base = tmp_path / "bloom"
    BloomForCausalLM(BloomConfig(vocab_size=320, hidden_size=64, n_layer=2, n_head=4)).save_pretrained(base)
    AutoTokenizer.from_pretrained(models[0]).save_pretrained(base)
    suite = tmp_path / "bloom.toml"
    text = f'name = "bloom"\n[base]\nmodel = "{base}"\n[[variants]]\nname = "base"\n[[tasks]]\nname = "mini_arc_easy"\n'
    suite.write_text(text, encoding="utf-8")
    assert run("run", suite, "--out", tmp_path / "out", "--limit", 2)[0] == 0
    assert "plain: its attention does not go through" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("goes_wrong", ["other bits", "an error"])
def test_weights_stay_as_they_ship_where_dequantising_does_not_give_the_same(
    run: Run, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goes_wrong: str
) -> None:
    real = variant_run.dequantize_once
    layers: list[int] = []

    def wrong(model: Any) -> Any:
        replaced = real(model)
        for name in replaced:
            model.get_submodule(name).weight.data.mul_(1.001)
        return replaced

    def broken(*_: Any) -> Any:
        raise RuntimeError("pretended")

    def watched(engine: PlainEngine, *args: Any, **kwargs: Any) -> Any:
        layers.append(len(list(linear4bit(engine.model))))
        return ask(engine, *args, **kwargs)

    ask = variant_run.ask
    monkeypatch.setattr(variant_run, "ask", watched)
    monkeypatch.setattr(variant_run, "free_bytes", lambda device: 2**40)
    monkeypatch.setattr(variant_run, "dequantize_once", wrong if goes_wrong == "other bits" else broken)
    assert run("run", suite, "--limit", 2, "--only", "adapter-nf4", "--out", tmp_path / "out")[0] == 0
    assert min(layers) > 0
    info = read_manifest(tmp_path / "out").variants[1]
    assert info.real_form is None
    assert ("as they are" in str(info.scoring)) == (goes_wrong == "other bits")
