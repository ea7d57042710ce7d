"""The split: drawn by a seed, of the asked size, and never through a group of kin."""

from __future__ import annotations

import pytest

from phibench.adapters.synthesis.similarity import KIN, groups, likeness
from phibench.adapters.synthesis.split import held_out
from support.scripted import THINGS

# Families of three riddles that are kin, and nobody else's.
FAMILIES = [
    f"Who left the {thing} of thing{n} and place{n} in {colour}?"
    for n, thing in enumerate(THINGS[:20])
    for colour in ("red", "blue", "green")
]


@pytest.mark.parametrize("seed", range(8))
def test_no_kin_on_both_sides(seed: int) -> None:
    out = held_out(groups(FAMILIES), 0.2, seed)
    assert 0 < len(out) <= 0.2 * len(FAMILIES)
    inside = [text for n, text in enumerate(FAMILIES) if n not in out]
    assert max(likeness(FAMILIES[n], text) for n in out for text in inside) < KIN


def test_the_seed_decides() -> None:
    assert held_out(groups(FAMILIES), 0.2, 3) == held_out(groups(FAMILIES), 0.2, 3)
    assert len({frozenset(held_out(groups(FAMILIES), 0.2, seed)) for seed in range(8)}) > 4


def test_texts_without_kin_fill_the_share() -> None:
    alone = [f"Who hides {thing}s?" for thing in THINGS]
    assert len(held_out(groups(alone), 0.1, 0)) == 3
    assert held_out(groups(alone), 0.0, 0) == set()
    assert len(held_out(groups(alone[:4]), 0.1, 0)) == 1  # a tenth of four is none, but something is to be held out


def test_one_large_group_is_trained_on() -> None:
    assert held_out(groups(["Who is red?", "Who is red!", "Who was red?"]), 0.5, 0) == set()
    assert held_out([], 0.5, 0) == set()
