"""Builds the view model of a comparison: what was compared, what differs in its making, each task, and costs."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from .. import __version__
from ..harness.compare import SideBySide, TaskSides
from ..harness.results import MetricInfo
from ..harness.sides import Side
from ..harness.stats import Difference, Verdict
from ..harness.stats.family import Correction
from . import format as fmt
from .compare_task import compared_task
from .compare_view import CompareView
from .sentences import Spoken, incomparable_sentence, verdict_sentence
from .view import Cell, Column, Line, Table, joined, line, name, prose

_HASH = re.compile(r"[0-9a-f]{40,64}")
_VALUE_SHOWN = 80  # characters
_COUNTED = {
    Verdict.BETTER: "better",
    Verdict.WORSE: "worse",
    Verdict.DIFFERENT: "other",
    Verdict.UNCLEAR: "without a clear difference",
}
_CORRECTED: dict[Correction, str] = {
    "holm": "corrected by Holm's method",
    "fdr_bh": "corrected by Benjamini and Hochberg's method",
    "none": "not corrected",
}


def build_compare_view(found: SideBySide) -> CompareView:
    """The view model of a comparison, in the order of its sides and of the first side's tasks."""
    first = found.sides[0]
    others = [side.label for side in found.sides[1:]]
    return CompareView(
        title=fmt.one_line(f"{', '.join(others)} compared with {first.label}", 200),
        lead=_lead(found),
        notices=tuple(_notices(found)),
        first=fmt.one_line(first.label),
        verdicts=tuple(sentence for task in found.tasks for sentence in verdicts(found, task)),
        family=family_note(found),
        sides=_sides(found.sides),
        settings=_settings(found),
        settings_note=_settings_note(found),
        tasks=tuple(compared_task(found, task, sentences(found, task)) for task in found.tasks),
        costs=_costs(found),
        version=__version__,
    )


def verdicts(found: SideBySide, task: TaskSides) -> list[Line]:
    """A sentence on each side but the first, in the task's leading metric; or why it is not compared."""
    return _said(found, task, [metric.info for metric in task.compared.metrics[:1]])


def sentences(found: SideBySide, task: TaskSides) -> list[Line]:
    """The same in every metric that is shown first."""
    return _said(found, task, [metric.info for metric in task.shown()])


def spoken(found: SideBySide, task: TaskSides, label: str, metric: MetricInfo, one: Difference) -> Spoken:
    """What a sentence on one difference is about."""
    return Spoken(
        task=task.compared.info.name,
        subject=label,
        other=found.sides[0].label,
        metric=metric,
        points=metric.key in task.shares,
        family=found.family if one.adjusted_p is not None else 0,
        correction=found.correction,
    )


def _said(found: SideBySide, task: TaskSides, metrics: list[MetricInfo]) -> list[Line]:
    said = []
    for label, pairing in task.pairings.items():
        if pairing.reasons:
            first = found.sides[0].label
            said.append(incomparable_sentence(task.compared.info.name, label, first, pairing.reasons))
            continue
        for metric in metrics:
            compared = next(one for one in task.compared.metrics if one.info == metric)
            if label in compared.differences:
                one = compared.differences[label]
                said.append(verdict_sentence(spoken(found, task, label, metric, one), one))
    return said


def _lead(found: SideBySide) -> Line:
    first = name(found.sides[0].label)
    common = [max((one.common for one in task.pairings.values() if not one.reasons), default=0) for task in found.tasks]
    compared = fmt.plural(sum(count > 0 for count in common), "task")
    on = f"{compared} ({fmt.plural(sum(common), 'item')} in common)"
    return line("Every difference is to ", first, f", paired item by item, on {on}.")


def _notices(found: SideBySide) -> list[Line]:
    notices = [
        line("The status of the run of ", name(side.label), f" is “{side.run.manifest.status}”.")
        for side in found.sides
        if side.run.manifest.status != "done"
    ]
    notices += [
        line("Not made: ", name(side.label), ". ", name(side.variant.error))
        for side in found.sides
        if side.variant.error is not None
    ]
    for side in found.sides[1:]:
        unlike = [task.compared.info.name for task in found.tasks if task.pairings[side.label].reasons]
        if unlike:
            notices.append(line("Not compared: ", name(side.label), " on ", *joined(unlike), "."))
    for task_name, labels in found.elsewhere.items():
        notices.append(
            line("Only of ", *joined(labels), ", and not of ", name(found.sides[0].label), ": ", name(task_name), ".")
        )
    if not found.tasks:
        notices.append(line(name(found.sides[0].label), " was asked no task: there is nothing to compare."))
    return notices


