"""One forward's prefix trees on the device, in the shapes that attention needs; each is made when first asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from .blocks import Bucket, Segments, cascade, gathered, padded_blocks
from .tree import Forward, Ints


@dataclass(frozen=True)
class Block:
    """Padded blocks of one shape."""

    queries: torch.Tensor  # [n, Q]: positions in the forward
    keys: torch.Tensor  # [n, K]
    allowed: torch.Tensor  # [n, 1, Q, K]: which keys a query looks at


@dataclass(frozen=True)
class Pass:
    """Segments for one call of a variable-length kernel."""

    query_start: torch.Tensor  # [n + 1], int32
    key_start: torch.Tensor  # [n + 1], int32; the last entry is never read
    key_length: torch.Tensor  # [n], int32
    longest_query: int
    longest_key: int
    has_keys: torch.Tensor | None  # [T]: which tokens this pass has keys for; None: all


class TreeShape:
    """What attention needs to know of a forward.

    Args:
        forward: the packed forward.
        device: where it runs.
        kernels: whether the variable-length kernels may be used.
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
    def cascade(self) -> list[Pass]:
        """One pass for each level of the tree."""
        passes = cascade(self.forward)
        return [self._pass(segments, partial=level > 0) for level, segments in enumerate(passes)]

    @cached_property
    def gathered(self) -> tuple[Pass, torch.Tensor]:
        """Each node against its ancestors and itself, and where each of those copied keys comes from."""
        segments, keys = gathered(self.forward)
        return self._pass(segments, partial=False), self._on_device(keys)

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
        own = self.forward.node_end - self.forward.node_start
        return self._on_device(np.repeat(self.forward.subtree_end, own))

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

    def _pass(self, segments: Segments, *, partial: bool) -> Pass:
        has_keys = np.repeat(segments.key_length > 0, np.diff(segments.query_start)) if partial else None
        key_end = segments.key_start[-1:] + segments.key_length[-1:]
        return Pass(
            self._on_device(segments.query_start.astype(np.int32)),
            self._on_device(np.concatenate([segments.key_start, key_end]).astype(np.int32)),
            self._on_device(segments.key_length.astype(np.int32)),
            segments.longest_query,
            segments.longest_key,
            None if has_keys is None else self._on_device(has_keys),
        )

    def _on_device(self, values: Ints | np.ndarray) -> torch.Tensor:  # type: ignore[type-arg]
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor
