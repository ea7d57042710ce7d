"""Variants of several runs side by side: who is compared, on what, and that what is alike shows no difference."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from statsmodels.stats.multitest import multipletests

from phibench.errors import UserError
from phibench.harness.compare import Pairing, SideBySide, TaskSides, compare_sides
from phibench.harness.comparison import compare_run
from phibench.harness.records import ItemField, MetricValue, Record, read_records, write_records
from phibench.harness.results import MARGIN, MetricInfo, read_manifest
from phibench.harness.sides import open_sides
from phibench.harness.stats import Verdict
from phibench.harness.stats.power import resolvable, smallest_difference
from support.run_folder import TASKS, drop_cells, edit_cell, edit_manifest, write_run_folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run_folder(tmp_path_factory.mktemp("made") / "run")


@pytest.fixture
def runs(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two equal runs, `a` and `b`, in the working folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        shutil.copytree(made, tmp_path / name)
    return Path("a"), Path("b")


def compare(*references: str, examples: int = 5) -> SideBySide:
    return compare_sides(open_sides(references), examples=examples)


def task_of(found: SideBySide, name: str) -> TaskSides:
    return next(task for task in found.tasks if task.compared.info.name == name)


def pairing(found: SideBySide, task: str) -> Pairing:
    (one,) = task_of(found, task).pairings.values()
    return one


def rewrite(run: Path, variant: str, task: str, change: Callable[[list[Record]], list[Record]]) -> None:
    path = run / "records" / variant / f"{task}.parquet"
    write_records(path, change(read_records(path)))


def edit_task(run: Path, which: str, **changes: object) -> None:
    tasks = [task.model_copy(update=changes) if task.name == which else task for task in read_manifest(run).tasks]
    edit_manifest(run, tasks=tasks)


# ---- who is compared


def test_labels_are_short_and_unique(runs: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree("a", "other/a")
    for references, labels in (
        (["a:base", "a:merged"], ["base", "merged"]),
        (["a:base", "b:base"], ["a:base", "b:base"]),
        (["a:base", "./a/:base", f"{tmp_path}/a:base"], ["base", "base (2)", "base (3)"]),
        (["a:base", "other/a:base"], [f"{tmp_path.name}/a:base", "other/a:base"]),
    ):
        assert [side.label for side in open_sides(references)] == labels


def test_a_run_alone_stands_for_its_adapter(runs: tuple[Path, Path]) -> None:
    first, second = open_sides(["a", "b:base"])
    assert (first.variant.name, second.variant.name) == ("adapter-nf4", "base")
    assert first.adapter is not None and second.adapter is None


@pytest.mark.parametrize("attached", [0, 2])
def test_a_run_alone_with_no_or_several_adapters_is_refused(attached: int, runs: tuple[Path, Path]) -> None:
    changes = {"adapter": "summaries" if attached else None, "merge": "none"}
    edit_manifest(runs[0], variants=[one.model_copy(update=changes) for one in read_manifest(runs[0]).variants[:2]])
    with pytest.raises(UserError, match="say which variant is meant") as refused:
        open_sides(["a", "b"])
    assert refused.value.fix == "name one of: a:base, a:adapter-nf4"


def test_a_folder_whose_name_has_a_colon_is_found(runs: tuple[Path, Path]) -> None:
    runs[1].rename("a:merged")
    sides = open_sides(["a:merged", "a:merged:base"])
    assert [side.variant.name for side in sides] == ["adapter-nf4", "base"]
    assert {side.run.label for side in sides} == {"a:merged"}


@pytest.mark.parametrize(("references", "what", "fix"), [
    (["a"], "at least two", "RUN_DIR:VARIANT"),
    (["a", "b:adaptr-nf4"], "no variant of this name", 'did you mean "adapter-nf4"?'),
    (["a", "b:zzz"], "no variant of this name", "it has: base, adapter-nf4, merged"),
    (["a", "b:"], "no variant of this name", "it has: base, adapter-nf4, merged"),
    (["a", "gone"], "not a run folder", "phibench run"),
    (["a", "gone:base"], "not a run folder", "phibench run"),
    (["a", "file:base"], "not a run folder", "phibench run"),
    (["a", "latin"], "it is not UTF-8", "a run's own folder"),
    (["a", "x" * 300], "cannot be read", "a run's own folder"),
    (["a", "x" * 300 + ":base"], "this cannot be a run folder: File name too long", "RUN_DIR:VARIANT"),
    (["a", "~nobody-of-this-name/x"], "cannot be a run folder", "RUN_DIR:VARIANT"),
])  # fmt: skip
def test_mistakes_are_told(references: list[str], what: str, fix: str, runs: tuple[Path, Path]) -> None:
    Path("file").write_text("x")
    Path("latin").mkdir()
    Path("latin/manifest.json").write_bytes(b"\xff")
    with pytest.raises(UserError) as refused:
        open_sides(references)
    assert what in refused.value.what
    assert fix in (refused.value.fix or "")


# ---- what is alike


def test_a_run_against_itself_shows_exactly_no_difference(runs: tuple[Path, Path]) -> None:
    rewrite(runs[1], "adapter-nf4", "dialogsum", lambda records: records[::-1])  # the order is no difference either
    for found in (compare("a", "a"), compare("a", "b"), compare("b", "a")):
        assert found.settings == [] and found.same_settings > 30
        for task in found.tasks:
            assert [one.reasons for one in task.pairings.values()] == [()]
            assert task.compared.examples == []
            for metric in task.compared.metrics:
                (one,) = metric.differences.values()
                if metric.info.name == "bleu":
                    assert one.interval is None
                    continue
                assert one.interval is not None
                assert one.interval.estimate == 0.0
                assert (one.won, one.lost, one.tied, one.p) == (0, 0, 60, 1.0)
                assert one.verdict is Verdict.UNCLEAR
                assert task.scores[(metric.info.name, "none"), found.sides[0].label].value is not None


def test_within_a_run_the_differences_are_the_reports_own(runs: tuple[Path, Path]) -> None:
    found = compare("a:base", "a:adapter-nf4", "a:merged")
    report = compare_run(runs[0])
    assert [task.compared.info.name for task in found.tasks] == list(TASKS)
    for task, theirs in zip(found.tasks, report.tasks, strict=True):
        assert task.compared == dataclasses.replace(theirs, examples=task.compared.examples)
    assert found.family == report.family > 6


def test_p_values_are_corrected_over_all_headline_metrics_of_all_sides(runs: tuple[Path, Path]) -> None:
    found = compare("a:base", "b:adapter-nf4", "b:merged")
    ones = [
        (metric.headline, one)
        for task in found.tasks
        for metric in task.compared.metrics
        for one in metric.differences.values()
    ]
    family = [one for headline, one in ones if headline]
    assert found.family == len(family) == 8
    expected = multipletests([one.p for one in family], method="holm")[1]
    assert [one.adjusted_p for one in family] == pytest.approx(list(expected))
    assert all(one.adjusted_p is None for headline, one in ones if not headline)


# ---- what cannot be compared


@pytest.mark.parametrize(("spoil", "says"), [
    (lambda run: edit_task(run, "arc_easy", version="2.0"), "its version was 1.0 there and is 2.0 here"),
    (lambda run: edit_task(run, "arc_easy", num_fewshot=5), "its few-shot examples was 0 there and is 5 here"),
    (lambda run: edit_task(run, "arc_easy", config_hash="0"), "its configuration differs"),
    (lambda run: edit_task(run, "arc_easy", name="arc"), "the run of b:merged has no task of this name"),
    (lambda run: edit_task(run, "arc_easy", variants=["base"]), "it is not asked of b:merged"),
    (lambda run: drop_cells(run, lambda cell: cell.task != "arc_easy"), "there are no answers of b:merged (not run)"),
    (
        lambda run: edit_cell(run, "merged", "arc_easy", status="failed", error="out of memory", records=None),
        "there are no answers of b:merged (failed: out of memory)",
    ),
    (lambda run: (run / "records/merged/arc_easy.parquet").unlink(), "there are no answers of b:merged (unreadable"),
    (
        lambda run: rewrite(
            run,
            "merged",
            "arc_easy",
            lambda records: [dataclasses.replace(records[0], prompt_hash="other"), *records[1:]],
        ),
        "1 of the 60 items that both have were asked with other prompts",
    ),
    (
        lambda run: rewrite(
            run,
            "merged",
            "arc_easy",
            lambda records: [dataclasses.replace(one, item_hash=f"other {one.item}") for one in records],
        ),
        "they have no item in common",
    ),
])  # fmt: skip
def test_a_task_that_is_not_comparable_is_told_and_has_no_difference(
    spoil: Callable[[Path], None], says: str, runs: tuple[Path, Path]
) -> None:
    spoil(runs[1])
    found = compare("a:base", "b:merged")
    (reason,) = pairing(found, "arc_easy").reasons
    assert says in reason
    task = task_of(found, "arc_easy")
    assert all(metric.differences == {} for metric in task.compared.metrics)
    assert task.compared.examples == [] and task.compared.slices == {}
    assert task.scores[("acc", "none"), "a:base"].interval is not None
    assert pairing(found, "dialogsum").reasons == ()
    assert found.family == 3


def test_a_first_side_without_answers_leaves_nothing_to_compare(runs: tuple[Path, Path]) -> None:
    drop_cells(runs[0], lambda cell: cell.task != "arc_easy")
    found = compare("a:base", "b:base", "b:merged")
    for one in task_of(found, "arc_easy").pairings.values():
        assert one.reasons == ("there are no answers of a:base (not run)",)


def test_tasks_that_only_others_were_asked_are_named(runs: tuple[Path, Path]) -> None:
    edit_manifest(runs[0], tasks=[task for task in read_manifest(runs[0]).tasks if task.name != "wikitext"])
    edit_task(runs[0], "dialogsum", variants=["merged"])
    found = compare("a:base", "b:base", "b:merged")
    assert [task.compared.info.name for task in found.tasks] == ["arc_easy"]
    assert found.elsewhere == {"dialogsum": ["b:base", "b:merged"], "wikitext": ["b:base", "b:merged"]}


def test_items_that_only_one_has_are_counted_and_named(runs: tuple[Path, Path]) -> None:
    rewrite(runs[0], "base", "arc_easy", lambda records: records[:-2])
    rewrite(runs[1], "base", "arc_easy", lambda records: records[7:])
    found = compare("a:base", "b:base")
    one = pairing(found, "arc_easy")
    assert (one.common, one.first_only.count, one.other_only.count, one.reasons) == (51, 7, 2, ())
    assert one.first_only.named == ("item 0", "arc_easy-1", "item 2", "arc_easy-3", "item 4")
    assert one.other_only.named == ("item 58", "arc_easy-59")
    difference = task_of(found, "arc_easy").compared.metrics[0].differences["b:base"]
    assert (difference.items, difference.baseline_only, difference.variant_only) == (51, 7, 2)
    assert difference.interval is not None and difference.interval.estimate == 0.0


def test_items_that_were_asked_until_a_rule_was_decided_have_intervals_for_that(runs: tuple[Path, Path]) -> None:
    plain = task_of(compare("a:base", "b:adapter-nf4"), "arc_easy").compared.metrics[0].differences["b:adapter-nf4"]
    assert plain.interval is not None and plain.p is not None
    for run, variant in ((runs[0], "base"), (runs[1], "adapter-nf4")):
        edit_cell(run, variant, "arc_easy", stopped_early=True)
        found = task_of(compare("a:base", "b:adapter-nf4"), "arc_easy")
        one = found.compared.metrics[0].differences["b:adapter-nf4"]
        assert one.interval is not None and one.interval.method.startswith("confidence sequence")
        assert one.interval.estimate == pytest.approx(plain.interval.estimate)
        assert one.interval.low < plain.interval.low and one.interval.high > plain.interval.high
        assert one.test == "betting" and one.p is not None and one.p >= plain.p
        assert found.early == (f"{run}:{variant}",)
        edit_cell(run, variant, "arc_easy", stopped_early=False)


# ---- metrics


def with_margin(records: list[Record], lift: float) -> list[Record]:
    return [
        dataclasses.replace(
            one, metrics=[*one.metrics, MetricValue(MARGIN, "none", (one.item % 7 + lift * (one.item % 3)) / 10)]
        )
        for one in records
    ]


def test_the_margin_is_shown_beside_the_headlines_and_outside_the_family(runs: tuple[Path, Path]) -> None:
    margin = MetricInfo(name=MARGIN, filter="none", aggregation="mean", higher_is_better=True)
    for run, lift in ((runs[0], 0.0), (runs[1], 1.0)):
        rewrite(run, "base", "arc_easy", lambda records, lift=lift: with_margin(records, lift))  # type: ignore[misc]
        edit_task(run, "arc_easy", metrics=[*read_manifest(run).tasks[0].metrics, margin])
    found = compare("a:base", "b:base")
    task = task_of(found, "arc_easy")
    assert [(one.info.name, one.headline) for one in task.shown()] == [("acc", True), (MARGIN, False)]
    one = task.shown()[1].differences["b:base"]
    assert one.interval is not None and one.interval.estimate == pytest.approx(0.1)
    assert one.p is not None and one.p < 0.001 and one.adjusted_p is None
    assert resolvable(one) == smallest_difference(60, one.spread or 0.0)
    assert task.shares == {("acc", "none"), ("acc_norm", "none")}  # the margin is of nats, whatever its values


def test_points_are_for_values_between_0_and_1(runs: tuple[Path, Path]) -> None:
    def beyond(records: list[Record]) -> list[Record]:
        first = dataclasses.replace(records[0], metrics=[MetricValue("acc", "none", 1.5), records[0].metrics[1]])
        return [first, *records[1:]]

    assert task_of(compare("a:base", "b:base"), "wikitext").shares == frozenset()
    assert ("rouge1", "none") in task_of(compare("a:base", "b:base"), "dialogsum").shares
    rewrite(runs[1], "base", "arc_easy", beyond)
    assert task_of(compare("a:base", "b:base"), "arc_easy").shares == {("acc_norm", "none")}


def test_kinds_of_items_that_stand_out(runs: tuple[Path, Path]) -> None:
    def told(records: list[Record]) -> list[Record]:
        return [dataclasses.replace(one, fields=[ItemField("topic", text=str(one.item % 3 == 0))]) for one in records]

    for variant in ("base", "adapter-nf4"):
        rewrite(runs[0], variant, "arc_easy", told)
    slices = task_of(compare("a:base", "a:adapter-nf4"), "arc_easy").compared.slices["adapter-nf4"]
    assert slices.looked_at == 2
    assert {(one.field, one.value, one.items) for one in slices.found} == {
        ("topic", "True", 20),
        ("topic", "False", 40),
    }


def test_examples_show_what_each_side_answered(runs: tuple[Path, Path]) -> None:
    found = compare("a:base", "b:adapter-nf4", examples=3)
    examples = task_of(found, "dialogsum").compared.examples
    assert len(examples) == 3
    for example in examples:
        assert [answer.variant for answer in example.answers] == ["a:base", "b:adapter-nf4"]
        assert [(answer.text or "").split()[0] for answer in example.answers] == ["base", "adapter-nf4"]
    assert all(task.compared.examples == [] for task in compare("a:base", "b:merged", examples=0).tasks)


# ---- how they were made


def test_only_settings_that_differ_are_told(runs: tuple[Path, Path]) -> None:
    manifest = read_manifest(runs[1])
    (adapter,) = manifest.adapters
    training = {**(adapter.training or {}), "learning_rate": 0.0003, "recipe": {"training": {"max_steps": 20}}}
    edit_manifest(
        runs[1],
        adapters=[adapter.model_copy(update={"sha256": "f" * 64, "training": training})],
        seeds={"run": 7, "fewshot": 1234},
        suite={**manifest.suite, "base": {"model": "owner/small-model", "dtype": "float16", "revision": None}},
        hardware={**manifest.hardware, "accelerator": "Other"},
        phibench_version="0.2.0",
    )
    edit_task(runs[1], "wikitext", dataset="elsewhere")
    told = {one.key: one.values for one in compare("a", "b").settings}
    assert told == {
        "base.dtype": (None, "float16"),
        "adapter.sha256": (adapter.sha256, "f" * 64),
        "training.learning_rate": (0.0002, 0.0003),
        "training.recipe.training.max_steps": (None, 20),
        "tasks.wikitext.dataset": ("example/wikitext", "elsewhere"),
        "seeds.run": (1234, 7),
        "versions.phibench": ("0.1.0", "0.2.0"),
        "hardware.accelerator": ("Example 80 GB", "Other"),
    }


def test_of_a_base_and_an_adapter_the_whole_training_is_no_list_of_differences(runs: tuple[Path, Path]) -> None:
    told = {one.key: one.values for one in compare("a:base", "a:merged").settings}
    assert told["variant.adapter"] == ("none", "summaries")
    assert not [key for key in told if key.startswith(("training.", "adapter."))]
