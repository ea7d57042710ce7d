"""The paired difference of one metric between two variants, with interval, p-value and effect size. Needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from .interval import CONFIDENCE, Floats, Interval, NoInterval, Values, Verdict
from .proportions import mcnemar, paired_proportions
from .resampling import (
    RESAMPLES,
    Paired,
    bca_interval,
    in_blocks,
    in_units,
    permutation_p,
    student_interval,
    student_p,
)
from .sequential import NOT_EARLY, anytime_p, betting_interval, confidence_sequence
from .totals import AGGREGATIONS, Totals

# The fewest items whose full agreement is news at 95 %: a sign test's p, 2 ** (1 - n), is below 0.05 from 6.
FEWEST_AGREEING = 6
FEWEST_DRAWN = 10  # units that there are, or that differ: resamples of fewer do not hold what they say
FEWEST_DRAWN_UNBOUNDED = 20  # that differ, in a metric that is not between 0 and 1
BETTING = "betting"  # an interval's method
_BEYOND_SEEN = 1.5  # of the largest difference seen: how far one of such a metric is taken to go


@dataclass(frozen=True)
class Pairs:
    """The values of one metric on the items that both variants answered, in one order, and how many only one did.

    Attributes:
        before, after: the baseline's values and the variant's, as lm-eval's aggregation takes them.
        baseline_only, variant_only: items that take no part, since only one of the two answered them.
        sources: (items,) numbers from 0 of what each item was made from, where several share a source (a dialogue, a
            document) and are not independent; None where each stands for itself.
        early: whether the items came in random order until something was decided: only what holds however often one
            looked may be said of them.
    """

    before: Values
    after: Values
    baseline_only: int = 0
    variant_only: int = 0
    sources: NDArray[np.int64] | None = field(default=None, compare=False)
    early: bool = False


@dataclass(frozen=True)
class Difference:
    """One metric of a variant against the baseline, on the items that both answered.

    Attributes:
        items: how many they are.
        won, lost, tied: on how many of them the variant did better, worse and the same; for a corpus metric
            in an item's own part of it (a log-likelihood, a right answer). None without an interval, and the
            first two for a metric that has no better direction.
        baseline_only, variant_only: items that only one of the two answered, which take no part.
        interval, verdict: None exactly where `reason` says why there is none. The verdict is clear where both the
            interval and the test say so; :func:`.family.corrected` then takes into account how many comparisons there
            are.
        p, test: the two-sided p-value of no difference, and of which test.
        adjusted_p: corrected for the family of comparisons; None before that.
        effect: the mean of the items' differences over their standard deviation (Cohen's d_z); None where that is 0.
        spread: that standard deviation, in the metric's unit, for the smallest difference that could be resolved.
        sources: how many sources the items come from, where they share some.
        early: whether the items were asked until something was decided.
    """

    items: int
    baseline_only: int
    variant_only: int
    won: int | None = None
    lost: int | None = None
    tied: int | None = None
    interval: Interval | None = None
    verdict: Verdict | None = None
    reason: str | None = None
    p: float | None = None
    test: str | None = None
    adjusted_p: float | None = None
    effect: float | None = None
    spread: float | None = None
    sources: int | None = None
    early: bool = False


def paired_difference(
    pairs: Pairs,
    *,
    aggregation: str,
    higher_is_better: bool | None,
    share: bool = False,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Difference:
    """The difference of a metric between two variants, paired item by item, with its interval and p-value.

    - Right or wrong (a `mean` of 0 and 1): Tango's score interval, and McNemar's test in its mid-p form.
    - Any other mean, and the corpus metrics in :data:`.totals.AGGREGATIONS`: a paired BCa bootstrap, no narrower on
      either side than Student's t, and a permutation test. (BCa alone covers 91 % of heavy-tailed differences of 50
      items, and Student's t alone 90 % of skewed ones; together about 95: docs/statistics.md.) Where items share
      sources, sources are drawn (Miller 2024, "Adding Error Bars to Evals", arXiv 2411.00640), for right or wrong too.
    - A mean of which few items differ (fewer than 10; than 20 where it is not between 0 and 1): an interval by betting,
      which holds for any distribution where a bootstrap of so few differences does not. Of a metric without bounds it
      takes no item to differ by more than one and a half times what was seen.
    - Items that were asked until a gate was decided: a confidence sequence, for a share of which each item is a draw.
    - Fewer than 10 units: Student's t. Of a metric that is aggregated otherwise there is none.

    Args:
        pairs: the values.
        aggregation: lm-eval's name of how the items' values become the metric.
        higher_is_better: the metric's direction; None where neither is better.
        share: whether the metric lies between 0 and 1 by what it is, whatever the values seen: only such a one may be
            judged early.
        seed: of the resampling: the same values and seed give the same interval.
        confidence: of the interval.
    """
    paired = Difference(len(pairs.before), pairs.baseline_only, pairs.variant_only, early=pairs.early)
    try:
        gains, found = _measure(pairs, aggregation, share, seed, confidence)
    except NoInterval as problem:
        return replace(paired, reason=str(problem))
    rose, fell = int(np.sum(gains > 0)), int(np.sum(gains < 0))
    won, lost = {True: (rose, fell), False: (fell, rose), None: (None, None)}[higher_is_better]
    spread = float(gains.std(ddof=1))
    return replace(
        paired,
        won=won,
        lost=lost,
        tied=paired.items - rose - fell,
        interval=found.interval,
        verdict=found.interval.verdict(higher_is_better) if found.p <= 1 - CONFIDENCE else Verdict.UNCLEAR,
        p=found.p,
        test=found.test,
        effect=float(gains.mean()) / spread if spread > 0 and aggregation == "mean" else None,
        spread=spread if aggregation == "mean" else None,
        sources=None if pairs.sources is None else int(pairs.sources.max()) + 1,
    )


@dataclass(frozen=True)
class _Found:
    interval: Interval
    p: float
    test: str


def _measure(pairs: Pairs, aggregation: str, share: bool, seed: int, confidence: float) -> tuple[Floats, _Found]:
    """The items' own differences (items,), and what they show."""
    if aggregation not in AGGREGATIONS:
        raise NoInterval(f"no interval is known for the aggregation {aggregation!r}")
    if len(pairs.before) < 2:
        raise NoInterval(f"an interval needs at least 2 items in common, and there are {len(pairs.before)}")
    totals = AGGREGATIONS[aggregation]
    try:
        # Together: a class that only one of the two ever answers is a class of both.
        both = _finite(totals.columns([*pairs.before, *pairs.after]))
    except (TypeError, ValueError):
        raise NoInterval(f"an item's value is not one that the aggregation {aggregation!r} takes") from None
    old, new = np.split(both, 2)
    gains = totals.part(new) - totals.part(old)
    is_mean = aggregation == "mean"
    bounded = bool(is_mean and both[:, 0].min() >= 0.0 and both[:, 0].max() <= 1.0)
    if pairs.early:
        if not (bounded and share and pairs.sources is None):
            raise NoInterval(NOT_EARLY)
        return gains, _watched(gains, confidence)
    if is_mean and pairs.sources is None and np.isin(both[:, 0], (0.0, 1.0)).all():
        return gains, _proportions(gains, confidence)
    whole = _paired(old, new, gains, totals, is_mean)
    units = in_units(whole, pairs.sources)
    differing = int((units.columns != units.exchanged).any(axis=1).sum())
    if is_mean and not differing and not (bounded and pairs.sources is None):
        return gains, _no_change(both[:, 0], len(units.columns), confidence, bounded=bounded)
    reach = 1.0 if bounded else _BEYOND_SEEN * float(np.abs(gains).max())
    if is_mean and pairs.sources is None and _few(differing, len(gains), bounded):
        return gains, _betted(gains, units, reach, confidence)
    found = _resampled(units, is_mean, seed, confidence)
    width = found.interval.high - found.interval.low
    if is_mean and width <= 1e-12 * abs(found.interval.estimate):  # every item differs by the same amount
        return gains, _betted(units.columns[:, 0] / units.columns[:, 1], units, reach, confidence)
    return gains, found


