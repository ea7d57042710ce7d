"""One check of a gate: a difference or score with its intervals, held against the rule's limit. Needs no torch."""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from ..alike import refuse_unlike
from ..cell_scores import cell_interval, difference_of
from ..outcomes import Gap, Outcomes
from ..results import MetricInfo
from ..stats import Interval, NoInterval, Pairs
from ..stats.totals import AGGREGATIONS
from ..values import CellValues, asked_otherwise, pair
from .costs import cost_of
from .items import items_needed
from .spec import GateSpec, RuleSpec
from .targets import Target, compared_with

SAME_MODEL = "the same model, by its identity, with the same answers"


class GateVerdict(enum.StrEnum):
    """What became of a rule, or of the gate."""

    PASS = "pass"
    FAIL = "fail"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Check:
    """One rule on one variant and one task (or group of tasks, or the variant as a whole).

    Attributes:
        rule: the rule; `number` is its place in the gate, from 1.
        variant, than: the variant that it binds, and what it is compared with.
        tasks: on which tasks; empty for a cost of the whole variant.
        metric: None for costs.
        measured: the difference or value with the interval of the pass (1 - 2 level); a cost's has no width.
        limit: what it must not be beyond, on the same scale.
        items: how many decided it, of each task; `items_needed` how many would, were the estimate the truth; None
            where that is no number, or where it is decided.
        left_out: items that only one of the two variants answered, which took no part.
        reason: why there is nothing measured.
        missing: whether that is because evidence is: what it is about was not run, not measured, or failed.
        early: whether its items were asked until it was decided.
    """

    rule: RuleSpec
    number: int
    variant: str
    verdict: GateVerdict
    tasks: tuple[str, ...] = ()
    than: str | None = None
    metric: MetricInfo | None = None
    measured: Interval | None = None
    limit: float | None = None
    items: int = 0
    items_needed: int | None = None
    left_out: int = 0
    reason: str | None = None
    early: bool = False
    missing: bool = False


def check_target(
    target: Target, spec: GateSpec, statistical: int, run: Outcomes, against: Outcomes | None, *, seed: int = 0
) -> Check:
    """One check, measured and judged.

    Args:
        target: which.
        spec: its gate.
        statistical: how many checks of the gate are not of costs: each fails at its share of the level.
        run: what is judged.
        against: what it is compared with, where that is not the run itself.
        seed: of the resampling.

    Raises:
        UserError: the task was asked otherwise in `against`.
    """
    rule = target.rule
    check = Check(rule, target.number, target.variant, GateVerdict.UNDECIDED, target.tasks)
    if rule.is_cost:
        return _check_cost(check, run)
    than = compared_with(rule, target.variant, run, against) if rule.compares else None
    check = replace(check, than=than)
    found = [_cells(check, task, run, against) for task in target.tasks]
    for one in found:
        if isinstance(one, _NoPart):
            return replace(check, reason=one.reason, missing=True)
    parts = [one for one in found if isinstance(one, _Part)]
    if len({_passes_above(rule, part.metric) for part in parts}) > 1:
        return replace(check, reason="of some of these metrics higher is better, of others lower: they have no mean")
    early = any(part.cell.early for part in parts)
    metric, items = parts[0].metric, min(part.count for part in parts)
    check = replace(check, metric=metric, items=items, left_out=sum(part.left_out for part in parts), early=early)
    if items < 2:
        common = " in common" if than is not None else ""
        return replace(check, reason=f"an interval needs at least 2 items{common}, and there are {items}", missing=True)
    if _same_model(check, parts, run, against):
        none = Interval(0.0, 0.0, 0.0, SAME_MODEL)
        return _decided(replace(check, measured=none), none)
    levels = 1 - 2 * spec.level, 1 - 2 * spec.level / statistical
    try:
        to_pass = _interval(parts, rule, levels[0], seed)
        to_fail = to_pass if statistical == 1 else _interval(parts, rule, levels[1], seed)
    except NoInterval as problem:
        return replace(check, reason=str(problem))
    if to_pass.low == to_pass.high == 0.0:  # a corpus metric: its bootstrap knows nothing of items that might differ
        return replace(check, reason="no item differs, which tells nothing of other items in this metric")
    check = _decided(replace(check, measured=to_pass), to_fail)
    if check.verdict is not GateVerdict.UNDECIDED or check.limit is None:
        return check
    changed = parts[0].changed if len(parts) == 1 else None
    above = _passes_above(rule, metric)
    needed = items_needed(check.items, to_pass, to_fail, check.limit, above=above, levels=levels, changed=changed)
    return replace(check, items_needed=needed)


