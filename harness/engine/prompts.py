"""What generating asks of a model, as tokens and settings, read exactly as lm-eval reads `generate_until`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.models.utils import has_bos_prefix, normalize_gen_kwargs

from ...errors import UserError
from .response import Response

_DEFAULT_MAX_GEN_TOKS = 256  # lm-eval's own default

Asked = tuple[str, dict[str, Any], int]  # a prompt, lm-eval's generation settings, a seed


@dataclass(frozen=True)
class Prompt:
    """One request to generate."""

    tokens: list[int]
    truncated: int  # tokens cut from the left, so that the prompt and all new tokens fit the context
    limit: int  # new tokens at most
    until: tuple[str, ...]
    options: tuple[tuple[str, Any], ...]  # what else transformers' `generate` is told, by name
    seed: int

    @property
    def is_sampled(self) -> bool:
        """Whether chance has a say."""
        return bool(dict(self.options).get("do_sample"))

    def answered(self, generated: list[int], tokenizer: Any, ends: set[int]) -> Response:
        """The response, cut at the first end-of-text token and at the first stop string.

        Args:
            generated: new tokens; what comes after an end is dropped.
            tokenizer: the model's.
            ends: the tokens that end a text.
        """
        end = next((n for n, token in enumerate(generated) if token in ends), None)
        kept = generated if end is None else generated[:end]
        # An end that is no special token is a part of the text, as it is for lm-eval.
        whole = tokenizer.decode(generated if end is None else generated[: end + 1], skip_special_tokens=True)
        text = whole
        for stop in self.until:
            text = text.split(stop)[0]
        # A padded row that met a stop string goes on with padding, which may be EOS: look at the text first.
        reason = "stop_string" if text != whole else "length" if end is None else "eos"
        return Response(
            tokens=len(kept), truncated=self.truncated, tokens_in=len(self.tokens) + len(kept), text=text, stop=reason
        )


def read_prompts(requests: Sequence[Asked], tokenizer: Any, max_length: int) -> list[Prompt]:
    """Encode prompts, cut them from the left as lm-eval does, and read their settings.

    Args:
        requests: prompts with settings and seeds.
        tokenizer: the model's.
        max_length: the context in tokens.

    Raises:
        UserError: when no new token is asked for, or new tokens alone fill the context; for `max_length`.
    """
    found = []
    ending = tokenizer.decode([tokenizer.eos_token_id])  # a stop string too, as lm-eval has it
    for text, settings, seed in requests:
        options: dict[str, Any] = dict(normalize_gen_kwargs(settings, _DEFAULT_MAX_GEN_TOKS))
        limit = int(options.pop("max_gen_toks"))
        until = tuple(dict.fromkeys(stop for stop in [*options.pop("until"), ending] if stop))
        if not options.get("do_sample") and options.get("temperature") == 0.0:
            options.pop("temperature")  # greedy decoding has none, and transformers warns
        if limit < 1:
            raise UserError(f"max_gen_toks = {limit} asks for no text", fix="set generation.max_gen_toks to 1 or more")
        if "max_length" in options:
            raise UserError(
                "max_length counts the prompt too, so that long prompts would get no text",
                where="generation.max_length",
                fix="set generation.max_gen_toks, which counts new tokens alone",
            )
        if (room := max_length - limit) <= 0:
            raise UserError(
                f"max_gen_toks = {limit} leaves no room for a prompt in a context of {max_length} tokens",
                fix="lower generation.max_gen_toks, or raise base.max_length",
            )
        special = {"add_special_tokens": False} if has_bos_prefix(text, tokenizer.bos_token) else {}
        tokens = list(tokenizer.encode(text, **special))
        ordered = tuple(sorted(options.items(), key=lambda item: item[0]))
        found.append(Prompt(tokens[-room:], max(0, len(tokens) - room), limit, until, ordered, seed))
    return found


def by_options(prompts: Sequence[Prompt]) -> list[list[int]]:
    """Positions of the prompts, one list for each set of options."""
    groups: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault(repr(prompt.options), []).append(i)
    return list(groups.values())
