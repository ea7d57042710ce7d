"""What scoring asks of a model, as tokens: encoded exactly as lm-eval encodes it, in batches, once for all variants."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lm_eval.models.utils import has_bos_prefix
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from .tree import Plan, Scored

Pair = tuple[list[int], list[int]]  # the tokens of a context and of its continuation


@dataclass(frozen=True)
class ScoringRequests:
    """A set of requests with its plan, which is made when an engine first asks for it."""

    items: list[Scored]
    owners: list[int]  # for each item the text that it is a window of (else its own number)

    @cached_property
    def plan(self) -> Plan:
        """The prefix trees over all of them."""
        return Plan(self.items)


def fit(context: Sequence[int], continuation: Sequence[int], max_length: int) -> Scored:
    """Cut a request from the left to fit the context, as lm-eval cuts it.

    lm-eval itself fails on a continuation longer than the context; here its last tokens are scored and the cut is
    counted.

    Raises:
        ValueError: when the context or the continuation is empty.
    """
    if not context or not continuation:
        raise ValueError("a request needs at least one context token and one continuation token")
    whole = [*context, *continuation]
    kept = whole[-(max_length + 1) :]
    targets = continuation[-(len(kept) - 1) :]
    return Scored(kept[:-1], targets, len(whole) - len(kept))


class Encoder:
    """Texts to tokens, as lm-eval's Hugging Face model makes them for a causal model.

    Args:
        tokenizer: the model's.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.prefix = prefix_token(tokenizer)
        self._prefix_text = tokenizer.decode(self.prefix)

    def encode(self, texts: Sequence[str], *, special: bool | None = None) -> list[list[int]]:
        """Tokens of each text; special tokens as the tokenizer does, but never a second BOS.

        Args:
            texts: what to encode; in any number, since a batch is far faster than one by one.
            special: whether special tokens are added; None: unless the text starts with BOS already.
        """
        if not texts:
            return []
        if special is not None:
            return list(self.tokenizer(list(texts), add_special_tokens=special)["input_ids"])
        found: list[list[int]] = [[] for _ in texts]
        starts = [has_bos_prefix(text, self._prefix_text) for text in texts]
        for flag in (True, False):
            chosen = [i for i, start in enumerate(starts) if start is flag]
            options = {"add_special_tokens": False} if flag else {}
            if chosen:
                rows = self.tokenizer([texts[i] for i in chosen], **options)["input_ids"]
                for i, row in zip(chosen, rows, strict=True):
                    found[i] = row
        return found

    def pairs(self, requests: Sequence[tuple[str, str]]) -> list[Pair]:
        """(context, continuation) texts to tokens: the pair is encoded as one text and split where the context ends.

        Spaces at the end of a context belong to the continuation, as in lm-eval's `TemplateLM._encode_pair`.
        """
        contexts: dict[str, int] = {}
        wholes: dict[str, int] = {}
        bare: dict[str, int] = {}
        places: list[tuple[int, int] | int] = []
        for context, continuation in requests:
            if not context:
                places.append(bare.setdefault(continuation, len(bare)))
                continue
            kept = context.rstrip()
            whole = wholes.setdefault(context + continuation, len(wholes))
            places.append((contexts.setdefault(kept, len(contexts)), whole))
        context_tokens = self.encode(list(contexts))
        whole_tokens = self.encode(list(wholes))
        bare_tokens = self.encode(list(bare), special=False)
        found: list[Pair] = []
        for place in places:
            if isinstance(place, tuple):
                start = context_tokens[place[0]]
                found.append((start, whole_tokens[place[1]][len(start) :]))
            else:
                tokens = bare_tokens[place]
                has_prefix = bool(tokens) and tokens[0] == self.prefix
                found.append((tokens[:1], tokens[1:]) if has_prefix else ([self.prefix], tokens))
        return found

    def windows(self, texts: Sequence[str], max_length: int) -> Iterator[tuple[int, Pair]]:
        """lm-eval's disjoint windows over whole texts: (number of the text, (context, continuation))."""
        for number, tokens in enumerate(self.encode(texts)):
            cut = get_rolling_token_windows(
                token_list=tokens, prefix_token=self.prefix, max_seq_len=max_length, context_len=1
            )
            for context, continuation in map(make_disjoint_window, cut):
                yield number, (context, continuation)


class Prepared:
    """Requests that were encoded and planned before, for all engines of one tokenizer; threads may share it."""

    def __init__(self) -> None:
        self._found: dict[Any, ScoringRequests] = {}
        self._lock = threading.Lock()

    def get(
        self, encoder: Encoder, kind: str, arguments: Sequence[tuple[Any, ...]], max_length: int
    ) -> ScoringRequests:
        """The requests as tokens, with their plan made.

        Args:
            encoder: of the tokenizer.
            kind: `loglikelihood` or `loglikelihood_rolling`.
            arguments: of lm-eval's instances: (context, continuation), or (text,).
            max_length: the context in tokens.
        """
        key = (kind, max_length, tuple(arguments))
        with self._lock:
            if key not in self._found:
                pairs: Iterable[tuple[int, Pair]]
                if kind == "loglikelihood":
                    pairs = enumerate(encoder.pairs([(a[0], a[1]) for a in arguments]))
                else:
                    pairs = encoder.windows([a[0] for a in arguments], max_length)
                self._found[key] = fitted(pairs, max_length)
                _ = self._found[key].plan
            return self._found[key]


def fitted(pairs: Iterable[tuple[int, Pair]], max_length: int) -> ScoringRequests:
    """Pairs of tokens, each with its owner's number, cut to fit the context."""
    numbered = list(pairs)
    items = [fit(context, continuation, max_length) for _, (context, continuation) in numbered]
    return ScoringRequests(items, [owner for owner, _ in numbered])


def prefix_token(tokenizer: Any) -> int:
    """The token that an empty context is replaced by: BOS, or EOS where there is no BOS."""
    bos = tokenizer.bos_token_id
    return int(bos if bos is not None else tokenizer.eos_token_id)
