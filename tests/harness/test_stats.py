"""Paired differences against hand-computed values, scipy, scikit-learn and a bootstrap written out in full."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import f1_score, matthews_corrcoef
from statsmodels.stats.proportion import proportion_confint

from phibench.harness.stats import (
    Difference,
    Interval,
    NoInterval,
    Pairs,
    Verdict,
    paired_difference,
    score_interval,
)


def _difference(
    before: Any,
    after: Any,
    aggregation: str = "mean",
    higher: bool | None = True,
    seed: int = 0,
    confidence: float = 0.95,
    sources: Any = None,
) -> Difference:
    pairs = Pairs(before, after, sources=sources)
    return paired_difference(pairs, aggregation=aggregation, higher_is_better=higher, seed=seed, confidence=confidence)


def _interval(found: Difference) -> Interval:
    assert found.interval is not None, found.reason
    return found.interval


def test_few_items_by_hand() -> None:
    found = _difference([0.5, 0.0, 0.7, 1.0], [1.5, 0.0, 0.7, 1.0])
    interval = _interval(found)
    # Differences 1, 0, 0, 0: mean 1/4, standard deviation 1/2, standard error 1/4; t(3) at 97.5 % is 3.182446.
    assert interval.estimate == pytest.approx(0.25)
    assert interval.low == pytest.approx(0.25 - 0.25 * 3.182446, abs=1e-6)
    assert interval.high == pytest.approx(0.25 + 0.25 * 3.182446, abs=1e-6)
    assert (found.items, found.won, found.lost, found.tied) == (4, 1, 0, 3)
    assert found.verdict is Verdict.UNCLEAR
    assert found.effect == pytest.approx(0.5)
    assert found.spread == pytest.approx(0.5)


def test_few_items_are_scipys_paired_t() -> None:
    generator = np.random.default_rng(5)
    before = generator.normal(size=9)
    after = before + generator.normal(0.3, 0.5, size=9)
    expected = scipy_stats.ttest_rel(after, before)
    found = _difference(before, after)
    assert (_interval(found).low, _interval(found).high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.p == pytest.approx(expected.pvalue)


@pytest.mark.parametrize(
    ("higher", "verdict", "counts"),
    [
        (True, Verdict.BETTER, (20, 10, 0)),
        (False, Verdict.WORSE, (10, 20, 0)),
        (None, Verdict.DIFFERENT, (None, None, 0)),
    ],
)
def test_direction(higher: bool | None, verdict: Verdict, counts: tuple[int | None, int | None, int]) -> None:
    before = np.zeros(30)
    after = np.where(np.arange(30) < 20, 1.0, -0.2)
    found = _difference(before, after, higher=higher)
    assert found.verdict is verdict
    assert (found.won, found.lost, found.tied) == counts
    assert _interval(found).estimate > 0  # variant minus baseline, whatever the direction


@pytest.mark.parametrize(
    ("aggregation", "values"),
    [("mean", [0.1, 0.7, 0.3, 0.2, 0.9, 0.4]), ("perplexity", [-1.0, -2.5, -0.3, -4.0, -1.1, -2.2])],
)
def test_no_difference_is_exactly_zero(aggregation: str, values: list[float]) -> None:
    found = _difference(values, values, aggregation)
    interval = _interval(found)
    assert interval.estimate == 0.0
    assert interval.low <= 0.0 <= interval.high
    assert found.verdict is Verdict.UNCLEAR
    assert found.tied == 6


@pytest.mark.parametrize("n", [2, 46, 500])
def test_where_no_item_differs_others_may(n: int) -> None:
    """Clopper and Pearson's bound on the share of items that differ, times the range of the metric."""
    bound = proportion_confint(0, n, alpha=0.05, method="beta")[1]
    losses = [2.0 + 3.0 * i / (n - 1) for i in range(n)]
    found = _difference(losses, losses)
    assert (_interval(found).low, _interval(found).high) == pytest.approx((-3.0 * bound, 3.0 * bound))
    assert found.p == 1.0
    accuracy = _interval(_difference([1.0] * n, [1.0] * n))  # Tango's interval has a width by itself
    assert 0 < accuracy.high == pytest.approx(-accuracy.low)
    assert accuracy.high < 6 / n


