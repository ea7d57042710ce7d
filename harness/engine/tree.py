"""The plan of a scoring pass: sequences as prefix trees, cut into forwards by a token budget. numpy alone, no torch.

A plan is made once for a set of requests and asked of every variant that shares the tokenizer. Sequences are sorted, so
that a prefix tree is no more than the sorted list and, for each entry, how many tokens it shares with the one before:
any run of entries is a forward, whose tokens stand depth first and whose prefixes are there once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from .response import Response

Ints = npt.NDArray[np.int64]

# A shared prefix is kept as one node where that saves this share of its subtree's tokens. A word or two that all
# questions start with is fed with each of them: small trees are cut and padded with less waste than one giant tree.
MIN_SAVING = 0.01


@dataclass(frozen=True)
class Scored:
    """What one request asks of the model.

    Raises:
        ValueError: when there is nothing to feed or nothing to score.
    """

    inputs: Sequence[int]  # the tokens fed
    targets: Sequence[int]  # the tokens scored: what the last `len(targets)` positions of the inputs should say next
    truncated: int = 0  # tokens cut from the left to fit the context

    def __post_init__(self) -> None:
        if not 0 < len(self.targets) <= len(self.inputs):
            raise ValueError("a request needs at least one context token and one continuation token")

    def answered(self, loglikelihood: float, is_greedy: bool) -> Response:
        """The response to this request: nats, and whether each target is what greedy decoding would say."""
        return Response(
            tokens=len(self.targets),
            truncated=self.truncated,
            tokens_in=len(self.inputs),
            loglikelihood=loglikelihood,
            is_greedy=is_greedy,
        )


@dataclass(frozen=True)
class Forward:
    """One packed forward: the tokens of a run of sequences, depth first, and what is read off it."""

    tokens: Ints  # [T]
    positions: Ints  # [T], each token's place in its own sequence
    node_start: Ints  # [N], where each node's tokens start; node n's end where node n + 1's start
    node_parent: Ints  # [N], -1 for a root
    subtree_end: Ints  # [N], where the tokens of the node and all nodes below it end
    rows: Ints  # [S], distinct positions whose next token is scored, ascending
    target_row: Ints  # [P], for each scored token its entry in `rows`
    targets: Ints  # [P]
    owners: Ints  # [R], numbers of the plan's sequences
    owner_start: Ints  # [R + 1], where each owner's scored tokens start

    @cached_property
    def node_end(self) -> Ints:
        """[N], where each node's own tokens end."""
        return np.append(self.node_start[1:], len(self.tokens))

    @cached_property
    def longest(self) -> int:
        """The length in tokens of the longest sequence."""
        return int(self.positions.max()) + 1

    def ancestors(self, node: int) -> Ints:
        """The tokens of all nodes above `node`, from the root down."""
        parts: list[Ints] = []
        parent = int(self.node_parent[node])
        while parent >= 0:
            parts.append(np.arange(self.node_start[parent], self.node_end[parent]))
            parent = int(self.node_parent[parent])
        return np.concatenate(parts[::-1]) if parts else np.empty(0, dtype=np.int64)

    def path(self, owner: int) -> Ints:
        """Where the tokens of the forward's `owner`-th sequence stand, from its first to its last scored one."""
        last = int(self.rows[self.target_row[self.owner_start[owner + 1] - 1]])
        node = int(np.searchsorted(self.node_start, last, side="right")) - 1
        return np.concatenate([self.ancestors(node), np.arange(self.node_start[node], last + 1)])


