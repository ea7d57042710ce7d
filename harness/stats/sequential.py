"""Tests of a mean that may be looked at after every item: betting, whose guarantee holds however often one looks.

A player bets against the hypothesis that the mean of values between 0 and 1 is no more than m: each item multiplies his
capital by 1 + b (x - m). Were the hypothesis true, no strategy would make the capital reach 1 / alpha with a chance
above alpha, at any time (Ville 1939). So when it does, the hypothesis is refused, and the items that were not asked are
saved. Waudby-Smith and Ramdas 2023, "Estimating means of bounded random variables by betting". The capital here is
divided among stakes that are never changed, from timid to bold: it grows nearly as the best of them does, does not
depend on the order of the items so far, and falls as m grows, so that an interval is found by halving.

Items must come in random order, as draws from those that the mean is of.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .interval import CONFIDENCE, Floats

NOT_EARLY = (
    "its items were asked until a gate was decided, which only a metric that is known to lie between 0 and 1, and items"
    " that share no source, allow to be judged"
)
_STAKES = np.array([1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 0.9])  # of what one item can lose at most
_HALVINGS = 40


def log_capital(values: Floats, mean: float, *, above: bool) -> Floats:
    """The logarithm of the capital after each item, of a player who bets against a hypothesis on the mean.

    Args:
        values: (..., items) between 0 and 1, in the order in which they came.
        mean: the hypothesis: that the mean is no more than this.
        above: True to bet that the mean is above it; False to bet that it is below, against "no less than this".

    Returns:
        (..., items); the hypothesis is refused at level alpha from the first that reaches -log(alpha).
    """
    if not above:
        return log_capital(1.0 - np.asarray(values), 1.0 - mean, above=True)
    if mean <= 0.0:  # only a value above 0 tells against "the mean is 0", and one is enough
        return np.where(np.maximum.accumulate(np.asarray(values), axis=-1) > 0.0, np.inf, 0.0)
    grown = None
    for stake in _STAKES:
        purse = np.cumsum(np.log1p(stake * (np.asarray(values) / mean - 1.0)), axis=-1)
        grown = purse if grown is None else np.logaddexp(grown, purse)
    assert grown is not None
    return np.asarray(grown - math.log(len(_STAKES)))


def confidence_sequence(values: Any, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """An interval of the mean of values between 0 and 1 that holds though one looked after every item.

    Args:
        values: (items,) in the order in which they came; at least one.
        confidence: that the interval never leaves out the mean, at any time.

    Returns:
        (low, high): what neither of two players, each at half the level, has refused by now.
    """
    return _interval(values, confidence, np.max)


def anytime_p(values: Any, mean: float) -> float:
    """A two-sided p-value of a mean of values between 0 and 1 that holds though one looked after every item."""
    found = np.asarray(values, dtype=np.float64)
    reached = max(float(log_capital(found, mean, above=above).max()) for above in (True, False))
    return min(1.0, 2 * math.exp(-reached))


def betting_interval(values: Any, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The same looked at once, at the end: an interval that holds for any distribution, in whatever order they came."""
    return _interval(values, confidence, lambda capital: capital[-1])


def _interval(values: Any, confidence: float, reached: Callable[[Floats], Any]) -> tuple[float, float]:
    found = np.asarray(values, dtype=np.float64)
    enough = -math.log((1.0 - confidence) / 2)
    return _bound(found, enough, reached), 1.0 - _bound(1.0 - found, enough, reached)


def _bound(values: Floats, enough: float, reached: Callable[[Floats], Any]) -> float:
    """The largest mean that is refused as too small, in favour of a larger one."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if float(reached(log_capital(values, middle, above=True))) >= enough:
            low = middle
        else:
            high = middle
    return low
