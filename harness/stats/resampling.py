"""Resampling of paired units: the BCa bootstrap and the permutation test, for any metric that is one of totals.

A *unit* is what is drawn: an item, or all items of one source. Each has a row of columns; a metric is a function of the
columns' totals, as each of lm-eval's aggregations in :mod:`.totals` is. That makes a resample a sum, a jackknife a
subtraction, and a permutation an exchange of columns, so that none of them calls the metric item by item.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from .interval import CONFIDENCE, Floats, NoInterval

RESAMPLES = 10_000
# Above this many units they are drawn in blocks: an interval from 2,000 blocks is as wide, to 1 part in 60.
MOST_UNITS = 2_000
_AT_ONCE = 4_000_000  # drawn units: 16 MB
_ENUMERATED = 12  # units that differ: up to here every exchange is looked at
_TAIL = 10  # exchanges that reach what was measured: fewer do not tell how rare it is
_ALIKE = 1e-9  # of the statistic: differences in the last digits of a sum are none


@dataclass(frozen=True)
class Paired:
    """The units of two variants.

    Attributes:
        columns: (units, k): what each unit adds to the totals.
        exchanged: (units, k): the same with the two variants' answers exchanged.
        difference: totals (..., k) -> the difference of the metric (...).
    """

    columns: Floats
    exchanged: Floats
    difference: Callable[[Floats], Floats]

    @property
    def estimate(self) -> float:
        """The difference as it was measured."""
        return float(self.difference(self.columns.sum(axis=0)))


def in_units(paired: Paired, labels: np.ndarray | None) -> Paired:
    """The same with the items of one source summed: `labels` (items,) are the sources' numbers from 0."""
    if labels is None:
        return paired
    return Paired(_summed(paired.columns, labels), _summed(paired.exchanged, labels), paired.difference)


