"""The interval of one variant's score, by itself. Needs no torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from .interval import CONFIDENCE, Interval, NoInterval, Values
from .paired import FEWEST_AGREEING
from .resampling import Paired, bca_interval, in_blocks, in_units, student_interval
from .sequential import NOT_EARLY, confidence_sequence
from .totals import AGGREGATIONS


def score_interval(
    values: Values,
    *,
    aggregation: str = "mean",
    sources: NDArray[np.int64] | None = None,
    early: bool = False,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Interval:
    """A metric of one variant's items with its interval.

    Wilson's (1927, "Probable Inference, the Law of Succession, and Statistical Inference") for values 0 and 1,
    Student's t for other means, a BCa bootstrap for corpus metrics; where items share sources, the cluster-robust t
    (Miller 2024, arXiv 2411.00640).

    Args:
        values: the items' values, as lm-eval's aggregation takes them.
        aggregation: lm-eval's name of it.
        sources: (items,) numbers from 0, where several items share a source.
        early: whether the items came in random order until something was decided: a confidence sequence then.
        seed: of the bootstrap.
        confidence: of the interval.

    Raises:
        NoInterval: for fewer than two values, some that are not finite, or an aggregation that is not known.
    """
    if aggregation not in AGGREGATIONS:
        raise NoInterval(f"no interval is known for the aggregation {aggregation!r}")
    totals = AGGREGATIONS[aggregation]
    try:
        columns = totals.columns(values)
    except (TypeError, ValueError):
        raise NoInterval(f"an item's value is not one that the aggregation {aggregation!r} takes") from None
    finite = int(np.isfinite(columns).all(axis=1).sum()) if len(columns) else 0
    if finite < len(columns):
        raise NoInterval("an item's value is not a finite number")
    if finite < 2:
        raise NoInterval(f"an interval needs at least 2 finite values, and there are {finite}")
    if early:
        if aggregation != "mean" or columns[:, 0].min() < 0.0 or columns[:, 0].max() > 1.0:
            raise NoInterval(NOT_EARLY)
        low, high = confidence_sequence(columns[:, 0], confidence)
        return Interval(float(columns[:, 0].mean()), low, high, "confidence sequence, betting")
    units = in_units(Paired(columns, columns, totals.value), sources)
    if aggregation != "mean":
        if len(units.columns) < FEWEST_AGREEING:
            raise NoInterval(f"a bootstrap needs at least {FEWEST_AGREEING} items, and there are {len(units.columns)}")
        low, high = bca_interval(in_blocks(units, seed), seed=seed, confidence=confidence)
        return Interval(units.estimate, low, high, "BCa bootstrap")
    if sources is None and np.isin(columns[:, 0], (0.0, 1.0)).all():
        right = int(columns[:, 0].sum())
        low, high = binomtest(right, len(columns)).proportion_ci(confidence, method="wilson")
        return Interval(right / len(columns), float(low), float(high), "Wilson")
    low, high = student_interval(units, confidence)
    if low == high and len(units.columns) < FEWEST_AGREEING:
        raise NoInterval(f"all {finite} values are the same; that tells from {FEWEST_AGREEING} items on")
    return Interval(units.estimate, low, high, "t" if sources is None else "cluster-robust t")
