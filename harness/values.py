"""A cell's records as columns: what each item scored, and the pairing of two cells by item. Needs no torch."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from .item_fields import SOURCE
from .records import SCHEMA
from .stats import Pairs
from .stats.interval import Floats

MetricKey = tuple[str, str]  # (metric, filter)
_COLUMNS = ["item", "item_hash", "prompt_hash", "metrics"]
HASH_DIGITS = 32  # of a hash's 64 hex digits: as many as baseline files keep, so that both know items alike
_OPTIONAL = {"fields"}  # columns that records of earlier versions lack


@dataclass(frozen=True)
class MetricColumn:
    """One metric of a cell.

    Attributes:
        rows: rows of the cell that have it, ascending.
        values: theirs, as lm-eval's aggregation takes them: an array where all are numbers, else a list.
    """

    rows: NDArray[np.int64]
    values: Floats | list[Any]

    def numbers(self, count: int) -> Floats:
        """(count,) the value of each row of the cell; NaN where there is none, or none that is a finite number."""
        found = np.full(count, np.nan)
        if isinstance(self.values, np.ndarray):
            found[self.rows] = np.where(np.isfinite(self.values), self.values, np.nan)
        return found


@dataclass(frozen=True)
class ItemColumn:
    """A field of the items, a value a row: texts (None where an item has none), or numbers (NaN likewise)."""

    texts: NDArray[np.object_] | None = None
    numbers: Floats | None = None

    def at(self, rows: NDArray[np.int64]) -> ItemColumn:
        """The same of these rows only."""
        return ItemColumn(
            None if self.texts is None else self.texts[rows], None if self.numbers is None else self.numbers[rows]
        )


@dataclass(frozen=True)
class CellValues:
    """One cell's items.

    Attributes:
        path: the records; None where they were not kept, as in a baseline file.
        keys: what each item is known by: the first 32 hex digits of its document's hash, and which one of equal
            documents it is.
        items: (rows,) positions in the task's split.
        prompts: as many digits of the hash of all that was asked for each.
        metrics: by name and filter.
        early: whether the items came in random order, and no more of them than it took to decide a gate's rules.
        kept_sources: `sources` where there are no records that tell them.
    """

    path: Path | None
    keys: pd.Index
    items: NDArray[np.int64]
    prompts: pd.Index
    metrics: dict[MetricKey, MetricColumn]
    early: bool = False
    kept_sources: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @functools.cached_property
    def fields(self) -> dict[str, ItemColumn]:
        """What is known of the items beside their answers, by field."""
        return {} if self.path is None else _read_fields(self.path, len(self))

    @functools.cached_property
    def sources(self) -> NDArray[np.int64] | None:
        """(rows,) numbers from 0 of what each item was made from; None where every item stands for itself."""
        if self.kept_sources is not None:
            return self.kept_sources
        known = self.fields.get(SOURCE)
        if known is None or known.texts is None:
            return None
        codes = pd.factorize(known.texts)[0].astype(np.int64)
        codes[codes < 0] = codes.max() + 1 + np.arange(int((codes < 0).sum()))
        return codes if codes.max() + 1 < len(codes) else None


def read_values(path: Path) -> CellValues:
    """Read a cell's records without their texts.

    Raises:
        ValueError: the file lacks columns.
        OSError, pyarrow.ArrowException: it cannot be read.
    """
    if absent := set(SCHEMA.names) - _OPTIONAL - set(pq.read_schema(path).names):
        raise ValueError(f"the records lack the columns {sorted(absent)}")
    return values_of(pq.read_table(path, columns=_COLUMNS), path)


def values_of(table: pa.Table, path: Path | None = None) -> CellValues:
    """The same of records that are at hand as a table (see :func:`.records.as_table`)."""
    table = table.select(_COLUMNS).combine_chunks()
    return CellValues(
        path=path,
        keys=item_keys(table["item_hash"]),
        items=table["item"].to_numpy().astype(np.int64),
        prompts=_short(table["prompt_hash"]),
        metrics=_metric_columns(table["metrics"].combine_chunks()),
    )


def matched(baseline: CellValues, variant: CellValues) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of two cells that hold the same item, in the variant's order: that in which early stopping asked."""
    if len(baseline) == len(variant) and baseline.keys.equals(variant.keys):
        rows = np.arange(len(baseline))
        return rows, rows
    found = baseline.keys.get_indexer(variant.keys)
    rows = np.flatnonzero(found >= 0)
    return found[rows].astype(np.int64), rows


def _order(baseline: CellValues, variant: CellValues) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of both cells' items, in the order of the one whose items were asked until something was decided."""
    if baseline.early and not variant.early:
        right, left = matched(variant, baseline)
        return left, right
    return matched(baseline, variant)


