"""Records: one row per item, variant and task, as Parquet; for the runner, the statistics and the reports.

Needs no torch. A cell's file is written whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..files import replace_file
from .engine.response import Response

RECORDS_VERSION = "2"

ROWS_TOGETHER = 4096  # so that a few items' prompts are read without everybody's

__all__ = ["SCHEMA", "MetricValue", "Record", "Response", "as_table", "read_records", "write_records"]

_RESPONSE = pa.struct(
    [
        pa.field("loglikelihood", pa.float64()),  # nats; None for a generation
        pa.field("is_greedy", pa.bool_()),
        pa.field("text", pa.string()),  # None for a log-likelihood
        pa.field("stop", pa.string()),  # eos | stop_string | length; None for a log-likelihood
        pa.field("tokens", pa.int32()),  # tokens scored or generated
        pa.field("truncated", pa.int32()),  # tokens of the prompt that were cut from the left
        pa.field("tokens_in", pa.int32()),  # tokens fed to the model for this request
    ]
)
_METRIC = pa.struct(
    [
        pa.field("name", pa.string()),
        pa.field("filter", pa.string()),
        pa.field("value", pa.float64()),  # None where the item's value is not a number
        pa.field("raw", pa.string()),  # JSON of the item's value where it is not a number
    ]
)
_FIELD = pa.struct(
    [
        pa.field("name", pa.string()),
        pa.field("text", pa.string()),  # None where the value is a number
        pa.field("number", pa.float64()),
    ]
)
SCHEMA = pa.schema(
    [
        pa.field("variant", pa.string()),
        pa.field("task", pa.string()),
        pa.field("item", pa.int64()),  # position in the task's evaluated split
        pa.field("item_id", pa.string()),  # the dataset's own id where it has one
        pa.field("item_hash", pa.string()),  # sha256 of the document
        pa.field("prompt_hash", pa.string()),  # sha256 of all requests asked for the item
        pa.field("prompt", pa.string()),  # the first request's context; None when the suite keeps no prompts
        pa.field("choices", pa.list_(pa.string())),  # the continuations of a choice, as asked
        pa.field("target", pa.string()),  # the reference as text (a choice's index for multiple choice)
        pa.field("responses", pa.list_(_RESPONSE)),
        pa.field("metrics", pa.list_(_METRIC)),
        pa.field("fields", pa.list_(_FIELD)),  # what is known of the item, for slices and sources
        pa.field("seconds", pa.float64()),  # the item's share of the cell's model time
    ],
    metadata={"phibench_records_version": RECORDS_VERSION},
)


@dataclass(frozen=True)
class MetricValue:
    """One metric of one item: a number, or JSON of what the task's aggregation takes instead of one."""

    name: str
    filter: str
    value: float | None
    raw: str | None = None

    def unit(self) -> Any:
        """The item's value as lm-eval's aggregation takes it."""
        return self.value if self.raw is None else json.loads(self.raw)


@dataclass(frozen=True)
class ItemField:
    """Something known of an item, by which it can be put into a slice: a short text or a number."""

    name: str
    text: str | None = None
    number: float | None = None


@dataclass(frozen=True)
class Record:
    """One item's outcome in a cell; the fields are those of :data:`SCHEMA`."""

    variant: str
    task: str
    item: int
    item_id: str | None
    item_hash: str
    prompt_hash: str
    prompt: str | None
    choices: list[str]
    target: str
    responses: list[Response]
    metrics: list[MetricValue] = field(default_factory=list)
    fields: list[ItemField] = field(default_factory=list)
    seconds: float = 0.0


def as_table(records: Sequence[Record]) -> pa.Table:
    """Records as a table of :data:`SCHEMA`."""
    rows = [  # not `asdict`, which copies every string of every record
        {
            **vars(one),
            "responses": [vars(r) for r in one.responses],
            "metrics": [vars(m) for m in one.metrics],
            "fields": [vars(f) for f in one.fields],
        }
        for one in records
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Write one cell's records to `path`, whole or not at all."""
    table = as_table(records)
    with replace_file(path) as part:
        pq.write_table(table, part, compression="zstd", row_group_size=ROWS_TOGETHER)


def read_records(path: Path) -> list[Record]:
    """Read one cell's records back, in the order they were written."""
    rows = pq.read_table(path, schema=SCHEMA).to_pylist()
    return [
        Record(
            **{
                **row,
                "responses": [Response(**response) for response in row["responses"]],
                "metrics": [MetricValue(**metric) for metric in row["metrics"]],
                "fields": [ItemField(**known) for known in row["fields"]],
            }
        )
        for row in rows
    ]
