"""What a report says of training seeds and of null controls."""

from __future__ import annotations

from ..harness.comparison import RunComparison
from ..harness.stats import Verdict
from ..harness.stats.family import NAMES
from . import format as fmt
from .view import Cell, Column, Section, Table, joined, line, name


def seeds_section(run: RunComparison) -> Section | None:
    """Differences under several training seeds; None where the run has one seed a recipe."""
    if not run.spread:
        return None
    columns = (
        Column(line("Forms")),
        Column(line("Task")),
        Column(line("Metric")),
        Column(line("Differences, by seed"), numeric=True),
        Column(line("Mean [95 % over seeds]"), numeric=True),
        Column(line("Standard deviation between seeds"), numeric=True),
        Column(line("Standard error over items"), numeric=True),
    )
    rows = []
    for one in run.spread:
        places = fmt.decimals(one.over_items or one.between, one.mean.estimate)
        told = ", ".join(
            f"{fmt.number(value, places, signed=True)} ({seed})"
            for value, seed in zip(one.differences, one.seeds, strict=True)
        )
        row = (
            line(*joined(list(one.variants))),
            line(name(one.task)),
            line(name(fmt.metric_label(one.metric)), f" {fmt.arrow(one.metric)}".rstrip()),
            line(told),
            line(fmt.interval(one.mean)),
            line(fmt.number(one.between, places)),
            line(fmt.number(one.over_items, places)),
        )
        rows.append(tuple(Cell(content) for content in row))
    note = line(
        "Differences to ",
        name(run.manifest.baseline),
        " of one recipe's adapters, trained with several seeds. The spread between seeds is what training again would"
        " move; the error over items, what asking other items would. The interval is Student's t over the seeds.",
    )
    return Section("seeds", "Training seeds", Table("Differences by training seed", columns, tuple(rows)), (note,))


def null_section(run: RunComparison) -> Section | None:
    """Trained forms against their null controls; None where the run has none."""
    if not run.null_controls:
        return None
    columns = (
        Column(line("Form")),
        Column(line("Its null")),
        Column(line("Task")),
        Column(line("Metric")),
        Column(line("Trained minus null [95 % interval]"), numeric=True),
        Column(line(f"p, {NAMES[run.statistics.correction]}"), numeric=True),
        Column(line("Reading"), wide=True),
    )
    rows = []
    for one in run.null_controls:
        found = one.difference
        clear = found.verdict not in (None, Verdict.UNCLEAR)
        said = "training did more than a random nudge of its size" if clear else "no more than a random nudge shown"
        row = (
            Cell(line(name(one.trained))),
            Cell(line(name(one.null))),
            Cell(line(name(one.task))),
            Cell(line(name(fmt.metric_label(one.metric)), f" {fmt.arrow(one.metric)}".rstrip())),
            Cell(line(fmt.difference(found)), found.verdict),
            Cell(line(fmt.p_value(found.adjusted_p))),
            Cell(line(f"{fmt.MARKS[found.verdict]} {said}".strip() if found.verdict else fmt.reading(found))),
        )
        rows.append(row)
    note = line("A null has the adapter's shape and the norms of its weights, in random directions.")
    return Section("null", "Null control", Table("Trained adapters against their nulls", columns, tuple(rows)), (note,))
