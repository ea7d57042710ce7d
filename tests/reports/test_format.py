"""The rule for digits, and the making visible of what foreign text hides."""

from __future__ import annotations

import math

import pytest

from phibench.harness.stats import Difference, Interval, Verdict
from phibench.reports import format as fmt


@pytest.mark.parametrize(
    ("value", "stderr", "shown"),
    [
        (0.51234, 0.02149, "0.512 ± 0.021"),
        (0.5, 0.11, "0.50 ± 0.11"),
        (0.51234, 0.00472, "0.5123 ± 0.0047"),
        (0.51234, 0.0996, "0.51 ± 0.10"),
        (12.3456, 1.26, "12.3 ± 1.3"),
        (1234.5678, 45.6, "1,235 ± 46"),
        (1.0, 0.0, "1.000 ± 0.000"),
        (0.51234, None, "0.512"),
        (21.4164, None, "21.42"),
        (123.456, None, "123.5"),
        (98765.4, None, "98,765"),
        (2.5e9, None, "2.5e+09"),
        (-3.21987, None, "−3.220"),
        (None, None, "not a number"),
    ],
)
def test_scores(value: float | None, stderr: float | None, shown: str) -> None:
    assert fmt.score(value, stderr) == shown


@pytest.mark.parametrize(
    ("low", "estimate", "high", "shown"),
    [
        (0.0101, 0.0341, 0.0582, "+0.034 [+0.010, +0.058]"),
        (-0.27, -0.04, 0.181, "−0.04 [−0.27, +0.18]"),
        (0.0, 0.0, 0.0, "0.000 [0.000, 0.000]"),
        (1.0, 1.0, 1.0, "+1.000 [+1.000, +1.000]"),
        (0.0004, 0.024, 0.0476, "+0.0240 [+0.0004, +0.0476]"),  # an end that is not zero never reads as zero
    ],
)
def test_intervals(low: float, estimate: float, high: float, shown: str) -> None:
    assert fmt.interval(Interval(estimate, low, high, "paired t")) == shown


def test_number_that_is_none() -> None:
    assert fmt.number(math.nan, 3) == "not a number"
    assert fmt.number(-math.inf, 3) == "−∞"


def test_readings() -> None:
    interval = Interval(0.2, 0.1, 0.3, "paired t")
    better = Difference(9, 0, 0, 5, 1, 3, interval, Verdict.BETTER)
    assert fmt.reading(better) == "▲ better"
    assert fmt.tally(better) == "5 / 1 / 3"
    unpaired = Difference(9, 2, 1, 5, 1, 3, interval, Verdict.BETTER)
    assert fmt.reading(unpaired) == "▲ better; 3 items answered by only one of the two are left out"
    same = Difference(9, 0, 0, 0, 0, 9, Interval(0, 0, 0, "paired t"), Verdict.UNCLEAR)
    assert fmt.reading(same) == "the same on every item"
    nothing = Difference(1, 0, 0, reason="there is one item")
    assert fmt.reading(nothing) == "not compared: there is one item"
    assert fmt.difference(nothing) == fmt.tally(nothing) == fmt.NOTHING


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "–"), (0.4249, "0.42 s"), (12.34, "12.3 s"), (200.4, "3 min 20 s"), (7500.0, "2 h 05 min")],
)
def test_durations(seconds: float | None, shown: str) -> None:
    assert fmt.duration(seconds) == shown


def test_sizes() -> None:
    assert fmt.size(3 * 2**29) == "1.50 GiB"
    assert fmt.size(5 * 2**18) == "1.2 MiB"
    assert fmt.size(None) == "–"


def test_hidden_characters_are_written_out() -> None:
    assert fmt.visible("a\x00b\x1b[31m\u202ec\u2066d\x85\u2028\ud800") == (
        "a\\x00b\\x1b[31m\\u202ec\\u2066d\\x85\\u2028\\ud800"
    )
    kept = "tab\tline\n\u05e9\u05dc\u05d5\u05dd \U0001f469\u200d\U0001f680 é"
    assert fmt.visible(kept) == kept
    assert fmt.visible("a\r\nb\rc") == "a\nb\nc"
    assert fmt.one_line("  a\n\n b\tc ") == "a b c"


def test_clipping_says_how_much_is_gone() -> None:
    assert fmt.clip_end("abcdef", 4) == "abcd … (2 more characters)"
    assert fmt.clip_start("abcdef", 5) == "(1 more character) … bcdef"
    assert fmt.clip_end("abcd", 4) == fmt.clip_start("abcd", 4) == "abcd"
