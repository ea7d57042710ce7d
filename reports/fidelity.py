"""What a report says of an adapter's forms: how far each is from the one that was trained, and which to ship."""

from __future__ import annotations

from ..harness.comparison import RunComparison
from ..harness.fidelity import Fidelity, Recommendation
from ..harness.stats import Verdict
from . import format as fmt
from .view import Cell, Column, Line, Section, Table, joined, line, name

_COLUMNS = (
    Column(line("Form")),
    Column(line("Clearly worse in"), wide=True),
    Column(line("Choices flipped"), numeric=True),
    Column(line("Texts changed"), numeric=True),
    Column(line("Nats a token [95 %]"), numeric=True),
    Column(line("KL, nats"), numeric=True),
    Column(line("Weight error"), numeric=True),
)


def fidelity_section(run: RunComparison) -> Section | None:
    """A table for the run's adapters, and a recommendation for each size; None where there is one form alone."""
    if not run.fidelity:
        return None
    trained = list(dict.fromkeys(one.trained for one in run.fidelity))
    rows = tuple(_row(one, several=len(trained) > 1) for one in run.fidelity)
    notes = [_recommended(one, run) for one in run.recommendations]
    notes.append(
        line(
            "Each form against ",
            *joined(trained),
            ", the form that was trained (the adapter on the quantised base, where there is one), item by item: choices"
            " and texts that differ; the change of log-likelihood a token; the divergence of next-token distributions;"
            " the error of the adapter's target modules in units of what the adapter changes them by, the mean and the"
            " worst module.",
        )
    )
    if all(one.kl_divergence is None for one in run.fidelity):
        told = "No task measures the divergence of next-token distributions: see "
        notes.append(line(told, name("tasks.divergence"), " in a suite."))
    table = Table("Against the form that was trained", _COLUMNS, rows)
    return Section("forms", "Forms of the adapter", table, tuple(notes))


def _row(one: Fidelity, *, several: bool) -> tuple[Cell, ...]:
    worse = list(dict.fromkeys(task for task, *_ in one.worse))
    shown = line(*joined(worse)) if worse else line("nothing" if one.complete else "it did not answer everything")
    return (
        Cell(line(name(one.variant)) + (line(" for ", name(one.trained)) if several else ())),
        Cell(shown, Verdict.WORSE if worse else None),
        Cell(line(_share(one.flips, one.items))),
        Cell(line(_share(one.other_texts, one.texts))),
        Cell(line(fmt.NOTHING if one.per_token is None else fmt.interval(one.per_token))),
        Cell(line(fmt.NOTHING if one.kl_divergence is None else f"{one.kl_divergence:.2g}")),
        Cell(line(_weights(one))),
    )


def _share(count: int, total: int) -> str:
    return f"{count / total:.1%} of {total:,}".replace("%", " %") if total else fmt.NOTHING


def _weights(one: Fidelity) -> str:
    if one.update_error is None or one.worst_module is None:
        return fmt.NOTHING
    return f"{one.update_error:.2g}, worst {one.worst_module[1]:.2g}"


def _recommended(one: Recommendation, run: RunComparison) -> Line:
    size = "quantised" if one.quantised else "in the base's own precision"
    if one.variant is None:
        return line(
            f"To ship {size}: nothing to recommend. Of the forms beside ", name(one.trained), f", {one.reason}."
        )
    others = line(", rather than ", *joined(list(one.others))) if one.others else ()
    said = line(f"To ship {size}: ", name(one.variant)) + others + line(", by ", *joined(list(one.tasks)))
    if one.variant == one.trained:
        return said + line(". It is the form that was trained.")
    found = next(fidelity for fidelity in run.fidelity if fidelity.variant == one.variant)
    near = (
        f"its next-token distributions are {found.kl_divergence:.2g} nats from its"
        if found.kl_divergence is not None
        else f"of its answers {_share(found.flips + found.other_texts, found.items + found.texts)} differ"
    )
    said += line(". It is not clearly worse than ", name(one.trained), f" in any headline metric, and {near}.")
    return said + _not_ruled_out(found, run)


def _not_ruled_out(found: Fidelity, run: RunComparison) -> Line:
    """The largest loss that the items do not rule out, told of each headline metric by its interval's worse end."""
    told = []
    for (task, metric, filter_name), one in found.differences.items():
        info = next((task_.info for task_ in run.tasks if task_.info.name == task), None)
        described = None if info is None else run.outcomes.metric(info, f"{metric},{filter_name}")
        if one.interval is None or described is None:
            continue
        worse = one.interval.high if described.higher_is_better is False else one.interval.low
        places = fmt.decimals((one.interval.high - one.interval.low) / 2, worse)
        said = line(f"{fmt.number(worse, places, signed=True)} of ", name(fmt.metric_label(described)))
        told.append(said + line(" on ", name(task)))
    if not told:
        return ()
    return line(" Its 95 % intervals do not rule out ") + _listed(told) + line(".")


def _listed(parts: list[Line]) -> Line:
    said = parts[0]
    for part in parts[1:]:
        said = said + line(", ") + part
    return said
