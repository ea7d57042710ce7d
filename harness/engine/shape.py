"""One forward's tokens on the device, and attention between them.

Prefix trees have two ways: our own Triton kernel (CUDA from Ampere on, half precision), and padded blocks through
torch's scaled dot product attention with a mask, or by hand where scores are capped, everywhere else.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from .blocks import Bucket, key_blocks, padded_blocks
from .tree import Forward, Ints

Keep = Callable[[int, torch.Tensor, torch.Tensor], None]  # (layer, keys [T, K, D], values [T, K, D])


@dataclass(frozen=True)
class Scores:
    """What becomes of a query's product with a key."""

    scale: float
    window: int | None = None  # how many tokens back a query looks, itself included
    softcap: float | None = None  # of the scaled scores


class Shape(abc.ABC):
    """What attention needs to know of a forward.

    Args:
        tokens: how many the forward has.
        longest: the length in tokens of its longest sequence, what is cached counted.
    """

    def __init__(self, tokens: int, longest: int) -> None:
        self.tokens = tokens
        self.longest = longest
        self.calls = 0  # of attention: layers that were passed
        self.local_sizes: set[int] = set()  # windows that masks were asked for
        self.windows: set[int] = set()  # windows that layers named

    @abc.abstractmethod
    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scores: Scores) -> torch.Tensor:
        """Attention of one layer: q [T, H, D], k and v [T, K, D], K dividing H -> [T, H, D]."""


@dataclass(frozen=True)
class Block:
    """Padded blocks of one shape."""

    queries: torch.Tensor  # [n, Q]: positions in the forward
    keys: torch.Tensor  # [n, K]
    allowed: torch.Tensor  # [n, 1, Q, K]: which keys a query looks at


@dataclass(frozen=True)
class Tiles:
    """What the kernel needs; all int32."""

    first: torch.Tensor  # [tiles + 1]: where each tile's key blocks start
    blocks: torch.Tensor  # numbers of key blocks
    end: torch.Tensor  # [T]: where the subtree of each token's node ends
    positions: torch.Tensor  # [T]: each token's place in its own sequence


class TreeShape(Shape):
    """A forward of packed prefix trees; what attention needs is made when first asked for.

    Args:
        forward: the packed forward.
        device: where it runs.
        kernels: whether our own kernels may be used.
        keep: is given each layer's keys and values, with rotary positions applied.
    """

    def __init__(self, forward: Forward, device: torch.device, *, kernels: bool, keep: Keep | None = None) -> None:
        super().__init__(len(forward.tokens), forward.longest)
        self.forward = forward
        self.device = device
        self.kernels = kernels
        self.keep = keep
        self._blocks: dict[int | None, list[Block]] = {}

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scores: Scores) -> torch.Tensor:
        if self.keep:
            self.keep(layer, k, v)
        if not (self.kernels and q.shape[-1] <= 256 and q.shape[-1] == v.shape[-1]):
            return self._masked(q, k, v, scores)
        from . import kernels

        return kernels.attend(q, k, v, self.tiles, scores)

    def _masked(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scores: Scores) -> torch.Tensor:
        groups = q.shape[1] // k.shape[1]
        rows = []
        for block in self.blocks(scores.window):
            # [n, H, Q, D] and [n, H, K, D]
            queries = q[block.queries].transpose(1, 2)
            keys, values = (states[block.keys].transpose(1, 2) for states in (k, v))
            if groups > 1:
                keys, values = (states.repeat_interleave(groups, dim=1) for states in (keys, values))
            found = masked_attention(queries, keys, values, block.allowed, scores)
            rows.append(found.transpose(1, 2).reshape(-1, q.shape[1], v.shape[-1]))
        return torch.cat(rows)[self.unpadded]

    @cached_property
    def tiles(self) -> Tiles:
        """Which keys each tile of queries looks at, for the kernel."""
        parts = (*key_blocks(self.forward), self._subtree_ends(), self.forward.positions)
        return Tiles(*(self._on_device(part.astype(np.int32)) for part in parts))

    def blocks(self, window: int | None) -> list[Block]:
        """Padded blocks, under a window of that many tokens."""
        if window not in self._blocks:
            self._blocks[window] = [self._block(bucket, window) for bucket in self._buckets]
        return self._blocks[window]

    @cached_property
    def unpadded(self) -> torch.Tensor:
        """[T]: where each token stands among the padded queries of all blocks, one behind the other."""
        rows = np.concatenate([bucket.queries.reshape(-1) for bucket in self._buckets])
        real = np.flatnonzero(rows >= 0)
        place = np.empty(len(self.forward.tokens), dtype=np.int64)
        place[rows[real]] = real
        return self._on_device(place)

    @cached_property
    def _buckets(self) -> list[Bucket]:
        return padded_blocks(self.forward)

    @cached_property
    def _token_end(self) -> torch.Tensor:
        """[T]: where the subtree of each token's node ends."""
        return self._on_device(self._subtree_ends())

    def _subtree_ends(self) -> Ints:
        return np.repeat(self.forward.subtree_end, self.forward.node_end - self.forward.node_start)

    @cached_property
    def _positions(self) -> torch.Tensor:
        return self._on_device(self.forward.positions)

    def _block(self, bucket: Bucket, window: int | None) -> Block:
        queries, keys = self._on_device(bucket.queries), self._on_device(bucket.keys)
        real = (keys >= 0)[:, None, :]
        # A padded query looks at what its block's first one does, and nothing reads it.
        queries, keys = torch.where(queries >= 0, queries, queries[:, :1]), keys.clamp_min(0)
        # Depth first: a token's ancestors are those before it whose subtree it still stands in.
        before = keys[:, None, :] <= queries[:, :, None]
        allowed = real & before & (queries[:, :, None] < self._token_end[keys][:, None, :])
        if window is not None:
            allowed &= self._positions[queries][:, :, None] - self._positions[keys][:, None, :] < window
        return Block(queries, keys, allowed[:, None])

    def _on_device(self, values: npt.NDArray[Any]) -> torch.Tensor:
        return to_device(values, self.device)


def masked_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, allowed: torch.Tensor | None, scores: Scores
) -> torch.Tensor:
    """Attention: q [n, H, Q, D], k and v [n, H, K, D], allowed [n, 1, Q, K] or all -> [n, H, Q, D]."""
    if scores.softcap is None:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=scores.scale)
    capped = torch.tanh(q @ k.transpose(-1, -2) * scores.scale / scores.softcap) * scores.softcap
    if allowed is not None:
        capped = capped.masked_fill(~allowed, float("-inf"))
    return torch.softmax(capped, dim=-1, dtype=torch.float32).to(q.dtype) @ v


def to_device(values: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """A numpy array on a device; towards CUDA through page-locked memory, so that nothing waits for the copy."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
