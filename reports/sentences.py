"""A difference in one sentence that can be quoted: what, by how much, how surely, on how many items.

Numbers follow the rule of :mod:`.format`. A sentence shows one digit less of a difference in points, as people say
them; a point is a hundredth of a metric whose values lie between 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..harness.results import MetricInfo
from ..harness.stats import Difference, Interval, Verdict
from ..harness.stats.family import NAMES, Correction
from ..harness.stats.power import POWER, resolvable
from . import format as fmt
from .view import Line, Span, line, name, prose


@dataclass(frozen=True)
class Spoken:
    """What a sentence is about.

    Attributes:
        task, subject, other: names: on what, of whom, and compared with whom.
        metric: in what.
        points: whether every item's value lies between 0 and 1, so that the difference is told in points.
        family: how many p-values were corrected together; 0 where this one was not.
        correction: in which way.
    """

    task: str
    subject: str
    other: str
    metric: MetricInfo
    points: bool = False
    family: int = 0
    correction: Correction = "holm"

    @property
    def label(self) -> Span:
        """The metric's name."""
        return name(fmt.metric_label(self.metric))


def verdict_sentence(of: Spoken, found: Difference) -> Line:
    """What a difference shows, in one sentence."""
    if found.interval is None:
        why = prose(found.reason or "no interval is known")
        return _on(of) + line(
            name(of.subject), " and ", name(of.other), " are not compared in ", of.label, ": ", why, "."
        )
    if found.tied == found.items and found.interval.estimate == 0:
        return _on(of) + _same(of, found, found.interval)
    if found.verdict is None or found.verdict is Verdict.UNCLEAR:
        return _on(of) + _unclear(of, found, found.interval)
    return _on(of) + _clear(of, found, found.interval)


def incomparable_sentence(task: str, subject: str, other: str, reasons: Sequence[str]) -> Line:
    """That two are not compared on a task, and why."""
    why = prose("; ".join(reasons))
    return line("On ", name(task), ", ", name(subject), " is not comparable with ", name(other), ": ", why, ".")


def plain(content: Line) -> str:
    """A sentence without the marks of what is foreign in it: for a terminal, or JSON."""
    return "".join(span.text for span in content)


def _on(of: Spoken) -> Line:
    return line("On ", name(of.task), ", ")


def _clear(of: Spoken, found: Difference, interval: Interval) -> Line:
    up = interval.estimate > 0
    way = "higher" if up else "lower"
    remark = f", which is {found.verdict}," if of.metric.higher_is_better is False else ""
    places = _places(of, interval)
    low, high = sorted((abs(interval.low), abs(interval.high)))
    ends = f"{_number(of, low, places)} to {_number(of, high, places)} {way}"
    tested = _tested(of, found)
    return line(
        name(of.subject),
        f" scores {_number(of, abs(interval.estimate), places)} {'points ' if of.points else ''}of ",
        of.label,
        f" {way}{remark} than ",
        name(of.other),
        f" (95 % interval {ends}; {_items(found)}{f'; {tested}' if tested else ''}).",
    )


def _unclear(of: Spoken, found: Difference, interval: Interval) -> Line:
    places = _places(of, interval)
    estimate, low, high = (
        _number(of, value, places, signed=True) for value in (interval.estimate, interval.low, interval.high)
    )
    said = line(
        "no difference between ",
        name(of.subject),
        " and ",
        name(of.other),
        f" is shown: {estimate} {'points ' if of.points else ''}of ",
        of.label,
        f" [{low}, {high}]",
    )
    if not interval.low <= 0 <= interval.high:  # clear by itself, and not among so many
        said += line(f" by itself, but {_tested(of, found)}")
    least = resolvable(found)
    if least is None:
        return said + line(f"; {_items(found)}.")
    resolved = _number(of, least, _places(of, interval))
    unit = " points" if of.points else ""
    return said + line(f"; {_items(found)} resolve {resolved}{unit} at {100 * POWER:.0f} % power.")


def _same(of: Spoken, found: Difference, interval: Interval) -> Line:
    said = line(name(of.subject), " and ", name(of.other), " score the same in ", of.label)
    said += line(f" on each of {_items(found)}")
    if interval.low == interval.high:
        return said + line(".")
    places = _places(of, interval)
    low, high = (_number(of, value, places, signed=True) for value in (interval.low, interval.high))
    unit = " points" if of.points else ""
    return said + line(f" (on others like them, with 95 % confidence, {low} to {high}{unit}).")


def _tested(of: Spoken, found: Difference) -> str:
    """The p-value, corrected where it was, and by what."""
    p = found.p if found.adjusted_p is None else found.adjusted_p
    if p is None:
        return ""
    said = fmt.p_value(p)
    equals = f"p {said}" if said.startswith("<") else f"p = {said}"
    if found.adjusted_p is None or of.family < 2 or of.correction == "none":
        return equals
    return f"{equals}, {NAMES[of.correction]} over {of.family}"


def _items(found: Difference) -> str:
    said = fmt.plural(found.items, "item")
    if found.sources is not None:
        said += f" from {fmt.plural(found.sources, 'source')}"
    left_out = found.baseline_only + found.variant_only
    return f"{said} in common ({left_out:,} left out)" if left_out else said


def _places(of: Spoken, interval: Interval) -> int:
    """How many decimals a difference is told to: no end that is not zero reads as zero."""
    scale = 100 if of.points else 1
    half = (interval.high - interval.low) / 2 * scale
    places = fmt.decimals(half, interval.estimate * scale)
    if of.points and places > 1:
        places -= 1
    ends = [abs(end) * scale for end in (interval.low, interval.high) if end != 0 and math.isfinite(end)]
    while places < 6 and any(round(end, places) == 0 for end in ends):
        places += 1
    return places


def _number(of: Spoken, value: float, places: int, *, signed: bool = False) -> str:
    return fmt.number(value * (100 if of.points else 1), places, signed=signed)
