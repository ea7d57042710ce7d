"""A forward's tokens as blocks of queries with their keys: the shapes that attention over prefix trees is computed in.

numpy alone. Two shapes: padded blocks, for masked attention anywhere, and tiles with lists of key blocks, for the
kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .tree import Forward, Ints

QUERIES = 64  # of a tile
KEYS = 64  # of a block of keys
_BLOCK = 192  # queries of a padded block, unless one node alone is longer
_PADDING = 1.3  # blocks share a bucket while padding costs no more than this


@dataclass(frozen=True)
class Bucket:
    """Blocks of similar size, padded to one shape. Queries and keys are positions in the forward; -1 is padding."""

    queries: Ints  # [n, Q]
    keys: Ints  # [n, K]: the ancestors of the block's tokens, then the block itself


def padded_blocks(forward: Forward, size: int = _BLOCK) -> list[Bucket]:
    """Every token of the forward in exactly one block; a block's tokens share the ancestors above the block."""
    blocks = [(forward.ancestors(node), np.arange(start, end)) for node, start, end in _spans(forward, size)]
    blocks.sort(key=lambda block: (len(block[0]) + len(block[1]), block[1][0]))
    buckets: list[list[tuple[Ints, Ints]]] = []
    cost, widest = 0, 0
    for above, own in blocks:
        keys = len(above) + len(own)
        widest = max(widest, len(own))
        cost += len(own) * keys
        if not buckets or (len(buckets[-1]) + 1) * widest * keys > _PADDING * cost:
            buckets.append([])
            cost, widest = len(own) * keys, len(own)
        buckets[-1].append((above, own))
    return [
        Bucket(_padded([own for _, own in bucket]), _padded([np.concatenate(block) for block in bucket]))
        for bucket in buckets
    ]


def key_blocks(forward: Forward, queries: int = QUERIES, keys: int = KEYS) -> tuple[Ints, Ints]:
    """Which blocks of `keys` tokens hold a key for any of each tile's `queries` tokens.

    Returns:
        [tiles + 1], where each tile's blocks start, and the numbers of the blocks, ascending within a tile.
    """
    # A node's own tokens are seen by every token from its first one to the end of its subtree.
    first_tile, last_tile = forward.node_start // queries, (forward.subtree_end - 1) // queries
    first_block, last_block = forward.node_start // keys, (forward.node_end - 1) // keys
    tall, wide = last_tile - first_tile + 1, last_block - first_block + 1
    node = np.repeat(np.arange(len(tall)), tall * wide)
    within = np.arange(len(node)) - np.repeat(np.cumsum(tall * wide) - tall * wide, tall * wide)
    tile, block = first_tile[node] + within // wide[node], first_block[node] + within % wide[node]
    blocks = -(-len(forward.tokens) // keys)
    earlier = block * keys < (tile + 1) * queries  # no token sees a later one
    pairs = np.unique(tile[earlier] * blocks + block[earlier])
    tiles = -(-len(forward.tokens) // queries)
    return np.searchsorted(pairs, np.arange(tiles + 1) * blocks), pairs % blocks


def _spans(forward: Forward, size: int) -> list[tuple[int, int, int]]:
    """Cut the forward into (first node, start, end): whole subtrees of one parent, or one node's own tokens."""
    found: list[tuple[int, int, int]] = []
    node, count = 0, len(forward.node_start)
    while node < count:
        first, start = node, int(forward.node_start[node])
        if forward.subtree_end[node] - start > size:  # too large to stand in one block with what is below it
            found.append((first, start, int(forward.node_end[node])))
            node += 1
            continue
        end = start
        # Siblings stand one behind the other; trees have nothing in common, so each is a block of its own.
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
