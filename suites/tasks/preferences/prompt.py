"""Pairs of answers, of which people prefer one: the prompt that both share, and how their columns are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..instructions import prompt as instructions
from ..webglm_qa import prompt as webglm_qa
from ..webglm_qa.markers import Marker, find_markers


@dataclass(frozen=True)
class Row:
    """A prompt with the answer that is preferred and the one that is not."""

    prompt: str
    chosen: str
    rejected: str


def read_orca(row: Mapping[str, object], name: str) -> Row | None:
    """A row of Intel/orca_dpo_pairs: `system`, `question`, `chosen` and `rejected`.

    Raises:
        ValueError: a column is missing, empty or of another type.
    """
    texts = {column: _text(row, column, name) for column in ("question", "chosen", "rejected")}
    system = row.get("system") or ""
    if not isinstance(system, str):
        raise ValueError(f"orca_dpo_pairs: {name}: system must be a text; got {system!r:.80}")
    whole = f"{system.strip()}\n\n{texts['question']}" if system.strip() else texts["question"]
    return _row(instructions.prompt(whole), texts["chosen"], texts["rejected"])


def read_piqa(row: Mapping[str, object], name: str) -> Row | None:
    """A row of PIQA: `goal`, two solutions and the `label` of the right one; in the prompt that lm-eval's task has.

    Raises:
        ValueError: a column is missing, empty or of another type.
    """
    goal, solutions = _text(row, "goal", name), [_text(row, "sol1", name), _text(row, "sol2", name)]
    label = row.get("label")
    if label not in (0, 1):
        raise ValueError(f"piqa_pairs: {name}: label must be 0 or 1; got {label!r:.80}")
    return _row(f"Question: {goal}\nAnswer:", solutions[int(label)], solutions[1 - int(label)])


def read_webglm(row: Mapping[str, object], name: str) -> Row | None:
    """A row of WebGLM-QA: its answer, and the same one citing references that the answer does not cite there.

    What is preferred is thus a citation of what the reference says. Citations side by side are one group, and none of
    it is cited in its place; references with the same text count as one. None where nothing can be cited instead.

    Raises:
        ValueError: a column is missing or of another type.
    """
    read = webglm_qa.read_row(row, name)
    chosen = webglm_qa.completion(read.answer)
    rejected = chosen
    for group in reversed(_groups(chosen)):
        others = _others({number for marker in group for number in marker.numbers}, read.references)
        if others:
            moved = "".join(f"[{number}]" for number in others)
            rejected = rejected[: group[0].start] + moved + rejected[group[-1].end :]
    if rejected == chosen:
        return None
    return Row(webglm_qa.prompt(read.question, read.references), chosen, rejected)


def _groups(answer: str) -> list[list[Marker]]:
    """The markers that name numbers; those side by side are one group."""
    groups: list[list[Marker]] = []
    for marker in find_markers(answer):
        if not marker.numbers:
            continue
        if groups and not answer[groups[-1][-1].end : marker.start].strip():
            groups[-1].append(marker)
        else:
            groups.append([marker])
    return groups


def _others(cited: set[int], references: Sequence[str]) -> list[int]:
    """References to cite instead: as many, or as many as there are, from the one after the first cited on."""
    texts = {references[number - 1].strip() for number in cited if 1 <= number <= len(references)}
    if not texts:
        return []
    first = min(number for number in cited if 1 <= number <= len(references))
    order = [(first + step) % len(references) + 1 for step in range(len(references))]
    return [number for number in order if references[number - 1].strip() not in texts][: len(cited)]


def _row(prompt: str, chosen: str, rejected: str) -> Row | None:
    """A pair; None where both answers are the same."""
    if chosen.strip() == rejected.strip():
        return None
    return Row(prompt, f" {chosen.strip()}", f" {rejected.strip()}")


def _text(row: Mapping[str, object], column: str, name: str) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name}: {column} must be a text; got {value!r:.80}")
    return value
