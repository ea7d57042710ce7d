"""Read the data that phibench carries with it in suites/data."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any


def read_rows(folder: str, name: str) -> list[dict[str, Any]]:
    """The rows of suites/data/`folder`/`name`, a file with one JSON object a line.

    Raises:
        ValueError: there is no such file.
    """
    path = files("phibench.suites") / "data" / folder / name
    if not path.is_file():
        raise ValueError(f"no embedded file {folder}/{name}; is phibench installed with its data?")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