def family_note(found: SideBySide) -> Line:
    """How many differences in headline metrics there are, what became of them, and how they were corrected."""
    ones = [
        one
        for task in found.tasks
        for metric in task.compared.metrics
        if metric.headline
        for one in metric.differences.values()
    ]
    counts = Counter(one.verdict for one in ones if one.verdict is not None)
    said = ", ".join(f"{counts[verdict]} {word}" for verdict, word in _COUNTED.items() if counts[verdict])
    return line(
        f"Of {fmt.plural(len(ones), 'difference')} in headline metrics: {said or 'none could be told'}. A difference is"
        f" called clear where its 95 % interval leaves out zero and its p-value, {_CORRECTED[found.correction]} for the"
        f" {found.family} that have one, is at most 0.05. A score's interval is its own; the paired difference's is"
        " the one that compares."
    )


def _sides(sides: list[Side]) -> Table:
    headings = ("Side", "Form", "Base", "Adapter", "Made", "Run")
    columns = tuple(Column(line(heading)) for heading in headings)
    rows = []
    for number, side in enumerate(sides):
        manifest, adapter = side.run.manifest, side.adapter
        role = line(" (compared with)") if number == 0 else ()
        of_adapter = line(fmt.NOTHING)
        if adapter is not None:
            of_adapter = line(name(adapter.source), " ", name(fmt.short_hash(adapter.sha256)))
        rows.append(
            (
                Cell(line(name(side.label)) + role),
                Cell(line(name(side.variant.kind))),
                Cell(line(name(manifest.model or fmt.NOTHING))),
                Cell(of_adapter),
                Cell(line(name(manifest.started[:16]))),
                Cell(line(name(side.run.label), " (", prose(fmt.one_line(manifest.name, 40)), ")")),
            )
        )
    return Table("What is compared", columns, tuple(rows))


def _settings(found: SideBySide) -> Table | None:
    if not found.settings:
        return None
    columns = (Column(line("Setting")), *(Column(line(name(side.label)), wide=True) for side in found.sides))
    rows = tuple(
        (Cell(line(name(one.key))), *(_value(one.key, value) for value in one.values)) for one in found.settings
    )
    return Table("What differs in how they were made", columns, rows)


def _settings_note(found: SideBySide) -> Line:
    same = fmt.plural(found.same_settings, "setting")
    if not found.settings:
        return line(f"Nothing in the runs' manifests differs between the sides: {same} are the same.")
    return line(
        f"Taken from the runs' manifests; {same} that all sides share are left out, and of training and quantisation"
        " those that only some sides have."
    )


def _value(key: str, value: Any) -> Cell:
    shown = short_value(key, value)
    return Cell(line(name(shown)) if value is not None else line(shown))


def short_value(key: str, value: Any) -> str:
    """A setting's value on one short line: hashes by their first digits, bytes as a size."""
    if value is None:
        return fmt.NOTHING
    if key.endswith("_bytes") and isinstance(value, int):
        return fmt.size(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return fmt.one_line(_HASH.sub(lambda found: fmt.short_hash(found[0]), text), _VALUE_SHOWN)


def _costs(found: SideBySide) -> Table:
    headings = ("Model size", "Peak memory", "Scoring, tokens/s", "Generation, tokens/s", "Model time", "Device")
    columns = (Column(line("Side")), *(Column(line(one), numeric=one != "Device") for one in headings))
    rows = []
    for side, costs in zip(found.sides, found.costs, strict=True):
        shown = (
            fmt.size(costs.model_bytes),
            fmt.size(costs.peak_memory_bytes),
            fmt.rate(costs.scoring_rate),
            fmt.rate(costs.generation_rate),
            fmt.duration(costs.seconds),
        )
        hardware = side.run.manifest.hardware
        device = str(hardware.get("accelerator") or hardware.get("processor") or hardware.get("device") or fmt.NOTHING)
        rows.append((Cell(line(name(side.label))), *(Cell(line(text)) for text in shown), Cell(line(name(device)))))
    return Table(
        "As each run measured it; times compare only on the same device with the same items", columns, tuple(rows)
    )
