"""How often a judge of support is right, measured on labelled pairs and on the citations of written answers.

`python -m phibench.suites.tasks.webglm_qa.judge_quality` prints the tables of docs/metrics.md for the lexical
judge; with `--nli MODEL` it prints them for a Hugging Face NLI model.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from ..embedded import read_rows
from .citations import parse_answer
from .support import (
    DEFAULT_LEXICAL_THRESHOLD,
    DEFAULT_NLI_THRESHOLD,
    LexicalJudge,
    NLIJudge,
)

THRESHOLDS = tuple(step / 20 for step in range(4, 20))  # 0.20, 0.25, ... 0.95

Score = Callable[[str, str], float]


@dataclass(frozen=True)
class Pair:
    """A statement, a reference, whether it supports the statement, and how the pair was made."""

    statement: str
    reference: str
    supported: bool
    kind: str


@dataclass(frozen=True)
class Quality:
    """Counts of a judge's decisions against the labels; "positive" is "supported"."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    @property
    def precision(self) -> float:
        """Share of the pairs judged supported that are; 0 if none was judged so."""
        return _ratio(self.true_positive, self.true_positive + self.false_positive)

    @property
    def recall(self) -> float:
        """Share of the supported pairs that were judged so; 0 if there are none."""
        return _ratio(self.true_positive, self.true_positive + self.false_negative)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        wrong = self.false_positive + self.false_negative
        return _ratio(2 * self.true_positive, 2 * self.true_positive + wrong)

    @property
    def accuracy(self) -> float:
        """Share of all pairs judged rightly."""
        right = self.true_positive + self.true_negative
        return _ratio(right, right + self.false_positive + self.false_negative)


def labelled_pairs(split: str) -> list[Pair]:
    """The labelled pairs of `split`: "dev" to choose a threshold by, "test" to report.

    Half of them are supported. Most of the others were made to mislead: they repeat the reference's words.
    """
    return [
        Pair(row["statement"], row["reference"], row["supported"], row["kind"])
        for row in read_rows("judge", "pairs.jsonl")
        if row["split"] == split
    ]


def cited_pairs(split: str) -> list[Pair]:
    """Each sentence of the answers in webglm_`split`.jsonl that cites one reference, with every reference.

    The reference that it cites is taken to support it, and the others not to.
    """
    return [
        Pair(sentence.text, reference, number == sentence.cited[0], "cited answer")
        for row in read_rows("mini", f"webglm_{split}.jsonl")
        for sentence in parse_answer(row["answer"]).sentences
        if len(set(sentence.cited)) == 1
        for number, reference in enumerate(row["references"], start=1)
    ]


def quality(pairs: Sequence[Pair], score: Score, threshold: float) -> Quality:
    """Counts when a pair whose score reaches `threshold` is judged supported."""
    found = [(score(pair.reference, pair.statement) >= threshold, pair.supported) for pair in pairs]
    return Quality(
        true_positive=found.count((True, True)),
        false_positive=found.count((True, False)),
        false_negative=found.count((False, True)),
        true_negative=found.count((False, False)),
    )


def sweep_table(labelled: Sequence[Pair], cited: Sequence[Pair], score: Score) -> Iterator[str]:
    """Markdown: quality on both sets of pairs at each threshold, and the mean of the two F1."""
    yield "| threshold | labelled: precision | recall | F1 | cited: precision | recall | F1 | mean F1 |"
    yield "|---|---|---|---|---|---|---|---|"
    for threshold in THRESHOLDS:
        both = [quality(pairs, score, threshold) for pairs in (labelled, cited)]
        cells = [f"{one.precision:.3f} | {one.recall:.3f} | {one.f1:.3f}" for one in both]
        yield f"| {threshold:.2f} | {' | '.join(cells)} | {(both[0].f1 + both[1].f1) / 2:.3f} |"


