"""A forward's tokens as blocks of queries with their keys: the shapes that attention over prefix trees is computed in.

numpy alone. Two shapes: padded blocks, for masked attention anywhere, and segments, for the variable-length kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .tree import Forward, Ints

BLOCK = 192  # queries of a padded block, unless one node alone is longer
_PADDING = 1.3  # blocks share a bucket while padding costs no more than this


@dataclass(frozen=True)
class Bucket:
    """Blocks of similar size, padded to one shape. Queries and keys are positions in the forward; -1 is padding."""

    queries: Ints  # [n, Q]
    keys: Ints  # [n, K]: the ancestors of the block's tokens, then the block itself


@dataclass(frozen=True)
class Segments:
    """Runs of queries with their runs of keys, as variable-length kernels take them."""

    query_start: Ints  # [n + 1], where each run of queries starts; they stand one behind the other
    key_start: Ints  # [n], where each run of keys starts
    key_length: Ints  # [n]

    @property
    def longest_query(self) -> int:
        return int(np.diff(self.query_start).max())

    @property
    def longest_key(self) -> int:
        return int(self.key_length.max())


def padded_blocks(forward: Forward, size: int = BLOCK) -> list[Bucket]:
    """Every token of the forward in exactly one block; a block's tokens share the ancestors above the block."""
    spans = _spans(forward, size)
    above = [_ancestors(forward, node) for node, _, _ in spans]
    order = sorted(range(len(spans)), key=lambda i: (len(above[i]) + spans[i][2] - spans[i][1], spans[i][1]))
    buckets: list[Bucket] = []
    batch: list[int] = []
    cost, widest_query = 0, 0
    for i in [*order, None]:
        if i is not None:
            _, start, end = spans[i]
            own = (end - start) * (len(above[i]) + end - start)
            padded = (len(batch) + 1) * max(widest_query, end - start) * (len(above[i]) + end - start)
            if not batch or padded <= _PADDING * (cost + own):
                batch.append(i)
                cost, widest_query = cost + own, max(widest_query, end - start)
                continue
        queries = [np.arange(spans[b][1], spans[b][2]) for b in batch]
        keys = [np.concatenate([above[b], np.arange(spans[b][1], spans[b][2])]) for b in batch]
        buckets.append(Bucket(_padded(queries), _padded(keys)))
        if i is not None:
            batch, cost, widest_query = [i], own, end - start
    return buckets


def cascade(forward: Forward) -> list[Segments]:
    """Attention in passes, whose results are joined by their softmax's normalisers.

    The first pass is each node's tokens among themselves (causal). Each further pass, one for every level that has
    nodes below it, is all tokens below a node against the node's own tokens (every one of them): no key is copied.
    Runs of queries between such nodes have no keys.
    """
    own = np.append(forward.node_start, len(forward.tokens))
    passes = [Segments(own, forward.node_start, forward.node_end - forward.node_start)]
    inner = forward.subtree_end > forward.node_end
    for level in range(int(forward.node_level.max())):
        nodes = np.flatnonzero(inner & (forward.node_level == level))
        # Alternately: the tokens up to the node's end, which have no keys here; the tokens below the node.
        bounds = np.stack([forward.node_end[nodes], forward.subtree_end[nodes]], axis=1).reshape(-1)
        starts = np.stack([forward.node_start[nodes]] * 2, axis=1).reshape(-1)
        lengths = np.stack([np.zeros_like(nodes), (forward.node_end - forward.node_start)[nodes]], axis=1).reshape(-1)
        if bounds[-1] < len(forward.tokens):
            bounds, starts, lengths = (
                np.append(bounds, len(forward.tokens)),
                np.append(starts, 0),
                np.append(lengths, 0),
            )
        passes.append(Segments(np.append(0, bounds), starts, lengths))
    return passes


def gathered(forward: Forward) -> tuple[Segments, Ints]:
    """Each node a run of queries whose keys, copied together, are its ancestors and itself (bottom-right causal).

    Returns:
        The segments over the copied keys, and the position in the forward that each copied key comes from.
    """
    keys = [
        np.concatenate([_ancestors(forward, node), np.arange(forward.node_start[node], forward.node_end[node])])
        for node in range(len(forward.node_start))
    ]
    lengths = np.array([len(run) for run in keys], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    own = np.append(forward.node_start, len(forward.tokens))
    return Segments(own, starts, lengths), np.concatenate(keys)


def _ancestors(forward: Forward, node: int) -> Ints:
    """The tokens of all nodes above `node`, from the root down."""
    parts: list[Ints] = []
    parent = int(forward.node_parent[node])
    while parent >= 0:
        parts.append(np.arange(forward.node_start[parent], forward.node_end[parent]))
        parent = int(forward.node_parent[parent])
    return np.concatenate(parts[::-1]) if parts else np.empty(0, dtype=np.int64)


def _spans(forward: Forward, size: int) -> list[tuple[int, int, int]]:
    """Cut the forward into (first node, start, end): whole subtrees of one parent, or one node's own tokens."""
    found: list[tuple[int, int, int]] = []
    node, count = 0, len(forward.node_start)
    while node < count:
        start = int(forward.node_start[node])
        if forward.subtree_end[node] - start > size:  # too large to stand in one block with what is below it
            found.append((node, start, int(forward.node_end[node])))
            node += 1
            continue
        first, end = node, start
        # Siblings stand one behind the other; trees of their own have nothing in common, so one a block.
        while (
            node < count
            and forward.node_parent[node] == forward.node_parent[first]
            and forward.subtree_end[node] - start <= size
            and (node == first or forward.node_parent[first] >= 0)
        ):
            end = int(forward.subtree_end[node])
            node = int(np.searchsorted(forward.node_start, end))
        found.append((first, start, end))
    return found


def _padded(rows: list[Ints]) -> Ints:
    padded = np.full((len(rows), max(map(len, rows))), -1, dtype=np.int64)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return padded
