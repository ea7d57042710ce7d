"""A cell's own score, and the difference of two cells, with intervals; for all that compares. Needs no torch."""

from __future__ import annotations

import numpy as np

from .results import MetricInfo
from .stats import CONFIDENCE, Difference, Interval, NoInterval, Pairs, paired_difference, score_interval
from .values import CellValues, pair


def cell_difference(
    baseline: CellValues,
    variant: CellValues,
    metric: MetricInfo,
    *,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Difference:
    """The difference of a metric between two cells, paired item by item: see :func:`.stats.paired_difference`."""
    return difference_of(pair(baseline, variant, metric.key), metric, seed=seed, confidence=confidence)


def difference_of(pairs: Pairs, metric: MetricInfo, *, seed: int = 0, confidence: float = CONFIDENCE) -> Difference:
    """The same of items that are paired already."""
    return paired_difference(
        pairs,
        aggregation=metric.aggregation,
        higher_is_better=metric.higher_is_better,
        share=metric.share,
        seed=seed,
        confidence=confidence,
    )


def cell_interval(
    cell: CellValues, metric: MetricInfo, *, exact: bool = False, seed: int = 0, confidence: float = CONFIDENCE
) -> Interval:
    """A metric over all of a cell's items, with its interval: see :func:`.stats.score_interval`.

    Items that share a source are one draw; items that were asked until a gate was decided have a confidence sequence.

    Args:
        cell: the items.
        metric: which.
        exact: for right or wrong, Clopper and Pearson's interval.
        seed: of the bootstrap.
        confidence: of the interval.

    Raises:
        NoInterval: why there is none.
    """
    column = cell.metrics.get(metric.key)
    if column is None:
        raise NoInterval("no item has a value of it")
    sources = cell.sources
    return score_interval(
        column.values,
        aggregation=metric.aggregation,
        sources=None if sources is None else np.unique(sources[column.rows], return_inverse=True)[1],
        early=cell.early,
        share=metric.share,
        exact=exact,
        seed=seed,
        confidence=confidence,
    )
