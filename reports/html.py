"""The HTML report: one file that fetches nothing and runs nothing, filled in from the view model."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .view import View, mark


def render_html(view: View) -> str:
    """The whole report as one page; every value is escaped by the template's autoescape."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(view=view, mark=mark)
