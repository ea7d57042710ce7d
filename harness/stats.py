"""Paired statistics of two variants on the same items; for the comparison, the gate and the reports.

Needs no torch. A difference comes with an interval or not at all: where none can be given, a reason stands
in its place.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit
from scipy.stats import binomtest

Floats = NDArray[np.float64]
_Key = TypeVar("_Key", bound=Hashable)

CONFIDENCE = 0.95
RESAMPLES = 2000
# The fewest items whose full agreement is news at 95 %: a sign test's p, 2 ** (1 - n), is below 0.05 from 6.
FEWEST_AGREEING = 6
_COUNTS_AT_ONCE = 2_000_000  # entries of the table of resampling counts: 16 MB each for picks and counts


class Verdict(enum.StrEnum):
    """How a variant stands to the baseline, in the metric's own direction."""

    BETTER = "better"
    WORSE = "worse"
    DIFFERENT = "different"  # of a metric that has no better direction
    UNCLEAR = "no clear difference"


@dataclass(frozen=True)
class Interval:
    """A difference (variant minus baseline, in the metric's unit) and its interval, of 95 % unless asked otherwise."""

    estimate: float
    low: float
    high: float
    method: str

    def verdict(self, higher_is_better: bool | None) -> Verdict:
        """Better, worse or different where the interval leaves out zero, and unclear where it does not."""
        if self.low <= 0.0 <= self.high:
            return Verdict.UNCLEAR
        if higher_is_better is None:
            return Verdict.DIFFERENT
        return Verdict.BETTER if (self.low > 0.0) == higher_is_better else Verdict.WORSE


@dataclass(frozen=True)
class Difference:
    """One metric of a variant against the baseline, on the items that both answered.

    Attributes:
        items: how many they are.
        won, lost, tied: on how many of them the variant did better, worse and the same; for a corpus metric
            in an item's own part of it (a log-likelihood, a right answer). None without an interval, and the
            first two for a metric that has no better direction.
        baseline_only, variant_only: items that only one of the two answered, which take no part.
        interval, verdict: None exactly where `reason` says why there is none.
    """

    items: int
    baseline_only: int
    variant_only: int
    won: int | None = None
    lost: int | None = None
    tied: int | None = None
    interval: Interval | None = None
    verdict: Verdict | None = None
    reason: str | None = None


@dataclass(frozen=True)
class _Corpus:
    """A corpus metric that depends on its items only through totals of per-item columns.

    That holds for each of lm-eval's corpus aggregations below, and makes a bootstrap one matrix product.

    Attributes:
        columns: the items' values, as lm-eval's aggregation takes them, as a table (items, k).
        value: the metric of totals (..., k), of shape (...).
        part: what one item adds, to be compared on the same item only, in the metric's direction: (items,).
    """

    columns: Callable[[Sequence[Any]], Floats]
    value: Callable[[Floats], Floats]
    part: Callable[[Floats], Floats]


def paired_difference(
    baseline: Mapping[_Key, Any],
    variant: Mapping[_Key, Any],
    *,
    aggregation: str,
    higher_is_better: bool | None,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Difference:
    """The difference of a metric between two variants, paired item by item, with its interval.

    A `mean` gets Student's t interval on the items' differences (Miller 2024, "Adding Error Bars to Evals",
    arXiv 2411.00640: pairing takes the difficulty that the items share out of the error); where no item differs, which
    would leave that interval without a width, a bound on what items that were not asked may show. `perplexity`,
    `weighted_perplexity`, `bits_per_byte`, `f1` and `matthews_corrcoef` get the percentile interval of a
    bootstrap that draws the same items for both variants (Efron and Tibshirani 1993, chapter 13; paired as in
    Koehn 2004, "Statistical Significance Tests for Machine Translation Evaluation"). Others get none.

    Args:
        baseline: the baseline's value of each item, by a key that is the same in both variants.
        variant: the variant's, likewise.
        aggregation: lm-eval's name of how the items' values become the metric.
        higher_is_better: the metric's direction; None where neither is better.
        seed: of the bootstrap: the same values and seed give the same interval.
        confidence: of the interval.
    """
    keys = [key for key in baseline if key in variant]
    paired = Difference(len(keys), len(baseline) - len(keys), len(variant) - len(keys))
    try:
        before, after = [baseline[key] for key in keys], [variant[key] for key in keys]
        gains, interval = _measure(before, after, aggregation, seed, confidence)
    except _NoInterval as problem:
        return replace(paired, reason=str(problem))
    rose, fell = int(np.sum(gains > 0)), int(np.sum(gains < 0))
    won, lost = {True: (rose, fell), False: (fell, rose), None: (None, None)}[higher_is_better]
    return replace(
        paired,
        won=won,
        lost=lost,
        tied=len(keys) - rose - fell,
        interval=interval,
        verdict=interval.verdict(higher_is_better),
    )


def difference_from(values: Sequence[float], number: float, confidence: float = CONFIDENCE) -> Interval:
    """The mean of items' values minus a number, with its interval: Wilson's for values 0 and 1, else Student's t.

    Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".

    Raises:
        ValueError: for fewer than two values, or some that are not finite; the text says which.
    """
    found = np.asarray(values, dtype=np.float64)
    if len(found) < 2 or not np.isfinite(found).all():
        raise ValueError(f"an interval needs at least 2 finite values, and there are {int(np.isfinite(found).sum())}")
    if np.isin(found, (0.0, 1.0)).all():
        right = int(found.sum())
        low, high = binomtest(right, len(found)).proportion_ci(confidence, method="wilson")
        return Interval(right / len(found) - number, float(low) - number, float(high) - number, "Wilson")
    try:
        return replace(_student(found - number, confidence), method="t")
    except _NoInterval as problem:
        raise ValueError(str(problem)) from None


class _NoInterval(Exception):
    """Why no interval can be given; its text goes into the report."""


def _measure(
    before: list[Any], after: list[Any], aggregation: str, seed: int, confidence: float
) -> tuple[Floats, Interval]:
    """The items' own differences (items,) and the metric's difference with its interval."""
    if aggregation != "mean" and aggregation not in _CORPUS:
        raise _NoInterval(f"no interval is known for the aggregation {aggregation!r}")
    if len(before) < 2:
        raise _NoInterval(f"an interval needs at least 2 items in common, and there are {len(before)}")
    try:
        if aggregation == "mean":
            gains = _finite(np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64))
            if gains.ndim != 1:
                raise ValueError("more than one number an item")
            if not gains.any():
                return gains, _no_change(np.asarray([*before, *after], dtype=np.float64), len(gains), confidence)
            return gains, _student(gains, confidence)
        corpus = _CORPUS[aggregation]
        old, new = _finite(corpus.columns(before)), _finite(corpus.columns(after))
    except (TypeError, ValueError):
        raise _NoInterval(f"an item's value is not one that the aggregation {aggregation!r} takes") from None
    return corpus.part(new) - corpus.part(old), _bootstrap(old, new, corpus.value, seed, confidence)