def departure_table(labelled: Sequence[Pair], cited: Sequence[Pair]) -> Iterator[str]:
    """Markdown: the lexical judge with and without what it adds to WebGLM's score."""
    yield "| words compared | figures checked | best threshold | labelled: F1 | cited: F1 | mean F1 |"
    yield "|---|---|---|---|---|---|"
    for stem, figures in ((False, False), (True, False), (False, True), (True, True)):
        score = LexicalJudge(stem=stem, figures=figures).score
        threshold = best_threshold(labelled, cited, score)
        f1s = [quality(pairs, score, threshold).f1 for pairs in (labelled, cited)]
        yield (
            f"| {'by stem' if stem else 'as they stand'} | {'yes' if figures else 'no'} | {threshold:.2f} "
            f"| {f1s[0]:.3f} | {f1s[1]:.3f} | {sum(f1s) / 2:.3f} |"
        )


def best_threshold(labelled: Sequence[Pair], cited: Sequence[Pair], score: Score) -> float:
    """The threshold with the highest mean of the two F1; the lower one where two are equal."""
    return max(THRESHOLDS, key=lambda t: quality(labelled, score, t).f1 + quality(cited, score, t).f1)


def kind_table(pairs: Sequence[Pair], score: Score, threshold: float) -> Iterator[str]:
    """Markdown: how many pairs of each kind are judged rightly at `threshold`, supported kinds first."""
    yield "| kind | label | pairs | judged rightly |"
    yield "|---|---|---|---|"
    kinds = sorted({(not pair.supported, pair.kind) for pair in pairs})
    for unsupported, kind in kinds:
        members = [pair for pair in pairs if pair.kind == kind and pair.supported != unsupported]
        measured = quality(members, score, threshold)
        right = measured.true_positive + measured.true_negative
        label = "not supported" if unsupported else "supported"
        yield f"| {kind} | {label} | {len(members)} | {right} ({measured.accuracy:.0%}) |"


def total_table(sets: Sequence[tuple[str, Sequence[Pair]]], score: Score, threshold: float) -> Iterator[str]:
    """Markdown: quality over each named set of pairs at `threshold`."""
    yield "| pairs | number | precision | recall | F1 | accuracy |"
    yield "|---|---|---|---|---|---|"
    for name, pairs in sets:
        one = quality(pairs, score, threshold)
        yield (
            f"| {name} | {len(pairs)} | {one.precision:.3f} | {one.recall:.3f} | {one.f1:.3f} | {one.accuracy:.3f} |"
        )


def tables(score: Score, threshold: float) -> Iterator[str]:
    """Markdown: the sweep on the pairs to choose by, then quality at `threshold` on the test pairs."""
    yield "Sweep on labelled dev pairs and on the citations of the training answers:\n"
    yield from sweep_table(labelled_pairs("dev"), cited_pairs("train"), score)
    yield f"\nLabelled test pairs at threshold {threshold}, by kind:\n"
    yield from kind_table(labelled_pairs("test"), score, threshold)
    yield f"\nTest pairs at threshold {threshold}:\n"
    sets = (("labelled, test", labelled_pairs("test")), ("cited, test answers", cited_pairs("test")))
    yield from total_table(sets, score, threshold)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Measure a judge of support.")
    parser.add_argument("--nli", metavar="MODEL", help="measure this NLI model in place of the lexical judge")
    parser.add_argument("--device", default="cpu", help="where the NLI model runs")
    arguments = parser.parse_args()
    if arguments.nli:
        nli = NLIJudge(arguments.nli, device=arguments.device)
        score = cache(lambda premise, statement: nli.probabilities([(premise, statement)])[0])
        print(*tables(score, DEFAULT_NLI_THRESHOLD), sep="\n")
        return
    print(*tables(LexicalJudge().score, DEFAULT_LEXICAL_THRESHOLD), sep="\n")
    print("\nWhat stems and figures are worth:\n")
    print(*departure_table(labelled_pairs("dev"), cited_pairs("train")), sep="\n")


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


if __name__ == "__main__":
    main()
