"""Writes a run folder's reports; the way in for the command line and for the runner."""

from __future__ import annotations

from pathlib import Path

from ..files import write_text
from ..harness.comparison import compare_run
from ..harness.gate.run import read_gate
from .build import build_view
from .html import render_html
from .markdown import render_markdown


def write_reports(run_dir: Path) -> list[Path]:
    """Write `report.md` and `report.html` into a run folder, finished or not, each whole or not at all.

    The gate in them is the one that `phibench run` judged at its end. The same folder always gives the same reports.

    Returns:
        The paths written.

    Raises:
        UserError: when the folder holds no run, or one of another schema.
    """
    view = build_view(compare_run(run_dir), read_gate(run_dir))
    written = []
    for filename, text in (("report.md", render_markdown(view)), ("report.html", render_html(view))):
        write_text(run_dir / filename, text)
        written.append(run_dir / filename)
    return written