def in_blocks(paired: Paired, seed: int, most: int = MOST_UNITS) -> Paired:
    """At most `most` units: beyond that, equal blocks of units that are drawn together, dealt out at random."""
    units = len(paired.columns)
    if units <= most:
        return paired
    blocks = -(-units // -(-units // most))
    labels = np.random.default_rng(seed).permutation(units) % blocks
    return in_units(paired, labels)


def bca_interval(
    paired: Paired,
    *,
    seed: int = 0,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    small_sample: bool = True,
) -> tuple[float, float]:
    """The bias-corrected and accelerated bootstrap interval of a difference.

    Efron 1987, "Better Bootstrap Confidence Intervals". Units are drawn with replacement, both variants' together.

    Args:
        paired: at least 2 units.
        seed: of the draws.
        confidence: of the interval.
        resamples: how often all units are drawn.
        small_sample: Hesterberg's (2015, "What Teachers Should Know About the Bootstrap") expansion, by which the
            interval of a mean is as wide as Student's: without it, 50 units cover 94 % where 95 are said.

    Raises:
        NoInterval: the metric is not a finite number for some resamples.
    """
    units = len(paired.columns)
    estimate = paired.estimate
    with np.errstate(all="ignore"):  # what is not finite is refused below
        drawn = np.concatenate([paired.difference(t) for t in _resampled_totals(paired.columns, seed, resamples)])
        left_out = paired.difference(paired.columns.sum(axis=0) - paired.columns)
    if not (np.isfinite(drawn).all() and np.isfinite(left_out).all() and math.isfinite(estimate)):
        raise NoInterval("an item's value is not a finite number")
    influence = left_out.mean() - left_out
    spread = float((influence**2).sum())
    acceleration = float((influence**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    slack = _ALIKE * max(float(np.abs(drawn).max()), abs(estimate))
    below = (float((drawn < estimate - slack).mean()) + float((drawn <= estimate + slack).mean())) / 2
    bias = float(ndtri(min(max(below, 0.5 / resamples), 1 - 0.5 / resamples)))
    z = float(ndtri((1 + confidence) / 2))
    if small_sample:
        z = math.sqrt(units / (units - 1)) * float(stdtrit(units - 1, (1 + confidence) / 2))
    levels = [float(ndtr(bias + (bias + side) / max(1 - acceleration * (bias + side), 1e-9))) for side in (-z, z)]
    low, high = np.quantile(drawn, levels)
    return float(low), float(high)


def permutation_p(paired: Paired, *, seed: int = 0, resamples: int = RESAMPLES) -> float:
    """The two-sided p-value of a paired permutation test: exchanging the two variants of a unit changes nothing.

    Fisher's randomisation test for pairs. Where at most 12 units differ, all exchanges are looked at; otherwise
    `resamples` random ones and the one that was measured (Phipson and Smyth 2010, "Permutation P-values Should Never Be
    Zero"). Where fewer than 10 of these reach it, their number tells little, and a correction for many comparisons
    needs smaller p-values than they can give: then it is that of Student's t, no smaller than all exchanges could give,
    and no larger than the random ones allow.

    Args:
        paired: the units.
        seed: of the exchanges.
        resamples: how many.
    """
    change = paired.exchanged - paired.columns
    differ = np.flatnonzero(change.any(axis=1))
    if not len(differ):
        return 1.0
    change = change[differ]
    totals = paired.columns.sum(axis=0)
    estimate = abs(paired.estimate)
    least = estimate - _ALIKE * max(estimate, float(np.abs(paired.columns).max()))
    with np.errstate(all="ignore"):
        if len(differ) <= _ENUMERATED:
            every = ((np.arange(2 ** len(differ))[:, None] >> np.arange(len(differ))) & 1).astype(np.float64)
            found = np.abs(paired.difference(totals + every @ change))
            return float((found >= least).mean())
        reached = 0
        for picks in _coins(len(differ), seed, resamples):
            reached += int((np.abs(paired.difference(totals + picks @ change)) >= least).sum())
    p = (reached + 1) / (resamples + 1)
    return p if reached >= _TAIL else min(p, max(student_p(paired), 2.0 ** (1 - len(differ))))


def student_interval(paired: Paired, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Student's t interval of a difference, its standard error by the jackknife: for units too few for a bootstrap.

    Of a mean over items that is the paired t interval; where units are sources, the cluster-robust one.

    Raises:
        NoInterval: there is but one unit.
    """
    units = len(paired.columns)
    if units < 2:
        raise NoInterval("all items come from one source, which does not tell of others")
    left_out = paired.difference(paired.columns.sum(axis=0) - paired.columns)
    error = math.sqrt((units - 1) / units * float(((left_out - left_out.mean()) ** 2).sum()))
    half = float(stdtrit(units - 1, (1 + confidence) / 2)) * error
    return paired.estimate - half, paired.estimate + half


def student_p(paired: Paired) -> float:
    """The two-sided p-value of the t test that goes with :func:`student_interval`."""
    low, high = student_interval(paired, 0.5)
    units, half = len(paired.columns), (high - low) / 2
    if half == 0:
        return 1.0 if paired.estimate == 0 else 0.0
    error = half / float(stdtrit(units - 1, 0.75))
    return float(2 * stdtr(units - 1, -abs(paired.estimate) / error))


def _summed(columns: Floats, labels: np.ndarray) -> Floats:
    return np.stack([np.bincount(labels, weights=column).astype(np.float64) for column in columns.T], axis=1)


def _resampled_totals(columns: Floats, seed: int, resamples: int) -> Iterator[Floats]:
    """Totals of `resamples` draws of all rows with replacement, some at a time: (draws, k) each."""
    generator = np.random.default_rng(seed)
    units = len(columns)
    rows = max(1, _AT_ONCE // units)
    each = np.ascontiguousarray(columns.T)
    for start in range(0, resamples, rows):
        picks = generator.integers(0, units, (min(rows, resamples - start), units), dtype=np.uint32)
        yield np.stack([_total_of(column, picks, units) for column in each], axis=1)


def _total_of(column: Floats, picks: np.ndarray, units: int) -> Floats:
    if column[0] == column[-1] and (column == column[0]).all():  # weights of one, say: no draw changes their total
        return np.full(len(picks), column[0] * units)
    return column[picks].sum(axis=1)


def _coins(count: int, seed: int, resamples: int) -> Iterator[Floats]:
    """`resamples` rows of `count` fair coins, some at a time."""
    generator = np.random.default_rng(seed)
    width = -(-count // 8)
    rows = max(1, _AT_ONCE // count)
    for start in range(0, resamples, rows):
        here = min(rows, resamples - start)
        bits = np.unpackbits(generator.integers(0, 256, (here, width), dtype=np.uint8), axis=1)[:, :count]
        yield bits.astype(np.float64)
