"""All the scores of one answer to a WebGLM-QA question, under the names that the task reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..rouge import rouge_f
from . import citations
from .support import Judge


@dataclass(frozen=True)
class AnswerScores:
    """Scores of one answer, defined in `citations` and docs/metrics.md. Shares lie between 0 and 1."""

    citation_validity: float
    citation_coverage: float
    citation_recall: float
    citation_precision: float
    citation_f1: float
    citations_per_sentence: float
    citation_duplicates: float
    citation_fabricated: float
    citation_malformed: float
    answer_empty: float
    rougeL: float  # noqa: N815  the field's name for it, and lm-eval's


def score_answer(answer: str, reference_answer: str, references: Sequence[str], judge: Judge) -> AnswerScores:
    """Score `answer` by its citations of `references` and by its likeness to `reference_answer`.

    ROUGE-L is taken of both answers without their markers, so that it does not move with how much is cited.
    An answer without any letter or digit outside its markers is empty: every share is 0, and counts tell what
    its markers were.
    """
    parsed = citations.parse_answer(answer)
    count = len(references)
    recall, precision = citations.recall_and_precision(parsed, references, judge)
    target = citations.parse_answer(reference_answer)
    return AnswerScores(
        citation_validity=citations.validity(parsed, count),
        citation_coverage=citations.coverage(parsed, count),
        citation_recall=recall,
        citation_precision=precision,
        citation_f1=citations.f1(recall, precision),
        citations_per_sentence=citations.per_sentence(parsed),
        citation_duplicates=float(citations.duplicates(parsed)),
        citation_fabricated=float(citations.fabricated(parsed, count)),
        citation_malformed=float(len(parsed.malformed)),
        answer_empty=float(parsed.is_empty),
        rougeL=rouge_f(parsed.text, target.text, ("rougeL",))["rougeL"],
    )