def pair(baseline: CellValues, variant: CellValues, metric: MetricKey) -> Pairs:
    """The values of a metric on the items that both cells have one for; none where one has no such metric."""
    mine, other = baseline.metrics.get(metric), variant.metrics.get(metric)
    if mine is None or other is None:
        return Pairs([], [], 0 if mine is None else len(mine.rows), 0 if other is None else len(other.rows))
    left, right = _order(baseline, variant)
    if len(mine.rows) < len(baseline) or len(other.rows) < len(variant):
        both = np.isin(left, mine.rows) & np.isin(right, other.rows)
        left, right = left[both], right[both]
    sources = None if baseline.sources is None else baseline.sources[left]
    if sources is None and variant.sources is not None:  # an old baseline file does not keep them
        sources = variant.sources[right]
    return Pairs(
        _taken(mine, left),
        _taken(other, right),
        len(mine.rows) - len(left),
        len(other.rows) - len(right),
        None if sources is None else np.unique(sources, return_inverse=True)[1],
        baseline.early or variant.early,
    )


def asked_otherwise(baseline: CellValues, variant: CellValues) -> int:
    """Of how many items that both cells have, the prompts differ."""
    left, right = matched(baseline, variant)
    return int((np.asarray(baseline.prompts[left]) != np.asarray(variant.prompts[right])).sum())


def _taken(column: MetricColumn, rows: NDArray[np.int64]) -> Floats | list[Any]:
    places = rows if len(rows) == len(column.rows) and (rows == column.rows).all() else None
    if places is not None:
        return column.values
    places = np.searchsorted(column.rows, rows)
    if isinstance(column.values, np.ndarray):
        return np.asarray(column.values[places])
    return [column.values[place] for place in places]


def _short(hashes: pa.ChunkedArray | pa.Array) -> pd.Index:
    return pd.Index(pc.utf8_slice_codeunits(hashes, 0, HASH_DIGITS).to_numpy(zero_copy_only=False))


def item_keys(hashes: pa.ChunkedArray | pa.Array) -> pd.Index:
    """What items are known by: their documents' hashes, numbered where a document stands there several times."""
    short = _short(hashes)
    if short.is_unique:
        return short
    series = pd.Series(short.to_numpy())
    count = series.groupby(series).cumcount()
    return pd.Index(series.where(count == 0, series + "#" + count.astype(str)))


def _metric_columns(metrics: pa.Array) -> dict[MetricKey, MetricColumn]:
    rows = pc.list_parent_indices(metrics).to_numpy()
    flat = metrics.flatten()
    names, filters = (flat.field(part).dictionary_encode() for part in ("name", "filter"))
    values = flat.field("value").to_numpy(zero_copy_only=False).astype(np.float64)
    raw = flat.field("raw")
    filtered = len(filters.dictionary)
    codes = names.indices.to_numpy().astype(np.int64) * filtered + filters.indices.to_numpy()
    found = {}
    for code in np.flatnonzero(np.bincount(codes)):
        here = np.flatnonzero(codes == code)
        texts = raw.take(pa.array(here))
        column: Floats | list[Any] = values[here]
        if texts.null_count < len(texts):
            column = [
                value if text is None else json.loads(text)
                for value, text in zip(values[here].tolist(), texts.to_pylist(), strict=True)
            ]
        key = (names.dictionary[int(code) // filtered].as_py(), filters.dictionary[int(code) % filtered].as_py())
        found[key] = MetricColumn(rows[here].astype(np.int64), column)
    return found


def _read_fields(path: Path, count: int) -> dict[str, ItemColumn]:
    if "fields" not in pq.read_schema(path).names:
        return {}
    fields = pq.read_table(path, columns=["fields"]).combine_chunks()["fields"].combine_chunks()
    rows = pc.list_parent_indices(fields).to_numpy()
    flat = fields.flatten()
    names = flat.field("name").dictionary_encode()
    codes = names.indices.to_numpy()
    texts, numbers = flat.field("text"), flat.field("number").to_numpy(zero_copy_only=False)
    found = {}
    for code, name in enumerate(names.dictionary.to_pylist()):
        here = np.flatnonzero(codes == code)
        mine = texts.take(pa.array(here))
        if mine.null_count < len(mine):
            values = np.full(count, None, dtype=object)
            values[rows[here]] = mine.to_numpy(zero_copy_only=False)
            found[name] = ItemColumn(texts=values)
        else:
            column = np.full(count, np.nan)
            column[rows[here]] = numbers[here]
            found[name] = ItemColumn(numbers=column)
    return found
