"""The form of a baseline file: a run's results, small enough to be committed. Needs no torch.

JSON, whose long columns are zlib's bytes in base64: item keys and prompts as the first 16 bytes of their SHA-256, right
and wrong answers as bits, other numbers as little-endian float64. What is read is never more than the file says it is.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from .results import CellResult, Manifest
from .values import HASH_DIGITS, MetricColumn

FORMAT = "phibench baseline"
FORMAT_VERSION = "2"
READABLE = ("1", "2")  # the first did not keep sources
_BYTES = HASH_DIGITS // 2  # of each hash
Count = Annotated[int, Field(ge=0, le=10_000_000)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ItemsPart(_Part):
    """The items of a task, in the order in which they were asked; cells that were asked the same share one."""

    task: str
    count: Count
    keys: str  # hashes of the documents
    prompts: str  # hashes of all that was asked
    positions: str | None = None  # in the task's split, int64; None: 0, 1, 2, ...
    sources: str | None = None  # numbers from 0 of what each was made from, int64; None: each stands for itself
    texts: list[str | None] | None = None  # the beginning of each prompt, where it was asked for


class ColumnPart(_Part):
    """One metric of a cell."""

    metric: str
    filter: str
    kind: Literal["bits", "numbers", "rows"]  # 0 and 1; float64; lists of as many float64 as `width`
    width: Annotated[int, Field(ge=1, le=64)] = 1
    count: Count
    values: str
    rows: str | None = None  # which of the items have it, int64; None: all


class CellPart(_Part):
    """One cell: its scores and costs, and its items' metrics."""

    result: CellResult
    items: Annotated[int, Field(ge=0)]  # which of the file's item lists
    columns: list[ColumnPart]


class BaselineFile(_Part):
    """A whole file."""

    format: Literal["phibench baseline"] = "phibench baseline"
    format_version: Literal["1", "2"] = "2"
    manifest: Manifest
    items: list[ItemsPart]
    cells: list[CellPart]


def pack(data: bytes) -> str:
    """Bytes as a text."""
    return base64.b64encode(zlib.compress(data, 9)).decode("ascii")


def unpack(text: str, size: int) -> bytes:
    """The bytes of :func:`pack`, of which there must be `size`.

    Raises:
        ValueError: there are not, or it is no such text.
    """
    try:
        reader = zlib.decompressobj()
        data = reader.decompress(base64.b64decode(text, validate=True), size + 1)
    except (zlib.error, binascii.Error) as error:
        raise ValueError(f"a column is broken: {error}") from None
    if len(data) != size:
        raise ValueError(f"a column has other than {size:,} bytes")
    return data


def pack_hashes(hashes: Sequence[str]) -> str:
    """Hex digits, 32 of each hash, as a text."""
    return pack(b"".join(bytes.fromhex(value[:HASH_DIGITS]) for value in hashes))


def unpack_hashes(text: str, count: int) -> list[str]:
    """The hex digits of :func:`pack_hashes`."""
    digits = unpack(text, count * _BYTES).hex()
    return [digits[start : start + HASH_DIGITS] for start in range(0, len(digits), HASH_DIGITS)]


def pack_numbers(numbers: NDArray[np.int64]) -> str:
    """Whole numbers (n,) as a text."""
    return pack(numbers.astype("<i8").tobytes())


def unpack_numbers(text: str, count: int) -> NDArray[np.int64]:
    """The numbers (count,) of :func:`pack_numbers`."""
    return np.frombuffer(unpack(text, 8 * count), dtype="<i8").astype(np.int64)


def pack_places(places: NDArray[np.int64], count: int) -> str | None:
    """Places (n,) as a text; None for 0 to count - 1."""
    return None if np.array_equal(places, np.arange(count)) else pack_numbers(places)


def unpack_places(text: str | None, count: int) -> NDArray[np.int64]:
    """The places (count,) of :func:`pack_places`."""
    return np.arange(count, dtype=np.int64) if text is None else unpack_numbers(text, count)


def pack_column(metric: str, filter_name: str, column: MetricColumn, items: int) -> ColumnPart | None:
    """A metric of a cell of so many items; None where an item's value is neither a number nor a list of numbers."""
    numbers = _numbers(column.values)
    if numbers is None:
        return None
    about: dict[str, Any] = {"metric": metric, "filter": filter_name, "count": len(numbers)}
    about["rows"] = pack_places(column.rows, items)
    if numbers.ndim == 1 and np.isin(numbers, (0.0, 1.0)).all():
        return ColumnPart(kind="bits", values=pack(np.packbits(numbers.astype(bool)).tobytes()), **about)
    values = pack(numbers.astype("<f8").tobytes())
    if numbers.ndim == 1:
        return ColumnPart(kind="numbers", values=values, **about)
    return ColumnPart(kind="rows", width=numbers.shape[1], values=values, **about)


def unpack_column(part: ColumnPart, items: int) -> MetricColumn:
    """The metric of :func:`pack_column`.

    Raises:
        ValueError: it is broken, or of more items than there are.
    """
    rows = unpack_places(part.rows, part.count)
    if len(rows) and (rows[0] < 0 or rows[-1] >= items or (np.diff(rows) <= 0).any()):
        raise ValueError(f"{part.metric} is of items that are not there")
    if part.kind == "bits":
        packed = np.frombuffer(unpack(part.values, (part.count + 7) // 8), dtype=np.uint8)
        return MetricColumn(rows, np.unpackbits(packed, count=part.count).astype(np.float64))
    values = np.frombuffer(unpack(part.values, 8 * part.count * part.width), dtype="<f8").astype(np.float64)
    if part.kind == "numbers":
        if part.width != 1:
            raise ValueError(f"{part.metric} has a width")
        return MetricColumn(rows, values)
    return MetricColumn(rows, values.reshape(part.count, part.width).tolist())


def _numbers(values: Any) -> NDArray[np.float64] | None:
    """Values as (items,) or (items, width); None where they are something else."""
    if isinstance(values, np.ndarray):
        return values
    if not all(isinstance(each, list) and each and all(_is_number(one) for one in each) for each in values):
        return None
    if len({len(each) for each in values}) != 1 or len(values[0]) > 64:
        return None
    return np.array(values, dtype=np.float64)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 2**53
