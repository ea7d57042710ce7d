"""Geometry of the figures: interval plots and training curves; drawn by the HTML report's template."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..harness.comparison import MetricComparison
from ..harness.stats import Interval
from . import format as fmt

_MARGIN = 0.06  # of the axis, kept free on both sides


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, in per cent of its width."""

    at: float
    label: str


@dataclass(frozen=True)
class ForestRow:
    """One variant's interval: places in per cent of the plot's width, and a word for its colour."""

    label: str
    text: str
    low: float
    estimate: float
    high: float
    tone: str  # a verdict's name in lower case


@dataclass(frozen=True)
class Forest:
    """An interval plot of one metric: a row for each variant, around zero."""

    metric: str
    higher_is_better: bool | None
    rows: tuple[ForestRow, ...]
    zero: float
    ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class Curve:
    """A training curve in a box of 100 by 100 (y down): points of polylines, and what its axes say."""

    loss: str
    eval_loss: str | None
    caption: str
    top: str
    bottom: str
    first_step: str
    last_step: str


def forest(compared: MetricComparison) -> Forest | None:
    """The interval plot of a metric's differences, or None where no variant has an interval."""
    found = {name: one.interval for name, one in compared.differences.items() if one.interval is not None}
    if not found:
        return None
    low, high = _axis(list(found.values()))

    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    rows = tuple(
        ForestRow(
            label=fmt.one_line(name, 40),
            text=fmt.interval(one),
            low=place(one.low),
            estimate=place(one.estimate),
            high=place(one.high),
            tone=one.verdict(compared.info.higher_is_better).name.lower(),
        )
        for name, one in found.items()
    )
    ticks = tuple(Tick(place(value), label) for value, label in _ticks(low, high))
    return Forest(fmt.metric_label(compared.info), compared.info.higher_is_better, rows, place(0.0), ticks)


def _axis(intervals: list[Interval]) -> tuple[float, float]:
    """The ends of an axis that holds zero and every interval, with a margin."""
    low = min(0.0, *(one.low for one in intervals))
    high = max(0.0, *(one.high for one in intervals))
    margin = _MARGIN * (high - low) or 1.0  # a plot of zeros alone still needs an axis
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """At most four round values within an axis, zero among them, with their labels."""
    step = 10.0 ** math.floor(math.log10((high - low) / 2))
    step = next(step * factor for factor in (0.5, 1, 2, 5, 10) if (high - low) / (step * factor) < 4)
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    steps = range(math.ceil(low / step), math.floor(high / step) + 1)
    return [(index * step, fmt.number(index * step, places, signed=True) if index else "0") for index in steps]


def curve(points: Any) -> Curve | None:
    """The curve of a training's `{"step", "loss", "eval_loss"}` entries; None without two entries to join."""
    loss = _series(points, "loss")
    held_out = _series(points, "eval_loss")
    if len(loss) < 2:
        return None
    steps = [step for step, _ in loss + held_out]
    values = [value for _, value in loss + held_out]
    box = (min(steps), max(steps), min(values), max(values))
    ends = f"loss {_loss(loss[0][1])} → {_loss(loss[-1][1])}"
    if held_out:
        ends += f", held-out loss {_loss(held_out[0][1])} → {_loss(held_out[-1][1])}"
    return Curve(
        loss=_polyline(loss, box),
        eval_loss=_polyline(held_out, box) if len(held_out) > 1 else None,
        caption=f"Training: {ends} over steps {box[0]:,.0f} to {box[1]:,.0f}",
        top=_loss(box[3]),
        bottom=_loss(box[2]),
        first_step=f"{box[0]:,.0f}",
        last_step=f"{box[1]:,.0f}",
    )


def _series(points: Any, key: str) -> list[tuple[float, float]]:
    """The finite (step, value) pairs of a curve, in the order of steps; other entries are left out."""
    pairs = []
    for point in points if isinstance(points, list) else []:
        step, value = (point.get("step"), point.get(key)) if isinstance(point, dict) else (None, None)
        if isinstance(step, int | float) and isinstance(value, int | float) and math.isfinite(step + value):
            pairs.append((float(step), float(value)))
    return sorted(pairs)


def _polyline(series: list[tuple[float, float]], box: tuple[float, float, float, float]) -> str:
    first, last, low, high = box
    width, height = (last - first) or 1.0, (high - low) or 1.0
    return " ".join(f"{100 * (step - first) / width:.2f},{100 * (high - value) / height:.2f}" for step, value in series)


def _loss(value: float) -> str:
    return fmt.number(value, fmt.decimals(None, value))
