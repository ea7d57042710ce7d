"""The tree engine: every shared prefix computed once, no padding, the head over scored positions alone."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch

from .attention import TreeUnsupportedError, Way, kernels_for, refuse_overlap
from .base import rope_limit
from .decoding import Decoder
from .generate import Generation
from .head import Head, by_row
from .packed import causal_of, hidden_states, packed
from .plain import PlainEngine
from .prompts import Asked, Prompt, by_options, read_prompts
from .requests import ScoringRequests
from .response import Response
from .sampling import Choice
from .shape import TreeShape
from .support import why_not_decode
from .tree import Forward, Plan

_ELASTIC = 4  # forwards are this many times as long as the longest shared prefix,
_MOST = 8192  # up to this many tokens

_ALONE = "no tokens in the prompt, or more than its rotary angles were made for"

Run = Callable[[Forward], tuple[torch.Tensor, torch.Tensor]]


class TreeEngine(PlainEngine):
    """Scores by packed prefix trees; generates from prompts read so, by steps over a cache of its own.

    A model that trees turn out not to serve is scored the plain way from there on, and :attr:`fallback` says why; what
    steps do not serve is generated the plain way, and :meth:`texts_by` says why. See
    also :func:`phibench.harness.engine.support.find_way`, which finds out beforehand.
    """

    fallback: str | None = None
    way: Way | None = None  # as :func:`find_way` found it; default: whatever the device allows
    texts: Counter[str | None]  # generated, by why the plain way (None: ours)
    elastic = False  # whether a forward may be longer than `batch_tokens` where a long prefix would be fed too often

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.texts = Counter()

    def score_all(self, requests: ScoringRequests) -> Generator[tuple[int, Response]]:
        # Sequences whose own length changes their rotary angles are no part of a tree: one by one, the plain way.
        alone = rope_limit(self.model.config)
        plain = [i for i, item in enumerate(requests.items) if alone is not None and len(item.inputs) > alone]
        trees = requests
        numbers = list(range(len(requests.items)))
        if plain:
            numbers = sorted(set(numbers) - set(plain))
            trees = ScoringRequests([requests.items[i] for i in numbers], numbers)
        done: set[int] = set()
        if self.fallback is None and numbers:
            try:
                for n, response in self._by_trees(trees):
                    done.add(numbers[n])
                    yield numbers[n], response
            except TreeUnsupportedError as error:
                self.fallback = str(error)
        missing = [i for i in range(len(requests.items)) if i not in done]
        if missing:
            rest = ScoringRequests([requests.items[i] for i in missing], missing)
            for n, response in super().score_all(rest):
                yield missing[n], response

    def generate(self, requests: Sequence[Asked]) -> Generator[tuple[int, Response]]:
        refuse_overlap(causal_of(self.model))
        prompts = read_prompts(requests, self.tokenizer, self.max_length)
        limit = rope_limit(self.model.config) or self.max_length
        for members in by_options(prompts):
            choice = Choice(self._own_settings(), dict(prompts[members[0]].options))
            why = self._why_not_decoded
            if choice.unsupported:
                why = f"{choice.unsupported}, which only transformers' own generate knows"
            # Sequences whose own length changes their rotary angles go the plain way; so does a prompt of no tokens.
            here = [i for i in members if 0 < len(prompts[i].tokens) <= limit - prompts[i].limit]
            done: set[int] = set()
            if here and why is None:
                try:
                    for i, tokens in self._decoded(choice, here, prompts):
                        done.add(i)
                        self.texts[None] += 1
                        yield i, prompts[i].answered(tokens, self.tokenizer, self.eos_token_ids)
                except (TreeUnsupportedError, torch.OutOfMemoryError) as error:
                    why = (str(error).splitlines() or [type(error).__name__])[0]
            if rest := [i for i in members if i not in done]:
                self.texts[why or _ALONE] += len(rest)
                yield from self.generate_plainly(rest, prompts)

    def texts_by(self) -> str | None:
        """How texts were generated, in words; None where none were."""
        plainly = {why: count for why, count in self.texts.items() if why}
        ours, told = self.texts[None], "; ".join(plainly)
        if not plainly:
            return "packed, over a cache of our own" if ours else None
        if not ours:
            return f"plain: {told}"
        return f"packed, over a cache of our own; {sum(plainly.values())} of {self.texts.total()} plain: {told}"

    def warm_up(self, *, generating: bool = True) -> None:
        super().warm_up(generating=generating)
        self.texts.clear()

    def _decoded(
        self, choice: Choice, members: list[int], prompts: Sequence[Prompt]
    ) -> Iterator[tuple[int, list[int]]]:
        decoder = Decoder(self.model, self._way)
        generation = Generation(decoder, self.tokenizer, choice, self.eos_token_ids, self.batch_tokens)
        yield from generation.run(members, prompts)

    def _own_settings(self) -> dict[str, Any]:
        """The model's own generation settings, where they say anything."""
        return dict(causal_of(self.model).generation_config.to_diff_dict())

    @cached_property
    def _why_not_decoded(self) -> str | None:
        return why_not_decode(self.model, self._way)

    @property
    def _way(self) -> Way:
        return self.way or Way(kernels_for(self.device, self.model.dtype), fused=True)

    def _by_trees(self, requests: ScoringRequests) -> Iterator[tuple[int, Response]]:
        plan = requests.plan
        # An accelerator works on one forward while the answers of the one before are read; nothing else gains by it.
        ahead = 1 if self.device.type == "cuda" else 0
        under_way: deque[tuple[Forward, torch.Tensor, torch.Tensor]] = deque()
        start = 0
        with self._decoder() as run:
            while start < len(plan):
                end = plan.end(self._budget(plan), start)
                forward = plan.forward(start, end)
                found = _unless_out_of_memory(run, forward)
                if found is None:
                    while under_way:
                        yield from _answers(plan, requests, *under_way.popleft())
                    if end - start > 1:
                        self.batch_tokens = max(1, len(forward.tokens) // 2)
                        continue
                    found = run(forward)  # with nothing else under way even a long sequence may fit
                under_way.append((forward, *found))
                start = end
                while len(under_way) > ahead:
                    yield from _answers(plan, requests, *under_way.popleft())
            while under_way:
                yield from _answers(plan, requests, *under_way.popleft())

    def _budget(self, plan: Plan) -> int:
        """Tokens of a forward; several times the longest shared prefix, which each forward feeds again."""
        if not self.elastic:
            return self.batch_tokens
        return max(self.batch_tokens, min(_ELASTIC * int(plan.shared.max(initial=0)), _MOST))

    @contextmanager
    def _decoder(self) -> Iterator[Run]:
        """The model, ready to take packed trees; its own again afterwards."""
        causal = causal_of(self.model)
        head = Head(causal)
        way = self._way

        @torch.inference_mode()
        def run(forward: Forward) -> tuple[torch.Tensor, torch.Tensor]:
            shape = TreeShape(forward, self.device, kernels=way.kernels)
            output, hidden = hidden_states(causal, shape)
            return head.score(hidden, forward, output)

        with packed(causal, way):
            yield run


def _unless_out_of_memory(run: Run, forward: Forward) -> tuple[torch.Tensor, torch.Tensor] | None:
    try:
        return run(forward)
    except torch.OutOfMemoryError:
        pass
    torch.cuda.empty_cache()  # outside of the handler, which holds on to what the forward had made
    return None


def _answers(
    plan: Plan, requests: ScoringRequests, forward: Forward, log_probs: torch.Tensor, best: torch.Tensor
) -> Iterator[tuple[int, Response]]:
    """Every request that a forward answered."""
    order = by_row(forward)
    values, greedy = np.empty(len(order)), np.empty(len(order), dtype=bool)
    values[order], greedy[order] = log_probs.cpu().numpy(), best.cpu().numpy()
    sums = np.add.reduceat(values, forward.owner_start[:-1])
    all_greedy = np.logical_and.reduceat(greedy, forward.owner_start[:-1])
    for owner, total, is_greedy in zip(forward.owners, sums.tolist(), all_greedy.tolist(), strict=True):
        for i in plan.members[owner]:
            yield i, requests.items[i].answered(total, is_greedy)
