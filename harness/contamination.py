"""Contamination: which of a task's items overlap what an adapter was trained on; for the runner and the reports.

What counts as an overlap is in `overlap.py`, its reasons and limits in docs/contamination.md. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .overlap import WORDS, find_overlaps
from .results import Contamination
from .templates import templates

if TYPE_CHECKING:
    from .tasks import BuiltTask

NAMED = 20  # items, and training rows, that are named
_SHOWN = 60  # words of the longest run that are kept


def check_contamination(training: Sequence[tuple[str, str]], tasks: Sequence[BuiltTask]) -> list[Contamination]:
    """Look for the items of tasks in training rows.

    Args:
        training: the rows that an adapter was trained on: a name and all the text of each.
        tasks: the tasks as asked; with a limit, only the items that are asked are looked for.

    Returns:
        What was found, for each task in its order.
    """
    with templates():
        texts = [[list(dict.fromkeys(_texts(built.task, item.doc))) for item in built.items] for built in tasks]
    found = []
    for built, overlap in zip(tasks, find_overlaps([text for _, text in training], texts), strict=True):
        named = [built.items[position] for position in overlap.items[:NAMED]]
        found.append(
            Contamination(
                task=built.info.name,
                words=WORDS,
                rows=len(training),
                items=len(built.items),
                items_checked=overlap.checked,
                overlapping_items=len(overlap.items),
                item_ids=[item.item_id or f"item {item.index}" for item in named],
                overlapping_rows=len(overlap.rows),
                row_names=[training[position][0] for position in overlap.rows[:NAMED]],
                longest=len(overlap.run),
                example=" ".join(overlap.run[:_SHOWN]),
            )
        )
    return found


def _texts(task: Any, doc: Any) -> Iterator[str]:
    """The texts of an item: every string of its document, and sentences that its choices complete.

    The document rather than the prompt: what a task's template adds would break runs of words, or make them.
    """
    yield from _strings(doc)
    if getattr(task, "multiple_input", 0):  # as in WinoGrande: a choice and what follows it are one sentence
        after = task.doc_to_target(doc)
        for before in task.doc_to_choice(doc):
            yield f"{before} {after}"


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)
