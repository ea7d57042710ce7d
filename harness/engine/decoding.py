"""A model that reads prompts packed and then goes on token by token, over a cache of its own."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from .attention import Way, over
from .cache import KeyValueCache, LayerSize, StepShape
from .head import Head
from .packed import causal_of, hidden_states, packed
from .shape import TreeShape, to_device
from .tree import Forward, Ints, Plan, Scored

_log = logging.getLogger(__name__)

# Rows that a CUDA graph is recorded for. A batch takes the next larger one.
_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 320, 384, 448, 512)
MOST_ROWS = _SIZES[-1]
_MOST_WITHOUT_KERNELS = 64  # each row of each layer is a call then


class Decoder:
    """Prefill and decoding steps of one model. Use inside of :meth:`ready`.

    Args:
        model: a causal LM or a `PeftModel`, in evaluation mode, on its device.
        way: how packed tokens go through it.
    """

    def __init__(self, model: Any, way: Way) -> None:
        self.causal = causal_of(model)
        self._way = way
        self.device = next(self.causal.parameters()).device
        self._graphs = _Graphs(self._forward, self.device) if way.kernels else None
        self._head = Head(self.causal)
        self._cache: KeyValueCache | None = None
        self.longest = 0

    @property
    def most_rows(self) -> int:
        """How many rows a step may have."""
        return MOST_ROWS if self._way.kernels else _MOST_WITHOUT_KERNELS

    def row_bytes(self, *, sampled: bool) -> int:
        """Bytes that choosing a row's next token takes: its logits, and what sampling makes of them."""
        return int(self.causal.config.get_text_config().vocab_size) * (40 if sampled else 8)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """The model taking packed tokens; its own again afterwards, and the cache gone."""
        try:
            with packed(self.causal, self._way):
                yield
        finally:
            self._cache = None
            if self._graphs:
                self._graphs.clear()

    @torch.inference_mode()
    def layers(self) -> list[LayerSize]:
        """What each layer keeps of a token, found by a forward of one."""
        found: list[LayerSize] = []

        def keep(layer: int, k: torch.Tensor, v: torch.Tensor) -> None:
            found.append(LayerSize(k.shape[1], k.shape[2], v.shape[2], k.dtype))

        one = Plan([Scored([0], [0])]).forward(0, 1)
        hidden_states(self.causal, TreeShape(one, self.device, kernels=False, keep=keep))
        return found

    def open(self, layers: list[LayerSize], tokens: int, longest: int) -> KeyValueCache:
        """Make the cache.

        Args:
            layers: what each keeps.
            tokens: places.
            longest: the most tokens that one sequence will have.
        """
        self._cache = KeyValueCache(layers, tokens, self.device)
        self.longest = longest
        return self._cache

    @torch.inference_mode()
    def prefill(self, forward: Forward, starts: list[int]) -> torch.Tensor:
        """Read prompts: the last token of each is scored, all are cached.

        Args:
            forward: of a plan in which each sequence has one target.
            starts: for each sequence the first of its places in the cache.

        Returns:
            [n, V] logits of each sequence's next token.
        """
        cache = self._opened
        source, target = _copies(forward, starts)
        chosen, places = to_device(source, self.device), to_device(target, self.device)

        def keep(layer: int, k: torch.Tensor, v: torch.Tensor) -> None:
            cache.write(layer, places, k[chosen], v[chosen])

        shape = TreeShape(forward, self.device, kernels=self._way.kernels, keep=keep)
        output, hidden = hidden_states(self.causal, shape)
        with self._head.fed(output) as logits_of:
            return logits_of(hidden[to_device(forward.rows[forward.target_row], self.device)])

    @torch.inference_mode()
    def step(self, tokens: torch.Tensor, positions: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """Read one more token of each sequence.

        Args:
            tokens: [B], int64.
            positions: [B], int64: the place of each in its sequence.
            starts: [B], int64: the first place of each sequence in the cache.

        Returns:
            [B, V] logits of the tokens after them; with graphs they stand until the next step.
        """
        if self._graphs:
            return self._graphs(tokens, positions, starts, spare=self._opened.tokens)
        return self._forward(tokens, positions, starts)

    def _forward(self, tokens: torch.Tensor, positions: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        kernels = self._way.kernels
        shape = StepShape(self._opened, starts, positions, longest=self.longest, kernels=kernels)
        with over(shape):
            output = self.causal(input_ids=tokens[None], position_ids=positions[None], use_cache=False)
        return torch.as_tensor(output.logits[0])

    @property
    def _opened(self) -> KeyValueCache:
        if self._cache is None:
            raise RuntimeError("the cache is not open")
        return self._cache


class _Graphs:
    """Steps recorded once for each size of batch and played again: their kernels are too short to launch one by one.

    Args:
        forward: tokens, positions and starts [B] -> logits [B, V]; everything it does is on the device.
        device: where.
    """

    def __init__(self, forward: Any, device: torch.device) -> None:
        self._forward = forward
        self._inputs = [torch.zeros(_SIZES[-1], dtype=torch.int64, device=device) for _ in range(3)]
        self._recorded: dict[int, torch.cuda.CUDAGraph] = {}
        self._logits: torch.Tensor | None = None  # [most rows, V]: where every recording leaves its answer
        self._pool: Any = None
        self._failed = False

    def __call__(
        self, tokens: torch.Tensor, positions: torch.Tensor, starts: torch.Tensor, *, spare: int
    ) -> torch.Tensor:
        count = len(tokens)
        size = _SIZES[bisect_left(_SIZES, count)]
        for buffer, values, filler in zip(self._inputs, (tokens, positions, starts), (0, 0, spare), strict=True):
            buffer[:count] = values
            buffer[count:size] = filler
        if size not in self._recorded and not self._failed:
            self._record(size)
        if self._logits is None or size not in self._recorded:
            return torch.as_tensor(self._forward(tokens, positions, starts))
        self._recorded[size].replay()
        return self._logits[:count]

    def clear(self) -> None:
        """Forget the recordings and the memory they hold."""
        self._recorded.clear()
        self._logits = None
        self._pool = None

    def _record(self, size: int) -> None:
        """Record a size; where that fails, it and all others are played kernel by kernel."""
        inputs = [buffer[:size] for buffer in self._inputs]
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            logits = self._forward(*inputs)  # what is compiled or looked up once cannot be recorded
            if self._logits is None:
                self._logits = logits.new_empty(MOST_ROWS, logits.shape[-1])
            torch.cuda.synchronize()
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                self._logits[:size].copy_(self._forward(*inputs))
        except RuntimeError as error:  # running out of memory is one
            _log.info("steps are not recorded as CUDA graphs: %s", error)
            self._failed = True
            torch.cuda.set_stream(stream)  # torch leaves its own behind
            torch.cuda.synchronize()
            return
        self._pool = graph.pool()
        self._recorded[size] = graph


def _copies(forward: Forward, starts: list[int]) -> tuple[Ints, Ints]:
    """Which token of a forward goes to which place of the cache: each sequence has its own copy of what is shared."""
    paths = [forward.path(owner) for owner in range(len(starts))]
    target = [np.arange(start, start + len(path)) for start, path in zip(starts, paths, strict=True)]
    return np.concatenate(paths), np.concatenate(target)
