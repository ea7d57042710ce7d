"""Keys and values of sequences that are being generated, and attention of their newest tokens to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from .shape import Scores, Shape, masked_attention


@dataclass(frozen=True)
class LayerSize:
    """What one layer keeps of a token."""

    heads: int
    key_width: int
    value_width: int
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Bytes of one token's keys and values."""
        return self.heads * (self.key_width + self.value_width) * self.dtype.itemsize


class KeyValueCache:
    """One long row of token places for each layer; a sequence owns a run of them from its prompt to its last token.

    Args:
        layers: what each keeps.
        tokens: places of a layer; one more is there for rows that pad a batch.
        device: where they are.
    """

    def __init__(self, layers: Sequence[LayerSize], tokens: int, device: torch.device) -> None:
        def places(layer: LayerSize, width: int) -> torch.Tensor:
            return torch.zeros(tokens + 1, layer.heads, width, dtype=layer.dtype, device=device)

        self.tokens = tokens
        self.keys = [places(layer, layer.key_width) for layer in layers]
        self.values = [places(layer, layer.value_width) for layer in layers]
        self._free = [(0, tokens)]  # (start, size) of free runs, ascending

    def take(self, size: int) -> int | None:
        """The start of a free run of `size` places, which is the caller's from now on; None where there is none."""
        for i, (start, length) in enumerate(self._free):
            if length >= size:
                self._free[i : i + 1] = [(start + size, length - size)] if length > size else []
                return start
        return None

    def give(self, start: int, size: int) -> None:
        """Give a run back."""
        joined: list[tuple[int, int]] = []
        for run in sorted([*self._free, (start, size)]):
            if joined and sum(joined[-1]) == run[0]:
                joined[-1] = (joined[-1][0], joined[-1][1] + run[1])
            else:
                joined.append(run)
        self._free = joined

    def write(self, layer: int, places: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put keys and values [n, heads, width] of one layer at `places` [n]."""
        self.keys[layer].index_copy_(0, places, keys)
        self.values[layer].index_copy_(0, places, values)


class StepShape(Shape):
    """A forward of one new token for each of many sequences.

    Args:
        cache: what the sequences keep; each layer's new keys and values are added.
        starts: [B], int64: where each sequence's run starts.
        positions: [B], int64: each new token's place in its sequence.
        longest: the most tokens that a sequence will ever have.
        kernels: whether our own kernels may be used.
    """

    def __init__(
        self,
        cache: KeyValueCache,
        starts: torch.Tensor,
        positions: torch.Tensor,
        *,
        longest: int,
        kernels: bool,
    ) -> None:
        super().__init__(len(starts), longest)
        self._cache = cache
        self._starts = starts
        self._positions = positions
        self._kernels = kernels

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scores: Scores) -> torch.Tensor:
        self._cache.write(layer, self._newest, k, v)
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        if self._kernels and q.shape[-1] == v.shape[-1]:
            from . import kernels

            return kernels.attend_cached(q, keys, values, self._starts, self._positions, scores)
        heads, groups = k.shape[1], q.shape[1] // k.shape[1]
        # Row by row, over the very places: side by side they would have to be copied and padded in every layer. The
        # queries of a group look at the same keys: they stand where a sequence's own queries would.
        queries = q.reshape(len(q), 1, heads, groups, q.shape[-1])
        found = []
        for row, (start, position) in enumerate(self._rows):
            first = start if scores.window is None else start + max(0, position + 1 - scores.window)
            own = slice(first, start + position + 1)
            ours, theirs = (states[own].transpose(0, 1)[None] for states in (keys, values))
            found.append(masked_attention(queries[row], ours, theirs, None, scores).reshape(1, -1, v.shape[-1]))
        return torch.cat(found)

    @cached_property
    def _newest(self) -> torch.Tensor:
        return self._starts + self._positions

    @cached_property
    def _rows(self) -> list[tuple[int, int]]:
        """(start, position) of each row, on the host."""
        return list(zip(self._starts.tolist(), self._positions.tolist(), strict=True))
