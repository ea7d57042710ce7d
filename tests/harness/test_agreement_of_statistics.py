"""Our statistics against published implementations and worked examples."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from scipy.optimize import minimize_scalar
from scipy.special import ndtri
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import ttost_paired

from phibench.harness.stats import NoInterval, Pairs, paired_difference, proportions, score_interval
from phibench.harness.stats.family import adjusted
from phibench.harness.stats.power import items_for, smallest_difference
from phibench.harness.stats.proportions import mcnemar, paired_proportions, score_statistic
from phibench.harness.stats.resampling import Paired, bca_interval, in_blocks, in_units, permutation_p, student_interval
from phibench.harness.stats.sequential import betting_interval, confidence_sequence, log_capital


def _mean(values: Any) -> Paired:
    ones = np.ones(len(values))
    return Paired(np.stack([values, ones], 1), np.stack([-values, ones], 1), lambda t: t[..., 0] / t[..., 1])


# ---- right or wrong


@pytest.mark.parametrize(("won", "lost"), [(1, 7), (12, 3), (5, 5), (0, 6), (40, 61)])
def test_mcnemar_is_statsmodels_exact_test_less_half_of_what_was_seen(won: int, lost: int) -> None:
    exact = statsmodels_mcnemar([[0, won], [lost, 0]], exact=True).pvalue
    seen = scipy_stats.binom.pmf(min(won, lost), won + lost, 0.5)
    assert mcnemar(won, lost) == pytest.approx(1.0 if won == lost else exact - seen, abs=1e-12)


def test_the_example_of_fagerland_lydersen_and_laake() -> None:
    """Airway hyper-responsiveness before and after transplantation, 21 children: 1 and 7 changed. The exact p-value is
    0.070, the mid-p value 0.039, and Tango's interval without correction reaches from -0.517 to -0.026."""
    assert statsmodels_mcnemar([[1, 1], [7, 12]], exact=True).pvalue == pytest.approx(0.070, abs=5e-4)
    assert mcnemar(1, 7) == pytest.approx(0.039, abs=5e-4)


def test_tangos_interval_of_that_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proportions, "FEW", 0)
    monkeypatch.setattr(proportions, "LOPSIDED", 0)
    low, high = paired_proportions(1, 7, 21)
    assert (float(low), float(high)) == pytest.approx((-0.517, -0.026), abs=5e-4)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 60), st.floats(-0.8, 0.8))
def test_the_score_statistic_is_that_of_the_likelihood(won: int, lost: int, rest: int, difference: float) -> None:
    """Its variance is at the proportions that are likeliest where they differ so: found here by search."""
    items = won + lost + rest

    def unlikelihood(other: float) -> float:
        cells = [(won, other + difference), (lost, other), (rest, 1 - 2 * other - difference)]
        return -sum(count * math.log(max(share, 1e-300)) for count, share in cells if count)

    bounds = (max(0.0, -difference), (1 - difference) / 2)
    likeliest = minimize_scalar(unlikelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    variance = items * (2 * likeliest + difference - difference**2)
    expected = (won - lost - items * difference) / math.sqrt(variance) if variance > 1e-9 else 0.0
    assert float(score_statistic(won, lost, items, difference)) == pytest.approx(expected, rel=2e-3, abs=2e-3)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 400))
def test_the_interval_holds_the_estimate_and_mirrors(won: int, lost: int, rest: int) -> None:
    items = max(won + lost + rest, 1)
    low, high = paired_proportions(won, lost, items)
    assert low - 1e-12 <= (won - lost) / items <= high + 1e-12
    mirrored = paired_proportions(lost, won, items)
    assert (float(mirrored[0]), float(mirrored[1])) == pytest.approx((-float(high), -float(low)), abs=1e-9)


# ---- other metrics


def test_bca_is_scipys() -> None:
    gains = np.random.default_rng(0).gamma(2.0, size=60) - 1.5
    expected = scipy_stats.bootstrap((gains,), np.mean, method="BCa", n_resamples=50_000, rng=1).confidence_interval
    found = bca_interval(_mean(gains), resamples=50_000, small_sample=False)
    assert found == pytest.approx((expected.low, expected.high), abs=0.02 * (expected.high - expected.low))


@pytest.mark.parametrize("count", [9, 60])  # all exchanges, and random ones
def test_permutation_is_scipys(count: int) -> None:
    generator = np.random.default_rng(3)
    before = generator.random(count)
    after = before + generator.normal(0.05, 0.15, size=count)
    expected = scipy_stats.permutation_test(
        (after, before), lambda a, b: float(np.mean(a - b)), permutation_type="samples", n_resamples=20_000, rng=1
    ).pvalue
    assert permutation_p(_mean(after - before)) == pytest.approx(expected, abs=1e-9 if count == 9 else 0.012)