@pytest.mark.parametrize("n", [5, 20, 200])
def test_items_that_all_differ_alike_do_not_tell_that_all_others_do(n: int) -> None:
    for before, after in (([0.5] * n, [1.5] * n), ([0.5] * n, [0.6] * n)):
        found = _interval(_difference(before, after))
        assert found.low < after[0] - before[0] < found.high
        assert found.low > 0 or n < 200  # so many do tell that there is a difference
    labels = np.arange(n) // 2
    found = _interval(_difference([0.5] * n, [1.5] * n, sources=labels))
    assert found.low < 1.0 < found.high


def test_one_source_tells_nothing_of_others() -> None:
    generator = np.random.default_rng(0)
    values = generator.random((2, 30))
    found = _difference(*values, sources=np.zeros(30, dtype=np.int64))
    assert found.interval is None and found.reason is not None and "one source" in found.reason
    with pytest.raises(NoInterval, match="one source"):
        score_interval(values[0], sources=np.zeros(30, dtype=np.int64))


@pytest.mark.parametrize(("items", "chance"), [(500, 0.004), (500, 0.01), (1000, 0.005), (500, 0.02)])
def test_few_items_that_differ_pass_a_limit_as_seldom_as_is_said(items: int, chance: float) -> None:
    """Losses of any size on few of the items: the interval must know of what was hardly seen."""
    generator = np.random.default_rng(1)
    passed = 0
    for _ in range(200):
        before = generator.gamma(3.0, 1.0, items)
        gains = np.where(generator.random(items) < chance, generator.gamma(2.0, 1.0, items), 0.0)
        passed += _interval(_difference(before, before + gains, confidence=0.9)).high <= 2 * chance
    assert passed <= 20  # of 200, where 5 % is said; a bootstrap lets 12 to 14 % pass


def _loglikelihoods(n: int = 40) -> tuple[list[float], list[float]]:
    generator = np.random.default_rng(11)
    before = -generator.gamma(3.0, 10.0, size=n)
    return before.tolist(), (before - generator.normal(1.0, 2.0, size=n)).tolist()


def test_perplexities_and_bits_are_lm_evals() -> None:
    before, after = _loglikelihoods()
    weights = np.random.default_rng(12).integers(5, 50, size=40).tolist()
    per_item = _difference(before, after, "perplexity", higher=False)
    assert _interval(per_item).estimate == pytest.approx(math.exp(-np.mean(after)) - math.exp(-np.mean(before)))
    pairs = (
        [list(pair) for pair in zip(before, weights, strict=True)],
        [list(p) for p in zip(after, weights, strict=True)],
    )
    surprise = [-sum(values) / sum(weights) for values in (before, after)]
    weighted = _difference(*pairs, "weighted_perplexity", higher=False)
    assert _interval(weighted).estimate == pytest.approx(math.exp(surprise[1]) - math.exp(surprise[0]))
    bits = _difference(*pairs, "bits_per_byte", higher=False)
    assert _interval(bits).estimate == pytest.approx((surprise[1] - surprise[0]) / math.log(2))
    assert bits.verdict is Verdict.WORSE
    lower = sum(b > a for b, a in zip(before, after, strict=True))
    assert (bits.won, bits.lost, bits.tied) == (40 - lower, lower, 0)


def _labels(classes: list[Any], n: int = 50) -> tuple[list[list[Any]], list[list[Any]]]:
    generator = np.random.default_rng(3)
    gold = generator.choice(len(classes), size=n)
    guesses = [
        np.where(generator.random(n) < right, gold, generator.choice(len(classes), size=n)) for right in (0.3, 0.7)
    ]
    before, after = ([[classes[g], classes[p]] for g, p in zip(gold, guess, strict=True)] for guess in guesses)
    return before, after


def _sklearn_f1(units: list[list[Any]]) -> float:
    gold, guess = zip(*units, strict=True)
    return float(f1_score(gold, guess, zero_division=0.0))


def _sklearn_mcc(units: list[list[Any]]) -> float:
    gold, guess = zip(*units, strict=True)
    return float(matthews_corrcoef(gold, guess))


def _perplexity(units: list[float]) -> float:
    return math.exp(-sum(units) / len(units))


