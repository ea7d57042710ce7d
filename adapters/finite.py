"""Weights that are no numbers, looked for in an adapter's file before it is published. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ..errors import UserError
from .adapter_files import WEIGHTS, AdapterFiles

_NUMBERS = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
_BFLOAT16_EXPONENT = 0x7F80  # all of its bits set: NaN or infinity; numpy has no such type


def nonfinite_in(file: Path) -> tuple[list[str], int]:
    """The names of a safetensors file's tensors that hold NaN or infinity, and how many tensors it has.

    Raises:
        ValueError: it is not such a file, or cut short.
    """
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size)) if size < file.stat().st_size else None
    if not isinstance(header, dict):
        raise ValueError("it has no header")
    header.pop("__metadata__", None)
    data = np.memmap(file, np.uint8, "r", offset=8 + size) if file.stat().st_size > 8 + size else np.empty(0, np.uint8)
    broken = []
    for name, about in header.items():
        start, end = about["data_offsets"]
        if end > len(data):
            raise ValueError("it is cut short")
        if not _is_finite(data[start:end], about["dtype"]):
            broken.append(name)
    return broken, len(header)


def _is_finite(raw: np.ndarray, dtype: str) -> bool:
    """Whether all numbers of a tensor's bytes are finite; whole numbers always are."""
    if dtype == "BF16":
        return not bool(((raw.view(np.uint16) & _BFLOAT16_EXPONENT) == _BFLOAT16_EXPONENT).any())
    return dtype not in _NUMBERS or bool(np.isfinite(raw.view(_NUMBERS[dtype])).all())


def refuse_nonfinite(adapter: AdapterFiles) -> None:
    """Refuse an adapter whose saved weights are not all finite. A pickle is refused elsewhere.

    Raises:
        UserError: for those, or a file that cannot be read.
    """
    if adapter.weights.name != WEIGHTS:
        return
    try:
        broken, count = nonfinite_in(adapter.weights)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{WEIGHTS} cannot be read: {error}", where=adapter.source, fix="copy or save the adapter again"
        ) from None
    if broken:
        raise UserError(
            f"{len(broken)} of its {count} weights are not finite (NaN or infinity), such as {broken[0]}",
            where=f"{adapter.source}/{WEIGHTS}",
            fix="train it again, with a lower learning_rate or in bfloat16 or float32 rather than float16",
        )
