"""A task's part of a comparison's view model: scores with paired differences, items left out, slices and examples."""

from __future__ import annotations

from collections.abc import Sequence

from ..harness.compare import LeftOver, Pairing, SideBySide, SideScore, TaskSides
from ..harness.comparison import MetricComparison
from ..harness.slices import Question
from ..harness.stats import Difference
from ..harness.stats.family import NAMES
from ..harness.stats.power import resolvable
from . import format as fmt
from .compare_view import ComparedTask
from .figures import forest
from .task_view import metric_heading, shown_example
from .view import Cell, Column, Line, Table, joined, line, name, prose

_SLICES_NAMED = 3  # in the open; all of them are in the fold


def compared_task(found: SideBySide, task: TaskSides, sentences: Sequence[Line]) -> ComparedTask:
    """A task's part of a comparison."""
    info = task.compared.info
    shown = task.shown()
    rest = [metric for metric in task.compared.metrics if metric not in shown]
    plots = [forest(metric) for metric in shown]
    return ComparedTask(
        task=fmt.one_line(info.name),
        about=line(
            f"{fmt.plural(info.items, 'item')}, ",
            name(info.output_type),
            f", {info.num_fewshot}-shot, from ",
            name(info.dataset),
        ),
        sentences=tuple(sentences),
        notes=(*_early(task), *_left_out(found, task), *_slice_notes(task)),
        scores=_scores("Scores and paired differences", found, task, shown, told=False),
        forests=tuple(plot for plot in plots if plot is not None),
        slices=_slices(task),
        metrics=_scores("Other metrics", found, task, rest, told=True) if rest else None,
        examples=tuple(shown_example(one, task.compared, found.sides[0].label) for one in task.compared.examples),
    )


def score_text(found: SideScore) -> str:
    """A side's score with its interval, such as `0.512 [0.470, 0.553]`."""
    if found.value is None:
        return fmt.NOTHING
    if found.interval is None:
        return fmt.number(found.value, fmt.decimals(None, found.value))
    places = fmt.decimals((found.interval.high - found.interval.low) / 2, found.value)
    low, high = (fmt.number(end, places) for end in (found.interval.low, found.interval.high))
    return f"{fmt.number(found.value, places)} [{low}, {high}]"


def _scores(
    caption: str, found: SideBySide, task: TaskSides, metrics: Sequence[MetricComparison], *, told: bool
) -> Table:
    """Scores and differences; `told` with what they say in words, where no sentence does."""
    headings = ["Metric", "Side", "Score [95 %]", "Difference [95 %]", "p", f"p, {NAMES[found.correction]}"]
    headings += ["Effect d", "Won / lost / tied", "Resolves"]
    columns = [Column(line(heading), numeric=place > 1) for place, heading in enumerate(headings)]
    if told:
        columns += [Column(line("Reading"), wide=True), Column(line("Interval by"), wide=True)]
    rows = []
    for metric in metrics:
        for number, side in enumerate(found.sides):
            score = task.scores[metric.info.key, side.label]
            if number == 0:
                cells = _no_difference("compared with", line("compared with"))
            elif side.label in metric.differences:
                cells = _difference_cells(metric.differences[side.label])
            else:
                cells = _no_difference(*_why_none(task.pairings[side.label]))
            heading = Cell(metric_heading(metric.info) if number == 0 else ())
            row = (heading, Cell(line(name(side.label))), Cell(line(score_text(score))), *cells)
            rows.append(row[: len(columns)])
    return Table(caption, tuple(columns), tuple(rows))


def _no_difference(short: str, said: Line) -> tuple[Cell, ...]:
    nothing = Cell(line(fmt.NOTHING))
    return Cell(line(short)), *(nothing,) * 5, Cell(said), nothing


def _why_none(pairing: Pairing) -> tuple[str, Line]:
    if pairing.reasons:
        return "not comparable", line("not comparable: ", prose("; ".join(pairing.reasons)))
    return "not measured by both", line("not measured by both")


