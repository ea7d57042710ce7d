"""The rows of a recipe: read from a file or a dataset, with a hash of what was read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import sha256_file, sha256_json
from .recipe import Recipe, RowsSpec, data_file


@dataclass(frozen=True)
class Rows:
    """Rows of one source, each with the name that an error or a report gives it."""

    source: str
    sha256: str  # of the file, or of the rows themselves
    rows: list[tuple[str, Mapping[str, Any]]]


def read_data(recipe: Recipe, path: Path, *, seed: int, offline: bool = False) -> tuple[Rows, Rows | None]:
    """The rows to train on, and those held out.

    Args:
        recipe: what the recipe says.
        path: its file.
        seed: which rows `eval_fraction` holds out.
        offline: take datasets from this machine only.

    Raises:
        UserError: for data that is missing, broken or empty.
    """
    train = read_rows(recipe.data.train, path, offline=offline)
    if recipe.data.eval is not None:
        return train, read_rows(recipe.data.eval, path, offline=offline)
    if recipe.data.eval_fraction is None:
        return train, None
    return _split(train, recipe.data.eval_fraction, seed)


def read_rows(spec: RowsSpec, recipe: Path, *, offline: bool = False) -> Rows:
    """The rows of one source.

    Raises:
        UserError: for data that is missing, broken or empty.
    """
    if spec.file is not None:
        file = data_file(spec.file, recipe)
        found = Rows(spec.file, sha256_file(file), list(_lines(file)))
    else:
        found = _dataset(spec, offline=offline)
    if not found.rows:
        raise UserError("the training data is empty", where=found.source)
    return Rows(found.source, found.sha256, found.rows[: spec.limit])


def _lines(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        # Not `splitlines`: Unicode's other line breaks are ordinary characters inside a JSON string.
        lines = file.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"this is not UTF-8 text: {error}", where=str(file)) from None
    for number, line in enumerate(lines if lines != [""] else [], 1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("a row must be a JSON object")
        except ValueError as error:
            raise UserError(str(error), where=f"{file}:{number}") from None
        yield f"line {number}", row


def _dataset(spec: RowsSpec, *, offline: bool) -> Rows:
    import datasets

    source = f"{spec.path}{f':{spec.name}' if spec.name else ''}[{spec.split}]"
    options = datasets.DownloadConfig(local_files_only=offline)
    try:
        found = datasets.load_dataset(
            spec.path, spec.name, split=spec.split, revision=spec.revision, download_config=options
        )
    except Exception as error:  # a network, a hub, a cache and a script's fault all look different
        text = " ".join(str(error).split())[:200]
        raise UserError(
            f"the dataset cannot be read: {text}", where=source, fix="check its id, configuration and split"
        ) from error
    rows = [(f"{spec.split} row {number}", row) for number, row in enumerate(found, 1)]
    return Rows(source, sha256_json([row for _, row in rows]), rows)


def _split(rows: Rows, fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Hold a share of the rows out; the others keep their order."""
    import numpy as np

    count = round(fraction * len(rows.rows))
    if not 0 < count < len(rows.rows):
        raise UserError(
            f"data.eval_fraction = {fraction} of {len(rows.rows)} rows leaves one side empty", where=rows.source
        )
    held = set(np.random.default_rng(seed).permutation(len(rows.rows))[:count].tolist())
    sides: tuple[list[Any], list[Any]] = ([], [])
    for number, row in enumerate(rows.rows):
        sides[number in held].append(row)
    return Rows(rows.source, rows.sha256, sides[0]), Rows(rows.source, rows.sha256, sides[1])


def strings(value: Any) -> Iterator[str]:
    """Every text in a row, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from strings(part)
