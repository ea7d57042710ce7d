"""Comparisons of a run's variants with its baseline, and items on which they part; for reports and the gate.

Needs no torch, and no finished run: what is missing is named as a gap, and everything else is compared.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from ..errors import UserError
from .claims import Judged, judge
from .records import SCHEMA, MetricValue
from .results import Manifest, MetricInfo, Results, TaskInfo, VariantInfo, read_manifest, read_results
from .run_folder import MANIFEST
from .stats import Difference, paired_difference
from .suite import ClaimSpec

_EXAMPLES = 4  # a task, where the suite does not say
_ITEM_COLUMNS = ["item_id", "prompt", "choices", "target", "responses"]


@dataclass(frozen=True)
class Gap:
    """A cell without records to compare: `not run`, `failed`, `not made` (its variant) or `unreadable`."""

    variant: str
    task: str
    state: str
    reason: str | None = None


@dataclass(frozen=True)
class MetricComparison:
    """One metric of a task: each variant's difference to the baseline, in the manifest's order."""

    info: MetricInfo
    headline: bool
    differences: dict[str, Difference] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What one variant answered to an item.

    `choice` is None for a generation, and where what the records hold does not agree with the item's value.
    """

    variant: str
    value: float  # of the task's leading metric
    text: str | None = None  # None for multiple choice
    choice: int | None = None  # index


@dataclass(frozen=True)
class Example:
    """An item on which variants part; `improved` tells whether, taken together, they gain on the baseline.

    For a metric that has no better direction, gaining is rising.
    """

    item: int
    item_id: str | None
    improved: bool
    prompt: str | None
    choices: tuple[str, ...]
    gold: tuple[int, ...]  # indices of the right choices; empty for a generation
    target: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class TaskComparison:
    """One task: its metrics, headline metrics first (the first one leads), and a few examples."""

    info: TaskInfo
    metrics: list[MetricComparison]
    examples: list[Example]


@dataclass(frozen=True)
class RunComparison:
    """A run folder, read and compared."""

    manifest: Manifest
    results: Results
    tasks: list[TaskComparison]
    gaps: list[Gap]
    claims: list[Judged] = field(default_factory=list)

    def gap(self, variant: str, task: str) -> Gap | None:
        """Why a cell could not take part, or None."""
        return next((gap for gap in self.gaps if (gap.variant, gap.task) == (variant, task)), None)


_Key = tuple[str, int]  # an item: the hash of its document, and which one of equal documents it is
_ItemScores = Mapping[str, Mapping[_Key, float]]  # variant -> item -> value of the leading metric


@dataclass(frozen=True)
class _CellValues:
    """The metrics of one cell's items, each as lm-eval's aggregation takes it, and where each item stands."""

    path: Path
    rows: dict[_Key, tuple[int, int]]  # (row in the file, position in the task's split)
    units: dict[tuple[str, str], dict[_Key, Any]]  # (metric, filter) -> item -> value


def compare_run(
    run_dir: Path, *, baseline: str | None = None, examples: int | None = None, seed: int | None = None
) -> RunComparison:
    """Compare every variant of a run folder with a baseline.

    Args:
        run_dir: a run folder, finished or not.
        baseline: the variant that differences are taken to; by default the manifest's. The manifest returned names it.
        examples: how many items to pick per task: half improved, half worsened, where there are enough; by default as
            many as the suite says.
        seed: of the bootstraps, and of the order of examples that are equally telling; by default the run's own.

    Raises:
        UserError: when the folder holds no run, or one of another schema.
    """
    manifest, results = read_manifest(run_dir), read_results(run_dir)
    if baseline is not None:
        manifest = manifest.model_copy(update={"baseline": baseline})
    examples = manifest.suite.get("output", {}).get("examples", _EXAMPLES) if examples is None else examples
    seed = manifest.seeds.get("bootstrap", 0) if seed is None else seed
    tasks, gaps = [], []
    every: dict[str, dict[str, _CellValues]] = {}
    for info in manifest.tasks:
        cells = every[info.name] = {}
        for variant in manifest.variants:
            if not info.asks(variant.name):
                continue
            found = _load_cell(run_dir, results, variant, info.name)
            if isinstance(found, Gap):
                gaps.append(found)
            else:
                cells[variant.name] = found
        metrics = _compare_metrics(info, results, manifest.baseline, cells, seed)
        picked = _pick_examples(info, metrics, manifest.baseline, cells, examples, seed)
        tasks.append(TaskComparison(info, metrics, picked))
    claims = judge(_claims(manifest, run_dir), lambda *what: _look_up(tasks, every, *what), seed=seed)
    return RunComparison(manifest, results, tasks, gaps, claims)


