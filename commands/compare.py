"""`phibench compare`: variants of one run or of several, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import UserError
from .console import OUT, say

_Html = Annotated[Path | None, typer.Option("--html", help="Write one page that fetches nothing to this file.")]
_Markdown = Annotated[Path | None, typer.Option("--md", help="Write Markdown to this file, - for standard output.")]
_Json = Annotated[Path | None, typer.Option("--json", help="Write every number to this file, - for standard output.")]
_STDOUT = Path("-")


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Two or more, each RUN_DIR:VARIANT; the first is what the others are compared with. A run folder"
            " alone stands for its only variant with an adapter attached.",
        ),
    ],
    html: _Html = None,
    md: _Markdown = None,
    json: _Json = None,
    correction: Annotated[
        Literal["holm", "fdr_bh", "none"] | None,
        typer.Option(help="Of p-values for their number. Default: as the first run's suite has it, else holm."),
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="Items to show per task, with what each side answered.")] = 5,
) -> None:
    """Set variants of one run or of several side by side: what differs in their making, and in what they answer.

    Every difference is paired item by item, with interval and p-value; a task that was asked in another way, or of
    other items, is named and not compared. Needs no model and no GPU.

    Example: phibench compare runs/a:adapter-nf4 runs/b:adapter-nf4 --html compare.html

    Example: phibench compare runs/a:merged runs/a:merged-requantized runs/a:adapter-nf4
    """
    given = {"--html": html, "--md": md, "--json": json}
    _refuse_clashes(given)
    from ..harness.compare import compare_sides
    from ..harness.sides import open_sides

    found = compare_sides(open_sides(runs), examples=examples, correction=correction)
    texts = {}
    if html is not None or md is not None:
        from ..reports.compare_build import build_compare_view
        from ..reports.compare_html import render_compare_html
        from ..reports.compare_markdown import render_compare_markdown

        view = build_compare_view(found)
        if html is not None:
            texts["--html"] = render_compare_html(view)
        if md is not None:
            texts["--md"] = render_compare_markdown(view)
    if json is not None:
        from ..reports.compare_json import render_compare_json

        texts["--json"] = render_compare_json(found)
    if _STDOUT not in given.values():
        from ..reports.compare_terminal import compare_table

        OUT.print(compare_table(found, OUT.width))
    for option, text in texts.items():
        _write(option, given[option] or _STDOUT, text)


def _refuse_clashes(given: dict[str, Path | None]) -> None:
    """Refuse two outputs in one place before anything is read."""
    places = [path for path in given.values() if path is not None]
    if len(set(places)) < len(places):
        names = ", ".join(option for option, path in given.items() if path is not None)
        raise UserError("two of these would be written to the same place", where=names, fix="give each its own file")
    if given["--html"] == _STDOUT:
        raise UserError("a page is written to a file", where="--html -", fix="give the file's name")


def _write(option: str, path: Path, text: str) -> None:
    """One output to its place, whole or not at all."""
    from ..files import named_output, write_text

    if path == _STDOUT:
        typer.echo(text, nl=False)
        return
    with named_output(option, path):
        write_text(path, text)
    say(path, style="bold")
