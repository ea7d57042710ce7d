"""The plain engine: padded batches through transformers' forward and `generate`.

Slow and obvious on purpose: the numbers that faster engines are held to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from lm_eval.models.utils import has_bos_prefix, normalize_gen_kwargs
from transformers import StoppingCriteria, StoppingCriteriaList

from ...errors import UserError
from .base import Engine, rope_limit, virtual_tokens
from .requests import Prepared, ScoringRequests
from .response import Response
from .tree import Scored

_T = TypeVar("_T")
_DEFAULT_MAX_GEN_TOKS = 256  # lm-eval's own default


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

    def score_all(self, requests: ScoringRequests) -> Iterator[tuple[int, Response]]:
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

    def generate(self, requests: Sequence[tuple[str, dict[str, Any], int]]) -> Iterator[tuple[int, Response]]:
        groups: dict[str, list[int]] = {}
        for i, (_, settings, _) in enumerate(requests):
            groups.setdefault(repr(sorted(settings.items(), key=lambda item: item[0])), []).append(i)
        for members in groups.values():
            yield from self._generate_group(members, requests)

    def _generate_group(
        self, members: list[int], requests: Sequence[tuple[str, dict[str, Any], int]]
    ) -> Iterator[tuple[int, Response]]:
        settings: dict[str, Any] = dict(normalize_gen_kwargs(requests[members[0]][1], _DEFAULT_MAX_GEN_TOKS))
        new_tokens = int(settings.pop("max_gen_toks"))
        room = self.max_length - new_tokens
        if room <= 0:
            raise UserError(
                f"max_gen_toks = {new_tokens} leaves no room for a prompt in a context of {self.max_length} tokens",
                fix="lower generation.max_gen_toks, or raise base.max_length",
            )
        prompts: dict[int, tuple[list[int], int]] = {}
        for i in members:
            whole = self._prompt_tokens(requests[i][0])
            prompts[i] = (whole[-room:], max(0, len(whole) - room))
        order = sorted(members, key=lambda i: (-len(prompts[i][0]), prompts[i][0]))

        def run(batch: list[int]) -> list[tuple[int, Response]]:
            torch.manual_seed(requests[batch[0]][2])
            return self._generate_batch(batch, prompts, new_tokens, settings)

        # One at a time: a sampled text is its item's seed's alone whatever runs beside it; and with virtual tokens peft
        # drops the positions that the padding mask gives, so a padded prompt would be read too far to the right.
        if settings.get("do_sample") or virtual_tokens(self.model):
            for i in order:
                yield from run([i])
        else:
            yield from self._batched(order, lambda i: (len(prompts[i][0]) + new_tokens) // 4, run)

    def _prompt_tokens(self, prompt: str) -> list[int]:
        special = {"add_special_tokens": False} if has_bos_prefix(prompt, self.tokenizer.bos_token) else {}
        return list(self.tokenizer.encode(prompt, **special))

    @torch.inference_mode()
    def _generate_batch(
        self, batch: list[int], prompts: dict[int, tuple[list[int], int]], new_tokens: int, settings: dict[str, Any]
    ) -> list[tuple[int, Response]]:
        options = {key: value for key, value in settings.items() if key != "until"}
        until = [stop for stop in settings.get("until") or [] if stop]
        if not options.get("do_sample") and options.get("temperature") == 0.0:
            options.pop("temperature")  # greedy decoding has none, and transformers warns
        longest = max(len(prompts[i][0]) for i in batch)
        tokens = torch.full((len(batch), longest), self.tokenizer.pad_token_id, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row, i in enumerate(batch):
            ids = prompts[i][0]
            tokens[row, longest - len(ids) :] = torch.tensor(ids)
            mask[row, longest - len(ids) :] = 1
        output = self.model.generate(
            input_ids=tokens.to(self.device),
            attention_mask=mask.to(self.device),
            max_new_tokens=new_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=sorted(self.eos_token_ids),
            stopping_criteria=StoppingCriteriaList([_StopStrings(self.tokenizer, until, longest)] if until else []),
            use_cache=True,
            logits_to_keep=torch.tensor([-1], device=self.device),  # by index, as in scoring: a slice is slow on a CPU
            **options,
        )
        return [(i, self._finished(output[row, longest:].tolist(), until, *prompts[i])) for row, i in enumerate(batch)]

    @property
    def eos_token_ids(self) -> set[int]:
        """The tokens that end a generation: the tokenizer's EOS and those of the model's generation settings."""
        own = getattr(self.model.generation_config, "eos_token_id", None)
        listed = own if isinstance(own, list) else [] if own is None else [own]
        return {self.eot_token_id, *map(int, listed)}

    def _finished(self, generated: list[int], until: list[str], prompt: list[int], lost: int) -> Response:
        ends = self.eos_token_ids
        end = next((n for n, token in enumerate(generated) if token in ends), None)
        kept = generated if end is None else generated[:end]
        whole = self.tokenizer.decode(kept, skip_special_tokens=True)
        text = whole
        for stop in until:
            text = text.split(stop)[0]
        # A row that met a stop string is padded afterwards, and the padding token may be EOS: look at the text first.
        reason = "stop_string" if text != whole else "length" if end is None else "eos"
        return Response(tokens=len(kept), truncated=lost, tokens_in=len(prompt) + len(kept), text=text, stop=reason)

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


class _StopStrings(StoppingCriteria):
    """Ends each row whose newest tokens spell one of the stop strings, across token boundaries."""

    def __init__(self, tokenizer: Any, until: list[str], prompt_length: int) -> None:
        self._tokenizer = tokenizer
        self._until = until
        self._prompt_length = prompt_length
        # As lm-eval: two tokens more than the string takes, for it may be spelt in other tokens.
        self._look_back = 2 + max(len(tokenizer.encode(stop, add_special_tokens=False)) for stop in until)
        self._done: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        newest = input_ids[:, self._prompt_length :][:, -self._look_back :]
        texts = self._tokenizer.batch_decode(newest)
        met = torch.tensor([any(stop in text for stop in self._until) for text in texts], device=input_ids.device)
        self._done = met if self._done is None else self._done | met
        return self._done
