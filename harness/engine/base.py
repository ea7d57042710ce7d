"""The engine's face: an lm-eval `LM` whose answers also come one by one, as they are ready.

Stock `lm_eval.simple_evaluate(model=engine)` accepts any engine; the runner takes :meth:`Engine.answers`, which tells
more (tokens, cuts, why a generation stopped) and lets nothing finished be lost.
"""

from __future__ import annotations

import abc
import contextlib
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM

from .requests import Encoder, Pair, Prepared, ScoringRequests, fitted
from .response import Response


class Engine(TemplateLM):
    """Answers lm-eval requests with one model.

    Args:
        model: a transformers causal LM, or a `PeftModel` around one, in evaluation mode.
        tokenizer: its tokenizer, with a padding token.
        max_length: the context in tokens; default: what the model's configuration says.
        prepared: where encoded requests and their plans are kept; engines of one tokenizer may share one.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, max_length: int | None = None, prepared: Prepared | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.encoder = Encoder(tokenizer)
        self._prepared = Prepared() if prepared is None else prepared
        self.max_length = (max_length or context_length(model.config, tokenizer)) - virtual_tokens(model)

    @abc.abstractmethod
    def score_all(self, requests: ScoringRequests) -> Generator[tuple[int, Response]]:
        """Score every item of `requests`: (index, response), in any order."""

    @abc.abstractmethod
    def generate(self, requests: Sequence[tuple[str, dict[str, Any], int]]) -> Generator[tuple[int, Response]]:
        """Generate: (prompt, lm-eval generation settings, seed) -> (index, response), in any order."""

    def answers(
        self, requests: Sequence[Instance], seeds: Sequence[int] | None = None
    ) -> Iterator[tuple[int, Response]]:
        """Answer requests of one type, each as soon as it is ready: (position in `requests`, response).

        Args:
            requests: lm-eval instances that share one `request_type`.
            seeds: one per request, for sampled generations; default: the position.

        Raises:
            ValueError: for a request type that lm-eval does not define.
        """
        kinds = {request.request_type for request in requests}
        if not kinds:
            return
        if len(kinds) > 1:
            raise ValueError(f"one request type at a time, not {sorted(kinds)}")
        kind = kinds.pop()
        if kind == "loglikelihood":
            with contextlib.closing(self.score_all(self.prepare(kind, [r.args for r in requests]))) as found:
                yield from found
        elif kind == "loglikelihood_rolling":
            yield from self._rolling([request.args for request in requests])
        elif kind == "generate_until":
            given = seeds if seeds is not None else range(len(requests))
            prompts = [(*request.args[:2], seed) for request, seed in zip(requests, given, strict=True)]
            with contextlib.closing(self.generate(prompts)) as found:
                yield from found
        else:
            raise ValueError(f"unknown request type {kind!r}")

    def score(self, pairs: Sequence[Pair]) -> Iterator[tuple[int, Response]]:
        """Score continuations: (context, continuation) token lists -> (index, response), in any order."""
        yield from self.score_all(fitted(enumerate(pairs), self.max_length))

    def prepare(self, kind: str, arguments: Sequence[tuple[Any, ...]]) -> ScoringRequests:
        """Requests of a scoring kind as tokens, once for all engines that share `prepared`: see :class:`Prepared`."""
        return self._prepared.get(self.encoder, kind, arguments, self.max_length)

    def plan_ahead(self, requests: Sequence[Instance]) -> None:
        """Encode and plan requests of one type before they are asked, so that answering them is the model's time."""
        if requests and requests[0].request_type.startswith("loglikelihood"):
            self.prepare(requests[0].request_type, [request.args for request in requests])

    def warm_up(self, *, generating: bool = True) -> None:
        """One forward, and one short generation, thrown away: what a device does only once is no part of a timing."""
        token = self.prefix_token_id
        list(self.score([([token], [token])]))
        if generating:
            list(self.generate([(self.tokenizer.decode([token]), {"until": [], "max_gen_toks": 2}, 0)]))

    # ---- lm-eval's own face

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, whether greedy decoding would give it) of each continuation."""
        found = self._in_order(requests)
        return [(float(r.loglikelihood or 0.0), bool(r.is_greedy)) for r in found]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood in nats of each whole text, over lm-eval's disjoint windows."""
        return [float(r.loglikelihood or 0.0) for r in self._in_order(requests)]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The text generated for each prompt, cut at the first stop string."""
        return [r.text or "" for r in self._in_order(requests)]

    def _in_order(self, requests: list[Instance]) -> list[Response]:
        found = dict(self.answers(requests))
        return [found[position] for position in range(len(requests))]

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        found = dict(self.score([(context, continuation) for _, context, continuation in requests]))
        ordered = [found[position] for position in range(len(requests))]
        return [(float(r.loglikelihood or 0.0), bool(r.is_greedy)) for r in ordered]

    # ---- tokens, exactly as lm-eval's Hugging Face model makes them

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """See :func:`phibench.harness.engine.requests.prefix_token`."""
        return self.encoder.prefix

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        return self.encoder.encode([string], special=add_special_tokens)[0]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return render_chat(self.tokenizer, chat_history, add_generation_prompt)

    def _rolling(self, arguments: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Response]]:
        windows = self.prepare("loglikelihood_rolling", arguments)
        waiting = Counter(windows.owners)
        parts: dict[int, list[tuple[int, Response]]] = {position: [] for position in range(len(arguments))}
        for position in parts.keys() - waiting.keys():  # an empty text has no window
            yield position, Response(tokens=0, truncated=0, loglikelihood=0.0, is_greedy=True)
        for index, response in self.score_all(windows):
            owner = windows.owners[index]
            parts[owner].append((index, response))
            if len(parts[owner]) == waiting[owner]:
                yield owner, _joined([r for _, r in sorted(parts.pop(owner), key=lambda part: part[0])])


def _joined(windows: list[Response]) -> Response:
    return Response(
        tokens=sum(r.tokens for r in windows),
        truncated=0,
        tokens_in=sum(r.tokens_in for r in windows),
        loglikelihood=sum(float(r.loglikelihood or 0.0) for r in windows),
        is_greedy=all(r.is_greedy for r in windows),
    )


def render_chat(tokenizer: Any, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
    """A conversation as text, by the tokenizer's chat template, as lm-eval asks for it."""
    return str(
        tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
    )


