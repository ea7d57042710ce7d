"""A stand-in for a model that makes riddles: what it says depends on the conversation and the seed alone."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Generator, Iterator, Sequence

from phibench.adapters.synthesis.generator import CUT, STOPPED, Message, Reply, Request, Sampling

THINGS = (
    "lantern violin walnut teapot saddle anchor pillow ladder marble pepper basket candle mirror button shovel carpet"
    " helmet pencil trumpet barrel curtain feather hammer jacket kettle locket needle orchid puddle rocket"
).split()
PLACES = "harbour attic meadow station kitchen tower garden cellar forest market desert castle".split()


def scripted(messages: Sequence[Message], seed: int) -> tuple[str, str]:
    """(text, finish reason) for a conversation."""
    draw = random.Random(seed)
    asked = messages[-1]["content"]
    if "new riddles of your own" in asked:
        lines = [
            f"{n}. Who hides a {draw.choice(THINGS)} and a {draw.choice(THINGS)} near the {draw.choice(PLACES)}?"
            for n in range(1, 6)
        ]
        return "\n".join(lines), STOPPED
    if "curious ten-year-old" in asked:
        return f'Kid: "But why the {draw.choice(THINGS)}?"', STOPPED
    if len(messages) == 3:
        # Some go on for ever.
        return f"Because of the {draw.choice(PLACES)}, said {seed}.", CUT if seed % 5 == 0 else STOPPED
    return f"First I look at the {draw.choice(THINGS)}. It is the {draw.choice(PLACES)}, number {seed}.", STOPPED


class ScriptedGenerator:
    """Answers as :func:`scripted` says, and keeps what it was asked.

    Args:
        stop_after: replies after which it is interrupted, as by Ctrl-C.
    """

    def __init__(self, stop_after: int | None = None) -> None:
        self.asked: list[Request] = []
        self._left = stop_after

    def identity(self) -> dict[str, str]:
        return {"model": "scripted"}

    def how(self) -> str:
        return "by a script"

    def ask(self, requests: Sequence[Request], sampling: Sampling) -> Generator[tuple[int, Reply]]:
        for position in reversed(range(len(requests))):  # in any order: here, the last first
            if self._left == 0:
                raise KeyboardInterrupt
            self._left = None if self._left is None else self._left - 1
            request = requests[position]
            self.asked.append(request)
            text, finish = scripted(request.messages, request.seed)
            yield position, Reply(text, finish, tokens_in=10, tokens_out=len(text))


class NoProgress:
    """A terminal that nobody looks at."""

    @contextlib.contextmanager
    def bar(self, label: str, total: int | None) -> Iterator[NoBar]:
        yield NoBar()


class NoBar:
    """A bar that nobody looks at."""

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        pass
