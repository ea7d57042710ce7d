"""Comparisons of a run's variants with its baseline, and items on which they part; for reports and the gate.

Needs no torch, and no finished run: what is missing is named as a gap, and everything else is compared.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from ..errors import UserError
from .cell_scores import cell_difference, cell_interval
from .claims import Judged, judge
from .examples import Example, pick_examples
from .fidelity import Fidelity, Recommendation, measure_fidelity, recommend
from .null_control import NullControl, measure_null_controls
from .outcomes import Gap, Outcomes, open_run
from .results import Manifest, MetricInfo, Results, TaskInfo
from .run_folder import MANIFEST
from .slices import Slices, find_slices
from .spread import SeedSpread, measure_spread
from .stats import Difference, Interval, NoInterval
from .stats.family import Correction, corrected
from .suite import ClaimSpec, StatisticsSpec
from .values import CellValues, asked_otherwise, matched

_EXAMPLES = 4  # a task, where the suite does not say
_S = TypeVar("_S", bound=BaseModel)


@dataclass(frozen=True)
class MetricComparison:
    """One metric of a task: each variant's difference to the baseline, and its own score with its interval, in the
    manifest's order; without those that have no interval."""

    info: MetricInfo
    headline: bool
    differences: dict[str, Difference] = field(default_factory=dict)
    scores: dict[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskComparison:
    """One task: its metrics, headline metrics first (the first one leads), the slices of each variant's difference in
    that one, a few examples, and how many items each variant was asked with other prompts than the baseline."""

    info: TaskInfo
    metrics: list[MetricComparison]
    slices: dict[str, Slices]
    examples: list[Example]
    other_prompts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RunComparison:
    """A run folder, read and compared."""

    outcomes: Outcomes
    manifest: Manifest
    results: Results
    statistics: StatisticsSpec
    tasks: list[TaskComparison]
    gaps: list[Gap]
    claims: list[Judged] = field(default_factory=list)
    fidelity: list[Fidelity] = field(default_factory=list)
    recommendations: list[Recommendation] = field(default_factory=list)
    spread: list[SeedSpread] = field(default_factory=list)
    null_controls: list[NullControl] = field(default_factory=list)

    def gap(self, variant: str, task: str) -> Gap | None:
        """Why a cell could not take part, or None."""
        return next((gap for gap in self.gaps if (gap.variant, gap.task) == (variant, task)), None)

    @property
    def family(self) -> int:
        """How many comparisons are looked at together: those in headline metrics that have a p-value."""
        return sum(
            one.adjusted_p is not None
            for task in self.tasks
            for metric in task.metrics
            for one in metric.differences.values()
        )


def compare_run(
    run_dir: Path, *, baseline: str | None = None, examples: int | None = None, seed: int | None = None
) -> RunComparison:
    """Compare every variant of a run folder with a baseline.

    Args:
        run_dir: a run folder, finished or not.
        baseline: the variant that differences are taken to; by default the manifest's. The manifest returned names it.
        examples: how many items to pick per task: half improved, half worsened, where there are enough; by default as
            many as the suite says.
        seed: of the resampling, and of the order of examples that are equally telling; by default the run's own.

    Raises:
        UserError: when the folder holds no run, or one of another schema.
    """
    outcomes = open_run(run_dir)
    manifest = outcomes.manifest
    if baseline is not None:
        manifest = manifest.model_copy(update={"baseline": baseline})
    examples = manifest.suite.get("output", {}).get("examples", _EXAMPLES) if examples is None else examples
    seed = manifest.seeds.get("bootstrap", 0) if seed is None else seed
    statistics = read_part(manifest, StatisticsSpec, manifest.suite.get("statistics", {}), run_dir)
    claims = [read_part(manifest, ClaimSpec, claim, run_dir) for claim in manifest.suite.get("claims", [])]
    tasks, gaps = [], []
    among = max(1, sum(info.asks(one.name) for info in manifest.tasks for one in manifest.variants[1:]))
    for info in manifest.tasks:
        cells = {}
        for variant in manifest.variants:
            if not info.asks(variant.name):
                continue
            found = outcomes.values(variant.name, info.name)
            if isinstance(found, Gap):
                gaps.append(found)
            else:
                cells[variant.name] = found
        metrics = compare_metrics(outcomes.metrics(info), manifest.baseline, cells, seed)
        slices = _slices(metrics, manifest.baseline, cells, statistics, among)
        picked = pick_examples(info, metrics[0].info, manifest.baseline, cells, examples, seed) if metrics else []
        base = cells.get(manifest.baseline)
        asked = {} if base is None else {name: asked_otherwise(base, cell) for name, cell in cells.items()}
        others = {name: count for name, count in asked.items() if count}
        tasks.append(TaskComparison(info, metrics, slices, picked, others))
    tasks = corrected_together(tasks, statistics.correction)
    fidelity = measure_fidelity(outcomes, correction=statistics.correction, seed=seed)
    return RunComparison(
        outcomes,
        manifest,
        outcomes.results,
        statistics,
        tasks,
        gaps,
        claims=judge(claims, outcomes, seed=seed),
        fidelity=fidelity,
        recommendations=recommend(fidelity, outcomes),
        spread=measure_spread(outcomes),
        null_controls=measure_null_controls(outcomes, correction=statistics.correction, seed=seed),
    )


def read_part(manifest: Manifest, kind: type[_S], part: object, run_dir: Path) -> _S:
    """A part of the suite that a run's manifest holds.

    Raises:
        UserError: it is of another version of phibench.
    """
    try:
        return kind.model_validate(part)
    except ValidationError as error:
        what = {ClaimSpec: "claims", StatisticsSpec: "statistics"}.get(kind, "gate")
        raise UserError(
            f"the suite's {what} in {MANIFEST} cannot be read: {error.error_count()} fields differ",
            where=str(run_dir),
            fix="use the phibench version that made the run",
        ) from None


def compare_metrics(
    metrics: list[tuple[MetricInfo, bool]], baseline: str, cells: Mapping[str, CellValues], seed: int
) -> list[MetricComparison]:
    """Every cell's differences to the baseline's, by name.

    Args:
        metrics: each with whether it is a headline.
        baseline: the name of the cell that differences are taken to.
        cells: of one task, by name.
        seed: of the resampling.
    """
    compared = []
    for metric, headline in metrics:
        key = metric.key
        base = cells.get(baseline)
        differences = {}
        for name, cell in cells.items():
            if name != baseline and base is not None and key in base.metrics and key in cell.metrics:
                differences[name] = cell_difference(base, cell, metric, seed=seed)
        scores = {}
        for name, cell in cells.items():
            with contextlib.suppress(NoInterval):
                scores[name] = cell_interval(cell, metric, seed=seed)
        compared.append(MetricComparison(metric, headline, differences, scores))
    return compared


def corrected_together(tasks: list[TaskComparison], correction: Correction = "holm") -> list[TaskComparison]:
    """The same with the headline metrics' differences corrected for their number over all of these tasks."""
    family = {
        (task.info.name, index, variant): one
        for task in tasks
        for index, metric in enumerate(task.metrics)
        if metric.headline
        for variant, one in metric.differences.items()
    }
    directions = {
        (task.info.name, index, variant): metric.info.higher_is_better
        for task in tasks
        for index, metric in enumerate(task.metrics)
        for variant in metric.differences
    }
    found = corrected(family, directions, correction)
    return [
        replace(
            task,
            metrics=[
                replace(
                    metric,
                    differences={
                        variant: found.get((task.info.name, index, variant), one)
                        for variant, one in metric.differences.items()
                    },
                )
                for index, metric in enumerate(task.metrics)
            ],
        )
        for task in tasks
    ]


def _slices(
    metrics: list[MetricComparison],
    baseline: str,
    cells: Mapping[str, CellValues],
    statistics: StatisticsSpec,
    among: int,
) -> dict[str, Slices]:
    if not metrics or baseline not in cells or statistics.slices == []:
        return {}
    metric = metrics[0].info
    return {
        name: slices_of(cells[baseline], cell, metric, statistics.slices, among=among)
        for name, cell in cells.items()
        if name != baseline
    }


def slices_of(
    base: CellValues, cell: CellValues, metric: MetricInfo, wanted: list[str] | None = None, *, among: int = 1
) -> Slices:
    """The kinds of items by which a variant's difference in a metric stands out (see :mod:`.slices`)."""
    key = metric.key
    dependent = base.sources is not None or base.early or cell.early
    if dependent or metric.aggregation != "mean" or key not in base.metrics or key not in cell.metrics:
        return Slices()
    left, right = matched(base, cell)
    gains = cell.metrics[key].numbers(len(cell))[right] - base.metrics[key].numbers(len(base))[left]
    there = np.isfinite(gains)
    fields = {name: column.at(left[there]) for name, column in base.fields.items()}
    gained = gains[there] * (-1 if metric.higher_is_better is False else 1)
    return find_slices(gained, fields, wanted, among=among)
