"""What a report says of an adapter's forms: how far each is from the one that was trained, and which to ship."""

from __future__ import annotations

from ..harness.comparison import RunComparison
from ..harness.fidelity import Fidelity, Recommendation
from . import format as fmt
from .view import Cell, Column, Line, Section, Table, joined, line, name

_COLUMNS = (
    Column(line("Form")),
    Column(line("Choices that flip"), numeric=True),
    Column(line("Texts that differ"), numeric=True),
    Column(line("Log-likelihood a token, nats [95 %]"), numeric=True),
    Column(line("KL divergence, nats"), numeric=True),
    Column(line("Weight error, of the update"), numeric=True),
    Column(line("Clearly worse in"), wide=True),
)


def fidelity_section(run: RunComparison) -> Section | None:
    """A table for the run's adapters, and a recommendation for each size; None where there is one form alone."""
    if not run.fidelity:
        return None
    rows = tuple(_row(one) for one in run.fidelity)
    notes = [_recommended(one, run) for one in run.recommendations]
    notes.append(
        line(
            "Each form against the one that was trained (the adapter on the quantised base, where there is one), item"
            " by item. The weight error is that of the adapter's target modules, in units of what the adapter changes"
            " them by: the mean, and the worst module."
        )
    )
    if all(one.kl_divergence is None for one in run.fidelity):
        told = "No task measures the divergence of next-token distributions: see "
        notes.append(line(told, name("tasks.divergence"), " in a suite."))
    table = Table("Against the form that was trained", _COLUMNS, rows)
    return Section("forms", "Forms of the adapter", table, tuple(notes))


def _row(one: Fidelity) -> tuple[Cell, ...]:
    worse = list(dict.fromkeys(task for task, _ in one.worse))
    shown = line(*joined(worse)) if worse else line("nothing" if one.complete else "it did not answer everything")
    return (
        Cell(line(name(one.variant), " for ", name(one.trained))),
        Cell(line(_share(one.flips, one.items))),
        Cell(line(_share(one.other_texts, one.texts))),
        Cell(line(fmt.NOTHING if one.per_token is None else fmt.interval(one.per_token))),
        Cell(line(fmt.NOTHING if one.kl_divergence is None else f"{one.kl_divergence:.2g}")),
        Cell(_weights(one)),
        Cell(shown),
    )


def _share(count: int, total: int) -> str:
    return f"{count / total:.1%} of {total:,}".replace("%", " %") if total else fmt.NOTHING


def _weights(one: Fidelity) -> Line:
    if one.update_error is None or one.worst_module is None:
        return line(fmt.NOTHING)
    module, worst = one.worst_module
    short = ".".join(module.split(".")[-4:])
    return line(f"{one.update_error:.2g}, at most {worst:.2g} (", name(short), ")")


def _recommended(one: Recommendation, run: RunComparison) -> Line:
    size = "quantised" if one.quantised else "in the base's own precision"
    others = line(", rather than ", *joined(list(one.others))) if one.others else ()
    if one.variant is None:
        return line(f"To ship {size}: none. Each form is clearly worse than ", name(one.trained), " in something.")
    said = line(f"To ship {size}: ", name(one.variant)) + others
    if one.variant == one.trained:
        return said + line(". It is the form that was trained.")
    found = next(fidelity for fidelity in run.fidelity if fidelity.variant == one.variant)
    near = (
        f"its next-token distributions are {found.kl_divergence:.2g} nats from its"
        if found.kl_divergence is not None
        else f"{_share(found.flips + found.other_texts, found.items + found.texts)} answers differ from its"
    )
    return said + line(". It is not clearly worse than ", name(one.trained), f" in any headline metric, and {near}.")
