"""What synthesis asks of a model, and what it gets: whoever answers, a local model or an endpoint. Imports no torch."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypedDict

STOPPED = "stop"  # the model ended its text by itself
CUT = "length"  # the token limit ended it


class Message(TypedDict):
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True)
class Sampling:
    """How texts are drawn; part of what makes a request the same request."""

    temperature: float = 1.0  # 0 is greedy decoding
    top_p: float = 1.0
    top_k: int | None = 50  # None: left to whoever answers
    max_new_tokens: int = 500


@dataclass(frozen=True)
class Request:
    """One conversation to go on with."""

    messages: tuple[Message, ...]
    seed: int


@dataclass(frozen=True)
class Reply:
    """What came back."""

    text: str
    finish: str  # STOPPED, CUT, or whatever else an endpoint says
    tokens_in: int | None = None  # of the prompt; None where an endpoint does not count
    tokens_out: int | None = None
    truncated: int = 0  # tokens of the prompt that were cut to fit the context
    model: str | None = None  # as the endpoint calls what answered


class TextGenerator(Protocol):
    """Whoever answers."""

    def identity(self) -> dict[str, str]:
        """What decides the answers beside the request: texts of two identities never share a data set."""
        ...

    def how(self) -> str:
        """How texts came about so far, in words, for the report."""
        ...

    def ask(self, requests: Sequence[Request], sampling: Sampling) -> Generator[tuple[int, Reply]]:
        """Answer conversations: (position in `requests`, reply), in any order, each as soon as it is there.

        Raises:
            UserError: where the user can mend what keeps answers from coming.
        """
        ...
