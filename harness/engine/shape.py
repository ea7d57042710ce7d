"""One forward's prefix trees on the device, in the shapes that attention needs; each is made when first asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .blocks import Bucket, key_blocks, padded_blocks
from .tree import Forward, Ints


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


class TreeShape:
    """What attention needs to know of a forward.

    Args:
        forward: the packed forward.
        device: where it runs.
        kernels: whether our own kernels may be used.
    """

    def __init__(self, forward: Forward, device: torch.device, *, kernels: bool) -> None:
        self.forward = forward
        self.device = device
        self.kernels = kernels
        self.calls = 0  # of attention
        self.local_sizes: set[int] = set()  # windows that masks were asked for
        self.windows: set[int] = set()  # windows that layers named
        self._blocks: dict[int | None, list[Block]] = {}

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


def to_device(values: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """A numpy array on a device; towards CUDA through page-locked memory, so that nothing waits for the copy."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
