"""The view model of a comparison of several runs' variants, for Markdown, HTML and the terminal alike."""

from __future__ import annotations

from dataclasses import dataclass

from .figures import Forest
from .view import Line, ShownExample, Table


@dataclass(frozen=True)
class ComparedTask:
    """One task: its verdicts as sentences, its leading metrics, and what is folded away."""

    task: str
    about: Line
    sentences: tuple[Line, ...]  # a verdict on each side but the first, in each metric that is shown first
    notes: tuple[Line, ...]  # items that only one side has, and the kinds of items that stand out
    scores: Table
    forests: tuple[Forest, ...]
    slices: Table | None
    metrics: Table | None
    examples: tuple[ShownExample, ...]


@dataclass(frozen=True)
class CompareView:
    """A whole comparison."""

    title: str
    lead: Line
    notices: tuple[Line, ...]  # what could not be compared: said first
    first: str  # the label of the side that the others are compared with
    verdicts: tuple[Line, ...]  # by task, in its leading metric
    family: Line  # how many differences were looked at together, and what became of them
    sides: Table
    settings: Table | None
    settings_note: Line
    tasks: tuple[ComparedTask, ...]
    costs: Table
    version: str
