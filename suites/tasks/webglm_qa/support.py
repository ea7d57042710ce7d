"""Judges of support: does a reference (the premise) bear out a sentence of an answer (the statement)?"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from ..rouge import rouge_tokens

DEFAULT_LEXICAL_THRESHOLD = 0.4
DEFAULT_NLI_THRESHOLD = 0.5

_STOP_WORDS = frozenset(
    "a about above after again all also although am an and any are as at be because been before "
    "being below between both but by can cannot could did do does doing down due during each either "
    "etc even every few for from further had has have having he her here hers herself him himself "
    "his how however i if in into is it its itself just may me might more most much must my myself "
    "neither no nor not of off often on once one only or other our ours out over own per same shall "
    "she should since so some such than that the their theirs them themselves then there therefore "
    "these they this those though through thus to too under until up upon us use used using usually "
    "very was we well were what when where whereas whether which while who whom whose why will with "
    "within without would you your yours s t d ll m re ve".split()
)
_FIGURE = re.compile(r"[0-9]+(?:[.,][0-9]+)*")
_LIST_NUMBER = re.compile(r"^\s*[0-9]+[.)]\s")


class Judge(ABC):
    """Decides whether a premise supports a statement."""

    @abstractmethod
    def supports_all(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """One decision for each (premise, statement), in order. Empty texts support nothing."""

    def supports(self, premise: str, statement: str) -> bool:
        """Whether `premise` supports `statement`."""
        return self.supports_all([(premise, statement)])[0]


class LexicalJudge(Judge):
    """Support by shared words: ROUGE-1 precision of the statement's content words against the premise.

    WebGLM corrects its citations by this score (Liu et al. 2023, arXiv 2306.07906, `matching_score` in the
    published code). Ours departs from it in four points: the stop-word list is our own, words are stemmed, a
    statement with a figure that the premise lacks is not supported, and one of fewer than five content words
    is scored like any other, where WebGLM gives it 0.

    docs/metrics.md has what each departure is worth, what the judge gets right and what it cannot: it tells
    from which reference a sentence comes, and sees neither negation nor who did what.

    Args:
        threshold: least share of the content words that counts as support.
        stem: whether words are compared by their stems.
        figures: whether every figure of the statement must stand in the premise.

    Raises:
        ValueError: the threshold is not above 0 and at most 1.
    """

    def __init__(
        self, threshold: float = DEFAULT_LEXICAL_THRESHOLD, *, stem: bool = True, figures: bool = True
    ) -> None:
        self.threshold = _probability("lexical", threshold)
        self._stem = stem
        self._figures = figures

    def supports_all(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        return [self.score(premise, statement) >= self.threshold for premise, statement in pairs]

    def score(self, premise: str, statement: str) -> float:
        """Share, 0 to 1, of the statement's content words that the premise has, repeats one to one.

        A list number that opens the statement is no part of it.
        """
        statement = _LIST_NUMBER.sub("", statement)
        if self._figures and not _figures(statement) <= _figures(premise):
            return 0.0
        words, given = _content_words(statement, self._stem), _content_words(premise, self._stem)
        return (words & given).total() / words.total() if words else 0.0


class NLIJudge(Judge):
    """Support by textual entailment: probability of `entailment` from a sequence-classification model.

    ALCE (Gao et al. 2023) judges with an 11 B parameter model of this kind. Where a pair is
    longer than the model takes, the longer of its two texts is cut at the end; that is the premise as a rule.

    Args:
        model: hub name or folder of a Hugging Face model that has weights as safetensors.
        threshold: least probability of entailment that counts as support.
        device: where the model runs, as torch names it.
        batch_size: pairs in one forward pass.

    Raises:
        ValueError: the model has no label `entailment`, or the threshold or batch size is out of range.
    """

    def __init__(
        self, model: str, threshold: float = DEFAULT_NLI_THRESHOLD, device: str = "cpu", batch_size: int = 16
    ) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.threshold = _probability("nli", threshold)
        if batch_size < 1:
            raise ValueError(f"judge: batch_size must be at least 1; got {batch_size}")
        self._batch_size = batch_size
        self._tokenizer: Any = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        # float32 whatever the file holds, so that the decision does not depend on how the weights were stored
        loaded: Any = AutoModelForSequenceClassification.from_pretrained(
            model, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
        self._entailment = _entailment_label(model, loaded.config.id2label)
        # RoBERTa's positions start at 2, so two of those it has are never used
        positions = getattr(loaded.config, "max_position_embeddings", 514) - 2
        self._max_length = min(self._tokenizer.model_max_length, positions)
        self._model: Any = loaded.to(device).eval()

    def supports_all(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        return [probability >= self.threshold for probability in self.probabilities(pairs)]

    def probabilities(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Probability of entailment for each (premise, statement), in order; 0 where either is empty."""
        asked = [index for index, pair in enumerate(pairs) if all(text.strip() for text in pair)]
        found = [0.0] * len(pairs)
        for first in range(0, len(asked), self._batch_size):
            chunk = asked[first : first + self._batch_size]
            for index, probability in zip(chunk, self._forward([pairs[index] for index in chunk]), strict=True):
                found[index] = probability
        return found

    def _forward(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        import torch

        premises, statements = zip(*pairs, strict=True)
        inputs = self._tokenizer(
            list(premises), list(statements), truncation="longest_first", max_length=self._max_length,
            padding=True, return_tensors="pt",
        ).to(self._model.device)  # fmt: skip
        with torch.inference_mode():
            logits = self._model(**inputs).logits
        probabilities: list[float] = logits.float().softmax(-1)[:, self._entailment].tolist()
        return probabilities


def make_judge(options: Mapping[str, Any]) -> Judge:
    """The judge that `options` describe.

    `{"kind": "lexical", "threshold": 0.4, "stem": true, "figures": true}`, or `{"kind": "nli", "model": ...,
    "threshold": 0.5, "device": "cpu", "batch_size": 16}`; all but `kind` and an NLI judge's `model` may be
    left out.

    Raises:
        ValueError: an unknown kind or option, a missing model, or a threshold outside ]0, 1].
    """
    known = {
        "lexical": {"threshold", "stem", "figures"},
        "nli": {"model", "threshold", "device", "batch_size"},
    }
    kind = options.get("kind")
    if kind not in sorted(known):
        raise ValueError(f"judge: kind must be one of {', '.join(sorted(known))}; got {kind!r}")
    rest = {name: value for name, value in options.items() if name != "kind"}
    unknown = sorted(set(rest) - known[kind])
    if unknown:
        raise ValueError(
            f"judge: a {kind} judge takes {', '.join(sorted(known[kind]))}; it has no option {', '.join(unknown)}"
        )
    if kind == "lexical":
        for name in ("stem", "figures"):
            if not isinstance(rest.get(name, True), bool):
                raise ValueError(f"judge: {name} must be true or false; got {rest[name]!r}")
        return LexicalJudge(**rest)
    if not rest.get("model") or not isinstance(rest["model"], str):
        raise ValueError("judge: an nli judge needs model, the name or folder of an NLI model")
    return NLIJudge(**rest)


def _probability(kind: str, threshold: object) -> float:
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 < threshold <= 1:
        raise ValueError(f"judge: the {kind} threshold must be above 0 and at most 1; got {threshold!r}")
    return float(threshold)


@lru_cache(maxsize=1024)
def _content_words(text: str, stem: bool) -> Counter[str]:
    """How often each content word occurs; kept, as an item's references are asked about again and again."""
    words = (word for word in rouge_tokens(text, stem=False) if word not in _STOP_WORDS)
    return Counter(rouge_tokens(" ".join(words), stem=stem))


def _figures(text: str) -> set[str]:
    """The figures in `text`, without thousands separators."""
    return {figure.replace(",", "") for figure in _FIGURE.findall(text)}


def _entailment_label(model: str, id2label: Mapping[int, str]) -> int:
    for index, label in id2label.items():
        if label.strip().lower() == "entailment":
            return int(index)
    raise ValueError(
        f"judge: the model {model} has no label 'entailment', so it is no NLI model that can be used here; "
        f"its labels: {', '.join(id2label.values())}"
    )
