"""The one prompt of DialogSum: training, evaluation and chat all take it from here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One row of DialogSum: a conversation and one person's summary of it."""

    id: str
    dialogue: str
    summary: str


def prompt(dialogue: str) -> str:
    """The text after which a model writes its summary. Ends in a line break."""
    return f"Instruct: Summarize the following conversation.\n{dialogue}\nOutput:\n"


def completion(summary: str) -> str:
    """The text to be written after the prompt; whoever trains on it appends the end-of-text token."""
    return summary.strip()


def read_row(row: Mapping[str, object], name: str, *, needs_id: bool = True) -> Row:
    """The columns of a row of DialogSum, checked.

    Args:
        row: a row with the columns `id`, `dialogue` and `summary`, all str.
        name: how an error names the row, such as "test row 3".
        needs_id: whether the id is looked at, by which references of one dialogue are known; else it is empty.

    Raises:
        ValueError: a column is missing or of another type.
    """
    columns = [*(["id"] if needs_id else []), "dialogue", "summary"]
    for column in columns:
        if column not in row:
            raise ValueError(
                f"dialogsum: {name} has no column {column!r}; it needs {', '.join(columns)}, and has {', '.join(row)}"
            )
        if not isinstance(row[column], str):
            raise ValueError(f"dialogsum: {name}: {column} must be a string; got {type(row[column]).__name__}")
    return Row(str(row["id"]) if needs_id else "", str(row["dialogue"]), str(row["summary"]))
