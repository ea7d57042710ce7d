"""What a baseline file holds, in the terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from ..harness.outcomes import Outcomes
from ..harness.results import CellResult, MetricInfo, Score
from . import format as fmt
from .gate_terminal import rich_table
from .view import Cell, Column, Table, line, name


def baseline_text(baseline: Outcomes) -> RenderableType:
    """How it was made in two lines, and a row for each cell: its leading score, items and metrics."""
    manifest = baseline.manifest
    made = f"{fmt.one_line(manifest.name)}: {fmt.one_line(manifest.model or 'an unnamed base')}"
    made += f", run {fmt.one_line(manifest.started)} by phibench {fmt.one_line(manifest.phibench_version)}"
    versions = ", ".join(f"{fmt.one_line(key)} {fmt.one_line(value)}" for key, value in manifest.versions.items())
    columns = (
        Column(line("Variant")),
        Column(line("Task")),
        Column(line("Metric")),
        Column(line("Score"), numeric=True),
        Column(line("Items"), numeric=True),
        Column(line("Metrics kept"), numeric=True),
    )
    rows = tuple(_row(baseline, cell) for cell in baseline.results.cells)
    return Group(Text(made), Text(versions or "no versions"), rich_table(Table("Cells", columns, rows)))


def _row(baseline: Outcomes, cell: CellResult) -> tuple[Cell, ...]:
    info = baseline.task(cell.task)
    metric = baseline.metric(info, None) if info is not None else None
    score = _score(cell, metric)
    values = baseline.cells.get((cell.variant, cell.task))
    kept = len(getattr(values, "metrics", {}))
    role = line(" (baseline)") if cell.variant == baseline.manifest.baseline else ()
    label = line(name(fmt.metric_label(metric)), f" {fmt.arrow(metric)}".rstrip()) if metric else line(fmt.NOTHING)
    return (
        Cell(line(name(cell.variant)) + role),
        Cell(line(name(cell.task))),
        Cell(label),
        Cell(line(fmt.score(score.value, score.stderr) if score else fmt.NOTHING)),
        Cell(line(f"{cell.items:,}")),
        Cell(line(str(kept))),
    )


def _score(cell: CellResult, metric: MetricInfo | None) -> Score | None:
    if metric is None:
        return None
    return next((one for one in cell.scores if (one.metric, one.filter) == metric.key), None)
