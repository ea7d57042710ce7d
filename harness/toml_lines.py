"""Which line of a TOML file each key stands on; `tomllib` does not tell."""

from __future__ import annotations

import re
import tomllib

Path = tuple[str | int, ...]

_GAP = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")  # what may stand between two statements, or two entries of an array
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})'  # a multi-line string may end in quotes of its own
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\n]+")  # a number, a date, true or false


def key_lines(text: str) -> dict[Path, int]:
    """Line numbers (from 1) of every table, key and entry of an array, those of inline tables included.

    Args:
        text: TOML that `tomllib` accepts: no more of it is read than it takes to follow the keys.
    """
    return _Reader(text).document()


def line_of(lines: dict[Path, int], path: Path) -> int | None:
    """The line of `path`, or of the nearest key above it that has one."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return None


class _Reader:
    """Walks through the text once; `at` is where it stands."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Path, int] = {}
        self.counts: dict[Path, int] = {}  # tables in each array of tables so far
        self._line = 1
        self._counted = 0

    def document(self) -> dict[Path, int]:
        table: Path = ()
        while self._skip():
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)
        return self.lines

    def _header(self) -> Path:
        line = self._here()
        brackets = 2 if self.text.startswith("[[", self.at) else 1
        self.at += brackets
        keys = self._resolved(self._key())
        self.at += brackets
        if brackets == 2:
            index = self.counts.get(keys, 0)
            self.counts[keys] = index + 1
            self.lines.setdefault(keys, line)
            keys = (*keys, index)
        self._note(keys, line)
        return keys

    def _pair(self, table: Path) -> None:
        line = self._here()
        path = (*table, *self._key())
        self._note(path, line)
        self.at += 1  # the sign "="
        self._skip()
        self._value(path)

    def _value(self, path: Path) -> None:
        opened = self.text[self.at]
        if opened in "[{":
            self.at += 1
            index = 0
            while self._skip() and self.text[self.at] not in "]}":
                if self.text[self.at] == ",":
                    self.at += 1
                elif opened == "{":
                    self._pair(path)
                else:
                    self._note((*path, index), self._here())
                    self._value((*path, index))
                    index += 1
            self.at += 1
        else:
            self._match(_STRING if opened in "\"'" else _SCALAR)

    def _key(self) -> Path:
        """The parts of a dotted key, and the blanks behind it."""
        parts: list[str] = []
        while True:
            self._skip()
            quoted = self.text[self.at] in "\"'"
            part = self._match(_STRING if quoted else _BARE)
            parts.append(tomllib.loads(f"key = {part}")["key"] if quoted else part)
            self._skip()
            if not self.text.startswith(".", self.at):
                return tuple(parts)
            self.at += 1

    def _resolved(self, keys: Path) -> Path:
        """Put the current index behind every part of a header that names an array of tables."""
        resolved: Path = ()
        for position, key in enumerate(keys):
            resolved = (*resolved, key)
            if position < len(keys) - 1 and resolved in self.counts:
                resolved = (*resolved, self.counts[resolved] - 1)
        return resolved

    def _note(self, path: Path, line: int) -> None:
        self.lines[path] = line
        for length in range(1, len(path)):  # tables that no header of their own opens
            self.lines.setdefault(path[:length], line)

    def _skip(self) -> bool:
        """Go past blanks, line ends and comments; False at the end of the text."""
        self._match(_GAP)
        return self.at < len(self.text)

    def _match(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.at)
        if found is None:
            raise ValueError(f"line {self._here()}: this is not TOML")
        self.at = found.end()
        return found.group()

    def _here(self) -> int:
        self._line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line