def _difference_cells(found: Difference) -> tuple[Cell, ...]:
    least = resolvable(found)
    places = 0 if found.interval is None else fmt.decimals((found.interval.high - found.interval.low) / 2, 0.0)
    sign = "" if found.verdict is None else fmt.MARKS[found.verdict]
    shown = (
        fmt.p_value(found.p),
        fmt.p_value(found.adjusted_p),
        fmt.NOTHING if found.effect is None else fmt.number(found.effect, 2, signed=True),
        fmt.tally(found),
        fmt.NOTHING if least is None else fmt.number(least, places),
    )
    return (
        Cell(line(f"{sign} {fmt.difference(found)}".lstrip()), found.verdict),
        *(Cell(line(text)) for text in shown),
        Cell(line(prose(fmt.reading(found))), found.verdict),
        Cell(line(found.interval.method if found.interval else fmt.NOTHING)),
    )


def _early(task: TaskSides) -> list[Line]:
    if not task.early:
        return []
    said = line("Items were asked until a rule was decided, of ", *joined(list(task.early)), ": differences to ")
    return [said + line("these have intervals that hold however often one looked, and p-values alike.")]


def _left_out(found: SideBySide, task: TaskSides) -> list[Line]:
    """Items that only one of two sides has."""
    said = []
    for label, pairing in task.pairings.items():
        for who, left in ((found.sides[0].label, pairing.first_only), (label, pairing.other_only)):
            if left.count:
                against = label if who != label else found.sides[0].label
                common = f" Compared are the {pairing.common:,} that both have." if not pairing.reasons else ""
                said.append(
                    line(f"{fmt.plural(left.count, 'item')} of ", name(who), " ", "is" if left.count == 1 else "are")
                    + line(" none of ", name(against), ": ", *_named(left), ".", common)
                )
    return said


def _named(left: LeftOver) -> Line:
    more = left.count - len(left.named)
    return line(*joined(list(left.named))) + (line(f" and {more:,} more") if more > 0 else ())


def _slice_notes(task: TaskSides) -> list[Line]:
    """Which kinds of items stand out, and of how many that were looked at."""
    said = []
    for label, slices in task.compared.slices.items():
        if not slices.looked_at:
            continue
        looked = f"{fmt.plural(slices.looked_at, 'kind')} of items that were looked at"
        if not slices.found:
            said.append(line(f"None of the {looked} stands out for ", name(label), "."))
            continue
        kinds = [f"{one.field}: {one.value}" for one in slices.found]
        more = f" and {len(kinds) - _SLICES_NAMED:,} more" if len(kinds) > _SLICES_NAMED else ""
        count = f"{len(kinds):,} of the {looked} {'stands' if len(kinds) == 1 else 'stand'} out for "
        said.append(line(count, name(label), ": ", *joined(kinds[:_SLICES_NAMED]), more, "."))
    return said


def _slices(task: TaskSides) -> Table | None:
    found = [(label, one) for label, slices in task.compared.slices.items() for one in slices.found]
    if not found:
        return None
    columns = (
        Column(line("Side")),
        Column(line("Kind of items"), wide=True),
        Column(line("Items"), numeric=True),
        Column(line("Stands out by")),
        Column(line("Of them"), numeric=True),
        Column(line("Of the others"), numeric=True),
        Column(line("p, Holm"), numeric=True),
    )
    rows = tuple(
        (
            Cell(line(name(label))),
            Cell(line(name(one.field), ": ", name(one.value))),
            Cell(line(f"{one.items:,}")),
            Cell(line("the mean gain" if one.question is Question.GAIN else f"how many got {one.question}")),
            *(Cell(line(_of_slice(one.question, value))) for value in (one.inside, one.outside)),
            Cell(line(fmt.p_value(one.p))),
        )
        for label, one in found
    )
    return Table("Kinds of items that stand out; a gain is positive where it is better", columns, rows)


def _of_slice(question: Question, value: float) -> str:
    return fmt.number(value, 3, signed=True) if question is Question.GAIN else f"{100 * value:.0f} %"