@pytest.mark.parametrize(
    ("aggregation", "units", "reference"),
    [
        ("f1", _labels([0, 1]), _sklearn_f1),
        ("matthews_corrcoef", _labels([0, 1]), _sklearn_mcc),
        ("matthews_corrcoef", _labels(["cat", "dog", "emu"]), _sklearn_mcc),
        ("perplexity", _loglikelihoods(150), _perplexity),
    ],
)
def test_corpus_metrics_against_scipys_bca_and_permutation(
    aggregation: str, units: tuple[list[Any], list[Any]], reference: Any
) -> None:
    """The same statistic written out item by item; scipy's BCa of as many resamples, but for the small-sample width."""
    before, after = units
    places = np.arange(len(before))

    def statistic(rows: Any) -> float:
        return float(reference([after[int(i)] for i in rows]) - reference([before[int(i)] for i in rows]))

    expected = scipy_stats.bootstrap(
        (places,), statistic, vectorized=False, n_resamples=2000, method="BCa", rng=np.random.default_rng(1)
    ).confidence_interval
    found = _difference(before, after, aggregation)
    interval = _interval(found)
    assert interval.estimate == pytest.approx(statistic(places))
    width = expected.high - expected.low
    assert interval.low == pytest.approx(expected.low, abs=0.2 * width)
    assert interval.high == pytest.approx(expected.high, abs=0.2 * width)
    swapped = np.random.default_rng(2).random((1000, len(before))) < 0.5
    extreme = 0
    for row in swapped:
        old = [b if swap else a for a, b, swap in zip(before, after, row, strict=True)]
        new = [a if swap else b for a, b, swap in zip(before, after, row, strict=True)]
        extreme += abs(reference(new) - reference(old)) >= abs(interval.estimate) - 1e-12
    assert found.p == pytest.approx(extreme / 1000, abs=0.05)


def test_resampling_moves_with_its_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = _loglikelihoods()
    first = _difference(before, after, "perplexity", seed=1)
    assert _difference(before, after, "perplexity", seed=1) == first
    assert _interval(_difference(before, after, "perplexity", seed=2)).high != _interval(first).high


def test_f1_and_mcc_count_right_answers() -> None:
    before = [[1, 0], [0, 0], [1, 1], [0, 1], [1, 1], [0, 0]]
    after = [[1, 1], [0, 0], [1, 0], [0, 0], [1, 1], [0, 0]]
    for aggregation in ("f1", "matthews_corrcoef"):
        found = _difference(before, after, aggregation)
        assert (found.won, found.lost, found.tied) == (2, 1, 3)


@pytest.mark.parametrize(
    ("aggregation", "before", "after", "reason"),
    [
        ("bleu", [["a", "b"]] * 9, [["a", "c"]] * 9, "no interval is known for the aggregation 'bleu'"),
        ("mean", [1.0], [0.0], "at least 2 items in common, and there are 1"),
        ("mean", [], [], "there are 0"),
        ("mean", [1.0, None, 0.0], [1.0, 0.0, 1.0], "not a finite number"),
        ("mean", [1.0, math.nan, 0.0], [1.0, 0.0, 1.0], "not a finite number"),
        ("mean", [[1.0, 2.0]] * 3, [[1.0, 3.0]] * 3, "not one that the aggregation 'mean' takes"),
        ("mean", ["right"] * 3, ["wrong"] * 3, "not one that the aggregation 'mean' takes"),
        ("perplexity", [-1.0] * 5, [-2.0] * 5, "at least 6 items in common, and there are 5"),
        ("perplexity", [-1.0] * 9, [-math.inf] * 9, "not a finite number"),
        ("perplexity", [-1.0] * 9, [-1e4] * 9, "not a finite number"),
        ("weighted_perplexity", [-1.0] * 9, [-2.0] * 9, "not one that the aggregation"),
        ("f1", [[2, 1]] * 9, [[2, 2]] * 9, "not one that the aggregation 'f1' takes"),
        ("matthews_corrcoef", [[[0, 1], 1]] * 9, [[[0, 1], 0]] * 9, "not one that the aggregation"),
    ],
)
def test_no_interval_no_difference(aggregation: str, before: Any, after: Any, reason: str) -> None:
    found = _difference(before, after, aggregation)
    assert found.interval is None
    assert found.verdict is None
    assert found.reason is not None and reason in found.reason
