"""Comparisons of a run folder: pairing, metrics, gaps and examples, on records written by the real writers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from phibench.errors import UserError
from phibench.harness.comparison import RunComparison, TaskComparison, compare_run
from phibench.harness.examples import Example
from phibench.harness.records import MetricValue, Record, Response, read_records, write_records
from phibench.harness.results import read_manifest
from phibench.harness.stats import Difference, Pairs, Verdict, paired_difference
from support.run_folder import TASKS, drop_cells, edit_cell, edit_manifest, write_run_folder


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_run_folder(tmp_path / "run")


def _task(run: RunComparison, name: str) -> TaskComparison:
    return next(task for task in run.tasks if task.info.name == name)


def _found(run: RunComparison, task: str, metric: str, variant: str) -> Difference:
    return next(one for one in _task(run, task).metrics if one.info.name == metric).differences[variant]


def _rewrite(run_dir: Path, variant: str, task: str, change: Callable[[list[Record]], list[Record]]) -> None:
    path = run_dir / "records" / variant / f"{task}.parquet"
    write_records(path, change(read_records(path)))


def _values(run_dir: Path, variant: str, task: str, metric: str) -> dict[str, Any]:
    records = read_records(run_dir / "records" / variant / f"{task}.parquet")
    return {record.item_hash: one.unit() for record in records for one in record.metrics if one.name == metric}


def test_every_variant_is_compared_with_the_baseline(run_dir: Path) -> None:
    run = compare_run(run_dir)
    assert [task.info.name for task in run.tasks] == list(TASKS)
    assert run.gaps == []
    for task in run.tasks:
        for metric in task.metrics:
            assert list(metric.differences) == ["adapter-nf4", "merged"]
            for variant, found in metric.differences.items():
                before = _values(run_dir, "base", task.info.name, metric.info.name)
                after = _values(run_dir, variant, task.info.name, metric.info.name)
                alone = paired_difference(
                    Pairs(list(before.values()), [after[key] for key in before]),
                    aggregation=metric.info.aggregation,
                    higher_is_better=metric.info.higher_is_better,
                )
                assert dataclasses.replace(found, adjusted_p=None, verdict=alone.verdict) == alone
    assert _found(run, "arc_easy", "acc", "adapter-nf4").verdict is Verdict.BETTER
    assert _found(run, "wikitext", "word_perplexity", "adapter-nf4").verdict is Verdict.WORSE
    assert _found(run, "dialogsum", "bleu", "merged").interval is None


def test_another_baseline(run_dir: Path) -> None:
    edit_manifest(run_dir, baseline="adapter-nf4")
    run = compare_run(run_dir)
    assert list(_task(run, "arc_easy").metrics[0].differences) == ["base", "merged"]
    assert _found(run, "arc_easy", "acc", "base").verdict is Verdict.WORSE


def test_headline_metrics_lead(run_dir: Path) -> None:
    run = compare_run(run_dir)
    assert [(one.info.name, one.headline) for one in _task(run, "dialogsum").metrics] == [
        ("rouge1", True),
        ("stopped", True),
        ("bleu", False),
    ]
    tasks = read_manifest(run_dir).tasks
    edit_manifest(run_dir, tasks=[task.model_copy(update={"headline": [], "metrics": []}) for task in tasks])
    metrics = _task(compare_run(run_dir), "dialogsum").metrics  # known from the scores alone
    assert [(one.info.name, one.headline) for one in metrics] == [
        ("rouge1", True),
        ("bleu", False),
        ("stopped", False),
    ]


def test_pairs_by_document_and_not_by_place(run_dir: Path) -> None:
    before = _found(compare_run(run_dir), "arc_easy", "acc", "merged")
    _rewrite(run_dir, "merged", "arc_easy", lambda records: records[::-1])
    assert _found(compare_run(run_dir), "arc_easy", "acc", "merged") == before


def test_items_without_a_partner_are_counted(run_dir: Path) -> None:
    _rewrite(run_dir, "merged", "arc_easy", lambda records: records[3:])
    _rewrite(run_dir, "base", "arc_easy", lambda records: records[:-2])
    found = _found(compare_run(run_dir), "arc_easy", "acc", "merged")
    assert (found.items, found.baseline_only, found.variant_only) == (55, 3, 2)


def test_equal_documents_stay_apart(run_dir: Path) -> None:
    def all_equal(records: list[Record]) -> list[Record]:
        return [dataclasses.replace(record, item_hash="the same") for record in records]

    before = _found(compare_run(run_dir), "arc_easy", "acc", "merged")
    for variant in ("base", "merged"):
        _rewrite(run_dir, variant, "arc_easy", all_equal)
    assert _found(compare_run(run_dir), "arc_easy", "acc", "merged") == before


def test_gaps_are_named_and_the_rest_is_compared(run_dir: Path) -> None:
    variants = read_manifest(run_dir).variants
    broken = variants[0].model_copy(update={"name": "merged-requantized", "error": "no bitsandbytes"})
    edit_manifest(run_dir, variants=[*variants, broken], status="incomplete")
    edit_cell(run_dir, "adapter-nf4", "wikitext", status="failed", error="out of memory", records=None, scores=[])
    edit_cell(run_dir, "merged", "wikitext", status="pending", records=None, scores=[])
    drop_cells(run_dir, lambda cell: (cell.variant, cell.task) != ("merged", "arc_easy"))
    (run_dir / "records/merged/dialogsum.parquet").write_bytes(b"not Parquet")
    run = compare_run(run_dir)
    states = {(gap.variant, gap.task): gap.state for gap in run.gaps}
    assert states == {
        ("merged", "arc_easy"): "not run",
        ("adapter-nf4", "wikitext"): "failed",
        ("merged", "wikitext"): "not run",
        ("merged", "dialogsum"): "unreadable",
        **{("merged-requantized", task): "not made" for task in TASKS},
    }
    gap = run.gap("adapter-nf4", "wikitext")
    assert gap is not None and gap.reason == "out of memory"
    assert list(_task(run, "arc_easy").metrics[0].differences) == ["adapter-nf4"]
    assert _task(run, "wikitext").metrics[0].differences == {}


def test_records_without_a_column_are_unreadable(run_dir: Path) -> None:
    path = run_dir / "records/merged/arc_easy.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["choices"]), path)
    gap = compare_run(run_dir).gap("merged", "arc_easy")
    assert gap is not None and gap.state == "unreadable" and "choices" in (gap.reason or "")


def test_without_the_baselines_records_nothing_is_compared(run_dir: Path) -> None:
    (run_dir / "records/base/arc_easy.parquet").unlink()
    task = _task(compare_run(run_dir), "arc_easy")
    assert all(metric.differences == {} for metric in task.metrics)
    assert task.examples == []


def test_no_results_yet(run_dir: Path) -> None:
    (run_dir / "results.json").unlink()
    run = compare_run(run_dir)
    assert {gap.state for gap in run.gaps} == {"not run"}
    assert len(run.gaps) == 9


def test_not_a_run_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        compare_run(tmp_path)


def test_examples_of_choices_tell_who_took_which(run_dir: Path) -> None:
    examples = _task(compare_run(run_dir), "arc_easy").examples
    assert len(examples) == 4
    records = {
        variant: read_records(run_dir / f"records/{variant}/arc_easy.parquet")
        for variant in ("base", "adapter-nf4", "merged")
    }
    for example in examples:
        assert example.prompt == records["base"][example.item].prompt
        assert example.gold == (int(example.target),)
        rights = set()
        for answer in example.answers:
            record = records[answer.variant][example.item]
            likely = [response.loglikelihood or 0.0 for response in record.responses]
            assert answer.choice == likely.index(max(likely))
            assert (answer.choice in example.gold) == (answer.value == 1.0)
            rights.add(answer.value)
        assert rights == {0.0, 1.0}


def _gain(example: Example) -> float:
    base, *others = (answer.value for answer in example.answers)
    return sum(value - base for value in others)


def test_examples_are_balanced_and_the_widest(run_dir: Path) -> None:
    examples = _task(compare_run(run_dir), "dialogsum").examples
    assert [example.improved for example in examples] == [True, True, False, False]
    assert all((_gain(example) > 0) == example.improved for example in examples)
    values = [_values(run_dir, variant, "dialogsum", "rouge1") for variant in ("base", "adapter-nf4", "merged")]
    spreads = [
        max(row) - min(row)
        for row in zip(*(one.values() for one in values), strict=True)
        if row[1] + row[2] > 2 * row[0]
    ]
    shown = [answer.value for answer in examples[0].answers]
    assert max(shown) - min(shown) == pytest.approx(max(spreads))
    assert all(answer.text and answer.text.startswith(answer.variant) for answer in examples[0].answers)


def test_one_sided_examples_fill_up(run_dir: Path) -> None:
    drop_cells(run_dir, lambda cell: cell.variant != "merged")  # the adapter loses no item of arc_easy
    assert [example.improved for example in _task(compare_run(run_dir), "arc_easy").examples] == [True] * 4


def test_examples_move_with_the_seed_alone(run_dir: Path) -> None:
    drop_cells(run_dir, lambda cell: cell.variant != "merged")
    picked = [
        {example.item for example in _task(compare_run(run_dir, seed=seed), "arc_easy").examples}
        for seed in (0, 0, 1, 2, 3)
    ]
    assert picked[0] == picked[1]
    assert any(other != picked[0] for other in picked[2:])


def test_no_examples_of_rolling_tasks_or_when_none_are_asked_for(run_dir: Path) -> None:
    assert _task(compare_run(run_dir), "wikitext").examples == []
    assert all(task.examples == [] for task in compare_run(run_dir, examples=0).tasks)


def test_a_target_given_as_text_is_known_from_who_was_right(run_dir: Path) -> None:
    golds = {}
    for variant in ("base", "adapter-nf4", "merged"):
        golds = {r.item: int(r.target) for r in read_records(run_dir / f"records/{variant}/arc_easy.parquet")}
        _rewrite(run_dir, variant, "arc_easy", lambda rs: [dataclasses.replace(r, target="so it was") for r in rs])
    for example in _task(compare_run(run_dir), "arc_easy").examples:
        assert example.gold == (golds[example.item],)
        assert all(answer.choice is not None for answer in example.answers)


def test_several_right_choices(run_dir: Path) -> None:
    for variant in ("base", "adapter-nf4", "merged"):
        _rewrite(
            run_dir,
            variant,
            "arc_easy",
            lambda rs: [dataclasses.replace(r, target=f"[{r.target}, 9]") for r in rs],
        )
    for example in _task(compare_run(run_dir), "arc_easy").examples:
        assert len(example.gold) == 2
        assert all(answer.choice is not None for answer in example.answers)


def test_acc_norm_takes_the_likeliest_per_character(run_dir: Path) -> None:
    tasks = read_manifest(run_dir).tasks
    edit_manifest(run_dir, tasks=[tasks[0].model_copy(update={"headline": ["acc_norm"]}), *tasks[1:]])

    def second_choice(records: list[Record]) -> list[Record]:
        """Per character the second choice is likeliest (-0.3 against -2), and it is right."""
        return [
            dataclasses.replace(
                record,
                choices=[" a", " bbbbbbbbbb", " cc", " dd"],
                target="1",
                responses=[Response(tokens=1, truncated=0, loglikelihood=one) for one in (-2.0, -3.0, -9.0, -9.0)],
                metrics=[MetricValue("acc_norm", "none", 1.0)],
            )
            for record in records
        ]

    _rewrite(run_dir, "base", "arc_easy", second_choice)
    examples = _task(compare_run(run_dir), "arc_easy").examples
    assert examples
    for example in examples:
        choices = {answer.variant: answer.choice for answer in example.answers}
        assert choices["base"] == 1


def test_a_choice_that_contradicts_its_value_is_not_told(run_dir: Path) -> None:
    def flipped(records: list[Record]) -> list[Record]:
        metrics = [MetricValue("acc", "none", 1.0 - (record.metrics[0].value or 0.0)) for record in records]
        return [dataclasses.replace(r, metrics=[m]) for r, m in zip(records, metrics, strict=True)]

    _rewrite(run_dir, "merged", "arc_easy", flipped)
    for example in _task(compare_run(run_dir), "arc_easy").examples:
        choices = {answer.variant: answer.choice for answer in example.answers}
        assert choices["merged"] is None
        assert choices["base"] is not None


def test_the_suite_says_how_many_examples_there_are(run_dir: Path) -> None:
    edit_manifest(run_dir, suite={"output": {"examples": 1}})
    assert max(len(task.examples) for task in compare_run(run_dir).tasks) == 1
