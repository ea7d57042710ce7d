"""A comparison in the terminal: scores with their differences, then the verdicts as sentences."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..harness.compare import SideBySide, TaskSides
from ..harness.comparison import MetricComparison
from ..harness.sides import Side
from ..harness.stats import Verdict
from ..harness.stats.family import NAMES
from . import format as fmt
from .compare_build import family_note, short_value, verdicts
from .compare_task import score_text
from .sentences import plain
from .terminal import STYLES

_NARROWEST = 12  # characters of a side's name in a line
_SETTINGS = 12  # that differ; the files have them all


def compare_table(found: SideBySide, width: int) -> RenderableType:
    """What a terminal shows of a comparison: each task by its headline metrics, what differs, and a verdict each.

    Args:
        found: the comparison.
        width: of the terminal, in characters.
    """
    parts: list[tuple[Text, list[tuple[Text, ...]]]] = []
    for task in found.tasks:
        for metric in task.shown():
            task_name, label = fmt.one_line(task.compared.info.name), fmt.metric_label(metric.info)
            heading = Text(f"{task_name} · {label} {fmt.arrow(metric.info)}".rstrip(), style="bold")
            parts.append((heading, [_row(task, metric, side, found.sides[0]) for side in found.sides]))
    heads = ((1, "score [95 %]"), (2, "difference [95 %]"), (3, f"p, {NAMES[found.correction]}"))
    numbers = [max([len(head), *(row[place].cell_len for _, rows in parts for row in rows)]) for place, head in heads]
    names = max((row[0].cell_len for _, rows in parts for row in rows), default=0)
    widths = [max(min(names, width - sum(numbers) - 2 * len(numbers)), _NARROWEST), *numbers]
    headings: tuple[Text | str, ...] = ("", *(Text(head, style="dim") for _, head in heads))
    shown: list[RenderableType] = [_lines([headings], widths)] if parts else []
    for heading, rows in parts:
        shown += [heading, _lines(rows, widths)]
    said = [Text(f"- {plain(one)}") for task in found.tasks for one in verdicts(found, task)]
    title = Text(f"compared with {fmt.one_line(found.sides[0].label, 80)}", style="bold")
    return Group(title, Text(), *shown, Text(), _settings(found), Text(), *said, Text(), _family(found))


def _family(found: SideBySide) -> Text:
    return Text(plain(family_note(found)), style="dim")


def _lines(rows: Sequence[Sequence[Text | str]], widths: Sequence[int]) -> Table:
    """Rows of a table of its own, whose columns stand below those of the others."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(width=widths[0], overflow="fold")
    for width in widths[1:]:
        table.add_column(width=width, justify="right")  # too narrow a terminal breaks numbers at spaces only
    for row in rows:
        table.add_row(*row)
    return table


def _row(task: TaskSides, metric: MetricComparison, side: Side, first: Side) -> tuple[Text, ...]:
    score = task.scores[metric.info.key, side.label]
    shown = Text(f"  {fmt.one_line(side.label, 80)}"), Text(score_text(score))
    if side is first:
        return *shown, Text(""), Text("")
    one = metric.differences.get(side.label)
    if one is None:
        why = "not comparable" if task.pairings[side.label].reasons else "not measured by both"
        return *shown, Text(why, style="dim"), Text("")
    verdict = one.verdict or Verdict.UNCLEAR
    difference = f"{fmt.MARKS[verdict]} {fmt.difference(one)}".lstrip()
    p = one.p if one.adjusted_p is None else one.adjusted_p
    return *shown, Text(difference, style=STYLES[verdict]), Text(fmt.p_value(p))


def _settings(found: SideBySide) -> RenderableType:
    if not found.settings:
        return Text("Nothing in the runs' manifests differs between the sides.")
    table = Table(box=None, pad_edge=False, title=Text("what differs in how they were made"), title_justify="left")
    table.add_column(Text("setting"), overflow="fold")
    for side in found.sides:
        table.add_column(Text(fmt.one_line(side.label, 80)), overflow="fold")
    for one in found.settings[:_SETTINGS]:
        cells = (Text(fmt.clip_end(short_value(one.key, value), 60)) for value in one.values)
        table.add_row(Text(fmt.one_line(one.key, 80)), *cells)
    more = len(found.settings) - _SETTINGS
    if more <= 0:
        return Padding(table, (0, 0, 0, 1))
    return Group(Padding(table, (0, 0, 0, 1)), Text(f" and {more:,} more: --html, --md and --json have them", "dim"))