def test_rare_p_values_go_beyond_the_resamples() -> None:
    """A correction for a hundred comparisons needs them; they are the t test's, and no less than exchanges can give."""
    gains = np.random.default_rng(4).normal(1.0, 1.0, size=100)
    p = permutation_p(_mean(gains), resamples=2000)
    assert p == pytest.approx(scipy_stats.ttest_1samp(gains, 0).pvalue)
    alike = permutation_p(_mean(np.linspace(1.0, 1.1, 14)), resamples=2000)
    assert alike == 2.0**-13


def test_student_is_scipys() -> None:
    gains = np.random.default_rng(5).exponential(size=37)
    expected = scipy_stats.ttest_1samp(gains, 0).confidence_interval(0.9)
    assert student_interval(_mean(gains), 0.9) == pytest.approx((expected.low, expected.high))


def test_blocks_leave_the_estimate_and_nearly_the_width() -> None:
    gains = np.random.default_rng(6).normal(size=20_000)
    whole = _mean(gains)
    blocks = in_blocks(whole, 0)
    assert len(blocks.columns) == 2000
    assert blocks.estimate == pytest.approx(whole.estimate)
    widths = [high - low for low, high in (student_interval(whole), student_interval(blocks))]
    assert widths[1] == pytest.approx(widths[0], rel=0.06)


# ---- sources (Miller 2024)


def _clustered(sources: int, each: int) -> tuple[Any, Any]:
    generator = np.random.default_rng(7)
    labels = np.repeat(np.arange(sources), each)
    return generator.normal(size=sources)[labels] + generator.normal(size=len(labels)), labels


def test_clustered_standard_errors_are_millers() -> None:
    """Section 2.2: the squared error plus the sum of the products of items of one source, over n squared."""
    values, labels = _clustered(40, 5)
    n, centred = len(values), values - values.mean()
    products = sum(centred[labels == one].sum() ** 2 - (centred[labels == one] ** 2).sum() for one in range(40))
    millers = math.sqrt((centred**2).sum() / n**2 + products / n**2)
    low, high = student_interval(in_units(_mean(values), labels))
    assert (high - low) / 2 / scipy_stats.t.ppf(0.975, 39) == pytest.approx(millers * math.sqrt(40 / 39))
    interval = score_interval(values, sources=labels)
    alone = score_interval(values)
    assert interval.high - interval.low > 1.5 * (alone.high - alone.low)


def test_differences_of_items_of_one_source_are_one_draw() -> None:
    values, labels = _clustered(40, 5)
    before = np.zeros(200)
    alone = paired_difference(Pairs(before, values), aggregation="mean", higher_is_better=True)
    found = paired_difference(Pairs(before, values, sources=labels), aggregation="mean", higher_is_better=True)
    assert found.sources == 40 and found.interval is not None and alone.interval is not None
    assert found.interval.high - found.interval.low > 1.5 * (alone.interval.high - alone.interval.low)
    right = (values > 0).astype(float)
    binary = paired_difference(Pairs(before, right, sources=labels), aggregation="mean", higher_is_better=True)
    assert binary.test == "permutation"  # McNemar's test takes items for independent


def test_pairing_takes_out_the_difficulty_that_items_share() -> None:
    """Section 4.2: the variance of the difference is less by twice the covariance of the two scores."""
    generator = np.random.default_rng(8)
    difficulty = generator.normal(size=400)
    before, after = difficulty + 0.3 * generator.normal(size=400), 0.05 + difficulty + 0.3 * generator.normal(size=400)
    found = paired_difference(Pairs(before, after), aggregation="mean", higher_is_better=True)
    assert found.interval is not None
    separate = math.sqrt(before.var(ddof=1) / 400 + after.var(ddof=1) / 400)
    paired = math.sqrt(separate**2 - 2 * np.cov(before, after)[0, 1] / 400)
    assert (found.interval.high - found.interval.low) / 2 == pytest.approx(1.96 * paired, rel=0.05)
    assert separate > 2 * paired


def test_sample_size_is_millers_formula() -> None:
    """Section 5: (z_0.975 + z_0.8)^2 (1/9) / 0.03^2 questions for 3 points where a difference's variance is 1/9."""
    formula = (ndtri(0.975) + ndtri(0.8)) ** 2 / 9 / 0.03**2
    assert items_for(0.03, 1 / 3) == pytest.approx(formula, abs=4)
    expected = TTestPower().solve_power(nobs=969, alpha=0.05, power=0.8)
    assert smallest_difference(969, 1 / 3) == pytest.approx(expected / 3)


# ---- one variant, several comparisons, equivalence, betting


