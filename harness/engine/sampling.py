"""Choosing the next token from logits, as transformers' `generate` does, for many sequences at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

# What `generate` takes where neither the task nor the model says otherwise.
_DEFAULTS: dict[str, Any] = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": None,
    "repetition_penalty": 1.0,
}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "use_cache": (True,),
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "num_return_sequences": (1,),
    "typical_p": (1.0,),
    "encoder_repetition_penalty": (1.0,),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "min_length", "min_new_tokens"), (0,)),
    **dict.fromkeys(("epsilon_cutoff", "eta_cutoff", "diversity_penalty"), (0.0,)),
}
# Of a model's own settings: what the engine sets itself, or what means nothing without beams.
_ELSEWHERE = {"bos_token_id", "eos_token_id", "pad_token_id", "max_length", "max_new_tokens", "transformers_version"}
_ELSEWHERE |= {"length_penalty", "early_stopping", "_from_model_config"}
_ELSEWHERE |= {"use_cache", "cache_implementation", "cache_config", "compile_config", "disable_compile"}
_ELSEWHERE |= {"prefill_chunk_size", "return_dict_in_generate", "output_attentions", "output_hidden_states"}
_ELSEWHERE |= {"output_scores", "output_logits"}


class Choice:
    """How the next tokens of one set of settings are chosen.

    Args:
        own: the model's own generation settings, of which a task's are a change.
        options: the task's, by `generate`'s names.
    """

    def __init__(self, own: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        given = {key: value for key, value in own.items() if key not in _ELSEWHERE} | dict(options)
        self._given = {key: value for key, value in given.items() if value is not None}
        known = {key: self._given.get(key, default) for key, default in _DEFAULTS.items()}
        self.is_sampled = bool(known["do_sample"])
        self.penalty = float(known["repetition_penalty"])
        self._processors = LogitsProcessorList()
        if self.penalty != 1.0:
            self._processors.append(RepetitionPenaltyLogitsProcessor(self.penalty))
        if self.is_sampled and not self.unsupported:
            if known["temperature"] != 1.0:
                self._processors.append(TemperatureLogitsWarper(float(known["temperature"])))
            if known["top_k"]:
                self._processors.append(TopKLogitsWarper(int(known["top_k"])))
            if known["top_p"] < 1.0:
                self._processors.append(TopPLogitsWarper(float(known["top_p"])))
            if known["min_p"] is not None:
                self._processors.append(MinPLogitsWarper(float(known["min_p"])))

    @property
    def unsupported(self) -> str | None:
        """A setting that only transformers' own `generate` knows, as text; None where there is none."""
        for key, value in sorted(self._given.items()):
            neutral = value is False or value in ([], {}) or value in _NEUTRAL.get(key, ())
            if key not in _DEFAULTS and not neutral:
                return f"{key} = {value!r}"
        if self.is_sampled and not self._given.get("temperature", 1.0) > 0:
            return f"temperature = {self._given['temperature']!r} with do_sample"
        return None

    def __call__(
        self, logits: torch.Tensor, history: torch.Tensor | None = None, chance: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The next token of each sequence.

        Args:
            logits: [B, V].
            history: [B, n]: all tokens of each sequence, any of its own repeated to fill; where there is a penalty.
            chance: [B], float64 in [0, 1): a number drawn for each sequence; where tokens are sampled.

        Returns:
            [B] tokens.
        """
        if self._processors:
            logits = self._processors(history, logits.float())
        if not self.is_sampled:
            return logits.argmax(dim=-1)
        if chance is None:
            raise ValueError("sampling needs a number for each sequence")
        # The first token at which the summed probabilities exceed the number: it has some probability of its own.
        summed = torch.softmax(logits.float(), dim=-1).cumsum(dim=-1, dtype=torch.float64)
        total = summed[:, -1]
        at = torch.minimum(chance * total, torch.nextafter(total, torch.zeros_like(total)))
        return torch.searchsorted(summed, at[:, None], right=True)[:, 0]
