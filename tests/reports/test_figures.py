"""Where the figures put what: places in per cent, checked by hand."""

from __future__ import annotations

import pytest

from phibench.harness.comparison import MetricComparison
from phibench.harness.results import MetricInfo
from phibench.harness.stats import Difference, Interval, Verdict
from phibench.reports.figures import curve, forest


def _compared(**intervals: Interval | None) -> MetricComparison:
    info = MetricInfo(name="acc", filter="none", aggregation="mean", higher_is_better=False)
    differences = {name: Difference(9, 0, 0, interval=one) for name, one in intervals.items()}
    return MetricComparison(info, True, differences)


def test_forest_places() -> None:
    plot = forest(_compared(a=Interval(0.5, 0.0, 1.0, "t"), b=None, c=Interval(-0.75, -1.0, -0.5, "t")))
    assert plot is not None
    # The axis runs from -1 to 1 with 6 % of its width on both sides: from -1.12 to 1.12.
    assert plot.zero == 50.0
    assert [row.label for row in plot.rows] == ["a", "c"]
    first, second = plot.rows
    assert (first.low, first.estimate, first.high) == pytest.approx((50, 72.32, 94.64), abs=0.01)
    assert (second.low, second.high) == pytest.approx((5.36, 27.68), abs=0.01)
    assert first.tone == Verdict.UNCLEAR.name.lower() and second.tone == Verdict.BETTER.name.lower()
    assert [(tick.at, tick.label) for tick in plot.ticks] == [(5.36, "−1"), (50.0, "0"), (94.64, "+1")]


def test_forest_of_zeros_and_of_nothing() -> None:
    plot = forest(_compared(a=Interval(0.0, 0.0, 0.0, "t")))
    assert plot is not None and plot.zero == plot.rows[0].estimate == 50.0
    assert forest(_compared(a=None)) is None


@pytest.mark.parametrize("scale", [1e-5, 0.03, 1.0, 7.0, 4e4])
def test_forest_ticks_are_few_and_inside(scale: float) -> None:
    plot = forest(_compared(a=Interval(scale / 2, -scale / 3, scale, "t")))
    assert plot is not None
    assert 2 <= len(plot.ticks) <= 4
    assert all(0 <= tick.at <= 100 for tick in plot.ticks)
    assert len({tick.label for tick in plot.ticks}) == len(plot.ticks)


def test_curve() -> None:
    points = [
        {"step": 10, "loss": 3.0, "eval_loss": None},
        {"step": 20, "loss": 2.0, "eval_loss": 2.5},
        {"step": 30, "loss": 1.0, "eval_loss": 1.5},
    ]
    drawn = curve(points)
    assert drawn is not None
    assert drawn.loss == "0.00,0.00 50.00,50.00 100.00,100.00"
    assert drawn.eval_loss == "50.00,25.00 100.00,75.00"
    assert drawn.caption == "Training: loss 3.000 → 1.000, held-out loss 2.500 → 1.500 over steps 10 to 30"


@pytest.mark.parametrize(
    "points",
    [
        None,
        [],
        "curve",
        [{"step": 1, "loss": 2.0}],
        [{"step": 1, "loss": float("nan")}, {"loss": 1.0}, 7],
        {"step": 1},
    ],
)
def test_no_curve(points: object) -> None:
    assert curve(points) is None
