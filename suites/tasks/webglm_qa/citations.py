"""Citations in an answer: which sentence cites which reference, and the metrics that follow from it.

An answer is cut into sentences after its markers are taken out, and every marker is bound to a sentence:
to the text before it, also across a full stop ("Text. [1] Next" cites 1 for "Text."), unless it opens a line
or the answer and text follows on that line. Which brackets are markers is said in `markers`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..sentences import sentence_spans
from .markers import Marker, find_markers
from .support import Judge

_BETWEEN = re.compile(r"[ \t]*(?:[,;&]|and\b)?[ \t]*(?:and\b)?[ \t]*")
_AROUND = (("(", ")"), ("**", "**"), ("*", "*"), ("<sup>", "</sup>"))
_LINE_OPENING = re.compile(r"[\s*\u2022-]*")


@dataclass(frozen=True)
class CitedSentence:
    """A sentence without its markers, and the numbers that it cites, in order and with repeats."""

    text: str
    cited: tuple[int, ...]


@dataclass(frozen=True)
class ParsedAnswer:
    """An answer taken apart.

    `text` is the answer without markers; `cited` has every number of every marker in order, also those of an
    answer that has no sentence; `malformed` has the malformed markers as written.
    """

    text: str
    sentences: tuple[CitedSentence, ...]
    cited: tuple[int, ...]
    malformed: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left of the answer once markers and signs are taken out."""
        return not self.sentences


def parse_answer(answer: str) -> ParsedAnswer:
    """Take `answer` apart into sentences and the numbers they cite."""
    markers = find_markers(answer)
    text, anchors = _cut(answer, markers)
    spans = sentence_spans(text)
    cited: list[list[int]] = [[] for _ in spans]
    for marker, (position, opens_line) in zip(markers, anchors, strict=True):
        if spans:
            cited[_bind(spans, position, opens_line)].extend(marker.numbers)
    return ParsedAnswer(
        text=text.strip(),
        sentences=tuple(
            CitedSentence(" ".join(text[start:end].split()), tuple(numbers))
            for (start, end), numbers in zip(spans, cited, strict=True)
        ),
        cited=tuple(number for marker in markers for number in marker.numbers),
        malformed=tuple(marker.text for marker in markers if not marker.numbers),
    )


def validity(answer: ParsedAnswer, references: int) -> float:
    """Share of the citations that name one of the references 1 to `references`; 0 if nothing is cited.

    Each number is a citation, and so is each malformed marker, which names nothing. The definition is ours.
    """
    total = len(answer.cited) + len(answer.malformed)
    valid = len(answer.cited) - fabricated(answer, references)
    return valid / total if total and not answer.is_empty else 0.0


def fabricated(answer: ParsedAnswer, references: int) -> int:
    """Number of citations that name no given reference: 0, or more than there are."""
    return sum(not 1 <= number <= references for number in answer.cited)


def coverage(answer: ParsedAnswer, references: int) -> float:
    """Share of the sentences that cite at least one given reference, whether it supports them or not.

    The definition is ours: ALCE's recall without the judge, and so a bound from above on it.
    """
    return _share([bool(_given(sentence, references)) for sentence in answer.sentences])


def duplicates(answer: ParsedAnswer) -> int:
    """Number of citations that repeat one which the same sentence has already."""
    return sum(len(sentence.cited) - len(set(sentence.cited)) for sentence in answer.sentences)


def per_sentence(answer: ParsedAnswer) -> float:
    """Well-formed citations, fabricated and repeated ones too, for each sentence."""
    return len(answer.cited) / len(answer.sentences) if answer.sentences else 0.0


