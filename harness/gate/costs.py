"""What a gate's rules on costs look at: sizes, memory and time of the form that ships. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

from ..outcomes import Gap, Outcomes
from ..results import VariantInfo
from .spec import RuleSpec, in_bytes

_UNMEASURED = "it was not measured"


def cost_of(rule: RuleSpec, variant: str, tasks: Sequence[str], run: Outcomes) -> tuple[float | str, float]:
    """(what a rule on costs looks at, or why that is not known; its limit), in bytes or seconds an item.

    Args:
        rule: on a size, memory or time.
        variant: whose.
        tasks: the one on which time is taken; none for the others.
        run: what measured it.
    """
    info = next((one for one in run.manifest.variants if one.name == variant), None)
    if rule.max_seconds_per_item is not None:
        return _seconds_per_item(run, info, variant, tasks[0]), rule.max_seconds_per_item
    limit = in_bytes(str(rule.max_model_size or rule.max_memory))
    if info is None:
        return f"{variant} was not run", limit
    found = info.model_bytes if rule.max_model_size is not None else peak_memory(run, info)
    return _UNMEASURED if found is None else found, limit


def peak_memory(run: Outcomes, info: VariantInfo) -> int | None:
    """The most bytes a variant took: in its real form where it was scored in another, and of scoring where it was.

    Generating takes what memory helps its speed, so that scoring says more of what a form needs.
    """
    if info.real_form is not None:
        return info.real_form.peak_memory_bytes
    generated = {task.name for task in run.manifest.tasks if task.output_type == "generate_until"}
    cells = [cell for cell in run.results.cells if cell.variant == info.name and cell.status == "done"]
    scored = [cell for cell in cells if cell.task not in generated]
    return max((c.peak_memory_bytes for c in scored or cells if c.peak_memory_bytes is not None), default=None)


def _seconds_per_item(run: Outcomes, info: VariantInfo | None, variant: str, task: str) -> float | str:
    """Model time of an item. Of weights that were dequantised once, the time that their real form would take."""
    cell = run.cell(variant, task)
    if info is None or cell is None or cell.status != "done" or not cell.items:
        state = "not run" if cell is None or cell.status == "pending" else cell.status
        error = None if cell is None else cell.error
        return run.gap_words(Gap(variant, task, "no items" if state == "done" else state, error))
    if info.real_form is None:
        return cell.seconds / cell.items
    asked = run.task(task)
    if asked is None or asked.output_type == "generate_until" or not info.real_form.tokens_in:
        return "its 4-bit weights were dequantised once: engine.dequantize_once = false times the form that ships"
    return info.real_form.seconds / info.real_form.tokens_in * cell.tokens_in / cell.items
