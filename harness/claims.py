"""Claims put to the test on a finished run: confirmed, refuted or undecided, with the numbers. Needs no torch.

A statement is decided by the interval of a paired difference against its margin, as in tests of superiority,
non-inferiority and equivalence (Wellek 2010, "Testing Statistical Hypotheses of Equivalence and Noninferiority"): it is
confirmed where the whole interval agrees with it, refuted where none of it does, and undecided otherwise. A claim is
confirmed when all of its statements are: each at 95 %, for none may fail. It is refuted when one of them is, and since
each of k is a chance to be wrong, that one by its interval of 1 - 0.05 / k (Bonferroni).
"""

from __future__ import annotations

import difflib
import enum
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UserError
from .cell_scores import cell_difference, cell_interval
from .outcomes import Gap, Outcomes
from .results import MetricInfo, TaskInfo
from .stats import CONFIDENCE, Interval, NoInterval
from .suite import ClaimSpec, StatementSpec, statements
from .values import CellValues


class Outcome(enum.StrEnum):
    """What became of a claim, or of one of its statements."""

    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Finding:
    """A statement on one task.

    Attributes:
        statement: what was stated.
        task, metric: on what it was looked at; the metric None where the task does not measure it.
        outcome: confirmed at 95 %, or refuted at the level that its claim asks for.
        difference: variant minus `than`, in the metric's own direction and unit; None only where `reason` says why.
        items: on how many items.
    """

    statement: StatementSpec
    task: str
    metric: MetricInfo | None
    outcome: Outcome
    difference: Interval | None = None
    items: int = 0
    reason: str | None = None


@dataclass(frozen=True)
class Judged:
    """A claim and what became of it; `reason` where that is not what its statements show."""

    claim: ClaimSpec
    outcome: Outcome
    holds: list[Finding]
    given: list[Finding]
    reason: str | None = None


def judge(claims: Sequence[ClaimSpec], outcomes: Outcomes, *, seed: int = 0) -> list[Judged]:
    """Put claims to the test.

    Args:
        claims: what was claimed.
        outcomes: the run's.
        seed: of the bootstraps, where a metric needs one.
    """
    return [_judged(claim, outcomes, seed) for claim in claims]


def refuse_unmeasured(claims: Sequence[ClaimSpec], tasks: Sequence[TaskInfo]) -> None:
    """Refuse claims on metrics that the tasks do not measure, before anything is trained or asked.

    Args:
        claims: the suite's.
        tasks: those that this run asks; claims on others are left for another.

    Raises:
        UserError: for the first such claim.
    """
    measured = {task.name: list(dict.fromkeys(metric.name for metric in task.metrics)) for task in tasks}
    for (_, i, part, j), statement in statements(claims):
        for task in statement.tasks:
            if statement.metric is None or statement.metric in measured.get(task, [statement.metric]):
                continue
            near = difflib.get_close_matches(statement.metric, measured[task], n=1)
            raise UserError(
                f'the task "{task}" does not measure "{statement.metric}"',
                where=f"claims[{i}].{part}[{j}].metric",
                fix=f'did you mean "{near[0]}"?' if near else f"it measures: {', '.join(measured[task])}",
            )


def decided(statement: StatementSpec, difference: Interval, higher_is_better: bool | None) -> Outcome:
    """What an interval of variant minus `than` says of a statement.

    For a metric that has no better direction, better is higher.
    """
    low, high = difference.low, difference.high
    if higher_is_better is False:
        low, high = -high, -low
    margin = statement.margin
    holds, fails = {
        "better": (low > margin, high <= margin),
        "not worse": (low >= -margin, high < -margin),
        "same": (-margin <= low and high <= margin, low > margin or high < -margin),
        "not better": (high <= margin, low > margin),
        "worse": (high < -margin, low >= -margin),
    }[statement.expect]
    return Outcome.CONFIRMED if holds else Outcome.REFUTED if fails else Outcome.UNDECIDED