class Plan:
    """Requests as sorted, distinct sequences with the prefix that each shares with the one before.

    Args:
        requests: what to score, in any order; the plan does not depend on it.
        share: whether prefixes are shared at all (for comparison).
    """

    def __init__(self, requests: Sequence[Scored], *, share: bool = True) -> None:
        self.request_count = len(requests)
        keys: dict[tuple[bytes, bytes], int] = {}
        members: list[list[int]] = []  # the requests that ask the same
        for number, request in enumerate(requests):
            # Big-endian, so that bytes sort as their tokens do.
            key = _bytes(request.inputs), _bytes(request.targets)
            found = keys.setdefault(key, len(members))
            if found == len(members):
                members.append([])
            members[found].append(number)
        order = sorted(keys)
        self.members = [members[keys[key]] for key in order]
        self._inputs = [np.frombuffer(inputs, dtype=">u4") for inputs, _ in order]
        self._targets = [np.frombuffer(targets, dtype=">u4") for _, targets in order]
        self.lengths = np.array([len(inputs) for inputs in self._inputs], dtype=np.int64)
        common = np.zeros(len(order), dtype=np.int64)
        if share:
            for i in range(1, len(order)):
                common[i] = _common(self._inputs[i - 1], self._inputs[i])
            self.shared = _worthwhile(self.lengths, common)
        else:
            self.shared = common
        self._new = self.lengths - self.shared
        self._built: dict[tuple[int, int], Forward] = {}

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """Tokens of all sequences when every prefix worth sharing is fed once."""
        return int(self._new.sum())

    def end(self, budget: int, start: int) -> int:
        """Where the forward that starts with sequence `start` ends: at most `budget` tokens, one sequence at least.

        A prefix that two forwards share is fed in both; so the cut is moved back, by an eighth of the budget at most,
        to where the least is shared.
        """
        # Tokens of the forward that starts here and ends with each sequence.
        new = self._new[start : start + budget + 1].copy()
        new[0] = self.lengths[start]
        filled = np.cumsum(new)
        end = start + max(1, int(np.searchsorted(filled, budget, side="right")))
        if end >= len(self):
            return len(self)
        first = start + max(1, int(np.searchsorted(filled, budget - budget // 8, side="right")))
        shared = self.shared[min(first, end) : end + 1]
        return end - int(np.argmin(shared[::-1]))

    def ranges(self, budget: int) -> list[tuple[int, int]]:
        """All forwards of a budget, as (first sequence, end)."""
        found, start = [], 0
        while start < len(self):
            end = self.end(budget, start)
            found.append((start, end))
            start = end
        return found

    def forward(self, start: int, end: int) -> Forward:
        """The forward of the sequences from `start` to before `end`; built once."""
        key = (start, end)
        if key not in self._built:
            self._built[key] = self._build(start, end)
        return self._built[key]

    def _build(self, start: int, end: int) -> Forward:
        shared = self.shared[start:end].copy()
        shared[0] = 0
        lengths = self.lengths[start:end]
        offsets = np.concatenate([[0], np.cumsum(lengths - shared)])
        total = int(offsets[-1])
        tokens = np.empty(total, dtype=np.int64)
        positions = np.empty(total, dtype=np.int64)
        before = np.arange(-1, total - 1, dtype=np.int64)  # the token before each one in its own sequence
        path = np.empty(int(lengths.max()), dtype=np.int64)  # where the current sequence's tokens stand
        scored, targets = [], []
        for i, (length, common) in enumerate(zip(lengths.tolist(), shared.tolist(), strict=True)):
            here, there = int(offsets[i]), int(offsets[i + 1])
            tokens[here:there] = self._inputs[start + i][common:]
            positions[here:there] = np.arange(common, length)
            path[common:length] = np.arange(here, there)
            if there > here:
                before[here] = path[common - 1] if common else -1
            wanted = self._targets[start + i]
            scored.append(path[length - len(wanted) : length].copy())
            targets.append(wanted)
        rows, target_row = np.unique(np.concatenate(scored), return_inverse=True)
        counts = [len(wanted) for wanted in targets]
        return Forward(
            tokens,
            positions,
            *_nodes(before),
            rows=rows,
            target_row=target_row.reshape(-1).astype(np.int64),
            targets=np.concatenate(targets).astype(np.int64),
            owners=np.arange(start, end, dtype=np.int64),
            owner_start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        )


def _bytes(tokens: Sequence[int]) -> bytes:
    return np.asarray(tokens, dtype=">u4").tobytes()


def _common(a: npt.NDArray[np.uint32], b: npt.NDArray[np.uint32]) -> int:
    """How many tokens two sequences share from the left."""
    size = min(len(a), len(b))
    differs = a[:size] != b[:size]
    first = int(differs.argmax()) if size else 0
    return first if size and differs[first] else size


def _worthwhile(lengths: Ints, common: Ints) -> Ints:
    """Drop the sharing that does not pay: what each sorted sequence shares with the one before, in kept nodes alone.

    A node of the prefix tree is a run of sequences with a prefix in common. Going down from the root, a node is kept
    where feeding its tokens once saves `MIN_SAVING` of the tokens at and below it; else its children have them each.
    """
    kept = np.zeros_like(common)
    fed = np.append(0, np.cumsum(lengths - common))
    waiting = [(0, len(lengths), 0)]
    while waiting:
        first, last, above = waiting.pop()
        if last - first < 2:
            continue
        inner = common[first + 1 : last]
        depth = int(inner.min())
        branches = first + 1 + np.flatnonzero(inner == depth)
        tokens = fed[last] - fed[first + 1] + lengths[first] - above
        if (depth - above) * len(branches) >= MIN_SAVING * tokens:
            above = depth
        kept[branches] = above
        waiting += [(a, b, above) for a, b in pairwise([first, *branches.tolist(), last])]
    return kept


def _nodes(before: Ints) -> tuple[Ints, Ints, Ints]:
    """Join the tokens of chains into nodes: (start, parent, end of subtree) of each."""
    total = len(before)
    followers = np.bincount(before[before >= 0], minlength=total)
    starts = before != np.arange(-1, total - 1)
    starts[0] = True
    starts[1:] |= followers[:-1] > 1
    node_start = np.flatnonzero(starts)
    node_of = np.cumsum(starts) - 1
    parent_token = before[node_start]
    node_parent = np.where(parent_token >= 0, node_of[parent_token], -1)
    subtree_end = np.append(node_start[1:], total)
    for node in range(len(node_start) - 1, -1, -1):
        parent = node_parent[node]
        if parent >= 0 and subtree_end[node] > subtree_end[parent]:
            subtree_end[parent] = subtree_end[node]
    return node_start, node_parent, subtree_end
