"""Which kinds of items drive a difference, and what those that flipped have in common. Needs no torch.

A slice is a value of a field of the items, or a quarter of its range. Of each it is asked whether more of its items got
worse than of the others, and whether more got better (Fisher's exact tests); and of a metric in which most items move,
whether they gained otherwise (Mann and Whitney's test). p-values are corrected (Holm) for all slices and questions.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import fisher_exact, mannwhitneyu

from .item_fields import SOURCE
from .stats.family import adjusted
from .stats.interval import CONFIDENCE, Floats
from .values import ItemColumn

FEWEST = 10  # items within a slice, and outside it
_MOST_VALUES = 20  # of a field; one with more is a name or an id, and no kind of item
_QUARTERS = 4
_MOST_MOVE = 0.8  # of the items: a metric in which gains are compared by rank


class Question(enum.StrEnum):
    """By what a slice stands out."""

    GAIN = "gain"  # its items gained otherwise: medians of ranks, told by the means
    WORSE = "worse"  # another share of them got worse
    BETTER = "better"  # another share of them got better


@dataclass(frozen=True)
class Slice:
    """A kind of items that stands out.

    Attributes:
        field, value: which.
        items: how many it has.
        question: by what it stands out most.
        inside, outside: of its items and of the others: the mean gain, in the metric's unit and own direction, or the
            share that got worse or better.
        p: corrected for all that was looked at.
    """

    field: str
    value: str
    items: int
    question: Question
    inside: float
    outside: float
    p: float


@dataclass(frozen=True)
class Slices:
    """The slices of one difference that stand out, how many were looked at, and how many questions were asked of each.

    None are looked at where items share sources, or were asked until something was decided: the tests take items for
    independent, and their number for fixed.
    """

    found: tuple[Slice, ...] = ()
    looked_at: int = 0
    questions: int = 2


def find_slices(
    gains: Floats, fields: Mapping[str, ItemColumn], wanted: Sequence[str] | None = None, *, among: int = 1
) -> Slices:
    """The kinds of items whose gains stand out.

    Args:
        gains: (items,) what the variant gained on each item, positive for better.
        fields: what is known of the items, in the same order.
        wanted: the fields to look at; None for all.
        among: how many differences are looked at so: each finds something by chance with its share of 5 % (Bonferroni).
    """
    if len(gains) < 2 * FEWEST or not gains.any():
        return Slices()
    looked: list[tuple[str, str, NDArray[np.bool_]]] = []
    for name, column in fields.items():
        if name != SOURCE and (wanted is None or name in wanted):
            looked += [(name, value, inside) for value, inside in _values(column)]
    asked: dict[Question, Floats] = {Question.WORSE: (gains < 0).astype(np.float64)}
    asked[Question.BETTER] = (gains > 0).astype(np.float64)
    if np.mean(gains != 0) > _MOST_MOVE:  # of fewer, ranks say no more than shares do, and tests of them say it wrongly
        asked[Question.GAIN] = gains
    p_values = adjusted(
        {
            (index, question): _p_value(question, values[inside], values[~inside])
            for index, (_, _, inside) in enumerate(looked)
            for question, values in asked.items()
        }
    )
    found = []
    for index, (name, value, inside) in enumerate(looked):
        question = min(asked, key=lambda one: p_values[index, one])
        p, values = min(1.0, p_values[index, question] * among), asked[question]
        if p <= 1 - CONFIDENCE:
            means = float(values[inside].mean()), float(values[~inside].mean())
            found.append(Slice(name, value, int(inside.sum()), question, *means, p))
    return Slices(tuple(sorted(found, key=lambda one: one.p)), len(looked), len(asked))


def _values(column: ItemColumn) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """(value, which items have it) of a field's values; none where they are too many or too few."""
    if column.texts is not None:
        codes, known = pd.factorize(column.texts)
        names = [str(name) for name in known]
    else:
        assert column.numbers is not None
        codes, names = _quarters(column.numbers)
    if len(names) > _MOST_VALUES:
        return
    for code, name in enumerate(names):
        inside = codes == code
        if FEWEST <= int(inside.sum()) <= len(codes) - FEWEST:
            yield name, inside


def _quarters(numbers: Floats) -> tuple[NDArray[np.int64], list[str]]:
    """Each number's quarter of the items (or its own value, where there are no more than four), -1 for none."""
    known = np.unique(numbers[np.isfinite(numbers)])
    if len(known) <= _QUARTERS:
        codes = np.where(np.isfinite(numbers), np.searchsorted(known, numbers), -1)
        return codes.astype(np.int64), [f"{value:g}" for value in known]
    codes, edges = pd.qcut(numbers, _QUARTERS, labels=False, retbins=True, duplicates="drop")
    names = [
        f"{'more than ' if index else ''}{low:g} to {high:g}"
        for index, (low, high) in enumerate(itertools.pairwise(edges))
    ]
    return np.where(np.isnan(codes), -1, codes).astype(np.int64), names


def _p_value(question: Question, inside: Floats, outside: Floats) -> float:
    if question is Question.GAIN:
        return float(mannwhitneyu(inside, outside).pvalue)
    table = [[int(part.sum()), int(len(part) - part.sum())] for part in (inside, outside)]
    return float(fisher_exact(table).pvalue)
