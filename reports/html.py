"""The HTML report: one file that fetches nothing and runs nothing, filled in from the view model."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .compare_view import CompareView
from .view import View, mark


def render_html(view: View) -> str:
    """The whole report as one page; every value is escaped by the template's autoescape."""
    return render_template("report.html.j2", view)


def render_template(template: str, view: View | CompareView) -> str:
    """A page from one of the templates and its view model, autoescaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["mark"] = mark  # a global, so that imported macros have it
    return environment.get_template(template).render(view=view)
