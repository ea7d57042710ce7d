"""The one prompt of WebGLM-QA: training, evaluation and chat all take it from here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_TEMPLATE = """###System:
Read the references provided and answer the corresponding question.
###References:
{references}###Question:
{question}
###Answer:
"""


@dataclass(frozen=True)
class Row:
    """One row of WebGLM-QA: a question, the answer to learn, and the references that it cites by number."""

    question: str
    answer: str
    references: tuple[str, ...]


def prompt(question: str, references: Sequence[str]) -> str:
    """The text after which a model writes its answer; references are numbered from 1. Ends in a line break.

    Raises:
        ValueError: `references` is one string, whose characters would become the references.
    """
    if isinstance(references, str):
        raise ValueError("webglm_qa: references must be a list of strings; got one string")
    numbered = "".join(f"[{number}] {reference}\n" for number, reference in enumerate(references, start=1))
    return _TEMPLATE.format(references=numbered, question=question)


def completion(answer: str) -> str:
    """The text to be written after the prompt; whoever trains on it appends the end-of-text token."""
    return answer.strip()


def read_row(row: Mapping[str, object], name: str) -> Row:
    """The columns of a row of WebGLM-QA, checked.

    Args:
        row: a row with the columns `question` (str), `answer` (str) and `references` (list of str).
        name: how an error names the row, such as "test row 3".

    Raises:
        ValueError: a column is missing or of another type.
    """
    for column in ("question", "answer", "references"):
        if column not in row:
            raise ValueError(
                f"webglm_qa: {name} has no column {column!r}; it needs question, answer and references, "
                f"and has {', '.join(row)}"
            )
    question, answer, references = row["question"], row["answer"], row["references"]
    for column, value in (("question", question), ("answer", answer)):
        if not isinstance(value, str):
            raise ValueError(f"webglm_qa: {name}: {column} must be a string; got {type(value).__name__}")
    if not isinstance(references, list | tuple) or not all(isinstance(text, str) for text in references):
        raise ValueError(f"webglm_qa: {name}: references must be a list of strings; got {references!r:.80}")
    return Row(str(question), str(answer), tuple(references))
