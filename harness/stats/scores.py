"""The interval of one variant's score, by itself. Needs no torch."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtri, stdtrit

from .interval import CONFIDENCE, Floats, Interval, NoInterval, Values
from .paired import FEWEST_AGREEING, FEWEST_DRAWN
from .resampling import Paired, bca_interval, in_blocks, in_units, student_interval
from .sequential import NOT_EARLY, betting_interval, confidence_sequence
from .totals import AGGREGATIONS


def score_interval(
    values: Values,
    *,
    aggregation: str = "mean",
    sources: NDArray[np.int64] | None = None,
    early: bool = False,
    share: bool = False,
    exact: bool = False,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Interval:
    """A metric of one variant's items with its interval.

    Wilson's (1927, "Probable Inference, the Law of Succession, and Statistical Inference") for values 0 and 1; for
    other means a BCa bootstrap, no narrower than Student's t, or betting where fewer than 10 values between 0 and 1 are
    off the most common one; a BCa bootstrap for corpus metrics. Where items share sources, sources are drawn, and
    standard errors are cluster-robust (Miller 2024, arXiv 2411.00640).

    Args:
        values: the items' values, as lm-eval's aggregation takes them.
        aggregation: lm-eval's name of it.
        sources: (items,) numbers from 0, where several items share a source.
        exact: for values 0 and 1, Clopper and Pearson's interval instead of Wilson's: neither of its ends errs more
            often than is said, for the rules of a gate.
        early: whether the items came in random order until something was decided: a confidence sequence then.
        share: whether the metric lies between 0 and 1 by what it is, which such a sequence needs.
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
        bounded = aggregation == "mean" and columns[:, 0].min() >= 0.0 and columns[:, 0].max() <= 1.0
        if not (bounded and share and sources is None):
            raise NoInterval(NOT_EARLY)
        low, high = confidence_sequence(columns[:, 0], confidence)
        return Interval(float(columns[:, 0].mean()), low, high, "confidence sequence, betting")
    units = in_units(Paired(columns, columns, totals.value), sources)
    if aggregation != "mean":
        if len(units.columns) < FEWEST_AGREEING:
            raise NoInterval(f"a bootstrap needs at least {FEWEST_AGREEING} items, and there are {len(units.columns)}")
        low, high = bca_interval(in_blocks(units, seed), seed=seed, confidence=confidence)
        return _with_a_width(Interval(units.estimate, low, high, "BCa bootstrap"))
    values = columns[:, 0]
    if np.isin(values, (0.0, 1.0)).all():
        return _proportion(values, units, sources is not None, exact, confidence)
    if sources is None and values.min() >= 0.0 and values.max() <= 1.0 and _off_mode(values) < FEWEST_DRAWN:
        low, high = betting_interval(values, confidence)
        return Interval(units.estimate, low, high, "betting")
    method = "t" if sources is None else "cluster-robust t"
    low, high = student_interval(units, confidence)
    if len(units.columns) >= FEWEST_DRAWN:  # no narrower on either side than a bootstrap, which knows of skewness
        reached = bca_interval(in_blocks(units, seed), seed=seed, confidence=confidence)
        low, high, method = min(low, reached[0]), max(high, reached[1]), f"BCa bootstrap and {method}"
    return _with_a_width(Interval(units.estimate, low, high, method))


def _with_a_width(found: Interval) -> Interval:
    if found.high - found.low <= 1e-12 * abs(found.estimate):
        raise NoInterval("all values are the same, which does not tell of others")
    return found


def _off_mode(values: Floats) -> int:
    """How many values are not the most common one."""
    return len(values) - int(np.unique(values, return_counts=True)[1].max())


def _proportion(values: Floats, units: Paired, clustered: bool, exact: bool, confidence: float) -> Interval:
    """Wilson's interval, or Clopper and Pearson's; of items that share sources, with the effective number of items.

    That number is of independent items with the same cluster-robust standard error, less what Student's t asks for few
    sources (Korn and Graubard 1998, "Confidence intervals for proportions with small expected number of positive counts
    estimated from survey data"). Where fewer than 10 sources are unlike the most, their errors tell too little of how
    alike their items are: then it is that of the sources.
    """
    share, n = float(values.mean()), float(len(values))
    z = float(ndtri((1 + confidence) / 2))
    if clustered:
        sources = len(units.columns)
        low, high = student_interval(units, 0.5)
        error = (high - low) / 2 / float(stdtrit(sources - 1, 0.75))
        spread = share * (1 - share)
        means = units.columns[:, 0] / units.columns[:, 1]
        n = min(n, spread / error**2) if _off_mode(means) >= FEWEST_DRAWN else float(sources)
        n *= (z / float(stdtrit(sources - 1, (1 + confidence) / 2))) ** 2
    of = ", of the effective number of items" if clustered else ""
    if exact:
        right, tail = share * n, (1 - confidence) / 2
        low = float(betaincinv(right, n - right + 1, tail)) if right > 0 else 0.0
        high = float(betaincinv(right + 1, n - right, 1 - tail)) if right < n else 1.0
        return Interval(share, low, high, f"Clopper-Pearson{of}")
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return Interval(share, max(middle - half, 0.0), min(middle + half, 1.0), f"Wilson{of}")
