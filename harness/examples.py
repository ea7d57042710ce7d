"""Items on which variants part, with what each answered; for the reports. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from .results import MetricInfo, TaskInfo
from .stats.interval import Floats
from .values import CellValues, matched

_ITEM_COLUMNS = ("item_id", "prompt", "choices", "target", "responses")


@dataclass(frozen=True)
class Answer:
    """What one variant answered to an item.

    `choice` is None for a generation, and where what the records hold does not agree with the item's value.
    """

    variant: str
    value: float  # of the task's leading metric
    text: str | None = None  # None for multiple choice
    choice: int | None = None  # index


@dataclass(frozen=True)
class Example:
    """An item on which variants part; `improved` tells whether, taken together, they gain on the baseline.

    For a metric that has no better direction, gaining is rising.
    """

    item: int
    item_id: str | None
    improved: bool
    prompt: str | None
    choices: tuple[str, ...]
    gold: tuple[int, ...]  # indices of the right choices; empty for a generation
    target: str
    answers: tuple[Answer, ...]


def pick_examples(
    info: TaskInfo, metric: MetricInfo, baseline: str, cells: Mapping[str, CellValues], count: int, seed: int
) -> list[Example]:
    """The items whose metric differs most between the variants; only for choices and generations.

    Args:
        info: the task.
        metric: the one by which an item's outcome is told.
        baseline: the variant that gains are taken to.
        cells: every variant's.
        count: how many; half improved and half worsened, where there are enough.
        seed: of the order of items that are equally telling.
    """
    if info.output_type not in ("multiple_choice", "generate_until") or baseline not in cells or not count:
        return []
    values, rows = _aligned(metric, baseline, cells)
    picked = _most_telling(values, baseline, metric.higher_is_better, count, seed)
    # Of the cells that have it: its row there.
    places = [{name: int(rows[name][row]) for name in values if rows[name][row] >= 0} for row, _ in picked]
    answers = {name: read_items(cell, [at[name] for at in places if name in at]) for name, cell in cells.items()}
    return [
        _example(
            int(cells[baseline].items[row]),
            improved,
            metric.name,
            {name: float(values[name][row]) for name in at if np.isfinite(values[name][row])},
            {name: answers[name][at[name]] for name in at},
        )
        for (row, improved), at in zip(picked, places, strict=True)
    ]


def _aligned(
    metric: MetricInfo, baseline: str, cells: Mapping[str, CellValues]
) -> tuple[dict[str, Floats], dict[str, NDArray[np.int64]]]:
    """By variant: the metric of each of the baseline's rows (NaN where there is none), and that item's row there."""
    base = cells[baseline]
    values, rows = {}, {}
    for name, cell in cells.items():
        left, right = matched(base, cell)
        values[name], rows[name] = np.full(len(base), np.nan), np.full(len(base), -1)
        column = cell.metrics.get(metric.key)
        rows[name][left] = right
        if column is not None:
            values[name][left] = column.numbers(len(cell))[right]
    return values, rows


def _most_telling(
    values: Mapping[str, Floats], baseline: str, higher_is_better: bool | None, count: int, seed: int
) -> list[tuple[int, bool]]:
    """The rows of widest spread with whether each improved: half of them did, where there are enough."""
    base = values[baseline]
    others = np.stack([base, *(found for name, found in values.items() if name != baseline)])
    gains = np.nan_to_num(others - base) * (-1 if higher_is_better is False else 1)
    spread = np.where(np.isnan(others), base, others)
    spread = np.where(np.isnan(base), 0.0, spread.max(axis=0) - spread.min(axis=0))
    total = gains.sum(axis=0)
    order = np.random.default_rng(seed).permutation(len(base))
    order = order[np.argsort(-spread[order], kind="stable")]
    order = order[spread[order] > 0]
    improved, worsened = order[total[order] > 0], order[total[order] <= 0]
    gained = min(len(improved), max(count - count // 2, count - len(worsened)))
    picked = [(int(row), True) for row in improved[:gained]]
    return picked + [(int(row), False) for row in worsened[: count - gained]]


def read_items(cell: CellValues, rows: list[int], columns: Sequence[str] = _ITEM_COLUMNS) -> dict[int, dict[str, Any]]:
    """The wide columns of a few rows of a cell, without reading everybody's; none where the records were not kept."""
    if cell.path is None:
        return {}
    found: dict[int, dict[str, Any]] = {}
    with pq.ParquetFile(cell.path) as file:
        start = 0
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            if here := [row for row in rows if start <= row < end]:
                table = file.read_row_group(group, columns=list(columns)).take([row - start for row in here])
                found.update(zip(here, table.to_pylist(), strict=True))
            start = end
    return found


def _example(
    item: int, improved: bool, metric: str, values: Mapping[str, float], rows: Mapping[str, dict[str, Any]]
) -> Example:
    taken = {name: _likeliest(rows[name], metric) for name in values}
    right = {name for name, value in values.items() if value == 1.0}
    asked = next(iter(rows.values()))
    gold = (_gold(asked["target"]) or {taken[name] for name in right}) if asked["choices"] else set()
    return Example(
        item=item,
        item_id=asked["item_id"],
        improved=improved,
        prompt=asked["prompt"],
        choices=tuple(asked["choices"] or ()),
        gold=tuple(sorted(index for index in gold if index is not None)),
        target=asked["target"],
        answers=tuple(
            Answer(
                name,
                value,
                text=next((response["text"] for response in rows[name]["responses"]), None),
                choice=taken[name] if (taken[name] in gold) == (name in right) else None,
            )
            for name, value in values.items()
        ),
    )


def _gold(target: str) -> set[int | None]:
    """The right choices that a target names by index; none where it is a text, as in WinoGrande."""
    try:
        named = json.loads(target)
    except ValueError:
        return set()
    return {index for index in (named if isinstance(named, list) else [named]) if isinstance(index, int)}


def _likeliest(row: Mapping[str, Any], metric: str) -> int | None:
    """The choice of highest log-likelihood, per character for lm-eval's `acc_norm`.

    lm-eval counts a choice's characters without the delimiter before it, which the records do not mark, so
    white space is taken off. A caller checks the outcome against the item's value.
    """
    scored = [response["loglikelihood"] for response in row["responses"]][: len(row["choices"] or ())]
    if not scored or None in scored:
        return None
    if metric == "acc_norm":
        lengths = [max(len(choice.lstrip()), 1) for choice in row["choices"]]
        scored = [loglikelihood / length for loglikelihood, length in zip(scored, lengths, strict=True)]
    return scored.index(max(scored))
