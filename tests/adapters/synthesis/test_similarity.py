"""Which texts count as duplicates, near-duplicates and kin."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phibench.adapters.synthesis.overlap import overlap
from phibench.adapters.synthesis.similarity import DUPLICATE, KIN, Index, groups, likeness, normalized, runs


@pytest.mark.parametrize(("one", "other"), [
    ("What has keys but can't open locks?", "what has keys, but can’t open locks"),
    ("It doesn't move. What is it?", "It does not move; what is it?"),
    ("Who’s “there”?", 'Who\'s "there"?'),
    ("ＷＨＡＴ is up?", "What is up?"),
])  # fmt: skip
def test_the_same_words_are_the_same_text(one: str, other: str) -> None:
    assert normalized(one) == normalized(other)


@pytest.mark.parametrize(("one", "other"), [
    ("What has keys but can't open locks?", "What has keys but cannot open a lock?"),
    ("What gets wetter the more it dries?", "The more it dries, the wetter it gets. What is it?"),
    ("What has a thumb and four fingers but is not alive?", "What has four fingers and a thumb but isn't living?"),
    ("I guard the harbour at night. What am I?", "At night I guard the harbour. Who am I?"),
])  # fmt: skip
def test_near_duplicates(one: str, other: str) -> None:
    assert likeness(one, other) >= DUPLICATE
    assert likeness(one, other) == likeness(other, one)


# The last two pairs share their first 40 characters and more, by which the published recipe dropped the second.
@pytest.mark.parametrize(("one", "other"), [
    ("What has legs but cannot walk?", "What has hands but cannot clap?"),
    ("What has a neck but no head?", "What has a bed but never sleeps?"),
    ("I am the more, the more you take of me.", "I am the less, the more you know of me."),
    ("I am taken from the ground, and in the end I burn in a stove. What am I?",
     "I am taken from the ground, and in the end I write upon a blackboard for a teacher. What am I?"),
    ("What can you always find in the middle of gravity?",
     "What can you always find in the middle of an empty harbour town?"),
])  # fmt: skip
def test_other_riddles_of_the_same_mould_are_no_near_duplicates(one: str, other: str) -> None:
    assert likeness(one, other) < DUPLICATE


@given(st.text(max_size=60), st.text(max_size=60))
def test_likeness_is_between_0_and_1_and_of_equal_texts_1(one: str, other: str) -> None:
    assert 0 <= likeness(one, other) <= 1
    assert likeness(one, one) in (0, 1)  # 0 of a text without words


def test_the_index_finds_what_comparing_every_pair_finds() -> None:
    words = "lamp road tree boat the of has but cloud river".split()
    texts = [f"{words[n % 10]} {words[n * 3 % 10]} {words[n * 7 % 9]} {words[n % 4]}" for n in range(60)]
    index = Index()
    for text in texts:
        index.add(text)
    for text in texts:
        every = [(n, likeness(text, other)) for n, other in enumerate(texts) if likeness(text, other) >= KIN]
        shared = [(n, found) for n, found in every if found > 0]
        assert list(index.alike(text, KIN)) == shared
        best = max(likeness(text, other) for other in texts)
        assert index.closest(text) == (next(n for n, other in enumerate(texts) if likeness(text, other) == best), best)


def test_groups_join_kin_through_others() -> None:
    texts = ["red lamp road", "blue lamp road tree", "blue tree boat", "cloud", "river", "the cloud"]
    assert groups(texts, 0.4) == [[0, 1, 2], [3, 5], [4]]
    assert sorted(n for group in groups(texts, 0.9) for n in group) == [0, 1, 2, 3, 4, 5]


def test_runs_of_words() -> None:
    assert runs("One, two; three", 2) == {("one", "two"), ("two", "three")}
    assert runs("one", 2) == set()


def test_overlap_counts_texts_and_shows_the_closest() -> None:
    others = ["a b c d e f g h lamp", "river boat"]
    found = overlap("x", ["z a b c d e f g h", "a b c d e tree", "a b c d", "the river boat"], others)
    assert found.shared == {"5": 2, "8": 1, "13": 0}
    assert (found.texts, found.others) == (4, 2)
    assert (found.closest[0].text, found.closest[0].other) == ("the river boat", "river boat")


def test_overlap_of_nothing() -> None:
    found = overlap("x", [], [])
    assert found.shared == {"5": 0, "8": 0, "13": 0}
    assert found.closest == []
