"""A comparison as one HTML page that fetches nothing and runs nothing, filled in from its view model."""

from __future__ import annotations

from .compare_view import CompareView
from .html import render_template


def render_compare_html(view: CompareView) -> str:
    """The whole comparison; every value is escaped by the template's autoescape."""
    return render_template("compare.html.j2", view)
