"""ROUGE as everyone reports it: the rouge-score package with Porter stemming."""

from __future__ import annotations

from functools import cache
from typing import Any

from .sentences import split_sentences


def rouge_f(prediction: str, reference: str, kinds: tuple[str, ...]) -> dict[str, float]:
    """F-measure, 0 to 1, of each of `kinds` ("rouge1", "rouge2", "rougeL", "rougeLsum").

    rouge-score takes the lines of a text as its sentences for ROUGE-Lsum and as mere white space otherwise,
    so both texts are set one sentence a line; line breaks that a model happened to write do not change a
    score.
    """
    scores = _scorer(kinds).score(_one_sentence_a_line(reference), _one_sentence_a_line(prediction))
    return {kind: float(scores[kind].fmeasure) for kind in kinds}


def rouge_tokens(text: str, stem: bool) -> list[str]:
    """The words of `text` as ROUGE counts them: lower case, of a to z and digits, the longer ones stemmed."""
    tokens: list[str] = _tokenizer(stem).tokenize(text)
    return tokens


def _one_sentence_a_line(text: str) -> str:
    return "\n".join(split_sentences(text))


@cache
def _scorer(kinds: tuple[str, ...]) -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # slow to import, and not needed to read a prompt

    return RougeScorer(list(kinds), use_stemmer=True)


@cache
def _tokenizer(stem: bool) -> Any:
    from rouge_score.tokenizers import DefaultTokenizer

    return DefaultTokenizer(stem)
