"""Pairs of answers, of which people prefer one: the prompt that both share, and how their columns are read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..instructions import prompt as instructions
from ..webglm_qa import prompt as webglm_qa
from ..webglm_qa.markers import find_markers


@dataclass(frozen=True)
class Row:
    """A prompt with the answer that is preferred and the one that is not."""

    prompt: str
    chosen: str
    rejected: str


def read_orca(row: Mapping[str, object], name: str) -> Row:
    """A row of Intel/orca_dpo_pairs: `system`, `question`, `chosen` and `rejected`.

    Raises:
        ValueError: a column is missing, empty or of another type.
    """
    texts = {column: _text(row, column, name) for column in ("question", "chosen", "rejected")}
    system = row.get("system") or ""
    if not isinstance(system, str):
        raise ValueError(f"orca_dpo_pairs: {name}: system must be a text; got {system!r:.80}")
    whole = f"{system.strip()}\n\n{texts['question']}" if system.strip() else texts["question"]
    return _row(instructions.prompt(whole), texts["chosen"], texts["rejected"], name)


def read_piqa(row: Mapping[str, object], name: str) -> Row:
    """A row of PIQA: `goal`, two solutions and the `label` of the right one; in the prompt that lm-eval's task has.

    Raises:
        ValueError: a column is missing, empty or of another type.
    """
    goal, solutions = _text(row, "goal", name), [_text(row, "sol1", name), _text(row, "sol2", name)]
    label = row.get("label")
    if label not in (0, 1):
        raise ValueError(f"piqa_pairs: {name}: label must be 0 or 1; got {label!r:.80}")
    return _row(f"Question: {goal}\nAnswer:", solutions[int(label)], solutions[1 - int(label)], name)


def read_webglm(row: Mapping[str, object], name: str) -> Row | None:
    """A row of WebGLM-QA: its answer, and the same one with every citation moved on to the next reference.

    What is preferred is thus a citation of what the reference says. None where no citation can be moved: the answer has
    none of a reference that is there, or there is one reference alone.

    Raises:
        ValueError: a column is missing or of another type.
    """
    read = webglm_qa.read_row(row, name)
    chosen = webglm_qa.completion(read.answer)
    rejected, count = chosen, len(read.references)
    for marker in reversed(find_markers(chosen)):
        moved = re.sub("[0-9]+", lambda found: str(_next(int(found[0]), count)), marker.text) if marker.numbers else ""
        rejected = rejected[: marker.start] + (moved or marker.text) + rejected[marker.end :]
    if rejected == chosen:
        return None
    return Row(webglm_qa.prompt(read.question, read.references), chosen, rejected)


def _next(number: int, count: int) -> int:
    """The reference after one of `count`, the first after the last; what names none stays."""
    return number % count + 1 if 1 <= number <= count else number


def _row(prompt: str, chosen: str, rejected: str, name: str) -> Row:
    if chosen.strip() == rejected.strip():
        raise ValueError(f"{name}: the chosen answer is the rejected one")
    return Row(prompt, f" {chosen.strip()}", f" {rejected.strip()}")


def _text(row: Mapping[str, object], column: str, name: str) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name}: {column} must be a text; got {value!r:.80}")
    return value