def _judged(claim: ClaimSpec, outcomes: Outcomes, seed: int) -> Judged:
    count = sum(len(statement.tasks) for statement in claim.holds)
    level = 1 - (1 - CONFIDENCE) / count
    given = [_found(one, task, outcomes, seed, CONFIDENCE) for one in claim.given for task in one.tasks]
    holds = [_found(one, task, outcomes, seed, level) for one in claim.holds for task in one.tasks]
    missing = [finding for finding in given if finding.outcome is not Outcome.CONFIRMED]
    if missing:
        return Judged(claim, Outcome.UNDECIDED, holds, given, "what it is said of was not seen here")
    if any(finding.outcome is Outcome.REFUTED for finding in holds):
        outcome = Outcome.REFUTED
    elif all(finding.outcome is Outcome.CONFIRMED for finding in holds):
        outcome = Outcome.CONFIRMED
    else:
        outcome = Outcome.UNDECIDED
    return Judged(claim, outcome, holds, given)


def _found(statement: StatementSpec, task: str, outcomes: Outcomes, seed: int, level: float) -> Finding:
    own = find_cell(outcomes, statement.variant, task, statement.metric)
    other = find_cell(outcomes, statement.than, task, statement.metric) if isinstance(statement.than, str) else own
    for side in (own, other):
        if isinstance(side, str):
            return Finding(statement, task, None, Outcome.UNDECIDED, reason=side)
    assert not isinstance(own, str) and not isinstance(other, str)
    metric, cell = own
    try:
        at_95, items = difference_stated(statement, metric, cell, other[1], seed, CONFIDENCE)
        at_level = at_95
        if level != CONFIDENCE:
            at_level, _ = difference_stated(statement, metric, cell, other[1], seed, level)
    except NoInterval as problem:
        return Finding(statement, task, metric, Outcome.UNDECIDED, reason=str(problem))
    if at_95.low == at_95.high == 0.0:  # a corpus metric of which no item differs
        return Finding(statement, task, metric, Outcome.UNDECIDED, at_95, items, "no item differs")
    confirmed = decided(statement, at_95, metric.higher_is_better) is Outcome.CONFIRMED
    refuted = decided(statement, at_level, metric.higher_is_better) is Outcome.REFUTED
    outcome = Outcome.CONFIRMED if confirmed else Outcome.REFUTED if refuted else Outcome.UNDECIDED
    return Finding(statement, task, metric, outcome, difference=at_95, items=items)


def find_cell(outcomes: Outcomes, variant: str, task: str, metric: str | None) -> tuple[MetricInfo, CellValues] | str:
    """A metric (by default the leading one) and a cell's items; else what is missing."""
    info = outcomes.task(task)
    if info is None:
        return f"{task} was not run"
    found = outcomes.metric(info, metric)
    if found is None:
        return f"{task} does not measure {metric}"
    if not info.asks(variant):
        return f"{task} is not asked of {variant}"
    cell = outcomes.values(variant, task)
    if isinstance(cell, Gap):
        return f"there are no answers of {variant} to {task}"
    return found, cell


def difference_stated(
    statement: StatementSpec, metric: MetricInfo, cell: CellValues, other: CellValues, seed: int, confidence: float
) -> tuple[Interval, int]:
    """(variant minus `than`, number of items).

    Raises:
        NoInterval: why there is none.
    """
    key = metric.key
    if not isinstance(statement.than, str):
        if metric.aggregation != "mean":
            raise NoInterval(f"a metric put together by {metric.aggregation} cannot be held against a number")
        found = cell_interval(cell, metric, seed=seed, confidence=confidence)
        return found.minus(statement.than), len(cell.metrics[key].rows)
    paired = cell_difference(other, cell, metric, seed=seed, confidence=confidence)
    if paired.interval is None:
        raise NoInterval(str(paired.reason))
    return paired.interval, paired.items
