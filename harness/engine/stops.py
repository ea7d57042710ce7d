"""Stop strings: whether the newest tokens of a text spell one, across token boundaries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class StopStrings:
    """Looks at the end of a generated text after each token, as lm-eval's stopping criterion does.

    Args:
        tokenizer: the model's.
        until: the stop strings; none is empty.
    """

    def __init__(self, tokenizer: Any, until: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        # As lm-eval: two tokens more than the string takes, for it may be spelt in other tokens.
        self._look_back = {stop: 2 + len(tokenizer.encode(stop, add_special_tokens=False)) for stop in until}
        self._last = {stop[-1] for stop in until}
        self._may_end: dict[int, bool] = {}

    def met(self, generated: Sequence[int]) -> bool:
        """Whether the last tokens of a text spell a stop string."""
        if not self._look_back or not generated or not self._ends_one(generated[-1]):
            return False
        tails = {count: self._tokenizer.decode(list(generated[-count:])) for count in set(self._look_back.values())}
        return any(stop in tails[count] for stop, count in self._look_back.items())

    def _ends_one(self, token: int) -> bool:
        """Whether a text that ends with this token can end with a stop string; decoding every tail would take longer.

        A token spells the last character, or a part of one that its own text does not show, or a space that tokenizers
        drop where it stands alone.
        """
        if token not in self._may_end:
            text = self._tokenizer.decode([token])
            unclear = not text or "\ufffd" in text or " " in self._last
            self._may_end[token] = unclear or any(last in text for last in self._last)
        return self._may_end[token]