def _claims(manifest: Manifest, run_dir: Path) -> list[ClaimSpec]:
    try:
        return [ClaimSpec.model_validate(claim) for claim in manifest.suite.get("claims", [])]
    except ValidationError as error:
        raise UserError(
            f"the suite's claims in {MANIFEST} cannot be read: {error.error_count()} fields differ",
            where=str(run_dir),
            fix="use the phibench version that made the run",
        ) from None


def _look_up(
    tasks: list[TaskComparison],
    every: Mapping[str, Mapping[str, _CellValues]],
    variant: str,
    task: str,
    metric: str | None,
) -> tuple[MetricInfo, Mapping[_Key, Any]] | str:
    """A metric (by default the leading one) of a cell's items; else what is missing."""
    compared = next((one for one in tasks if one.info.name == task), None)
    if compared is None:
        return f"{task} was not run"
    found = next((one.info for one in compared.metrics if metric in (None, one.info.name)), None)
    if found is None:
        return f"{task} does not measure {metric}"
    if not compared.info.asks(variant):
        return f"{task} is not asked of {variant}"
    cell = every[task].get(variant)
    if cell is None:
        return f"there are no answers of {variant} to {task}"
    return found, cell.units.get((found.name, found.filter), {})


def _load_cell(run_dir: Path, results: Results, variant: VariantInfo, task: str) -> _CellValues | Gap:
    cell = results.cell(variant.name, task)
    if cell is None or cell.status == "pending":
        return Gap(variant.name, task, "not made" if variant.error is not None else "not run")
    if cell.status == "failed":
        return Gap(variant.name, task, "failed", cell.error)
    if cell.records is None:
        return Gap(variant.name, task, "unreadable", "the cell names no records")
    try:
        return _read_values(run_dir / cell.records)
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        return Gap(variant.name, task, "unreadable", f"{cell.records}: {error}")


def _read_values(path: Path) -> _CellValues:
    if absent := set(SCHEMA.names) - set(pq.read_schema(path).names):
        raise ValueError(f"the records lack the columns {sorted(absent)}")
    table = pq.read_table(path, columns=["item", "item_hash", "metrics"])
    rows: dict[_Key, tuple[int, int]] = {}
    units: dict[tuple[str, str], dict[_Key, Any]] = {}
    seen: Counter[str] = Counter()
    for index, row in enumerate(table.to_pylist()):
        key = (row["item_hash"], seen[row["item_hash"]])
        seen[row["item_hash"]] += 1
        rows[key] = (index, row["item"])
        for metric in row["metrics"]:
            value = MetricValue(**metric)
            units.setdefault((value.name, value.filter), {})[key] = value.unit()
    return _CellValues(path, rows, units)


def _compare_metrics(
    info: TaskInfo, results: Results, baseline: str, cells: Mapping[str, _CellValues], seed: int
) -> list[MetricComparison]:
    compared = []
    for metric, headline in _metrics_of(info, results):
        key = (metric.name, metric.filter)
        base = cells[baseline].units.get(key) if baseline in cells else None
        differences = {}
        for name, cell in cells.items():
            if name != baseline and base is not None and key in cell.units:
                differences[name] = paired_difference(
                    base,
                    cell.units[key],
                    aggregation=metric.aggregation,
                    higher_is_better=metric.higher_is_better,
                    seed=seed,
                )
        compared.append(MetricComparison(metric, headline, differences))
    return compared


def _metrics_of(info: TaskInfo, results: Results) -> list[tuple[MetricInfo, bool]]:
    """The task's metrics (its own, then those that only scores name), and whether each is a headline.

    Headline metrics come first, in the order of `headline` (a name stands for all its filters); where that
    names none of the metrics, the first one is the headline.
    """
    found = {(metric.name, metric.filter): metric for metric in info.metrics}
    for cell in results.cells:
        for score in cell.scores if cell.task == info.name else ():
            metric = MetricInfo(
                name=score.metric,
                filter=score.filter,
                aggregation=score.aggregation,
                higher_is_better=score.higher_is_better,
            )
            found.setdefault((score.metric, score.filter), metric)
    metrics = list(found.values())
    first = [metric for name in info.headline for metric in metrics if metric.name == name] or metrics[:1]
    rest = [metric for metric in metrics if metric not in first]
    return [(metric, True) for metric in first] + [(metric, False) for metric in rest]


