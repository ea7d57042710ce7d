"""The view model: what a report says, for Markdown and HTML alike, before either escapes a character.

Foreign text (names, errors, prompts, generations) is marked where it stands inside our own, so that a format
cannot mistake the one for the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..harness.stats import Verdict
from . import format as fmt
from .figures import Curve, Forest


@dataclass(frozen=True)
class Span:
    """A piece of a line: our `own` words, foreign `prose`, or a foreign `name` or literal, set as code."""

    text: str
    kind: Literal["own", "prose", "name"] = "own"


Line = tuple[Span, ...]


def line(*pieces: str | Span) -> Line:
    """A line of our own words (strings) and foreign pieces (:func:`name`, :func:`prose`)."""
    return tuple(piece if isinstance(piece, Span) else Span(piece) for piece in pieces)


def name(text: str) -> Span:
    """A name or another literal from a suite, model, dataset or machine, on one visible line."""
    return Span(fmt.one_line(text), "name")


def prose(text: str) -> Span:
    """A foreign sentence, or one of ours that quotes something foreign, on one visible line."""
    return Span(fmt.one_line(text, 1000), "prose")


def joined(names: list[str]) -> list[str | Span]:
    """Names as an enumeration with commas, to be spread into :func:`line`."""
    pieces: list[str | Span] = []
    for entry in names:
        pieces += [", ", name(entry)] if pieces else [name(entry)]
    return pieces


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, and whether it holds numbers, or literals of any length."""

    heading: Line
    numeric: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Cell:
    """A cell of a table; a verdict gives it a colour, and in a marked table its mark."""

    content: Line
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Table:
    """A table; a row's first cell is its heading; a `marked` one shows verdicts' marks beside the cells."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    marked: bool = False


def mark(cell: Cell) -> str:
    """The mark of a cell's verdict, or nothing."""
    return fmt.MARKS[cell.verdict] if cell.verdict is not None else ""


@dataclass(frozen=True)
class Block:
    """A titled part of the fold that tells how it was run: lines, a table, literal text, a curve."""

    title: Line
    lines: tuple[Line, ...] = ()
    table: Table | None = None
    literal: str | None = None
    curve: Curve | None = None


@dataclass(frozen=True)
class Section:
    """A part of the report with a heading of its own: a table and notes on it."""

    anchor: str
    title: str
    table: Table
    notes: tuple[Line, ...] = ()


@dataclass(frozen=True)
class ShownChoice:
    """One choice of a multiple-choice example and the variants that took it."""

    label: str
    text: str
    is_target: bool
    taken_by: tuple[str, ...]


@dataclass(frozen=True)
class ShownAnswer:
    """One variant's answer: the value of the leading metric, and the text where one was generated."""

    variant: str
    metric: str
    value: str
    text: str | None


@dataclass(frozen=True)
class ShownExample:
    """An item on which the variants part."""

    title: Line
    prompt: str | None
    target: str | None
    choices: tuple[ShownChoice, ...]
    answers: tuple[ShownAnswer, ...]


@dataclass(frozen=True)
class TaskView:
    """One task: its differences in headline metrics (table and plots), kinds of items that stand out, all its metrics,
    and examples."""

    task: str
    about: Line
    differences: Table | None
    forests: tuple[Forest, ...]
    slices: tuple[Line, ...]
    metrics: Table | None
    examples: tuple[ShownExample, ...]


@dataclass(frozen=True)
class View:
    """A whole report."""

    title: str
    description: str
    lead: Line
    notices: tuple[Line, ...]  # what is missing or failed: said first
    baseline: str
    summary: Table | None
    legend: tuple[Line, ...]
    claims: Table | None
    claims_note: Line
    sections: tuple[Section, ...]  # forms of the adapter, training seeds, null controls
    gate: Table | None
    gate_note: Line
    tasks: tuple[TaskView, ...]
    costs: Table | None
    how: tuple[Block, ...]
    version: str
