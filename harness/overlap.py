"""Which texts share a run of words with which others: the method behind the check for contamination.

Texts are normalised to words, and all runs of a length are compared at once, exactly: equal runs have equal keys, which
are made by doubling (a run of eight words is a pair of runs of four) and hold no hashes. docs/contamination.md has the
rules and their reasons. Needs numpy alone.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

WORDS = 13  # in a row: GPT-3's upper bound
FEWEST = 8  # words of a text that is looked for whole: GPT-3's lower bound, and PaLM's length
SHARE = 0.05  # a run of FEWEST words in more than this share of the items, ...
COMMON = 5  # ... and in more than this many of them, is part of a template
_AT_ONCE = 10_000_000  # characters of rows that are compared together

# Chinese and Japanese are written without spaces: each character counts as a word.
_UNSPACED = "\u3041-\u3096\u30a1-\u30fa\u30fc-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
_ASCII = {code: chr(code).lower() if chr(code).isalnum() else " " for code in range(128)}
_INVISIBLE = dict.fromkeys([0xAD, 0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF])  # soft hyphens, joiners and the like

Numbers: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]


def normalised_words(text: str) -> list[str]:
    """The words of a text, without case, punctuation, white space, and differences that Unicode calls compatible."""
    if text.isascii():
        return text.translate(_ASCII).split()
    return _WORD.findall(unicodedata.normalize("NFKC", text.translate(_INVISIBLE)).casefold())


@dataclass(frozen=True)
class Overlap:
    """What training rows and the items of a task share: positions of both, and the longest run of words."""

    checked: int  # items that had something to compare
    items: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()
    run: tuple[str, ...] = ()  # normalised


def find_overlaps(
    rows: Sequence[str], tasks: Sequence[Sequence[Sequence[str]]], *, words: int = WORDS, at_once: int = _AT_ONCE
) -> list[Overlap]:
    """Compare training rows with the items of tasks.

    Args:
        rows: a text each.
        tasks: the items of each task; an item is its texts.
        words: how many words in a row count as an overlap; no fewer than :data:`FEWEST`.
        at_once: characters of rows that are compared together, which bounds memory; the result is the same.

    Returns:
        An overlap for each task.

    Raises:
        ValueError: `words` is too small.
    """
    if words < FEWEST:
        raise ValueError(f"words must be at least {FEWEST}; got {words}")
    found = [Overlap(0)] * len(tasks)
    for first, part in _parts(rows, at_once):
        corpus = _Corpus([*part, *(text for items in tasks for item in items for text in item)])
        training = _Training(corpus, len(part))
        text = len(part)
        for number, items in enumerate(tasks):
            task = _Task(corpus, text, items)
            found[number] = _joined(found[number], _compare(corpus, training, task, words), first)
            text = task.end_text
    return found


def _parts(rows: Sequence[str], at_once: int) -> Iterator[tuple[int, Sequence[str]]]:
    """The rows in parts, at least one, each with the position of its first row."""
    first = held = 0
    for position, row in enumerate(rows):
        if held and held + len(row) > at_once:
            yield first, rows[first:position]
            first, held = position, 0
        held += len(row)
    yield first, rows[first:]


def _joined(one: Overlap, other: Overlap, first: int) -> Overlap:
    """Two parts' overlaps with the same items as one; the rows of the other begin at `first`."""
    return Overlap(
        checked=other.checked,
        items=tuple(sorted({*one.items, *other.items})),
        rows=one.rows + tuple(first + row for row in other.rows),
        run=max(one.run, other.run, key=len),
    )


