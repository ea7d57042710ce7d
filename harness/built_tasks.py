"""A suite's tasks with their requests, built once for each way in which prompts are wrapped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from ..files import sha256_json
from .engine.base import render_chat
from .suite import Suite
from .tasks import BuiltTask, LoadedTask, Prompting, build


class BuiltTasks:
    """The tasks of a suite as tokenizers' chat templates ask them; without a template all tokenizers ask alike.

    Args:
        suite: the suite.
        loaded: its tasks as read.
        limit: items a task, of the command line.
        said: shows what is under way.
    """

    def __init__(
        self,
        suite: Suite,
        loaded: Sequence[LoadedTask],
        limit: int | None,
        said: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._suite, self._loaded, self._limit, self._said = suite, loaded, limit, said
        self._built: dict[str, list[BuiltTask]] = {}

    def all(self, tokenizer: Any) -> list[BuiltTask]:
        """Every task, as a tokenizer's template asks it."""
        base = self._suite.base
        key = (
            "plain" if not base.chat_template else sha256_json([tokenizer.chat_template, tokenizer.special_tokens_map])
        )
        if key not in self._built:
            prompting = Prompting(
                chat_template=(lambda *args, **kw: render_chat(tokenizer, *args, **kw)) if base.chat_template else None,
                system_instruction=base.system_instruction,
                fewshot_as_multiturn=base.fewshot_as_multiturn,
                key=key,
            )
            with self._said("building requests"):
                self._built[key] = [
                    build(self._suite, loaded, prompting, _least(self._limit, loaded[0].limit))
                    for loaded in self._loaded
                ]
        return self._built[key]

    def asked(self, tokenizer: Any, variant: str) -> list[BuiltTask]:
        """The tasks that are asked of a variant."""
        return [built for built in self.all(tokenizer) if built.info.asks(variant)]


def _least(*limits: int | None) -> int | None:
    """The smallest of the limits given; None when there is none."""
    return min((limit for limit in limits if limit is not None), default=None)
