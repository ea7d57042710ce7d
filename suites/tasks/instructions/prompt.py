"""The one prompt of instructions, as OIG writes them: training, evaluation and chat all take it from here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One instruction with its answer."""

    instruction: str
    answer: str


# Columns of the datasets that this prompt was made for: (instruction, answer).
_COLUMNS = (
    ("user", "chip2"),  # OIG-small-chip2
    ("question", "answer"),  # GSM8K, one of its parts
    ("instruction", "output"),
)


def prompt(instruction: str) -> str:
    """The text after which a model writes its answer, which starts with a space."""
    return f"User: {instruction.strip()}\nAssistant:"


def completion(answer: str) -> str:
    """The text to be written after the prompt; whoever trains on it appends the end-of-text token."""
    return f" {answer.strip()}"


def read_row(row: Mapping[str, object], name: str) -> Row:
    """The instruction and answer of a row, whose columns may have any of three datasets' names, checked.

    self-instruct's seed tasks (`instruction` and `instances` with input and output) are read by their first instance.

    Args:
        row: a row.
        name: how an error names the row, such as "train row 3".

    Raises:
        ValueError: no pair of columns is there, or one of another type.
    """
    instances = row.get("instances")
    if isinstance(instances, Mapping):  # as `datasets` holds a list of tables: one list a column
        instances = [dict(zip(instances, values, strict=True)) for values in zip(*instances.values(), strict=True)]
    if isinstance(instances, list) and instances and isinstance(instances[0], Mapping):
        first = instances[0]
        row = {"instruction": row.get("instruction"), "input": first.get("input"), "output": first.get("output")}
    for asked, answered in _COLUMNS:
        instruction, answer = row.get(asked), row.get(answered)
        if instruction is None and answer is None:
            continue
        for column, value in ((asked, instruction), (answered, answer)):
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"instructions: {name}: {column} must be a text; got {value!r:.80}")
        more = row.get("input") if asked == "instruction" else None
        whole = f"{instruction}\n{more}" if isinstance(more, str) and more.strip() else str(instruction)
        return Row(whole, str(answer))
    wanted = "; or ".join(" and ".join(pair) for pair in _COLUMNS)
    raise ValueError(f"instructions: {name} needs the columns {wanted}; it has {', '.join(row)}")
