"""Two or more variants, of one run or of several, side by side: each against the first. Needs no torch.

A task is compared where it was asked in the same way of the same items, and otherwise named with the reason; every
difference is paired, item by item, and the p-values of all headline metrics are corrected together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .alike import differing
from .cell_scores import cell_interval
from .comparison import MetricComparison, TaskComparison, compare_metrics, corrected_together, read_part, slices_of
from .costs import Costs, costs_of
from .examples import pick_examples, read_items
from .outcomes import Gap
from .results import MARGIN, MetricInfo, TaskInfo
from .settings_diff import Setting, differing_settings
from .shares import is_share
from .sides import Side
from .stats import Interval, NoInterval
from .stats.family import Correction
from .suite import StatisticsSpec
from .values import CellValues, MetricKey, asked_otherwise, matched

EXAMPLES = 5
_NAMED = 5  # items that only one side has


@dataclass(frozen=True)
class LeftOver:
    """Items that only one of two sides has: how many, and the names of the first few."""

    count: int = 0
    named: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pairing:
    """How a side's items of a task stand to the first side's.

    Attributes:
        common: items that both have.
        first_only, other_only: those that only one has; they take no part in a difference.
        reasons: why the two are not compared; empty where they are.
    """

    common: int = 0
    first_only: LeftOver = LeftOver()
    other_only: LeftOver = LeftOver()
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class SideScore:
    """One side's own score over all of its items, in the metric's unit; `reason` where it has no interval."""

    value: float | None
    items: int
    interval: Interval | None = None
    reason: str | None = None


@dataclass(frozen=True)
class TaskSides:
    """One task of all sides.

    Attributes:
        compared: differences to the first side, slices and examples, by the sides' labels.
        scores: by metric and label.
        pairings: of each side but the first, by label.
        early: the sides whose items were asked until a rule was decided: what compares them has an interval and a
            p-value that hold however often one looked.
        shares: the metrics of which every item's value lies between 0 and 1, so that a difference is one of points.
    """

    compared: TaskComparison
    scores: dict[tuple[MetricKey, str], SideScore] = field(default_factory=dict)
    pairings: dict[str, Pairing] = field(default_factory=dict)
    early: tuple[str, ...] = ()
    shares: frozenset[MetricKey] = frozenset()

    def shown(self) -> list[MetricComparison]:
        """The metrics that are shown first: the headlines, and the margin of the right choice where it is measured."""
        return [one for one in self.compared.metrics if one.headline or one.info.name == MARGIN]


@dataclass(frozen=True)
class SideBySide:
    """A whole comparison; the first side is what the others are compared with.

    Attributes:
        settings, same_settings: those in which sides differ, and how many others are the same.
        tasks: those that the first side was asked.
        elsewhere: tasks that it was not asked, with the labels of the sides that were.
        costs: of each side, in their order.
        correction: of the p-values of headline metrics, for their number.
    """

    sides: list[Side]
    settings: list[Setting]
    same_settings: int
    tasks: list[TaskSides]
    elsewhere: dict[str, list[str]]
    costs: list[Costs]
    correction: Correction = "holm"

    @property
    def family(self) -> int:
        """How many differences the p-values are corrected for together."""
        return sum(
            one.adjusted_p is not None
            for task in self.tasks
            for metric in task.compared.metrics
            for one in metric.differences.values()
        )


def compare_sides(
    sides: Sequence[Side], *, examples: int = EXAMPLES, seed: int | None = None, correction: Correction | None = None
) -> SideBySide:
    """Set variants side by side, task by task.

    Args:
        sides: at least two; the first is what the others are compared with.
        examples: how many items to pick per task on which they part.
        seed: of the resampling and of the order of equally telling items; by default the first side's run's.
        correction: of p-values for their number; by default as the suite of the first side's run has it.

    Raises:
        UserError: that suite is of another version of phibench.
    """
    first = sides[0]
    seed = first.run.manifest.seeds.get("bootstrap", 0) if seed is None else seed
    if correction is None:
        told = first.run.manifest.suite.get("statistics", {})
        correction = read_part(first.run.manifest, StatisticsSpec, told, Path(first.run.label)).correction
    tasks = []
    for info in first.run.manifest.tasks:
        if info.asks(first.variant.name):
            tasks.append(_compare_task(info, sides, examples, seed))
            _forget(sides, info.name)
    together = corrected_together([task.compared for task in tasks], correction)
    settings, same = differing_settings(sides)
    return SideBySide(
        sides=list(sides),
        settings=settings,
        same_settings=same,
        tasks=[replace(task, compared=compared) for task, compared in zip(tasks, together, strict=True)],
        elsewhere=_elsewhere(sides, {task.compared.info.name for task in tasks}),
        costs=[costs_of(side.run, side.variant) for side in sides],
        correction=correction,
    )


def _forget(sides: Sequence[Side], task: str) -> None:
    """Let go of a task's items that can be read again: one task's at a time are enough to hold."""
    for side in sides:
        if side.run.run_dir is not None:
            side.run.cells.pop((side.variant.name, task), None)


def _elsewhere(sides: Sequence[Side], known: set[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for side in sides[1:]:
        for task in side.run.manifest.tasks:
            if task.name not in known and task.asks(side.variant.name):
                found.setdefault(task.name, []).append(side.label)
    return found


def _compare_task(info: TaskInfo, sides: Sequence[Side], examples: int, seed: int) -> TaskSides:
    first = sides[0]
    found = {side.label: side.run.values(side.variant.name, info.name) for side in sides}
    cells = {label: cell for label, cell in found.items() if not isinstance(cell, Gap)}
    pairings = {side.label: _pairing(info, first, side, found) for side in sides[1:]}
    comparable = {label: cell for label, cell in cells.items() if label == first.label or not pairings[label].reasons}
    metrics = first.run.metrics(info)
    early = [side.label for side in sides if _stopped_early(side, info.name)]
    compared = compare_metrics(metrics, first.label, comparable, seed)
    slices, picked = {}, []
    if metrics and first.label in comparable:
        leading, base = metrics[0][0], comparable[first.label]
        others = {label: cell for label, cell in comparable.items() if label != first.label}
        among = len(others) * len(first.run.manifest.tasks)
        slices = {label: slices_of(base, cell, leading, among=among) for label, cell in others.items()}
        picked = pick_examples(info, leading, first.label, comparable, examples, seed) if others else []
    return TaskSides(
        compared=TaskComparison(info, compared, slices, picked),
        scores={
            (metric.key, side.label): _score(side, info, metric, cells.get(side.label), seed)
            for metric, _ in metrics
            for side in sides
        },
        pairings=pairings,
        early=tuple(early),
        shares=frozenset(metric.key for metric, _ in metrics if is_share(metric, list(cells.values()))),
    )


def _pairing(info: TaskInfo, first: Side, side: Side, found: Mapping[str, CellValues | Gap]) -> Pairing:
    theirs = side.run.task(info.name)
    if theirs is None:
        return Pairing(reasons=(f"the run of {side.label} has no task of this name",))
    if not theirs.asks(side.variant.name):
        return Pairing(reasons=(f"it is not asked of {side.label}",))
    unlike = tuple(differing(theirs, info))
    cells = []
    for label in (first.label, side.label):
        cell = found[label]
        if isinstance(cell, Gap):
            why = f"{cell.state}: {cell.reason}" if cell.reason else cell.state
            return Pairing(reasons=(*unlike, f"there are no answers of {label} ({why})"))
        cells.append(cell)
    mine, other = cells
    left, right = matched(mine, other)
    pairing = Pairing(len(left), _left_over(mine, left), _left_over(other, right), unlike)
    if not len(left):
        return replace(pairing, reasons=(*unlike, "they have no item in common"))
    if not unlike and (asked := asked_otherwise(mine, other)):
        said = f"{asked:,} of the {len(left):,} items that both have were asked with other prompts"
        return replace(pairing, reasons=(said,))
    return pairing


def _left_over(cell: CellValues, taken: NDArray[np.int64]) -> LeftOver:
    """A cell's items beside those that were matched."""
    if len(taken) == len(cell):
        return LeftOver()
    free = np.ones(len(cell), dtype=bool)
    free[taken] = False
    rows = [int(row) for row in np.flatnonzero(free)[:_NAMED]]
    known = read_items(cell, rows, ["item_id"])
    names = [known.get(row, {}).get("item_id") or f"item {int(cell.items[row])}" for row in rows]
    return LeftOver(len(cell) - len(taken), tuple(str(name) for name in names))


def _stopped_early(side: Side, task: str) -> bool:
    cell = side.run.cell(side.variant.name, task)
    return cell is not None and cell.stopped_early


def _score(side: Side, info: TaskInfo, metric: MetricInfo, values: CellValues | None, seed: int) -> SideScore:
    """A side's score, as lm-eval put it together where the run tells it, with its interval."""
    key = metric.key
    cell = side.run.cell(side.variant.name, info.name)
    told = next((one for one in cell.scores if (one.metric, one.filter) == key), None) if cell is not None else None
    value = None if told is None else told.value
    column = None if values is None else values.metrics.get(key)
    if values is None or column is None:
        return SideScore(value, 0, reason="not measured")
    try:
        interval = cell_interval(values, metric, seed=seed)
    except NoInterval as problem:
        return SideScore(value, len(column.rows), reason=str(problem))
    return SideScore(interval.estimate if value is None else value, len(column.rows), interval)
