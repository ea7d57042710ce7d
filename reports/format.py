"""Numbers, sizes and foreign text as every report shows them.

The one rule for digits: a value is shown to the decimal place of its uncertainty's second significant digit.
A score's uncertainty is its standard error (0.512 ± 0.021), a difference's is half its interval's width
(+0.034 [+0.010, +0.058]). Without an uncertainty, or with one of zero, a value is shown to four significant
digits, with three decimals at most. Metrics keep their unit: a mean in [0, 1] is not turned into per cent.
"""

from __future__ import annotations

import math
import unicodedata

from ..harness.results import MetricInfo
from ..harness.stats import Difference, Interval, Verdict
from ..harness.stats.power import resolvable

NOTHING = "\N{EN DASH}"
MARKS = {Verdict.BETTER: "▲", Verdict.WORSE: "▼", Verdict.DIFFERENT: "◆", Verdict.UNCLEAR: ""}
_MINUS = "\N{MINUS SIGN}"
_MOST_DECIMALS = 6
# Overrides and isolates reorder the text around them on screen; right-to-left letters need none of these.
_BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def decimals(uncertainty: float | None, value: float) -> int:
    """How many decimals of `value` the rule above shows."""
    if uncertainty is not None and math.isfinite(uncertainty) and uncertainty > 0:
        # Rounded first, so that 0.0996 counts as 0.10 and not as 0.099.
        place = 1 - math.floor(math.log10(float(f"{uncertainty:.1e}")))
        return min(max(place, 0), _MOST_DECIMALS)
    whole_digits = len(str(int(abs(value)))) if math.isfinite(value) else 1
    return max(4 - whole_digits, 0)


def number(value: float, places: int, *, signed: bool = False) -> str:
    """A number to `places` decimals with a real minus sign; beyond a million with an exponent."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else ("∞" if value > 0 else _MINUS + "∞")
    digits = f"{abs(value):.3g}" if abs(value) >= 1e6 else f"{abs(value):,.{places}f}"
    if value < 0:
        return _MINUS + digits
    return "+" + digits if signed and value > 0 else digits


def score(value: float | None, stderr: float | None) -> str:
    """A score with its standard error, such as `0.512 ± 0.021`."""
    if value is None:
        return "not a number"
    places = decimals(stderr, value)
    shown = number(value, places)
    return shown if stderr is None or not math.isfinite(stderr) else f"{shown} ± {number(stderr, places)}"


def interval(found: Interval) -> str:
    """A difference with its 95 % interval, such as `+0.034 [+0.010, +0.058]`.

    Where an end of the interval that is not zero would read as zero, one or two more digits are shown.
    """
    places = decimals((found.high - found.low) / 2, found.estimate)
    ends = [abs(end) for end in (found.low, found.high) if end != 0]
    while places < _MOST_DECIMALS and any(round(end, places) == 0 for end in ends):
        places += 1
    low, high = (number(end, places, signed=True) for end in (found.low, found.high))
    return f"{number(found.estimate, places, signed=True)} [{low}, {high}]"


def bounds(found: Interval | None) -> str:
    """The interval of a score, such as `[0.409, 0.655]`, or a dash."""
    if found is None:
        return NOTHING
    places = decimals((found.high - found.low) / 2, found.estimate)
    return f"[{number(found.low, places)}, {number(found.high, places)}]"


def difference(found: Difference) -> str:
    """The difference with its interval, or a dash: a difference without an interval is not printed."""
    return NOTHING if found.interval is None else interval(found.interval)


def effect(found: Difference) -> str:
    """The effect size d_z, or a dash."""
    return NOTHING if found.effect is None else number(round(found.effect, 2) + 0.0, 2, signed=True)


def resolved(found: Difference) -> str | None:
    """The smallest difference that its items resolve, such as `60 items resolve 0.12`; None where that is not known."""
    least = resolvable(found)
    return None if least is None else f"{plural(found.items, 'item')} resolve {least:.2g}"


def reading(found: Difference) -> str:
    """What a difference says, in words, with what it leaves out."""
    if found.verdict is None:
        said = f"not compared: {found.reason}"
    elif found.tied == found.items:
        said = "the same on every item"
    elif found.verdict is not Verdict.UNCLEAR:
        said = f"{MARKS[found.verdict]} {found.verdict}".strip()
    elif found.adjusted_p is not None and found.p is not None and found.p <= 0.05 < found.adjusted_p:
        said = f"{found.verdict}: p = {p_value(found.p)} by itself, not among so many"
    elif found.p is not None and found.interval is not None and _disagree(found.interval, found.p):
        test = "the test" if found.p <= 0.05 else "the interval"
        said = f"{found.verdict}: {test} alone would say so, and both must"
    else:
        least = resolved(found)
        said = f"{found.verdict}; {least}" if least else str(found.verdict)
    left_out = found.baseline_only + found.variant_only
    return f"{said}; {left_out:,} items answered by only one of the two are left out" if left_out else said


def _disagree(found: Interval, p: float) -> bool:
    """Whether of an interval and a test only one leaves out zero: they are made in different ways."""
    return (p <= 0.05) == (found.low <= 0.0 <= found.high)


def tally(found: Difference) -> str:
    """Items won, lost and tied."""
    if found.tied is None:
        return NOTHING
    return " / ".join(NOTHING if count is None else f"{count:,}" for count in (found.won, found.lost, found.tied))


def metric_label(metric: MetricInfo) -> str:
    """A metric's name on one visible line, with its filter where it has one."""
    return one_line(metric.name if metric.filter in ("", "none") else f"{metric.name} ({metric.filter})")


