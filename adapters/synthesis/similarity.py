"""How alike two short texts are, by the words that carry them; duplicates, near-duplicates and groups of kin.

The measure is a weighted Jaccard index over the sets of stemmed words: what two texts share over what either has. A
function word ("what", "has", "but", "not") weighs a quarter of any other, so that riddles cast in one mould with other
words in it ("What has legs but cannot walk?", "What has hands but cannot clap?") are not taken for one another, while
rewordings are ("What has keys but can't open locks?", "What has keys but cannot open a lock?"). It looks at nothing but
the two texts, so a pair's likeness does not depend on what else there is, and every pair that matters is compared.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence

from nltk.stem.porter import PorterStemmer

DUPLICATE = 0.7  # as alike as this: one of the two is enough
KIN = 0.5  # as alike as this: both on the same side of the split

_FUNCTION_WEIGHT = 0.25
_FUNCTION_WORDS = frozenset(
    "a an and any are am as at be been but by can cannot could did do does each for from had has have he her his how i"
    " if in is it its just may me my never no not of on one or our she should so some than that the their them then"
    " there these they this those though to us was we were what when where which while who whose why will with without"
    " would yet you your".split()
)
_NEGATIONS = {"can't": "cannot", "won't": "will not", "shan't": "shall not"}


def words(text: str) -> list[str]:
    """The words of a text, without case, accents of typography, punctuation or contracted negations."""
    plain = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    for short, whole in _NEGATIONS.items():
        plain = plain.replace(short, whole)
    plain = re.sub(r"n't\b", " not", plain)
    return re.findall(r"\w+", re.sub(r"'(?:s|re|m|ve|ll|d)\b|'", "", plain))


def normalized(text: str) -> str:
    """What two texts have in common that differ only in case, spacing, punctuation or contractions."""
    return " ".join(words(text))


class Index:
    """Texts that others are compared to, in the order in which they came."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._plain: list[str] = []
        self._sets: list[frozenset[str]] = []
        self._by_word: dict[str, list[int]] = defaultdict(list)

    def add(self, text: str) -> None:
        """Add a text."""
        stems = _stems(text)
        for word in stems - _FUNCTION_WORDS:
            self._by_word[word].append(len(self.texts))
        self.texts.append(text)
        self._plain.append(f" {normalized(text)} ")
        self._sets.append(stems)

    def alike(self, text: str, least: float) -> Iterator[tuple[int, float]]:
        """The texts at least so alike, by number: (number, likeness).

        Texts without any word but function words are like nothing: see :func:`normalized` for those.
        """
        stems = _stems(text)
        numbers = {number for word in stems - _FUNCTION_WORDS for number in self._by_word.get(word, ())}
        for number in sorted(numbers):
            likeness = _jaccard(stems, self._sets[number])
            if likeness >= least:
                yield number, likeness

    def containing(self, text: str) -> int | None:
        """The first text that has all the words of this one in a row."""
        piece = f" {normalized(text)} "
        return next((number for number, plain in enumerate(self._plain) if piece in plain), None)

    def closest(self, text: str, least: float = 0.0) -> tuple[int, float] | None:
        """The text that is most alike, the earliest of several; None where none is alike at all."""
        return max(self.alike(text, max(least, 1e-9)), key=lambda found: (found[1], -found[0]), default=None)


def likeness(first: str, second: str) -> float:
    """How alike two texts are, from 0 to 1."""
    return _jaccard(_stems(first), _stems(second))


def groups(texts: Sequence[str], least: float = KIN) -> list[list[int]]:
    """Numbers of texts that are alike, directly or through others; every text is in exactly one group."""
    leader = list(range(len(texts)))

    def find(number: int) -> int:
        while leader[number] != number:
            leader[number] = leader[leader[number]]
            number = leader[number]
        return number

    index = Index()
    for number, text in enumerate(texts):
        for other, _ in index.alike(text, least):
            first, second = sorted((find(other), find(number)))
            leader[second] = first
        index.add(text)
    found: dict[int, list[int]] = defaultdict(list)
    for number in range(len(texts)):
        found[find(number)].append(number)
    return list(found.values())


def runs(text: str, length: int) -> set[tuple[str, ...]]:
    """Every run of `length` words of a text."""
    found = words(text)
    return {tuple(found[start : start + length]) for start in range(len(found) - length + 1)}


def _jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    either = _weight(first | second)
    return _weight(first & second) / either if either else 0.0


def _weight(stems: frozenset[str]) -> float:
    function = len(stems & _FUNCTION_WORDS)
    return len(stems) - function + _FUNCTION_WEIGHT * function


def _stems(text: str) -> frozenset[str]:
    return frozenset(word if word in _FUNCTION_WORDS else _stem(word) for word in words(text))


@functools.cache
def _stem(word: str) -> str:
    return str(_STEMMER.stem(word))


_STEMMER = PorterStemmer()
