"""Differences in a sentence: golden cases, in every direction, unit and state."""

from __future__ import annotations

from typing import Any

import pytest

from phibench.harness.results import MetricInfo
from phibench.harness.stats import Difference, Interval, Verdict
from phibench.reports.markdown import text_of
from phibench.reports.sentences import Spoken, incomparable_sentence, plain, verdict_sentence

ROUGE = MetricInfo(name="rougeL", filter="none", aggregation="mean", higher_is_better=True)
BRIER = ROUGE.model_copy(update={"name": "brier_score", "higher_is_better": False})
LENGTH = ROUGE.model_copy(update={"name": "characters", "higher_is_better": None})
PERPLEXITY = BRIER.model_copy(update={"name": "word_perplexity", "aggregation": "weighted_perplexity"})


def difference(estimate: float, low: float, high: float, verdict: Verdict, **more: Any) -> Difference:
    told: dict[str, Any] = {"won": 200, "lost": 150, "tied": 150, "p": 0.0004, "adjusted_p": 0.0021} | more
    left_out = told.pop("first_only", 0)
    return Difference(500, left_out, 0, interval=Interval(estimate, low, high, "x"), verdict=verdict, **told)


def said(metric: MetricInfo, found: Difference, *, points: bool = True, family: int = 6) -> str:
    return plain(verdict_sentence(Spoken("dialogsum", "b", "a", metric, points, family), found))


@pytest.mark.parametrize(("metric", "found", "sentence"), [
    (
        ROUGE,
        difference(-0.011, -0.018, -0.004, Verdict.WORSE),
        "On dialogsum, b scores 1.1 points of rougeL lower than a (95 % interval 0.4 to 1.8 lower; 500 items;"
        " p = 0.002, Holm over 6).",
    ),
    (
        ROUGE,
        difference(0.153, 0.136, 0.168, Verdict.BETTER, adjusted_p=0.0001),
        "On dialogsum, b scores 15.3 points of rougeL higher than a (95 % interval 13.6 to 16.8 higher; 500 items;"
        " p < 0.001, Holm over 6).",
    ),
    (
        BRIER,
        difference(0.021, 0.009, 0.033, Verdict.WORSE),
        "On dialogsum, b scores 2.1 points of brier_score higher, which is worse, than a (95 % interval 0.9 to 3.3"
        " higher; 500 items; p = 0.002, Holm over 6).",
    ),
    (
        BRIER,
        difference(-0.021, -0.033, -0.009, Verdict.BETTER, sources=80, first_only=12),
        "On dialogsum, b scores 2.1 points of brier_score lower, which is better, than a (95 % interval 0.9 to 3.3"
        " lower; 500 items from 80 sources in common (12 left out); p = 0.002, Holm over 6).",
    ),
    (
        ROUGE,
        difference(0.002, -0.009, 0.013, Verdict.UNCLEAR, spread=0.128),
        "On dialogsum, no difference between b and a is shown: +0.2 points of rougeL [−0.9, +1.3]; 500 items resolve"
        " 1.6 points at 80 % power.",
    ),
    (
        ROUGE,
        difference(-0.005, -0.009, -0.001, Verdict.UNCLEAR, spread=0.05, p=0.03, adjusted_p=0.12),
        "On dialogsum, no difference between b and a is shown: −0.5 points of rougeL [−0.9, −0.1] by itself, but"
        " p = 0.12, Holm over 6; 500 items resolve 0.6 points at 80 % power.",
    ),
    (
        ROUGE,
        difference(0.002, -0.009, 0.013, Verdict.UNCLEAR, sources=80, spread=0.128),
        "On dialogsum, no difference between b and a is shown: +0.2 points of rougeL [−0.9, +1.3]; 500 items from 80"
        " sources.",
    ),
    (
        ROUGE,
        difference(0.0, -0.0074, 0.0074, Verdict.UNCLEAR, won=0, lost=0, tied=500, p=1.0, adjusted_p=1.0),
        "On dialogsum, b and a score the same in rougeL on each of 500 items (on others like them, with 95 %"
        " confidence, −0.7 to +0.7 points).",
    ),
    (
        ROUGE,
        difference(0.4, 0.3, 0.6, Verdict.BETTER, p=None, adjusted_p=None),
        "On dialogsum, b scores 40 points of rougeL higher than a (95 % interval 30 to 60 higher; 500 items).",
    ),
    (
        ROUGE,
        Difference(1, 0, 0, reason="an interval needs at least 2 items in common, and there are 1"),
        "On dialogsum, b and a are not compared in rougeL: an interval needs at least 2 items in common, and there"
        " are 1.",
    ),
])  # fmt: skip
def test_points(metric: MetricInfo, found: Difference, sentence: str) -> None:
    assert said(metric, found) == sentence


@pytest.mark.parametrize(("metric", "found", "sentence"), [
    (
        PERPLEXITY,
        difference(5.31, 4.1, 6.6, Verdict.WORSE, spread=None),
        "On dialogsum, b scores 5.3 of word_perplexity higher, which is worse, than a (95 % interval 4.1 to 6.6"
        " higher; 500 items; p = 0.002).",
    ),
    (
        PERPLEXITY,
        difference(0.31, -0.1, 0.7, Verdict.UNCLEAR, spread=None),
        "On dialogsum, no difference between b and a is shown: +0.31 of word_perplexity [−0.10, +0.70]; 500 items.",
    ),
    (
        PERPLEXITY,
        difference(0.0, 0.0, 0.0, Verdict.UNCLEAR, won=0, lost=0, tied=500, spread=None),
        "On dialogsum, b and a score the same in word_perplexity on each of 500 items.",
    ),
    (
        LENGTH,
        difference(-42.0, -60.0, -24.0, Verdict.DIFFERENT, won=None, lost=None),
        "On dialogsum, b scores 42 of characters lower than a (95 % interval 24 to 60 lower; 500 items; p = 0.002).",
    ),
])  # fmt: skip
def test_other_units(metric: MetricInfo, found: Difference, sentence: str) -> None:
    assert said(metric, found, points=False, family=1) == sentence


def test_what_cannot_be_compared_has_its_reasons() -> None:
    found = incomparable_sentence("t", "b", "a", ["its version was 1 there and is 2 here", "and so on"])
    assert plain(found) == "On t, b is not comparable with a: its version was 1 there and is 2 here; and so on."


def test_foreign_names_are_marked_as_such() -> None:
    evil = "<b>|`x`"
    found = difference(-0.011, -0.018, -0.004, Verdict.WORSE)
    metric = ROUGE.model_copy(update={"name": evil})
    for sentence, foreign in (
        (verdict_sentence(Spoken(evil, evil, evil, metric, True, 6), found), 4),
        (verdict_sentence(Spoken(evil, evil, evil, metric), Difference(1, 0, 0, reason=evil)), 5),
        (incomparable_sentence(evil, evil, evil, [evil]), 4),
    ):
        assert sum(evil in span.text for span in sentence) == foreign
        assert not any(evil in span.text for span in sentence if span.kind == "own")
        assert "<b>" not in text_of(sentence)