def _same_model(check: Check, parts: Sequence[_Part], run: Outcomes, against: Outcomes | None) -> bool:
    """Whether another run measured the very same model, and it answered alike: then no item can differ."""
    if against is None or check.than is None:
        return False
    mine, theirs = _identity(check.variant, run), _identity(check.than, against)
    if mine is None or mine != theirs:
        return False
    pairs = [part.pairs for part in parts if part.pairs is not None]
    return all(len(both.before) and np.array_equal(both.before, both.after) for both in pairs)


def _identity(variant: str, run: Outcomes) -> str | None:
    return next((one.identity for one in run.manifest.variants if one.name == variant), None)


@dataclass(frozen=True)
class _Part:
    """One task's cell, and the one that it is compared with."""

    metric: MetricInfo
    cell: CellValues
    other: CellValues | None

    @functools.cached_property
    def pairs(self) -> Pairs | None:
        """The items of both cells, where it is compared."""
        if self.other is None:
            return None
        return pair(self.other, self.cell, self.metric.key)

    @property
    def count(self) -> int:
        """Items that decide."""
        if self.pairs is not None:
            return len(self.pairs.before)
        column = self.cell.metrics.get(self.metric.key)
        return 0 if column is None else len(column.rows)

    @property
    def left_out(self) -> int:
        """Items that only one of the two has; not those that were not asked any more once a rule was decided."""
        if self.pairs is None or self.other is None:
            return 0
        mine, theirs = self.pairs.variant_only, self.pairs.baseline_only
        if self.cell.early and self.other.early:
            return min(mine, theirs)  # in the same order one of them has all that the other has
        return mine * (not self.other.early) + theirs * (not self.cell.early)

    @property
    def changed(self) -> tuple[int, int] | None:
        """How many answers turned right and wrong, where that is all there is to them and each item is one draw."""
        pairs = self.pairs
        if pairs is None or pairs.early or pairs.sources is not None or self.metric.aggregation != "mean":
            return None
        if not (isinstance(pairs.before, np.ndarray) and isinstance(pairs.after, np.ndarray)):
            return None
        gains = pairs.after - pairs.before
        right_or_wrong = np.isin(pairs.before, (0.0, 1.0)).all() and np.isin(pairs.after, (0.0, 1.0)).all()
        return (int((gains > 0).sum()), int((gains < 0).sum())) if right_or_wrong else None


@dataclass(frozen=True)
class _NoPart:
    """Why a task's cell takes no part."""

    reason: str


def _cells(check: Check, task: str, run: Outcomes, against: Outcomes | None) -> _Part | _NoPart:
    info = run.task(task)
    if info is None:
        return _NoPart(f"{task} was not run")
    metric = run.metric(info, check.rule.metric)
    if metric is None:
        return _NoPart(f"{task} does not measure {check.rule.metric}")
    cell = run.values(check.variant, task)
    if isinstance(cell, Gap):
        return _NoPart(run.gap_words(cell))
    if fault := _fault(cell, metric):
        return _NoPart(f"{check.variant} on {task}: {fault}")
    if check.than is None:
        return _Part(metric, cell, None)
    side = run if against is None else against
    theirs = side.task(task)
    if theirs is None:
        return _NoPart(f"{side.label} has no {task}")
    other = side.values(check.than, task)
    if isinstance(other, Gap):
        return _NoPart(side.gap_words(other))
    if fault := _fault(other, metric):
        return _NoPart(f"{check.than} on {task}: {fault}")
    if against is not None:
        refuse_unlike(info, theirs, against.label)
    if asked := asked_otherwise(other, cell):
        if against is None:
            return _NoPart(f"not comparable: {asked:,} items of {task} were asked of {check.than} with other prompts")
        raise UserError(
            f'"{task}" cannot be compared: {asked} of its items were asked with other prompts there',
            where=against.label,
            fix="run both with the same chat template, few-shot examples and tokenizer, or make the baseline again",
        )
    return _Part(metric, cell, other)