def arrow(metric: MetricInfo) -> str:
    """The direction in which the metric improves, if there is one."""
    return {True: "↑", False: "↓", None: ""}[metric.higher_is_better]


def plural(count: int, noun: str) -> str:
    """`1 item`, `2 items`, `1,200 items`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def size(count: int | None) -> str:
    """Bytes as MiB or GiB."""
    if count is None:
        return NOTHING
    return f"{count / 2**30:,.2f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


def rate(per_second: float | None) -> str:
    """How many a second, to the whole number."""
    return NOTHING if per_second is None else f"{per_second:,.0f}"


def p_value(p: float | None) -> str:
    """A p-value: `0.35`, and below 0.1 with three decimals: `0.041`, `0.002`, `< 0.001`."""
    if p is None or not math.isfinite(p):
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.{2 if p >= 0.1 else 3}f}"


def duration(seconds: float | None) -> str:
    """Seconds as `0.42 s`, `12.3 s`, `3 min 20 s` or `2 h 05 min`."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def short_hash(value: str) -> str:
    """The first 12 hex digits of a hash."""
    return value[:12]


def visible(text: str) -> str:
    """`text` with each control character, bidirectional override and lone surrogate written out as an escape.

    Line feeds and tabs stay; carriage returns become line feeds.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(_escaped(character) if _hidden(character) else character for character in text)


def _hidden(character: str) -> bool:
    if character in "\n\t":
        return False
    return character in _BIDI_CONTROLS or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def _escaped(character: str) -> str:
    return f"\\x{ord(character):02x}" if ord(character) < 0x100 else f"\\u{ord(character):04x}"


def one_line(text: str, limit: int = 400) -> str:
    """`text` on one visible line, runs of white space as one space, cut beyond `limit` characters."""
    return clip_end(" ".join(visible(text).split()), limit)


def clip_end(text: str, limit: int) -> str:
    """The first `limit` characters, saying how many more there are."""
    return text if len(text) <= limit else f"{text[:limit]} … ({plural(len(text) - limit, 'more character')})"


def clip_start(text: str, limit: int) -> str:
    """The last `limit` characters, saying how many come before: a prompt's question stands at its end."""
    return text if len(text) <= limit else f"({plural(len(text) - limit, 'more character')}) … {text[-limit:]}"
