"""Which metrics are shares: means of values that lie between 0 and 1. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .results import KL_DIVERGENCE, MARGIN, MetricInfo
from .values import CellValues

_IN_NATS = {MARGIN, KL_DIVERGENCE}  # whatever values they happen to have, no share of anything


def is_share(metric: MetricInfo, cells: Sequence[CellValues]) -> bool:
    """Whether a difference of a metric can be told in points: it is a mean of values that lie between 0 and 1."""
    if metric.aggregation != "mean" or metric.name in _IN_NATS:
        return False
    key = metric.key
    columns = [cell.metrics[key].values for cell in cells if key in cell.metrics]
    arrays = [column for column in columns if isinstance(column, np.ndarray) and len(column)]
    return (
        bool(arrays)
        and len(arrays) == len(columns)
        and all(bool(((column >= 0) & (column <= 1)).all()) for column in arrays)
    )