class _Corpus:
    """Texts as one row of numbered words, in which runs of words have the same key exactly where they are equal."""

    def __init__(self, texts: Iterable[str]) -> None:
        numbers: defaultdict[str, int] = defaultdict()
        numbers.default_factory = numbers.__len__
        words = array("q")
        lengths = array("q")
        for text in texts:
            found = normalised_words(text)
            words.extend(map(numbers.__getitem__, found))
            lengths.append(len(found))
        self.vocabulary = list(numbers)
        self.lengths = np.array(lengths, dtype=np.int64)
        self.bounds = np.concatenate([[0], np.cumsum(self.lengths)])  # of each text
        self._words = np.array(words, dtype=np.int64)
        # Words from each place to the end of its text.
        self.room = np.repeat(self.bounds[1:], self.lengths) - np.arange(len(self._words))
        self._ranks = {1: self._words.astype(np.int32)}

    def keys(self, at: Numbers, length: int) -> Numbers:
        """A key for the run of `length` words that begins at each place; each must lie within one text."""
        half = 1 << (length.bit_length() - 1)
        rank = self._rank(half)
        return rank[at].astype(np.int64) << 32 | rank[at + (length - half)]

    def text(self, at: int, length: int) -> tuple[str, ...]:
        """The words of a run."""
        return tuple(self.vocabulary[number] for number in self._words[at : at + length])

    def _rank(self, length: int) -> NDArray[np.int32]:
        """A number for the run of `length` words (a power of two) at each place from which there are so many."""
        if length not in self._ranks:
            half = self._rank(length // 2)
            at = np.flatnonzero(self.room >= length)
            pairs = half[at].astype(np.int64) << 32 | half[at + length // 2]
            rank = np.zeros_like(half)
            rank[at] = np.unique(pairs, return_inverse=True)[1]
            self._ranks[length] = rank
        return self._ranks[length]


class _Training:
    """The training rows: the first texts of a corpus."""

    def __init__(self, corpus: _Corpus, rows: int) -> None:
        self._corpus = corpus
        self._bounds = corpus.bounds[: rows + 1]
        self._room = corpus.room[: self._bounds[-1]]
        self._runs: dict[int, tuple[Numbers, Numbers]] = {}

    def has(self, keys: Numbers, length: int) -> Flags:
        """Which keys are those of a run in any row."""
        return _among(keys, self._sorted(length)[0])

    def places(self, keys: Numbers, length: int) -> Numbers:
        """Where runs with any of the keys begin."""
        known, at = self._sorted(length)
        wanted = _distinct(keys)
        first = np.searchsorted(known, wanted)
        counts = np.searchsorted(known, wanted, side="right") - first
        return at[np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())]

    def rows_at(self, places: Numbers) -> Numbers:
        """The row to which each place belongs."""
        return np.searchsorted(self._bounds, places, side="right") - 1

    def _sorted(self, length: int) -> tuple[Numbers, Numbers]:
        """The keys of all runs of a length in order, and where each begins."""
        if length not in self._runs:
            at = np.flatnonzero(self._room >= length)
            keys = self._corpus.keys(at, length)
            order = np.argsort(keys)
            self._runs[length] = keys[order], at[order]
        return self._runs[length]


class _Task:
    """The items of a task within a corpus, and which of their words belong to a template."""

    def __init__(self, corpus: _Corpus, first_text: int, items: Sequence[Sequence[str]]) -> None:
        counts = np.array([len(item) for item in items], dtype=np.int64)
        self.end_text = first_text + int(counts.sum())
        self._corpus = corpus
        self._begin = int(corpus.bounds[first_text])
        texts = slice(first_text, self.end_text)
        self._lengths = corpus.lengths[texts]
        self._starts = corpus.bounds[texts]
        self._room = corpus.room[self._begin : corpus.bounds[self.end_text]]
        self._item = np.repeat(np.repeat(np.arange(len(items)), counts), self._lengths)
        # Items that say the same count once where a template is looked for.
        twins: dict[tuple[str, ...], int] = {}
        same = np.array([twins.setdefault(tuple(item), number) for number, item in enumerate(items)], dtype=np.int64)
        covered = self._template(same[self._item], len(twins), len(items))
        self._covered = np.concatenate([[0], np.cumsum(covered)])

    def places(self, length: int) -> Numbers:
        """Where runs of so many words begin that hold no word of a template."""
        return self.free(np.arange(len(self._room)) + self._begin, length)

    def whole_texts(self, length: int) -> Numbers:
        """Where texts of just so many words begin that hold no word of a template."""
        return self.free(self._starts[self._lengths == length], length)

    def items_at(self, places: Numbers) -> Numbers:
        """The item to which each place belongs."""
        return self._item[places - self._begin]

    def free(self, at: Numbers, length: int) -> Numbers:
        """Those places from which so many words of one text follow, none of them a template's."""
        here = at - self._begin
        here = here[self._room[here] >= length]
        return here[self._covered[here + length] == self._covered[here]] + self._begin

    def _template(self, item: Numbers, distinct: int, items: int) -> Flags:
        """Which words lie in a run of FEWEST words that too many distinct items, or all of several, have."""
        most = max(COMMON, int(SHARE * distinct))
        most = min(most, distinct - 1) if distinct > 1 else most
        at = np.flatnonzero(self._room >= FEWEST)
        keys = self._corpus.keys(at + self._begin, FEWEST)
        ordered = np.sort(keys)
        later = ordered[most:]
        often = _among(keys, later[later == ordered[: len(later)]])  # in items or within one
        at, run = at[often], np.unique(keys[often], return_inverse=True)[1]
        having = np.bincount(_distinct(run * items + item[at]) // max(items, 1))  # distinct items with each run
        begins = at[having[run] > most]
        edges = np.zeros(len(self._room) + 1, dtype=np.int64)
        edges[begins] += 1
        edges[begins + FEWEST] -= 1
        return np.cumsum(edges)[:-1] > 0


def _compare(corpus: _Corpus, training: _Training, task: _Task, words: int) -> Overlap:
    checked: set[int] = set()
    items: set[int] = set()
    rows: set[int] = set()
    run: tuple[str, ...] = ()
    for length in range(FEWEST, words + 1):  # texts that are too short for a run are looked for whole
        at = task.places(length) if length == words else task.whole_texts(length)
        checked.update(_distinct(task.items_at(at)).tolist())
        keys = corpus.keys(at, length)
        shared = training.has(keys, length)
        if shared.any():
            at = at[shared]
            places = training.places(keys[shared], length)
            items.update(_distinct(task.items_at(at)).tolist())
            rows.update(_distinct(training.rows_at(places)).tolist())
            place, longest = _longest(corpus, task, at, places, length) if length == words else (int(at[0]), length)
            run = corpus.text(place, longest)
    return Overlap(len(checked), tuple(sorted(items)), tuple(sorted(rows)), run)


def _longest(corpus: _Corpus, task: _Task, ours: Numbers, theirs: Numbers, length: int) -> tuple[int, int]:
    """Place and length of the longest run that a task and a row share, the first of its length.

    Args:
        corpus: what the places belong to.
        task: the task.
        ours: where the task's runs of `length` words begin that some row has, in order.
        theirs: where the same runs begin in rows.
        length: of those runs.
    """

    def first(longer: int) -> int | None:
        at, rows = task.free(ours, longer), theirs[corpus.room[theirs] >= longer]
        if not len(at) or not len(rows):
            return None
        shared = at[_among(corpus.keys(at, longer), np.sort(corpus.keys(rows, longer)))]
        return int(shared[0]) if len(shared) else None

    place, beyond = int(ours[0]), 2 * length
    while (found := first(beyond)) is not None:
        place, length, beyond = found, beyond, 2 * beyond
    while beyond - length > 1:  # a part of a shared run is shared too
        middle = (length + beyond) // 2
        if (found := first(middle)) is None:
            beyond = middle
        else:
            place, length = found, middle
    return place, length


def _distinct(numbers: Numbers) -> Numbers:
    """The numbers in order, each once. numpy's own `unique` takes ten times as long where nothing else is asked."""
    ordered = np.sort(numbers)
    return ordered[np.flatnonzero(np.diff(ordered, prepend=-1))]


def _among(keys: Numbers, known: Numbers) -> Flags:
    """Which keys are among the `known`, which are in order; for the same reason not numpy's `isin`."""
    found = np.zeros(len(keys), dtype=np.bool_)
    if len(known):
        order = np.argsort(keys)  # looked up in order, which memory is kind to
        wanted = keys[order]
        found[order] = known[np.minimum(np.searchsorted(known, wanted), len(known) - 1)] == wanted
    return found
