"""A gate's checks in the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..harness.gate.check import GateVerdict
from ..harness.gate.judge import GateResult
from . import format as fmt
from .gate import gate_table, verdict_line
from .view import Line
from .view import Table as ViewTable

_STYLES = {GateVerdict.PASS: "bold blue", GateVerdict.FAIL: "bold red", GateVerdict.UNDECIDED: "bold yellow"}


def gate_text(result: GateResult) -> RenderableType:
    """The checks as a table, and the verdict in a line below it."""
    parts: list[RenderableType] = []
    if (table := gate_table(result)) is not None:
        parts.append(rich_table(table))
    if result.against is not None:
        parts.append(Text(f"compared with {fmt.one_line(result.against)}"))
    parts += [Text(f"note: {fmt.one_line(note)}", style="yellow") for note in result.notes]
    return Group(*parts, Text(verdict_line(result), style=_STYLES[result.verdict]))


def rich_table(table: ViewTable) -> Table:
    """A table of the view model, with whatever is foreign in it as plain text."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in table.columns:
        made.add_column(Text(plain(column.heading)), justify="right" if column.numeric else "left", overflow="fold")
    for row in table.rows:
        styles = {"better": "blue", "worse": "bold red"}
        made.add_row(*(Text(plain(cell.content), style=styles.get(str(cell.verdict), "")) for cell in row))
    return made


def plain(content: Line) -> str:
    """A line without its marks."""
    return "".join(span.text for span in content)