def virtual_tokens(model: Any) -> int:
    """How many virtual tokens a prompt or prefix adapter puts in front of every input; 0 for anything else."""
    config = getattr(model, "active_peft_config", None)
    return int(getattr(config, "num_virtual_tokens", 0) or 0) if getattr(config, "is_prompt_learning", False) else 0


def rope_limit(config: Any) -> int | None:
    """The length in tokens beyond which a model's rotary angles depend on the longest sequence of a batch; None: never.

    Transformers rescales them for `dynamic` and `longrope` models, by the longest position that it is given.
    """
    config = config.get_text_config()
    own = getattr(config, "rope_parameters", None) or {}
    layers = [value for value in own.values() if isinstance(value, dict)] or [own]  # one for each type of layer, or one
    scaled = [one for one in layers if one.get("rope_type") in ("dynamic", "longrope")]
    originals = [one.get("original_max_position_embeddings") or config.max_position_embeddings for one in scaled]
    return min(map(int, originals), default=None)


def context_length(config: Any, tokenizer: Any) -> int:
    """The model's context in tokens, looked up as lm-eval's Hugging Face model does (2048 when nothing says)."""
    for key in ("n_positions", "max_position_embeddings", "n_ctx"):
        if isinstance(value := getattr(config, key, None), int):
            return value
    length = getattr(tokenizer, "model_max_length", None)
    return int(length) if length is not None and length < 1_000_000 else 2048
