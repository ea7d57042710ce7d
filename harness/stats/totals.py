"""lm-eval's aggregations as functions of totals: what each item adds, and the metric of the sums.

That is what makes a bootstrap of a corpus metric a sum of rows (see :mod:`.resampling`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .interval import Floats, Values


@dataclass(frozen=True)
class Totals:
    """A metric that depends on its items only through totals of per-item columns.

    Attributes:
        columns: the items' values, as lm-eval's aggregation takes them, as a table (items, k); raises TypeError or
            ValueError for values that it does not take.
        value: the metric of totals (..., k), of shape (...).
        part: what one item adds, to be compared on the same item only, in the metric's direction: (items,).
    """

    columns: Callable[[Values], Floats]
    value: Callable[[Floats], Floats]
    part: Callable[[Floats], Floats]


def _numbers(units: Values) -> Floats:
    """Numbers, each of weight one: columns (number, weight)."""
    values = np.asarray(units, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError("more than one number an item")
    return np.stack([values, np.ones_like(values)], axis=1)


def _mean(totals: Floats) -> Floats:
    return totals[..., 0] / totals[..., 1]


def _number(columns: Floats) -> Floats:
    return columns[:, 0]


def _pairs(units: Values) -> Floats:
    """Pairs of numbers: of a log-likelihood in nats and its weight in words or bytes, for instance."""
    pairs = np.asarray(units, dtype=np.float64)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError("not pairs")
    return pairs


def _binary_outcomes(units: Values) -> Floats:
    """Pairs (gold, prediction) of 0 and 1: columns (true positive, false positive, false negative)."""
    pairs = _pairs(units)
    if not np.isin(pairs, (0.0, 1.0)).all():
        raise ValueError("not classes 0 and 1")
    gold, guess = pairs[:, 0], pairs[:, 1]
    return np.stack([gold * guess, (1 - gold) * guess, gold * (1 - guess)], axis=1)


def _class_outcomes(units: Values) -> Floats:
    """Pairs (gold, prediction) of any classes: columns (right, 1, one-hot gold, one-hot prediction)."""
    labels = dict.fromkeys(label for pair in units for label in pair)
    classes = {label: index for index, label in enumerate(labels)}
    codes = np.array([[classes[gold], classes[guess]] for gold, guess in units])
    right = (codes[:, 0] == codes[:, 1]).astype(np.float64)
    one_hot = np.eye(len(classes))
    return np.column_stack([right, np.ones_like(right), one_hot[codes[:, 0]], one_hot[codes[:, 1]]])


def _perplexity(totals: Floats) -> Floats:
    return np.exp(-totals[..., 0] / totals[..., 1])


def _bits(totals: Floats) -> Floats:
    return -totals[..., 0] / totals[..., 1] / math.log(2)


def _f1(totals: Floats) -> Floats:
    """2 TP / (2 TP + FP + FN), and 0 where gold and prediction are never positive, as in scikit-learn."""
    hits = 2 * totals[..., 0]
    return hits / np.maximum(hits + totals[..., 1] + totals[..., 2], 1.0)


def _matthews(totals: Floats) -> Floats:
    """Gorodkin's (2004) R_K: the correlation of gold and predicted classes; 0 where one never varies."""
    right, n = totals[..., 0], totals[..., 1]
    gold, guess = np.split(totals[..., 2:], 2, axis=-1)
    covariance = right * n - (gold * guess).sum(-1)
    scale = np.sqrt((n**2 - (gold**2).sum(-1)) * (n**2 - (guess**2).sum(-1)))
    return np.where(scale > 0, covariance / np.where(scale > 0, scale, 1.0), 0.0)


def _surprise(columns: Floats) -> Floats:
    """What an item adds to a perplexity; its weight is left out, being the same in both variants."""
    return -columns[:, 0]


def _binary_right(columns: Floats) -> Floats:
    return 1 - columns[:, 1] - columns[:, 2]


def _class_right(columns: Floats) -> Floats:
    return columns[:, 0]


AGGREGATIONS = {
    "mean": Totals(_numbers, _mean, _number),
    "perplexity": Totals(_numbers, _perplexity, _surprise),
    "weighted_perplexity": Totals(_pairs, _perplexity, _surprise),
    "bits_per_byte": Totals(_pairs, _bits, _surprise),
    "f1": Totals(_binary_outcomes, _f1, _binary_right),
    "matthews_corrcoef": Totals(_class_outcomes, _matthews, _class_right),
}