def _pick_examples(
    info: TaskInfo,
    metrics: list[MetricComparison],
    baseline: str,
    cells: Mapping[str, _CellValues],
    count: int,
    seed: int,
) -> list[Example]:
    """The items whose leading metric differs most between the variants; only for choices and generations."""
    if info.output_type not in ("multiple_choice", "generate_until") or not metrics or baseline not in cells:
        return []
    metric = metrics[0].info
    key = (metric.name, metric.filter)
    values = {name: _numbers(cell.units.get(key, {})) for name, cell in cells.items()}
    picked = _most_telling(values, baseline, metric.higher_is_better, count, seed)
    answers = {name: _read_items(cell, [key for key, _ in picked]) for name, cell in cells.items()}
    return [_example(item, improved, metric.name, cells[baseline], values, answers) for item, improved in picked]


def _numbers(units: Mapping[_Key, Any]) -> dict[_Key, float]:
    return {key: value for key, value in units.items() if isinstance(value, float) and math.isfinite(value)}


def _most_telling(
    values: _ItemScores, baseline: str, higher_is_better: bool | None, count: int, seed: int
) -> list[tuple[_Key, bool]]:
    """The items of widest spread with whether each improved: half of them did, where there are enough."""
    ranked: dict[bool, list[tuple[float, str, _Key]]] = {True: [], False: []}
    for key, base in values[baseline].items():
        row = [scores[key] for name, scores in values.items() if name != baseline and key in scores]
        gains = [base - value if higher_is_better is False else value - base for value in row]
        if any(gains):
            spread = max([base, *row]) - min([base, *row])
            lot = hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()
            ranked[sum(gains) > 0].append((-spread, lot, key))
    improved, worsened = sorted(ranked[True]), sorted(ranked[False])
    gained = min(len(improved), max(count - count // 2, count - len(worsened)))
    picked = [(key, True) for _, _, key in improved[:gained]]
    return picked + [(key, False) for _, _, key in worsened[: count - gained]]


def _read_items(cell: _CellValues, keys: list[_Key]) -> dict[_Key, dict[str, Any]]:
    """The wide columns of a few items of a cell, for those that it has."""
    present = [key for key in keys if key in cell.rows]
    if not present:
        return {}
    table = pq.read_table(cell.path, columns=_ITEM_COLUMNS).take([cell.rows[key][0] for key in present])
    return dict(zip(present, table.to_pylist(), strict=True))


def _example(
    key: _Key,
    improved: bool,
    metric: str,
    baseline: _CellValues,
    values: _ItemScores,
    rows: Mapping[str, Mapping[_Key, dict[str, Any]]],
) -> Example:
    present = {name: rows[name][key] for name, scores in values.items() if key in scores}
    taken = {name: _likeliest(row, metric) for name, row in present.items()}
    right = {name for name in present if values[name][key] == 1.0}
    asked = next(iter(present.values()))
    gold = (_gold(asked["target"]) or {taken[name] for name in right}) if asked["choices"] else set()
    return Example(
        item=baseline.rows[key][1],
        item_id=asked["item_id"],
        improved=improved,
        prompt=asked["prompt"],
        choices=tuple(asked["choices"] or ()),
        gold=tuple(sorted(index for index in gold if index is not None)),
        target=asked["target"],
        answers=tuple(
            Answer(
                name,
                values[name][key],
                text=next((response["text"] for response in row["responses"]), None),
                choice=taken[name] if (taken[name] in gold) == (name in right) else None,
            )
            for name, row in present.items()
        ),
    )


def _gold(target: str) -> set[int | None]:
    """The right choices that a target names by index; none where it is a text, as in WinoGrande."""
    try:
        named = json.loads(target)
    except ValueError:
        return set()
    return {index for index in (named if isinstance(named, list) else [named]) if isinstance(index, int)}


def _likeliest(row: Mapping[str, Any], metric: str) -> int | None:
    """The choice of highest log-likelihood, per character for lm-eval's `acc_norm`.

    lm-eval counts a choice's characters without the delimiter before it, which the records do not mark, so
    white space is taken off. A caller checks the outcome against the item's value.
    """
    scored = [response["loglikelihood"] for response in row["responses"]][: len(row["choices"] or ())]
    if not scored or None in scored:
        return None
    if metric == "acc_norm":
        lengths = [max(len(choice.lstrip()), 1) for choice in row["choices"]]
        scored = [loglikelihood / length for loglikelihood, length in zip(scored, lengths, strict=True)]
    return scored.index(max(scored))