def _few(differing: int, items: int, bounded: bool) -> bool:
    """Whether too few items differ for a bootstrap, and are not all there are of a metric without bounds."""
    if bounded or items < FEWEST_DRAWN_UNBOUNDED:
        return differing < FEWEST_DRAWN and (bounded or items >= FEWEST_DRAWN)
    return differing < FEWEST_DRAWN_UNBOUNDED


def _finite(values: Floats) -> Floats:
    if not np.isfinite(values).all():
        raise NoInterval("an item's value is not a finite number")
    return values


def _paired(old: Floats, new: Floats, gains: Floats, totals: Totals, is_mean: bool) -> Paired:
    if is_mean:  # its difference is the mean of the differences: half the columns to draw
        ones = np.ones_like(gains)
        return Paired(np.stack([gains, ones], 1), np.stack([-gains, ones], 1), totals.value)
    width = old.shape[1]

    def difference(sums: Floats) -> Floats:
        return totals.value(sums[..., width:]) - totals.value(sums[..., :width])

    return Paired(np.hstack([old, new]), np.hstack([new, old]), difference)


def _proportions(gains: Floats, confidence: float) -> _Found:
    won, lost = int((gains > 0).sum()), int((gains < 0).sum())
    low, high = paired_proportions(won, lost, len(gains), confidence)
    interval = Interval((won - lost) / len(gains), float(low), float(high), "Tango's score interval")
    return _Found(interval, float(mcnemar(won, lost)), "McNemar, mid-p")


