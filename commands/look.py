"""`phibench list` and `phibench doctor`: what can be named in a suite, and what this machine has."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from ..errors import Exit
from .console import OUT, quieten, table_of


def list_names(
    what: Annotated[str, typer.Argument(help="tasks, suites or recipes")],
    part: Annotated[str, typer.Argument(help="Only names that contain this.")] = "",
) -> None:
    """Show what can be named in a suite: tasks, suites or recipes."""
    from ..harness.listing import listing

    rows = listing(what, part)
    table = table_of("name", "kind", "what it is")
    for row in rows:
        table.add_row(*map(escape, row))
    # A file or a pipe gets each name on one line.
    console = OUT if OUT.is_terminal else Console(width=400)
    console.print(table if rows else f'nothing here has "{escape(part)}" in its name')


def doctor() -> None:
    """Show versions, devices, memory, which attention and quantisation backends work here, and what to install."""
    from ..harness.doctor import examine

    quieten(offline=True)
    table = table_of("", "what", "found", "what to do")
    marks = {"ok": "[green]✓[/green]", "missing": "[red]✗[/red]", "optional": "[yellow]-[/yellow]"}
    findings = examine()
    for finding in findings:
        table.add_row(marks[finding.state], escape(finding.what), escape(finding.found), escape(finding.fix))
    OUT.print(table)
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(Exit.USER_MISTAKE)
