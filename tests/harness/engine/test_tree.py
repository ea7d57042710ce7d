"""The plan of a scoring pass: prefix trees that hold every request once, whatever the order and the budget."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phibench.harness.engine.blocks import key_blocks, padded_blocks
from phibench.harness.engine.tree import Forward, Plan, Scored

TOKEN = st.integers(1, 3)  # few, so that much is shared
REQUEST = st.tuples(st.lists(TOKEN, min_size=1, max_size=14), st.lists(TOKEN, min_size=1, max_size=5)).map(
    lambda parts: Scored(parts[0], (parts[1] * len(parts[0]))[: min(len(parts[1]), len(parts[0]))])
)
REQUESTS = st.lists(REQUEST, min_size=1, max_size=25)


def paths(forward: Forward) -> list[list[int]]:
    """For each token the positions of its sequence up to it, written out the slow way."""
    found: list[list[int]] = []
    for token in range(len(forward.tokens)):
        node = int(np.searchsorted(forward.node_start, token, side="right")) - 1
        path = list(range(forward.node_start[node], token + 1))
        while (node := int(forward.node_parent[node])) >= 0:
            path = [*range(forward.node_start[node], forward.node_end[node]), *path]
        found.append(path)
    return found


def forwards(plan: Plan, budget: int) -> list[Forward]:
    return [plan.forward(start, end) for start, end in plan.ranges(budget)]


@settings(max_examples=150, deadline=None)
@given(REQUESTS, st.sampled_from([1, 6, 25, 1000]))
def test_every_request_is_there_once_with_its_own_tokens_and_positions(requests: list[Scored], budget: int) -> None:
    plan = Plan(requests)
    seen = []
    for forward in forwards(plan, budget):
        assert len(forward.owners) == 1 or len(forward.tokens) <= budget
        to_token = paths(forward)
        for i, owner in enumerate(forward.owners):
            places = slice(forward.owner_start[i], forward.owner_start[i + 1])
            rows = forward.rows[forward.target_row[places]]
            path = to_token[rows[-1]]
            assert path[len(path) - len(rows) :] == rows.tolist()
            assert forward.positions[path].tolist() == list(range(len(path)))
            for member in plan.members[owner]:
                assert forward.tokens[path].tolist() == list(requests[member].inputs)
                assert forward.targets[places].tolist() == list(requests[member].targets)
                seen.append(member)
    assert sorted(seen) == list(range(len(requests)))


@settings(max_examples=100, deadline=None)
@given(REQUESTS, st.integers(1, 40))
def test_blocks_show_every_token_its_own_sequence_and_no_other(requests: list[Scored], size: int) -> None:
    plan = Plan(requests)
    forward = plan.forward(0, len(plan))
    ends = np.repeat(forward.subtree_end, forward.node_end - forward.node_start)
    to_token = paths(forward)
    found = {}
    for bucket in padded_blocks(forward, size):
        for queries, keys in zip(bucket.queries, bucket.keys, strict=True):
            for query in queries[queries >= 0].tolist():
                seen = [key for key in keys.tolist() if 0 <= key <= query < ends[max(key, 0)]]
                assert query not in found
                found[query] = sorted(seen)
    assert found == dict(enumerate(to_token))


@settings(max_examples=100, deadline=None)
@given(REQUESTS, st.sampled_from([(4, 4), (8, 4), (4, 8), (7, 3)]))
def test_key_blocks_are_those_with_a_key(requests: list[Scored], sizes: tuple[int, int]) -> None:
    queries, keys = sizes
    plan = Plan(requests)
    forward = plan.forward(0, len(plan))
    to_token = paths(forward)
    first, blocks = key_blocks(forward, queries, keys)
    for tile in range(len(first) - 1):
        rows = range(tile * queries, min(len(to_token), (tile + 1) * queries))
        assert blocks[first[tile] : first[tile + 1]].tolist() == sorted({k // keys for r in rows for k in to_token[r]})


def test_the_plan_does_not_depend_on_the_order_of_requests() -> None:
    draw = random.Random(0)
    requests = [Scored([draw.randint(1, 3) for _ in range(draw.randint(1, 20))], [1]) for _ in range(200)]
    shuffled = draw.sample(requests, len(requests))
    for a, b in zip(forwards(Plan(requests), 100), forwards(Plan(shuffled), 100), strict=True):
        assert np.array_equal(a.tokens, b.tokens)
        assert np.array_equal(a.targets, b.targets)


def test_what_is_shared_is_fed_once() -> None:
    question = list(range(10, 60))
    choices = [[*question, *range(start, start + 5)] for start in (100, 200, 300, 400)]
    plan = Plan([Scored(choice, choice[-4:]) for choice in [*choices, choices[0]]])
    assert plan.tokens == 50 + 4 * 5
    assert len(plan) == 4
    assert plan.members[0] == [0, 4]


def test_one_question_with_one_token_choices_is_one_row() -> None:
    question = list(range(50))
    forward = Plan([Scored(question, [answer]) for answer in (7, 3, 5)]).forward(0, 3)
    assert len(forward.tokens) == 50
    assert forward.rows.tolist() == [49]
    assert forward.targets.tolist() == [3, 5, 7]


def test_a_prefix_too_short_to_pay_is_fed_with_each() -> None:
    questions = [list(range(n * 300, n * 300 + 298)) for n in range(1, 40)]
    one_word = Plan([Scored([1, *question], [9]) for question in questions])
    assert one_word.tokens == 39 * 299  # sharing one token of 299 saves less than a hundredth
    examples = Plan([Scored([*range(200), *question], [9]) for question in questions])
    assert examples.tokens == 200 + 39 * 298


def test_a_cut_falls_between_questions() -> None:
    requests = []
    for question in range(20):
        start = [question + 1] * 30
        requests += [Scored([*start, 100 + choice, 5, 5], [1]) for choice in range(4)]
    plan = Plan(requests)
    for start, end in plan.ranges(220)[:-1]:
        assert (end - start) % 4 == 0


@pytest.mark.parametrize("parts", [([], [1]), ([1], []), ([1], [1, 2])])
def test_a_request_without_context_or_continuation_is_refused(parts: tuple[list[int], list[int]]) -> None:
    with pytest.raises(ValueError, match="at least one context token"):
        Scored(*parts)
