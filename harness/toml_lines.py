"""Which line of a TOML file each key stands on; `tomllib` does not tell."""

from __future__ import annotations

import re

Path = tuple[str | int, ...]

_HEADER = re.compile(r"^\s*(\[\[?)\s*(.+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"""^\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=\s*(.*)$""")
_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")


def key_lines(text: str) -> dict[Path, int]:
    """Line numbers (from 1) of every table and key; entries of arrays of tables are numbered from 0.

    Keys inside inline tables and arrays are not listed: :func:`line_of` falls back to the key that holds them.
    """
    lines: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    open_string: str | None = None
    depth = 0  # of brackets opened by a value that goes on over lines
    for number, line in enumerate(text.splitlines(), 1):
        if open_string is not None:
            if open_string in line:
                open_string = None
            continue
        if depth > 0:
            depth += _depth(line)
            continue
        if header := _HEADER.match(line):
            keys = _resolve(_parts(header.group(2)), counts)
            if header.group(1) == "[[":
                index = counts.get(keys, 0)
                counts[keys] = index + 1
                lines.setdefault(keys, number)
                keys = (*keys, index)
            table = keys
            lines[table] = number
        elif key := _KEY.match(line):
            path = (*table, *_parts(key.group(1)))
            lines[path] = number
            value = key.group(2)
            for quotes in ('"""', "'''"):
                if value.count(quotes) == 1:
                    open_string = quotes
            if open_string is None:
                depth = max(0, _depth(value))
    return lines


def line_of(lines: dict[Path, int], path: Path) -> int | None:
    """The line of `path`, or of the nearest key above it that has one."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return None


def _parts(dotted: str) -> Path:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))


def _resolve(keys: Path, counts: dict[Path, int]) -> Path:
    """Put the current index behind every part of a header that names an array of tables."""
    resolved: Path = ()
    for position, key in enumerate(keys):
        resolved = (*resolved, key)
        if position < len(keys) - 1 and resolved in counts:
            resolved = (*resolved, counts[resolved] - 1)
    return resolved


def _depth(text: str) -> int:
    bare = re.sub(r'"(?:\\.|[^"\\])*"|\'[^\']*\'', "", text).split("#")[0]
    return bare.count("[") + bare.count("{") - bare.count("]") - bare.count("}")
