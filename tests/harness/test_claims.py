"""Claims: which intervals confirm, refute or leave undecided, and what several statements make of a claim."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel
from statsmodels.stats.proportion import proportion_confint

from phibench.harness.claims import Judged, Outcome, decided, judge
from phibench.harness.results import MetricInfo
from phibench.harness.stats import Interval, score_interval
from phibench.harness.suite import ClaimSpec, StatementSpec
from phibench.harness.suite_file import find_suite, read_suite
from support.outcomes import ACCURACY, outcomes_of

EXPECTED = ("better", "not worse", "same", "not better", "worse")


def statement(expect: str = "better", **more: Any) -> StatementSpec:
    margin = {"margin": 0.1} if expect == "same" else {}
    told = {"variant": "a", "than": "b", "task": "t", "expect": expect, **margin, **more}
    return StatementSpec.model_validate(told)


# (expect, margin, low, high of a metric whose higher values are better) -> what is said
@pytest.mark.parametrize(
    ("expect", "margin", "low", "high", "outcome"),
    [
        ("better", 0.0, 0.01, 0.2, "confirmed"),
        ("better", 0.0, -0.01, 0.2, "undecided"),
        ("better", 0.0, -0.2, -0.01, "refuted"),
        ("better", 0.0, 0.0, 0.0, "refuted"),  # the same on every item
        ("better", 0.1, 0.05, 0.2, "undecided"),
        ("better", 0.1, 0.01, 0.09, "refuted"),  # better, but not by as much
        ("better", 0.1, 0.11, 0.2, "confirmed"),
        ("not worse", 0.0, 0.0, 0.0, "confirmed"),
        ("not worse", 0.1, -0.09, 0.3, "confirmed"),
        ("not worse", 0.1, -0.2, 0.0, "undecided"),
        ("not worse", 0.1, -0.3, -0.11, "refuted"),
        ("same", 0.1, -0.1, 0.1, "confirmed"),
        ("same", 0.1, -0.05, 0.11, "undecided"),
        ("same", 0.1, 0.11, 0.2, "refuted"),
        ("same", 0.1, -0.2, -0.11, "refuted"),
        ("not better", 0.0, 0.0, 0.0, "confirmed"),
        ("not better", 0.1, -0.3, 0.1, "confirmed"),
        ("not better", 0.1, 0.0, 0.2, "undecided"),
        ("not better", 0.1, 0.11, 0.2, "refuted"),
        ("worse", 0.0, -0.2, -0.01, "confirmed"),
        ("worse", 0.1, -0.09, -0.01, "refuted"),
        ("worse", 0.0, -0.1, 0.1, "undecided"),
        ("worse", 0.0, 0.0, 0.0, "refuted"),
    ],
)
def test_what_an_interval_says(expect: str, margin: float, low: float, high: float, outcome: str) -> None:
    interval = Interval((low + high) / 2, low, high, "t")
    stated = statement(expect, margin=margin)
    assert decided(stated, interval, True) == outcome
    assert decided(stated, interval, None) == outcome
    mirrored = Interval(-interval.estimate, -high, -low, "t")
    assert decided(stated, mirrored, False) == outcome


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 0.5), st.booleans())
def test_a_statement_and_its_opposite_agree(low: float, width: float, margin: float, higher: bool) -> None:
    interval = Interval(low + width / 2, low, low + width, "t")
    says = {expect: decided(statement(expect, margin=margin or 0.1), interval, higher) for expect in EXPECTED}
    opposite = {Outcome.CONFIRMED: Outcome.REFUTED, Outcome.REFUTED: Outcome.CONFIRMED}
    assert says["not better"] == opposite.get(says["better"], Outcome.UNDECIDED)
    assert says["not worse"] == opposite.get(says["worse"], Outcome.UNDECIDED)
    both = says["not better"], says["not worse"]
    assert (says["same"] is Outcome.CONFIRMED) == (both == (Outcome.CONFIRMED, Outcome.CONFIRMED))


def judged(claim: dict[str, Any], values: dict[tuple[str, str], list[Any]], metric: MetricInfo = ACCURACY) -> Judged:
    return judge([ClaimSpec.model_validate(claim)], outcomes_of(values, metric))[0]


def shifted(by: float, count: int = 40) -> list[float]:
    return [by + math.sin(i) for i in range(count)]


def better() -> list[float]:
    """By 1, give or take: where all items differ alike, nothing tells how others may."""
    return [value + 0.01 * (-1) ** i for i, value in enumerate(shifted(1.0))]


def test_the_difference_is_nearly_that_of_a_paired_t_test() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.normal(0.3, 1, 60), rng.normal(0, 1, 60)
    found = judged({"says": "x", "holds": [statement()]}, {("a", "t"): [*one], ("b", "t"): [*other]})
    expected = ttest_rel(one, other).confidence_interval(0.95)
    difference = found.holds[0].difference
    assert difference is not None
    near = 0.05 * (expected.high - expected.low)  # a bootstrap of normal values
    assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high), abs=near)
    assert found.holds[0].items == 60


def test_every_statement_must_hold() -> None:
    values = {("a", "t"): better(), ("b", "t"): shifted(0.0), ("a", "u"): shifted(0.0), ("b", "u"): shifted(0.0)}
    values["a", "u"] = [value + (-1) ** i for i, value in enumerate(values["a", "u"])]
    claim = {"says": "x", "holds": [statement(task=["t", "u"])]}
    found = judged(claim, values)
    assert [finding.outcome for finding in found.holds] == ["confirmed", "undecided"]
    assert found.outcome is Outcome.UNDECIDED
    assert judged({"says": "x", "holds": [statement()]}, values).outcome is Outcome.CONFIRMED
    values["a", "u"] = [value - 1 + 0.1 * (-1) ** i for i, value in enumerate(values["b", "u"])]
    assert judged(claim, values).outcome is Outcome.REFUTED


def test_one_of_many_statements_refutes_by_a_wider_interval() -> None:
    """Forty tasks with no difference but noise: each alone would be refuted now and then, the claim hardly ever."""
    rng = np.random.default_rng(3)
    names = [f"t{i}" for i in range(40)]
    refuted = one_of_them = 0
    for _ in range(60):
        values = {(who, name): [*rng.normal(0, 1, 30)] for who in ("a", "b") for name in names}
        many = judged({"says": "x", "holds": [statement("not worse", task=names)]}, values)
        refuted += many.outcome is Outcome.REFUTED
        alone = [judged({"says": "x", "holds": [statement("not worse", task=name)]}, values) for name in names]
        one_of_them += any(one.outcome is Outcome.REFUTED for one in alone)
    assert one_of_them > 20
    assert refuted <= 6  # 5 % of 60 is 3


@pytest.mark.parametrize("expect", EXPECTED)
def test_items_of_which_none_differs_refute_nothing(expect: str) -> None:
    """Of 46 items none differs: a variant that is better by three points shows that a quarter of the time."""
    same = {("a", "t"): [1.0] * 46, ("b", "t"): [1.0] * 46}
    found = judged({"says": "x", "holds": [statement(expect)]}, same)
    assert found.outcome is (Outcome.CONFIRMED if expect == "same" else Outcome.UNDECIDED)  # within a margin of 0.1
    perplexity = MetricInfo(name="ppl", filter="none", aggregation="perplexity", higher_is_better=False)
    values = {key: [-1.0 - i for i in range(46)] for key in same}
    assert judged({"says": "x", "holds": [statement(expect)]}, values, perplexity).outcome is Outcome.UNDECIDED


def test_what_is_said_of_something_that_was_not_seen_is_undecided() -> None:
    values = {("a", "t"): better(), ("b", "t"): shifted(0.0)}
    claim = {"says": "x", "holds": [statement()], "given": [statement("worse")]}
    found = judged(claim, values)
    assert found.outcome is Outcome.UNDECIDED
    assert found.reason is not None
    assert found.holds[0].outcome is Outcome.CONFIRMED
    assert judged(claim | {"given": [statement("better")]}, values).outcome is Outcome.CONFIRMED


@pytest.mark.parametrize(
    ("values", "more", "why"),
    [
        ({("b", "t"): [1.0, 2.0]}, {}, "no answers of a to t"),
        ({("a", "t"): [1.0, 2.0], ("b", "t"): [1.0, 1.0]}, {"metric": "other"}, "does not measure other"),
        ({("a", "t"): [1.0], ("b", "t"): [1.0]}, {}, "at least 2 items"),
        ({("a", "t"): [1.0, None]}, {"than": 0.5}, "not a finite number"),
        ({("a", "t"): [1.0]}, {"than": 0.5}, "at least 2 finite values"),
    ],
)
def test_what_cannot_be_measured_is_undecided_and_says_why(values: Any, more: dict[str, Any], why: str) -> None:
    found = judged({"says": "x", "holds": [statement(**more)]}, values)
    assert found.outcome is Outcome.UNDECIDED
    assert why in str(found.holds[0].reason)
    assert found.holds[0].difference is None


def test_a_corpus_metric_is_not_held_against_a_number() -> None:
    metric = MetricInfo(name="ppl", filter="none", aggregation="perplexity", higher_is_better=False)
    found = judged({"says": "x", "holds": [statement(than=9.0)]}, {("a", "t"): [-1.0, -2.0]}, metric)
    assert "perplexity cannot be held against a number" in str(found.holds[0].reason)


@pytest.mark.parametrize(("right", "of"), [(0, 46), (3, 50), (46, 46), (7, 9)])
def test_a_share_against_a_number_has_wilsons_interval(right: int, of: int) -> None:
    found = score_interval([1.0] * right + [0.0] * (of - right)).minus(0.25)
    low, high = proportion_confint(right, of, method="wilson")
    assert (found.low, found.high) == pytest.approx((low - 0.25, high - 0.25))
    assert found.estimate == pytest.approx(right / of - 0.25)
    assert found.method == "Wilson"


def test_other_values_against_a_number_have_nearly_students_interval() -> None:
    values = shifted(0.5)
    found = score_interval(values).minus(0.25)
    n, spread = len(values), np.std(values, ddof=1)
    assert found.estimate == pytest.approx(np.mean(values) - 0.25)
    assert found.high - found.low == pytest.approx(2 * 2.022691 * spread / math.sqrt(n), rel=0.02)


@pytest.mark.parametrize("name", ["claims", "claims-phi2"])
def test_claims_on_benchmarks_are_of_all_five_that_were_published(name: str) -> None:
    suite = read_suite(find_suite(name)).suite
    benchmarks = ["arc_easy", "arc_challenge", "hellaswag", "piqa", "winogrande"]
    about = [one.task for claim in suite.claims for one in claim.holds if "piqa" in one.task]
    assert about == [benchmarks, benchmarks]
    limits = {task.name: task.limit for task in suite.tasks if task.name in benchmarks}
    assert list(limits) == benchmarks
    assert limits["arc_challenge"] == (150 if name == "claims" else None)
