"""Find citation markers in an answer, and tell those that name numbers from those that do not.

What counts as a marker, and what it names:

* `[1]`, `[1, 2]`, `[1; 2]`, `[1 2]`, `[1 and 2]`: each number is one citation; `[1][2]` are two markers.
* `[1-3]`, with a hyphen or any dash: the citations 1, 2 and 3.
* Malformed, one each: empty or without a number (`[ ]`, `[?]`), a broken range or list (`[1-]`, `[3-1]`,
  `[1,]`), other signs at a number (`[-1]`, `[1.5]`, `[^1]`, `[#1]`, `[1a]`, `[1, p. 5]`), a bracket that is
  not closed (`[1`), one letter standing alone (`[a]`), a word that announces a citation (`[citation needed]`,
  `[ref 2]`), a range of more than 50 numbers, a number of more than six digits, and numbers in other brackets
  made for citing (`【1】`).
* Not markers but text: `[sic]`, `[...]`, `[emphasis added]`, `[10 kg of rice]`, letters inside a word
  (`[a]ll`, `tree[s]`).

Whether a number names a given reference is not decided here: `[0]` and `[99]` are well-formed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_MAX_RANGE = 50  # longer ranges are noise, and must not cost memory

_DASH = "[-\u2010-\u2015\u2212]"
_NUMBER = "[0-9]{1,6}"
_ITEM = rf"{_NUMBER}(?:\s*{_DASH}\s*{_NUMBER})?"
_SEPARATOR = r"(?:\s*[,;&]\s*(?:and\s+)?|\s+and\s+|\s+)"
_LIST = re.compile(rf"{_ITEM}(?:{_SEPARATOR}{_ITEM})*")
_ITEM_PARTS = re.compile(rf"({_NUMBER})(?:\s*{_DASH}\s*({_NUMBER}))?")
_SHORT_BRACKET = re.compile(
    r"\[+(?P<inside>[^\[\]\n]{0,60})\]+"
    r"|(?P<lenticular>\u3010[^\u3010\u3011\n]{0,60}\u3011)"
    rf"|(?P<open>\[+\s*[0-9]+(?:\s*(?:,|;|{_DASH})\s*[0-9]*)*)"
)
_ANNOUNCES = re.compile(r"(?:cit(?:e|ation)|ref(?:erence)?|source|doc(?:ument)?|(?:foot)?note)s?\b", re.IGNORECASE)
_NUMBER_AND_MORE = re.compile(r"[0-9]+\s*(?:[^\W\d_]|[^\w\s])")
_NUMBER_AND_WORD = re.compile(r"[0-9]+\s+[^\W\d_]")


@dataclass(frozen=True)
class Marker:
    """One bracket: where it stands in the answer, and the numbers it cites (none: it is malformed)."""

    start: int
    end: int
    text: str
    numbers: tuple[int, ...]


def find_markers(answer: str) -> list[Marker]:
    """The markers of `answer` from left to right; they do not overlap."""
    markers = []
    for match in _SHORT_BRACKET.finditer(answer):
        inside = match["inside"]
        numbers = None if inside is None else _numbers(inside.strip())
        if inside is not None and numbers is None and not _is_malformed(answer, match, inside.strip()):
            continue
        markers.append(Marker(match.start(), match.end(), match.group(), numbers or ()))
    return markers


def _numbers(inside: str) -> tuple[int, ...] | None:
    """The numbers that the inside of a bracket names; None if it is no list of numbers and ranges."""
    if not _LIST.fullmatch(inside):
        return None
    numbers: list[int] = []
    for first, last in _ITEM_PARTS.findall(inside):
        low, high = int(first), int(last or first)
        if not 0 <= high - low < _MAX_RANGE:
            return None
        numbers.extend(range(low, high + 1))
    return tuple(numbers)


def _is_malformed(answer: str, match: re.Match[str], inside: str) -> bool:
    """Whether a bracket that names no numbers was still meant as a citation (see the module's list)."""
    if not any(character.isalpha() for character in inside):
        return inside.strip(".\u2026 ") != "" or inside == ""
    if len(inside) == 1:
        around = answer[match.start() - 1 : match.start()] + answer[match.end() : match.end() + 1]
        return not any(character.isalpha() for character in around)
    if _ANNOUNCES.match(inside):
        return True
    return bool(_NUMBER_AND_MORE.match(inside.lstrip("^#"))) and not _NUMBER_AND_WORD.match(inside)
