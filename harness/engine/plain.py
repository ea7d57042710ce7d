"""The plain engine: padded batches through transformers' forward and `generate`.

Slow and obvious on purpose: the numbers that faster engines are held to.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, TypeVar

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from .base import Engine, rope_limit, virtual_tokens
from .prompts import Asked, Prompt, by_options, read_prompts
from .requests import Prepared, ScoringRequests
from .response import Response
from .stops import StopStrings
from .tree import Scored

_T = TypeVar("_T")


class PlainEngine(Engine):
    """Scores by right-padded batches and generates by left-padded ones.

    Args:
        model: a transformers causal LM or a `PeftModel`, in evaluation mode.
        tokenizer: its tokenizer, with a padding token.
        max_length: the context in tokens; default: the model's own.
        batch_tokens: tokens of one forward, padding counted; halves itself when memory runs out.
        prepared: see :class:`Engine`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_length: int | None = None,
        batch_tokens: int = 4096,
        prepared: Prepared | None = None,
    ) -> None:
        super().__init__(model, tokenizer, max_length=max_length, prepared=prepared)
        self.batch_tokens = batch_tokens

    @property
    def device(self) -> torch.device:
        return next(iter(self.model.parameters())).device

    @device.setter
    def device(self, value: object) -> None:  # lm-eval's base class sets one; the model's own is what counts
        pass

    # ---- scoring

    def score_all(self, requests: ScoringRequests) -> Generator[tuple[int, Response]]:
        items = requests.items
        order = sorted(range(len(items)), key=lambda i: (-len(items[i].inputs), items[i].inputs))
        limit = rope_limit(self.model.config)
        while limit is not None and order and len(items[order[0]].inputs) > limit:
            yield from self._score_batch([order.pop(0)], items)  # beside others it would change their angles too
        yield from self._batched(order, lambda i: len(items[i].inputs), lambda batch: self._score_batch(batch, items))

    @torch.inference_mode()
    def _score_batch(self, batch: list[int], items: Sequence[Scored]) -> list[tuple[int, Response]]:
        longest = max(len(items[i].inputs) for i in batch)
        tokens = torch.zeros(len(batch), longest, dtype=torch.long)
        for row, i in enumerate(batch):
            tokens[row, : len(items[i].inputs)] = torch.tensor(items[i].inputs)
        # The earliest position that any row scores: nothing before it goes through the LM head.
        first = min(len(items[i].inputs) - len(items[i].targets) for i in batch)
        keep = longest - first
        # By index, counted from the end (virtual tokens may stand in front): a slice would not be contiguous, and on a
        # CPU the bfloat16 product with the head is then some seventy times slower.
        kept = torch.arange(-keep, 0, device=self.device)
        # No cache: nothing reads those keys and values, and they are most of a forward's memory.
        logits = self.model(input_ids=tokens.to(self.device), logits_to_keep=kept, use_cache=False).logits
        found = []
        for row, i in enumerate(batch):
            item = items[i]
            end = len(item.inputs) - first
            rows = logits[row, end - len(item.targets) : end].float()
            target = torch.tensor(item.targets, device=rows.device)
            chosen = torch.log_softmax(rows, dim=-1).gather(1, target[:, None]).sum()
            found.append((i, item.answered(float(chosen), bool((rows.argmax(dim=-1) == target).all()))))
        return found

    # ---- generation

    def generate(self, requests: Sequence[Asked]) -> Generator[tuple[int, Response]]:
        prompts = read_prompts(requests, self.tokenizer, self.max_length)
        for members in by_options(prompts):
            yield from self.generate_plainly(members, prompts)

    def generate_plainly(self, members: list[int], prompts: Sequence[Prompt]) -> Iterator[tuple[int, Response]]:
        """Transformers' own `generate` over prompts (those numbered `members`) that share their options."""
        order = sorted(members, key=lambda i: (-prompts[i].limit, prompts[i].until, -len(prompts[i].tokens)))
        # One at a time: a sampled text is its item's seed's alone whatever runs beside it; and with virtual tokens peft
        # drops the positions that the padding mask gives, so a padded prompt would be read too far to the right.
        if prompts[members[0]].is_sampled or virtual_tokens(self.model):
            for i in order:
                yield from self._generate_batch([i], prompts)
            return
        for _, group in itertools.groupby(order, lambda i: (prompts[i].limit, prompts[i].until)):
            yield from self._batched(
                list(group),
                lambda i: (len(prompts[i].tokens) + prompts[i].limit) // 4,
                lambda batch: self._generate_batch(batch, prompts),
            )

    @torch.inference_mode()
    def _generate_batch(self, batch: list[int], prompts: Sequence[Prompt]) -> list[tuple[int, Response]]:
        first = prompts[batch[0]]
        torch.manual_seed(first.seed)
        longest = max(len(prompts[i].tokens) for i in batch)
        tokens = torch.full((len(batch), longest), self.tokenizer.pad_token_id, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row, i in enumerate(batch):
            ids = prompts[i].tokens
            tokens[row, longest - len(ids) :] = torch.tensor(ids)
            mask[row, longest - len(ids) :] = 1
        stops = StopStrings(self.tokenizer, first.until)
        output = self.model.generate(
            input_ids=tokens.to(self.device),
            attention_mask=mask.to(self.device),
            max_new_tokens=first.limit,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=sorted(self.eos_token_ids),
            stopping_criteria=StoppingCriteriaList([_Stop(stops, longest)] if first.until else []),
            use_cache=True,
            logits_to_keep=torch.tensor([-1], device=self.device),  # by index, as in scoring: a slice is slow on a CPU
            **dict(first.options),
        )
        ends = self.eos_token_ids
        rows = output[:, longest:].tolist()
        return [(i, prompts[i].answered(row, self.tokenizer, ends)) for i, row in zip(batch, rows, strict=True)]

    @property
    def eos_token_ids(self) -> set[int]:
        """The tokens that end a generation: the tokenizer's EOS and those of the model's generation settings."""
        own = getattr(self.model.generation_config, "eos_token_id", None)
        listed = own if isinstance(own, list) else [] if own is None else [own]
        return {self.eot_token_id, *map(int, listed)}

    # ---- batches

    def _batched(
        self, order: list[int], length: Callable[[int], int], run: Callable[[list[int]], list[_T]]
    ) -> Iterator[_T]:
        """Run `order` (longest first) in batches of at most `batch_tokens`, halving the budget when memory runs out."""
        start = 0
        while start < len(order):
            rows = max(1, self.batch_tokens // max(1, length(order[start])))
            batch = order[start : start + rows]
            found: list[_T] | None = None
            try:
                found = run(batch)
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
            if found is None:  # outside of the handler, which holds on to what the batch had made
                self.batch_tokens = max(1, self.batch_tokens // 2)
                torch.cuda.empty_cache()
                continue
            yield from found
            start += len(batch)


class _Stop(StoppingCriteria):
    """Ends each row whose newest tokens spell a stop string."""

    def __init__(self, stops: StopStrings, prompt_length: int) -> None:
        self._stops = stops
        self._prompt_length = prompt_length
        self._done: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        rows = input_ids[:, self._prompt_length :].tolist()
        met = torch.tensor([self._stops.met(row) for row in rows], device=input_ids.device)
        self._done = met if self._done is None else self._done | met
        return self._done
