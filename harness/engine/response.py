"""What an engine answers to one request; shared with the records. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Response:
    """What the model answered to one request: a scored continuation or a generated text."""

    tokens: int  # tokens scored or generated
    truncated: int  # tokens of the prompt that were cut from the left to fit the context
    tokens_in: int = 0  # tokens fed to the model for this request, padding not counted
    loglikelihood: float | None = None  # nats, summed over the scored tokens
    is_greedy: bool | None = None
    text: str | None = None
    stop: str | None = None  # eos | stop_string | length