def test_scores_of_right_or_wrong_have_wilsons_interval() -> None:
    found = score_interval([1.0] * 7 + [0.0] * 13)
    assert (found.low, found.high) == pytest.approx(proportion_confint(7, 20, method="wilson"))
    shifted = found.minus(0.5)
    assert (shifted.low, shifted.high) == pytest.approx((found.low - 0.5, found.high - 0.5))


def test_holm_and_benjamini_hochberg_by_hand() -> None:
    p = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.5}
    assert adjusted(p, "holm") == pytest.approx({"a": 0.04, "c": 0.09, "b": 0.09, "d": 0.5})
    assert adjusted(p, "fdr_bh") == pytest.approx({"a": 0.04, "c": 4 * 0.04 / 3, "b": 4 * 0.04 / 3, "d": 0.5})
    assert adjusted(p, "none") == p


@settings(max_examples=30)  # statsmodels collects garbage at each call
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_corrections_are_statsmodels(p_values: list[float]) -> None:
    for method in ("holm", "fdr_bh"):
        expected = multipletests(p_values, method=method)[1]
        assert list(adjusted(dict(enumerate(p_values)), method).values()) == pytest.approx(list(expected))


@pytest.mark.parametrize("margin", [0.02, 0.05, 0.2])
def test_equivalence_is_statsmodels_two_one_sided_tests(margin: float) -> None:
    """The 90 % interval lies within the margin where both one-sided t tests at 5 % refuse that it does not."""
    generator = np.random.default_rng(9)
    before = generator.normal(size=9)
    after = before + generator.normal(0.01, 0.05, size=9)
    p = ttost_paired(after, before, -margin, margin)[0]
    found = paired_difference(Pairs(before, after), aggregation="mean", higher_is_better=True, confidence=0.9)
    assert found.interval is not None
    assert (-margin <= found.interval.low and found.interval.high <= margin) == (p <= 0.05)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=60))
def test_betting_holds_the_mean_that_was_seen(values: list[float]) -> None:
    low, high = betting_interval(values)
    assert 0.0 <= low <= float(np.mean(values)) + 1e-9 and float(np.mean(values)) - 1e-9 <= high <= 1.0
    looked = confidence_sequence(values)
    assert looked[0] >= low - 1e-9 and looked[1] <= high + 1e-9


def test_the_capital_is_a_fair_game() -> None:
    """Where the mean is the hypothesis, what a player has after one item is on the average what he had before."""
    for mean in (0.1, 0.5, 0.8):
        after = np.exp([log_capital(np.array([x]), mean, above=True)[-1] for x in (0.0, 1.0)])
        assert (1 - mean) * after[0] + mean * after[1] == pytest.approx(1.0)


# ---- floors of a gate


def _clustered_shares(generator: np.random.Generator, documents: int, each: int, share: float) -> tuple[Any, Any]:
    """Right or wrong, half of the items as their document is."""
    labels = np.repeat(np.arange(documents), each)
    of_document, alike = generator.random(documents) < share, generator.random(documents) < 0.5
    own = generator.random(len(labels)) < share
    return np.where(alike[labels], of_document[labels], own).astype(float), labels


@pytest.mark.parametrize(("documents", "each", "share"), [(20, 5, 0.97), (50, 5, 0.97), (100, 3, 0.97), (50, 5, 0.6)])
def test_a_floor_is_not_passed_on_sources_that_happen_to_agree(documents: int, each: int, share: float) -> None:
    generator = np.random.default_rng(0)
    passed = 0
    for _ in range(400):
        values, labels = _clustered_shares(generator, documents, each, share)
        passed += score_interval(values, sources=labels, exact=True, confidence=0.9).low >= share
    assert passed / 400 <= 0.06 + 0.02


@pytest.mark.parametrize("items", [50, 200])
def test_a_floor_of_other_metrics_is_not_passed_on_few_bad_items(items: int) -> None:
    generator = np.random.default_rng(1)
    passed = 0
    for _ in range(300):
        values = np.where(generator.random(items) < 0.05, 0.5, 1.0)
        passed += score_interval(values, confidence=0.9).low >= 0.975
    assert passed / 300 <= 0.06 + 0.02


def test_scores_always_have_a_width() -> None:
    six = np.repeat(np.arange(6), 3)
    for values, sources in (([1.0] * 18, six), ([0.0] * 18, six), ([0.5] * 6, None), ([1.0] * 3, None)):
        found = score_interval(values, sources=sources)
        assert found.low < found.high
    with pytest.raises(NoInterval, match="all values are the same"):
        score_interval([3.5] * 20)
    exact = score_interval([1.0] * 45 + [0.0] * 5, exact=True)
    assert (exact.low, exact.high) == pytest.approx(proportion_confint(45, 50, method="beta"))