def _betted(gains: Floats, units: Paired, reach: float, confidence: float) -> _Found:
    """For differences (n,) between -reach and reach, few of which are not 0, or all of which are the same."""
    low, high = betting_interval((gains / reach + 1) / 2, confidence)
    interval = Interval(units.estimate, (2 * low - 1) * reach, (2 * high - 1) * reach, BETTING)
    return _Found(interval, permutation_p(units), "permutation")


def _watched(gains: Floats, confidence: float) -> _Found:
    """For differences (n,) between -1 and 1 that were looked at as they came."""
    values = (gains + 1) / 2
    low, high = confidence_sequence(values, confidence)
    interval = Interval(float(gains.mean()), 2 * low - 1, 2 * high - 1, "confidence sequence, betting")
    return _Found(interval, anytime_p(values, 0.5), "betting")


def _no_change(values: Floats, n: int, confidence: float, *, bounded: bool) -> _Found:
    """0, with an interval for what other items may show, where none of n differs.

    The share of units that differ is below Clopper and Pearson's (1934) bound for none in n, and each by no more than
    the metric's range: 1 where it is bounded, else, as far as that is known, the range of the items' `values`.
    """
    share = 1 - ((1 - confidence) / 2) ** (1 / n)
    reach = share * (1.0 if bounded else float(values.max() - values.min()))
    if reach == 0:
        raise NoInterval("all items have one value, which does not tell of others")
    return _Found(Interval(0.0, -reach, reach, "none of the items differs: Clopper-Pearson"), 1.0, "permutation")


def _resampled(units: Paired, is_mean: bool, seed: int, confidence: float) -> _Found:
    n = len(units.columns)
    if not is_mean and n < FEWEST_AGREEING:
        raise NoInterval(f"a bootstrap needs at least {FEWEST_AGREEING} items in common, and there are {n}")
    if n < FEWEST_DRAWN and is_mean:
        low, high = student_interval(units, confidence)
        return _Found(Interval(units.estimate, low, high, "paired t"), student_p(units), "paired t")
    drawn = in_blocks(units, seed)
    reached = [bca_interval(drawn, seed=seed, confidence=confidence), student_interval(drawn, confidence)]
    low, high = min(one[0] for one in reached), max(one[1] for one in reached)
    blocks = f", {len(drawn.columns):,} blocks" if len(drawn.columns) < n else ""
    method = f"paired BCa bootstrap and t, {RESAMPLES:,} resamples{blocks}"
    if not math.isfinite(units.estimate):
        raise NoInterval("an item's value is not a finite number")
    return _Found(Interval(units.estimate, low, high, method), permutation_p(drawn, seed=seed), "permutation")
