"""One task's part of the view model: its differences, all its metrics, and its examples."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..harness.comparison import MetricComparison, RunComparison, TaskComparison
from ..harness.examples import Example
from ..harness.results import MARGIN, MetricInfo, Score
from ..harness.slices import Question
from ..harness.stats import Difference
from ..harness.stats.family import NAMES
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
_SLICES_SHOWN = 4


def score_of(run: RunComparison, variant: str, task: str, metric: MetricInfo) -> Score | None:
    """A cell's score of a metric, or None."""
    cell = run.results.cell(variant, task)
    scores = cell.scores if cell is not None and cell.status == "done" else []
    return next((one for one in scores if (one.metric, one.filter) == metric.key), None)


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
        differences=_differences(run, task),
        forests=tuple(plot for plot in plots if plot is not None),
        slices=tuple(_slices(task)),
        metrics=_all_metrics(run, task),
        examples=tuple(shown_example(example, task, run.manifest.baseline) for example in task.examples),
    )


def metric_heading(metric: MetricInfo) -> Line:
    """A metric's name and direction."""
    return line(name(fmt.metric_label(metric)), f" {fmt.arrow(metric)}".rstrip())


def _differences(run: RunComparison, task: TaskComparison) -> Table | None:
    """The differences in headline metrics, and in the margin of right choices, which moves where accuracy does not yet;
    None where no variant could be compared."""
    columns = (
        Column(line("Metric")),
        Column(line("Variant")),
        Column(line("Difference [95 % interval]"), numeric=True),
        Column(line(f"p, {NAMES[run.statistics.correction]}"), numeric=True),
        Column(line("Effect d_z"), numeric=True),
        Column(line("Won / lost / tied"), numeric=True),
        Column(line("Reading"), wide=True),
    )
    rows = [
        (Cell(metric_heading(metric.info)), Cell(line(name(variant))), *_difference_cells(one, corrected=True))
        for metric in task.metrics
        if metric.headline or metric.info.name == MARGIN
        for variant, one in metric.differences.items()
    ]
    return Table("Differences to the baseline", columns, tuple(rows)) if rows else None


def _difference_cells(found: Difference, *, corrected: bool) -> tuple[Cell, ...]:
    p = fmt.p_value(found.p if found.adjusted_p is None else found.adjusted_p)
    alone = " alone" if corrected and found.p is not None and found.adjusted_p is None else ""
    return (
        Cell(line(fmt.difference(found)), found.verdict),
        Cell(line(p + alone if corrected else fmt.p_value(found.p))),
        Cell(line(fmt.effect(found))),
        Cell(line(fmt.tally(found))),
        Cell(line(prose(fmt.reading(found))), found.verdict),
    )


def _all_metrics(run: RunComparison, task: TaskComparison) -> Table | None:
    columns = (
        Column(line("Metric")),
        Column(line("Variant")),
        Column(line("Score"), numeric=True),
        Column(line("95 % interval"), numeric=True),
        Column(line("Items"), numeric=True),
        Column(line("Difference [95 % interval]"), numeric=True),
        Column(line("p, alone"), numeric=True),
        Column(line("Effect d_z"), numeric=True),
        Column(line("Won / lost / tied"), numeric=True),
        Column(line("Reading"), wide=True),
        Column(line("Interval; test")),
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
                    Cell(line(fmt.bounds(metric.scores.get(variant.name)))),
                    Cell(line(f"{found.items:,}")),
                )
                rows.append(row + _compared_cells(metric, variant.name, run.manifest.baseline))
    return Table("All metrics", columns, tuple(rows)) if rows else None


def _compared_cells(metric: MetricComparison, variant: str, baseline: str) -> tuple[Cell, ...]:
    one = metric.differences.get(variant)
    if one is None:
        nothing = Cell(line(fmt.NOTHING))
        said = "baseline" if variant == baseline else "nothing to pair with"
        return nothing, nothing, nothing, nothing, Cell(line(said)), nothing
    method = f"{one.interval.method}; {one.test}" if one.interval else fmt.NOTHING
    return *_difference_cells(one, corrected=False), Cell(line(method))


def _slices(task: TaskComparison) -> Iterator[Line]:
    """The kinds of items that drive each variant's difference in the leading metric, and how many were looked at."""
    looked = max((slices.looked_at for slices in task.slices.values()), default=0)
    if not looked:
        return
    leading = task.metrics[0].info
    for variant, slices in task.slices.items():
        for one in slices.found[:_SLICES_SHOWN]:
            kind = line(
                name(variant), ": ", prose(one.field), " ", name(one.value), f" ({fmt.plural(one.items, 'item')})"
            )
            if one.question is Question.GAIN:
                places = fmt.decimals(abs(one.inside - one.outside) or None, one.inside)
                means = [fmt.number(value, places, signed=True) for value in (one.inside, one.outside)]
                said = f" gains {means[0]} of {fmt.metric_label(leading)}, the others {means[1]}"
            else:
                said = f" gets {one.question} in {one.inside:.0%} of them, of the others in {one.outside:.0%}"
            yield kind + line(said.replace("%", " %"), f"; p = {fmt.p_value(one.p)}")
        if len(slices.found) > _SLICES_SHOWN:
            yield line(name(variant), f": and {len(slices.found) - _SLICES_SHOWN} more")
    none = [variant for variant, slices in task.slices.items() if slices.looked_at and not slices.found]
    rest = line("No kind of item stands out for ", *joined(none), ". ") if none else ()
    asked = max(slices.questions for slices in task.slices.values())
    said = f"{fmt.plural(looked, 'slice')} a variant looked at, {asked} questions each"
    yield rest + line(f"{said}, corrected for these (Holm) and for all of the report's differences (Bonferroni).")


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
