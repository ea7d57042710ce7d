"""The seeds: riddles that people wrote, of which some are shown in each call."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ...errors import UserError


@dataclass(frozen=True)
class Seeds:
    """The seeds of one data set."""

    source: str  # the file as the user named it, or the embedded one's name
    sha256: str
    texts: tuple[str, ...]

    def shown(self, count: int, seed: int, call: int) -> list[str]:
        """The seeds that one call shows; a call's choice does not depend on how many calls there are."""
        return random.Random(f"{seed} seeds of call {call}").sample(self.texts, count)


def embedded_seeds(name: str, column: str) -> Seeds:
    """The seeds that come with phibench: suites/data/synthesis/`name`."""
    place = files("phibench.suites") / "data" / "synthesis" / name
    return _read(place.read_bytes(), f"phibench:{name}", column)


def read_seeds(path: Path, column: str) -> Seeds:
    """Read seeds from a file of the user's.

    Args:
        path: JSON Lines whose rows have `column`, or a text file with one seed a line (`.txt`).
        column: the column of the seed's text.

    Raises:
        UserError: when the file cannot be read, or a row of it.
    """
    if path.suffix not in (".jsonl", ".txt"):
        raise UserError(
            f'seeds are read from .jsonl and .txt files, not "{path.suffix or path.name}"',
            where=f"--seeds {path}",
            fix=f'give JSON Lines with a column "{column}", or a text file with one seed a line',
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"the seeds cannot be read: {error.strerror}", where=f"--seeds {path}") from None
    return _read(content, str(path), column)


def refuse_too_few(seeds: Seeds, per_call: int) -> None:
    """Refuse to show the same seeds in every call, or more than there are.

    Raises:
        UserError: when there are not more seeds than one call shows.
    """
    if len(seeds.texts) <= per_call:
        raise UserError(
            f"a call shows {per_call} seeds, and there are only {len(seeds.texts)}: every call would be alike",
            where=f"--seeds {seeds.source}",
            fix="give more seeds, or lower --per-call",
        )


def _read(content: bytes, source: str, column: str) -> Seeds:
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"this is not UTF-8 text: {error}", where=source) from None
    is_text = source.endswith(".txt")
    texts = [
        " ".join((line if is_text else _text_of(line, column, f"{source}:{number}")).split())
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    return Seeds(source, hashlib.sha256(content).hexdigest(), tuple(dict.fromkeys(texts)))


def _text_of(line: str, column: str, where: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"this line is not JSON: {error}", where=where) from None
    text = row.get(column) if isinstance(row, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise UserError(f'this row has no text under "{column}"', where=where, fix=f'{{"{column}": "..."}}')
    return text
