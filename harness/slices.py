"""Which kinds of items drive a difference, and what those that flipped have in common. Needs no torch.

A slice is a value of a field of the items, or a quarter of its range. It drives a difference where its items' gains
differ from the others' (Welch's t test), and it holds the flipped ones where the share that got worse differs (Fisher's
exact test); p-values are corrected (Holm) for all slices and both questions that were looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import fisher_exact, ttest_ind_from_stats

from .item_fields import SOURCE
from .stats.family import adjusted
from .stats.interval import CONFIDENCE, Floats
from .values import ItemColumn

FEWEST = 10  # items within a slice, and outside it
_MOST_VALUES = 20  # of a field; one with more is a name or an id, and no kind of item
_QUARTERS = 4


@dataclass(frozen=True)
class Slice:
    """A kind of items that stands out.

    Attributes:
        field, value: which.
        items: how many it has.
        inside, outside: the mean gain of its items and of the others, in the metric's unit and own direction.
        lost_inside, lost_outside: the shares of them that got worse.
        p: of the more telling of the two questions, corrected for all that were looked at.
        drives: whether that question was the gain; else it was the share that got worse.
    """

    field: str
    value: str
    items: int
    inside: float
    outside: float
    lost_inside: float
    lost_outside: float
    p: float
    drives: bool


@dataclass(frozen=True)
class Slices:
    """The slices of one difference that stand out, and how many were looked at."""

    found: tuple[Slice, ...] = ()
    looked_at: int = 0


def find_slices(gains: Floats, fields: Mapping[str, ItemColumn], wanted: Sequence[str] | None = None) -> Slices:
    """The kinds of items whose gains stand out.

    Args:
        gains: (items,) what the variant gained on each item, positive for better.
        fields: what is known of the items, in the same order.
        wanted: the fields to look at; None for all.
    """
    lost = gains < 0
    if len(gains) < 2 * FEWEST or not gains.any():
        return Slices()
    looked: list[tuple[str, str, NDArray[np.bool_]]] = []
    for name, column in fields.items():
        if name != SOURCE and (wanted is None or name in wanted):
            looked += [(name, value, inside) for value, inside in _values(column)]
    p_values: dict[tuple[int, bool], float] = {}
    for index, (_, _, inside) in enumerate(looked):
        p_values[index, True] = _gain_p(gains[inside], gains[~inside])
        p_values[index, False] = _share_p(lost[inside], lost[~inside])
    p_values = adjusted(p_values)
    found = []
    for index, (name, value, inside) in enumerate(looked):
        drives = p_values[index, True] <= p_values[index, False]
        p = p_values[index, drives]
        if p <= 1 - CONFIDENCE:
            means = float(gains[inside].mean()), float(gains[~inside].mean())
            shares = float(lost[inside].mean()), float(lost[~inside].mean())
            found.append(Slice(name, value, int(inside.sum()), *means, *shares, p, drives))
    return Slices(tuple(sorted(found, key=lambda one: one.p)), len(looked))


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


def _gain_p(inside: Floats, outside: Floats) -> float:
    spreads = inside.std(ddof=1), outside.std(ddof=1)
    if not any(spreads):
        return 1.0
    found = ttest_ind_from_stats(
        inside.mean(), spreads[0], len(inside), outside.mean(), spreads[1], len(outside), equal_var=False
    )
    return float(found.pvalue)


def _share_p(inside: NDArray[np.bool_], outside: NDArray[np.bool_]) -> float:
    table = [[int(part.sum()), int((~part).sum())] for part in (inside, outside)]
    return float(fisher_exact(table).pvalue)