def _fault(cell: CellValues, metric: MetricInfo) -> str | None:
    """Why a cell's values are no evidence: a model that answers so cannot be judged by its other items."""
    column = cell.metrics.get(metric.key)
    if column is None or not len(column.rows):
        return f"no item has a value of {metric.name}"
    if metric.aggregation not in AGGREGATIONS:
        return None
    try:
        broken = int((~np.isfinite(AGGREGATIONS[metric.aggregation].columns(column.values))).any(axis=1).sum())
    except (TypeError, ValueError):
        return f"an item's value of {metric.name} is not one that its aggregation takes"
    return f"{broken:,} of its values of {metric.name} are not finite numbers" if broken else None


def _interval(parts: Sequence[_Part], rule: RuleSpec, confidence: float, seed: int) -> Interval:
    """What the rule looks at, with an interval; of a group, the mean over its tasks.

    The group's interval is put together from its tasks' by the squares of their reaches (MOVER: Zou and Donner 2008,
    "Construction of confidence limits about effect measures"), which keeps their skewness. Tasks that
    share documents are taken to move together as far as they do, as if an item were answered alike in both.
    """
    found = [_part_interval(part, rule, confidence, seed) for part in parts]
    if len(found) == 1:
        return found[0]
    k = len(found)
    estimate = sum(one.estimate for one in found) / k
    alike = _shared([part.cell for part in parts])
    reaches = np.array([(one.estimate - one.low, one.high - one.estimate) for one in found])  # (tasks, down and up)
    down, up = (np.sqrt(np.diag(reaches.T @ alike @ reaches)) / k).tolist()
    sharing = " that share documents" if alike.sum() > k else ""
    return Interval(estimate, estimate - down, estimate + up, f"mean of {k} tasks{sharing} (MOVER)")


def _shared(cells: Sequence[CellValues]) -> NDArray[np.float64]:
    """(cells, cells): the largest correlation that two cells' means can have by the documents that they share."""
    documents = [set(cell.keys) for cell in cells]
    return np.array([[len(a & b) / math.sqrt(len(a) * len(b)) for b in documents] for a in documents])


def _part_interval(part: _Part, rule: RuleSpec, confidence: float, seed: int) -> Interval:
    if part.pairs is None:
        return cell_interval(part.cell, part.metric, exact=True, seed=seed, confidence=confidence)
    found = difference_of(part.pairs, part.metric, seed=seed, confidence=confidence)
    if found.interval is None:
        raise NoInterval(str(found.reason))
    return found.interval


def _decided(check: Check, to_fail: Interval) -> Check:
    """The verdict of a check by its two intervals."""
    rule, metric = check.rule, check.metric
    assert check.measured is not None and metric is not None
    above = _passes_above(rule, metric)
    limit = {
        "max_loss": -(rule.max_loss or 0.0) if above else rule.max_loss or 0.0,
        "min_gain": (rule.min_gain or 0.0) if above else -(rule.min_gain or 0.0),
        "at_least": rule.at_least or 0.0,
        "at_most": rule.at_most or 0.0,
    }[rule.condition]
    strict = rule.condition == "min_gain"
    verdict = GateVerdict.UNDECIDED
    if _beyond(check.measured, limit, above, strict):
        verdict = GateVerdict.PASS
    elif _beyond(to_fail, limit, not above, not strict):
        verdict = GateVerdict.FAIL
    return replace(check, verdict=verdict, limit=limit)


def _passes_above(rule: RuleSpec, metric: MetricInfo) -> bool:
    """Whether a rule passes above its limit; a metric that has no better direction counts as one to raise."""
    if rule.compares:
        return metric.higher_is_better is not False
    return rule.condition == "at_least"


def _beyond(interval: Interval, limit: float, above: bool, strict: bool) -> bool:
    """Whether a whole interval lies above (or below) a limit."""
    edge = interval.low - limit if above else limit - interval.high
    return edge > 0 if strict else edge >= 0


def _check_cost(check: Check, run: Outcomes) -> Check:
    """Costs are measured without sampling error, and pass or fail; so does not what was not measured."""
    value, limit = cost_of(check.rule, check.variant, check.tasks, run)
    if isinstance(value, str):
        return replace(check, limit=limit, reason=value, missing=True)
    verdict = GateVerdict.PASS if value <= limit else GateVerdict.FAIL
    return replace(check, verdict=verdict, limit=limit, measured=Interval(value, value, value, "measured"))