def _finite(values: Floats) -> Floats:
    if not np.isfinite(values).all():
        raise _NoInterval("an item's value is not a finite number")
    return values


def _student(gains: Floats, confidence: float) -> Interval:
    """The mean of the items' differences (items,), some of which are not zero, with Student's t interval."""
    n, mean = len(gains), float(gains.mean())
    spread = float(gains.std(ddof=1))
    if spread <= 1e-12 * abs(mean) and n < FEWEST_AGREEING:
        raise _NoInterval(f"all {n} items differ by the same amount; that tells from {FEWEST_AGREEING} items on")
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * spread / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, "paired t")


def _no_change(values: Floats, n: int, confidence: float) -> Interval:
    """0, with an interval for what other items may show, where none of n differs.

    The share of items that differ is below Clopper and Pearson's (1934) bound for none in n, and each by no more than
    the metric's range: 1 for a metric between 0 and 1, else the range of the items' `values`.
    """
    share = 1 - ((1 - confidence) / 2) ** (1 / n)
    low, high = float(values.min()), float(values.max())
    reach = share * (1.0 if low >= 0.0 and high <= 1.0 else high - low)
    return Interval(0.0, -reach, reach, "none of the items differs: Clopper-Pearson")


def _bootstrap(old: Floats, new: Floats, value: Callable[[Floats], Floats], seed: int, confidence: float) -> Interval:
    """The corpus metric's difference, with the percentile interval over resamples of both variants' items."""
    n = len(old)
    if n < FEWEST_AGREEING:
        raise _NoInterval(f"a bootstrap needs at least {FEWEST_AGREEING} items in common, and there are {n}")
    generator = np.random.default_rng(seed)
    rows = max(1, _COUNTS_AT_ONCE // n)
    differences = []
    with np.errstate(all="ignore"):  # what is not finite is refused below
        estimate = float(value(new.sum(axis=0)) - value(old.sum(axis=0)))
        for start in range(0, RESAMPLES, rows):
            counts = _resampling_counts(generator, min(rows, RESAMPLES - start), n)
            differences.append(value(counts @ new) - value(counts @ old))
        low, high = np.quantile(np.concatenate(differences), [(1 - confidence) / 2, (1 + confidence) / 2])
    _finite(np.array([estimate, low, high]))
    return Interval(estimate, float(low), float(high), f"paired bootstrap, {RESAMPLES:,} resamples")


def _resampling_counts(generator: np.random.Generator, rows: int, n: int) -> Floats:
    """How often each of `n` items is drawn in each of `rows` resamples with replacement: (rows, n)."""
    picks = generator.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
    return np.bincount(picks.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def _loglikelihoods(units: Sequence[Any]) -> Floats:
    """Log-likelihoods, each of weight one: columns (log-likelihood, weight)."""
    values = np.asarray(units, dtype=np.float64)
    return np.stack([values, np.ones_like(values)], axis=1)


def _weighted_loglikelihoods(units: Sequence[Any]) -> Floats:
    """Pairs of a log-likelihood in nats and its weight in words or bytes."""
    pairs = np.asarray(units, dtype=np.float64)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError("not pairs")
    return pairs


def _binary_outcomes(units: Sequence[Any]) -> Floats:
    """Pairs (gold, prediction) of 0 and 1: columns (true positive, false positive, false negative)."""
    pairs = _weighted_loglikelihoods(units)
    if not np.isin(pairs, (0.0, 1.0)).all():
        raise ValueError("not classes 0 and 1")
    gold, guess = pairs[:, 0], pairs[:, 1]
    return np.stack([gold * guess, (1 - gold) * guess, gold * (1 - guess)], axis=1)


def _class_outcomes(units: Sequence[Any]) -> Floats:
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


_CORPUS = {
    "perplexity": _Corpus(_loglikelihoods, _perplexity, _surprise),
    "weighted_perplexity": _Corpus(_weighted_loglikelihoods, _perplexity, _surprise),
    "bits_per_byte": _Corpus(_weighted_loglikelihoods, _bits, _surprise),
    "f1": _Corpus(_binary_outcomes, _f1, _binary_right),
    "matthews_corrcoef": _Corpus(_class_outcomes, _matthews, _class_right),
}
