"""One task's part of the view model: its differences, all its metrics, and its examples."""

from __future__ import annotations

import re

from ..harness.comparison import MetricComparison, RunComparison, TaskComparison
from ..harness.examples import Example
from ..harness.results import MetricInfo, Score
from ..harness.stats import Difference
from . import format as fmt
from .figures import forest
from .view import (
    Cell,
    Column,
    Line,
    ShownAnswer,
    ShownChoice,
    ShownExample,
    Table,
    TaskView,
    joined,
    line,
    name,
    prose,
)

_PROMPT_SHOWN = 1200  # characters, from the end: the question stands there
_TEXT_SHOWN = 1000
_CHOICE_SHOWN = 300


def score_of(run: RunComparison, variant: str, task: str, metric: MetricInfo) -> Score | None:
    """A cell's score of a metric, or None."""
    cell = run.results.cell(variant, task)
    scores = cell.scores if cell is not None and cell.status == "done" else []
    return next((one for one in scores if (one.metric, one.filter) == (metric.name, metric.filter)), None)


def task_view(run: RunComparison, task: TaskComparison) -> TaskView:
    """A task's part of the report."""
    info = task.info
    about = line(
        f"{fmt.plural(info.items, 'item')}, ",
        name(info.output_type),
        f", {info.num_fewshot}-shot, from ",
        name(info.dataset),
    )
    plots = [forest(metric) for metric in task.metrics if metric.headline]
    return TaskView(
        task=fmt.one_line(info.name),
        about=about,
        differences=_differences(task),
        forests=tuple(plot for plot in plots if plot is not None),
        metrics=_all_metrics(run, task),
        examples=tuple(shown_example(example, task, run.manifest.baseline) for example in task.examples),
    )


def metric_heading(metric: MetricInfo) -> Line:
    """A metric's name and direction."""
    return line(name(fmt.metric_label(metric)), f" {fmt.arrow(metric)}".rstrip())


def _differences(task: TaskComparison) -> Table | None:
    """The differences in headline metrics; None where no variant could be compared."""
    columns = (
        Column(line("Metric")),
        Column(line("Variant")),
        Column(line("Difference [95 % interval]"), numeric=True),
        Column(line("Items won / lost / tied"), numeric=True),
        Column(line("Reading"), wide=True),
    )
    rows = [
        (Cell(metric_heading(metric.info)), Cell(line(name(variant))), *_difference_cells(one))
        for metric in task.metrics
        if metric.headline
        for variant, one in metric.differences.items()
    ]
    return Table("Differences to the baseline", columns, tuple(rows)) if rows else None


def _difference_cells(found: Difference) -> tuple[Cell, Cell, Cell]:
    return (
        Cell(line(fmt.difference(found)), found.verdict),
        Cell(line(fmt.tally(found))),
        Cell(line(prose(fmt.reading(found))), found.verdict),
    )


def _all_metrics(run: RunComparison, task: TaskComparison) -> Table | None:
    columns = (
        Column(line("Metric")),
        Column(line("Variant")),
        Column(line("Score"), numeric=True),
        Column(line("Items"), numeric=True),
        Column(line("Difference [95 % interval]"), numeric=True),
        Column(line("Items won / lost / tied"), numeric=True),
        Column(line("Reading"), wide=True),
        Column(line("Interval")),
    )
    rows = []
    for metric in task.metrics:
        for variant in run.manifest.variants:
            found = score_of(run, variant.name, task.info.name, metric.info)
            if found is not None:
                score = Cell(line(fmt.score(found.value, found.stderr)))
                row = (
                    Cell(metric_heading(metric.info)),
                    Cell(line(name(variant.name))),
                    score,
                    Cell(line(f"{found.items:,}")),
                )
                rows.append(row + _compared_cells(metric, variant.name, run.manifest.baseline))
    return Table("All metrics", columns, tuple(rows)) if rows else None


def _compared_cells(metric: MetricComparison, variant: str, baseline: str) -> tuple[Cell, ...]:
    one = metric.differences.get(variant)
    if one is None:
        nothing = Cell(line(fmt.NOTHING))
        said = "baseline" if variant == baseline else "nothing to pair with"
        return nothing, nothing, Cell(line(said)), nothing
    method = one.interval.method if one.interval else fmt.NOTHING
    return *_difference_cells(one), Cell(line(method))


def shown_example(example: Example, task: TaskComparison, baseline: str) -> ShownExample:
    """An item, its prompt and what each variant answered, as far as a report shows them."""
    known = line(" (", name(example.item_id), ")") if example.item_id else ()
    choice = task.info.output_type == "multiple_choice"
    return ShownExample(
        title=line(f"Item {example.item}") + known + line(": ") + _who_parted(example, task, baseline),
        prompt=None if example.prompt is None else fmt.clip_start(fmt.visible(example.prompt), _PROMPT_SHOWN),
        target=None if choice and _names_choices(example) else fmt.clip_end(fmt.visible(example.target), _TEXT_SHOWN),
        choices=_shown_choices(example) if choice else (),
        answers=tuple(
            ShownAnswer(
                fmt.one_line(answer.variant),
                fmt.metric_label(task.metrics[0].info),
                fmt.score(answer.value, None),
                None if choice or answer.text is None else fmt.clip_end(fmt.visible(answer.text), _TEXT_SHOWN),
            )
            for answer in example.answers
            if not choice or answer.choice is None
        ),
    )


def _who_parted(example: Example, task: TaskComparison, baseline: str) -> Line:
    """Which variants did better and which did worse on an item than the baseline."""
    values = {answer.variant: answer.value for answer in example.answers}
    rose = joined([variant for variant, value in values.items() if value > values[baseline]])
    fell = joined([variant for variant, value in values.items() if value < values[baseline]])
    up, down = {True: ("better", "worse"), False: ("worse", "better"), None: ("higher", "lower")}[
        task.metrics[0].info.higher_is_better
    ]
    sides = [line(f"{word} with ", *names) for word, names in ((up, rose), (down, fell)) if names]
    return sides[0] + (line(", ") + sides[1] if len(sides) > 1 else ())


def _names_choices(example: Example) -> bool:
    """Whether the target says no more than which choices are right, which their table says already."""
    return bool(example.choices) and re.fullmatch(r"[\[\]\d, ]+", example.target) is not None


def _shown_choices(example: Example) -> tuple[ShownChoice, ...]:
    return tuple(
        ShownChoice(
            label=chr(ord("A") + index) if index < 26 else str(index + 1),
            text=fmt.one_line(text, _CHOICE_SHOWN),
            is_target=index in example.gold,
            taken_by=tuple(fmt.one_line(answer.variant) for answer in example.answers if answer.choice == index),
        )
        for index, text in enumerate(example.choices)
    )
