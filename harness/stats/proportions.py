"""Paired proportions: two variants, right or wrong on the same items. Needs no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from scipy.stats import binom

FEW = 25  # items that differ: below, a score interval is corrected for continuity by CORRECTION
LOPSIDED = 5  # of these in the rarer direction: below, by LOPSIDED_CORRECTION
CORRECTION = 0.5  # items
LOPSIDED_CORRECTION = 0.35  # items: half of one is more than these need
_USUAL = 1.97  # of a normal distribution: at 95 % and below, what skewness adds is less than the correction
_HALVINGS = 60  # of an interval of length 2: to the last digit of a float


def mcnemar(won: ArrayLike, lost: ArrayLike) -> Any:
    """The two-sided p-value of McNemar's test in its mid-p form: the exact one, with half of what was seen counted.

    Fagerland, Lydersen and Laake 2013, "The McNemar test for binary matched-pairs data: mid-p and asymptotic are
    better than exact conditional": it keeps its level where the exact test wastes half of it.

    Args:
        won, lost: how many items only the one, and only the other, got right; numbers or arrays of one shape.

    Returns:
        The p-values, of that shape; 1 where no item was.
    """
    won, lost = np.asarray(won), np.asarray(lost)
    fewer, both = np.minimum(won, lost), won + lost
    return np.minimum(2 * binom.cdf(fewer, both, 0.5) - binom.pmf(fewer, both, 0.5), 1.0)


def paired_proportions(
    won: ArrayLike, lost: ArrayLike, items: ArrayLike, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Tango's score interval for the difference of two paired proportions.

    Tango 1998, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design": the differences that the score test does not refuse. It has a width where no item differs. Where fewer
    than :data:`FEW` items do, or fewer than :data:`LOPSIDED` in one of the directions, a part of an item is added to
    its reach (a correction for continuity); of an interval at more than 95 %, as many checks ask for, a correction for
    skewness as well (the first term of Cornish and Fisher's expansion). tests/benchmarks/enumeration.py shows what it
    covers with and without.

    Args:
        won, lost: how many items only the one, and only the other, got right; numbers or arrays of one shape.
        items: how many there are in all.
        confidence: of the interval.

    Returns:
        (low, high) of that shape.
    """
    won, lost, items = np.broadcast_arrays(*(np.asarray(part, dtype=np.float64) for part in (won, lost, items)))
    z = float(ndtri((1 + confidence) / 2))
    estimate = (won - lost) / items
    return (
        _crossing(won, lost, items, np.full_like(estimate, -1.0), estimate, z),
        _crossing(won, lost, items, np.full_like(estimate, 1.0), estimate, z),
    )


def score_statistic(won: Any, lost: Any, items: Any, difference: Any, correction: Any = 0.0) -> Any:
    """Tango's score statistic of the hypothesis that the proportions differ by `difference`, normal where they do.

    Args:
        won, lost, items: as for :func:`paired_proportions`.
        difference: the hypothesis.
        correction: for continuity, in items.
    """
    b = -won - lost + (2 * items - won + lost) * difference
    c = -lost * difference * (1 - difference)
    only_other = (np.sqrt(np.maximum(b * b - 8 * items * c, 0.0)) - b) / (4 * items)
    variance = items * (2 * only_other + difference * (1 - difference))
    surplus = won - lost - items * difference
    surplus = np.sign(surplus) * np.maximum(np.abs(surplus) - correction, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 0, surplus / np.sqrt(np.maximum(variance, 0.0)), 0.0)


def _skewness(won: Any, lost: Any) -> Any:
    """The third moment of an item's gain (1, 0 or -1) over the second: about 0 or the mean, whichever is more."""
    mean, either = won - lost, won + lost
    second, third = either - mean**2, mean - 3 * mean * either + 2 * mean**3
    plain = np.abs(mean) / np.maximum(either, 1e-12)
    return np.maximum(plain, np.where(second > 0, np.abs(third) / np.maximum(second, 1e-12), 0.0))


def _crossing(won: Any, lost: Any, items: Any, outer: Any, inner: Any, z: float) -> NDArray[np.float64]:
    """Where between `outer` and `inner` the statistic, which is 0 within and grows outward, reaches z."""
    lopsided = np.where(np.minimum(won, lost) < LOPSIDED, LOPSIDED_CORRECTION, 0.0)
    correction = np.where(won + lost < FEW, CORRECTION, lopsided)
    if z > _USUAL:
        correction = correction + (z**2 - 1) / 6 * _skewness(won / items, lost / items)
    for _ in range(_HALVINGS):
        middle = (outer + inner) / 2
        beyond = np.abs(score_statistic(won, lost, items, middle, correction)) > z
        outer, inner = np.where(beyond, middle, outer), np.where(beyond, inner, middle)
    found: NDArray[np.float64] = (outer + inner) / 2
    return found
