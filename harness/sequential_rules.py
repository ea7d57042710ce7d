"""Intervals of cells whose items were asked until a rule was decided: they hold however often one looked. No torch."""

from __future__ import annotations

import numpy as np

from .stats import Interval, NoInterval
from .stats.interval import Values
from .stats.sequential import confidence_sequence

METHOD = "confidence sequence, betting"


def sequential_interval(values: Values, baseline: Values | None, confidence: float) -> Interval:
    """The interval of a mean between 0 and 1, or of a difference of two, in the order in which items were asked.

    Args:
        values: the variant's, of each item.
        baseline: the other's on the same items; None for the variant's own mean.
        confidence: that it holds at all times.

    Raises:
        NoInterval: a value is not between 0 and 1: without bounds there is no bet.
    """
    found = np.asarray(values, dtype=np.float64)
    other = np.zeros(len(found)) if baseline is None else np.asarray(baseline, dtype=np.float64)
    if not len(found):
        raise NoInterval("there are no items")
    if not all(np.isfinite(part).all() and part.min() >= 0.0 and part.max() <= 1.0 for part in (found, other)):
        raise NoInterval("early stopping needs a metric between 0 and 1")
    if baseline is None:
        low, high = confidence_sequence(found, confidence)
        return Interval(float(found.mean()), low, high, METHOD)
    low, high = confidence_sequence((found - other + 1) / 2, confidence)
    return Interval(float((found - other).mean()), 2 * low - 1, 2 * high - 1, METHOD)
