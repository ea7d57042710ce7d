"""How small a difference a number of items can resolve, and how many items a difference needs. Needs no torch."""

from __future__ import annotations

import math

import numpy as np

from .paired import BETTING, Difference

LEVEL = 0.05
POWER = 0.8


def smallest_difference(items: int, spread: float, *, level: float = LEVEL, power: float = POWER) -> float | None:
    """The smallest true difference of means that a two-sided paired test finds with this power.

    Args:
        items: how many pairs.
        spread: the standard deviation of the pairs' differences, in the metric's unit.
        level: of the test.
        power: the chance to find it.

    Returns:
        In the metric's unit; None where no number of items so small could find one.
    """
    if items < 2:
        return None
    if spread == 0:
        return 0.0
    effect = _solve(items, level, power)
    return None if effect is None else effect * spread


def resolvable(found: Difference) -> float | None:
    """The smallest true difference that as many items, which spread as these do, would have shown; see above.

    Returns:
        In the metric's unit; None for other metrics than means, where no item differs by more or less than the others
        (the spread says nothing), where items share sources (they are fewer draws than items), where they were asked
        until something was decided (betting resolves less than a test of a fixed number), and where so few differ that
        their spread is hardly known (an interval by betting, too).
    """
    by_betting = found.interval is not None and found.interval.method == BETTING
    if not found.spread or found.sources is not None or found.early or by_betting:
        return None
    return smallest_difference(found.items, found.spread)


def smallest_change(items: int, changed: float, *, level: float = LEVEL, power: float = POWER) -> float | None:
    """The same for right or wrong, where a share of the answers changes one way or the other.

    The variance of the differences is `changed` less the square of their mean (McNemar's setting; Connor 1987, "Sample
    size for testing differences in proportions for the paired-sample design").

    Args:
        items: how many.
        changed: the share of items of which the answer's rightness changes, between 0 and 1.
        level: of the test.
        power: the chance to find it.

    Returns:
        A difference of proportions; None where even all changes in one direction would not be found.
    """
    effect = _solve(items, level, power) if items >= 2 else None
    if effect is None:
        return None
    found = effect * math.sqrt(changed / (1 + effect**2))
    return found if found <= changed else None


def items_for(difference: float, spread: float, *, level: float = LEVEL, power: float = POWER) -> int:
    """How many pairs a two-sided paired test needs to find a true difference with this power.

    Args:
        difference: in the metric's unit, not 0.
        spread: the standard deviation of the pairs' differences.
        level: of the test.
        power: the chance to find it.
    """
    from scipy.special import ndtri

    if spread == 0:
        return 2
    z = float(ndtri(1 - level / 2) + ndtri(power))
    start = max(2, math.ceil((z * spread / difference) ** 2))
    return start + 2  # Student's t instead of the normal: one or two pairs more, from 10 on


def _solve(items: int, level: float, power: float) -> float | None:
    """The effect size d_z of a paired t test, by statsmodels."""
    from statsmodels.stats.power import TTestPower

    with np.errstate(all="ignore"):
        found = TTestPower().solve_power(nobs=items, alpha=level, power=power, alternative="two-sided")
    value = float(np.atleast_1d(found)[0])
    return value if math.isfinite(value) and value > 0 else None