def recall_and_precision(answer: ParsedAnswer, references: Sequence[str], judge: Judge) -> tuple[float, float]:
    """Citation recall and precision after ALCE (Gao et al. 2023, arXiv 2305.14627).

    Recall: share of the sentences that are supported by the references they cite, joined by newlines.
    Precision: share of the citations that count. One counts if its sentence is supported and its reference is
    not irrelevant: it supports the sentence alone, or without it the others do not.

    Every sentence is a statement, as in ALCE, and a reference cited twice in a sentence is one citation. A
    number that names no reference adds nothing to what a sentence cites and is one citation that does not
    count; ALCE's published code instead scores the whole sentence 0 for recall and leaves its citations out
    of precision. Malformed markers take no part. Both are 0 where nothing is cited.
    """
    given = [_given(sentence, references=len(references)) for sentence in answer.sentences]
    total = sum(len(set(sentence.cited)) for sentence in answer.sentences)
    if not total:
        return 0.0, 0.0

    def judged(cases: Sequence[tuple[int, Sequence[int]]]) -> list[bool]:
        return judge.supports_all(
            [
                ("\n".join(references[number - 1] for number in numbers), answer.sentences[index].text)
                for index, numbers in cases
            ]
        )

    cited = [(index, numbers) for index, numbers in enumerate(given) if numbers]
    supported = [case for case, holds in zip(cited, judged(cited), strict=True) if holds]
    # the only reference of a supported sentence counts; of several, each is tried alone, then left out
    counting = sum(len(numbers) == 1 for _, numbers in supported)
    several = [(index, number) for index, numbers in supported if len(numbers) > 1 for number in numbers]
    alone = judged([(index, [number]) for index, number in several])
    unsure = [case for case, holds in zip(several, alone, strict=True) if not holds]
    without = judged([(index, [other for other in given[index] if other != number]) for index, number in unsure])
    counting += sum(alone) + sum(not holds for holds in without)
    return len(supported) / len(answer.sentences), counting / total


def f1(recall: float, precision: float) -> float:
    """Harmonic mean of an answer's citation recall and precision; 0 where both are 0."""
    return 2 * recall * precision / (recall + precision) if recall + precision else 0.0


def _given(sentence: CitedSentence, references: int) -> list[int]:
    """The given references that a sentence cites: each once, in order of first mention."""
    return [number for number in dict.fromkeys(sentence.cited) if 1 <= number <= references]


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else 0.0


def _cut(answer: str, markers: Sequence[Marker]) -> tuple[str, list[tuple[int, bool]]]:
    """The answer without its markers, and for each marker its place there and whether it opens a line."""
    text = ""
    end = 0
    anchors: list[tuple[int, bool]] = []
    for first, last, size in _clusters(answer, markers):
        opens_line = _opens_line(answer, first, last)
        text = _join(text, answer[end:first]).rstrip(" \t")
        anchors += [(len(text), opens_line)] * size
        end = last
    return _join(text, answer[end:]), anchors


def _join(before: str, after: str) -> str:
    """Text on the two sides of a cut marker, put together as if the marker had never been there."""
    if before[-1:] in ("", "\n") or after[:1].isspace():
        return before + after
    if after[:1] in tuple(".!?"):
        return before + (after[1:] if before[-1] in ".!?" else after)
    return before + after if after[:1] in tuple(",;:)") or not after else f"{before} {after}"


def _clusters(answer: str, markers: Sequence[Marker]) -> Iterator[tuple[int, int, int]]:
    """(start, end, number of markers) of each run of markers that only commas, "and" or spaces part.

    Parentheses or emphasis around a run belong to it: "([1], [2])", "**[1]**".
    """
    index = 0
    while index < len(markers):
        last = index
        while last + 1 < len(markers) and _BETWEEN.fullmatch(answer, markers[last].end, markers[last + 1].start):
            last += 1
        start, end = markers[index].start, markers[last].end
        for opening, closing in _AROUND:
            if answer.endswith(opening, 0, start) and answer.startswith(closing, end):
                start, end = start - len(opening), end + len(closing)
                break
        yield start, end, last - index + 1
        index = last + 1


def _opens_line(answer: str, start: int, end: int) -> bool:
    """Whether the run of markers answer[start:end] comes first on its line and text follows it there."""
    before = answer[answer.rfind("\n", 0, start) + 1 : start]
    after = answer[end:].split("\n", 1)[0].lstrip()
    return bool(_LINE_OPENING.fullmatch(before)) and after[:1] not in (*".,;!?)", "")


def _bind(spans: Sequence[tuple[int, int]], position: int, opens_line: bool) -> int:
    """Index of the sentence to which a marker cut out at `position` belongs."""
    if opens_line:
        return next((index for index, (_, end) in enumerate(spans) if end > position), len(spans) - 1)
    return max((index for index, (start, _) in enumerate(spans) if start < position), default=0)
