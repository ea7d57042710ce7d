"""Splitting conversations into those to train on and those held out, so that kin never stand on both sides."""

from __future__ import annotations

import random
from collections.abc import Sequence


def held_out(kin: Sequence[Sequence[int]], share: float, seed: int) -> set[int]:
    """Numbers of the conversations that are held out: whole groups of kin, drawn by the seed, up to a share.

    Groups that would go beyond the share are passed over, so a large one is trained on. What a riddle's fate is depends
    on the other riddles, as it must: a group goes one way.

    Args:
        kin: groups of numbers, as :func:`phibench.adapters.synthesis.similarity.groups` gives them.
        share: of all conversations; at most this many are held out, and at least one where that is possible.
        seed: of the draw.
    """
    found = list(kin)
    random.Random(f"{seed} split").shuffle(found)
    most = round(share * sum(map(len, found))) or (1 if share > 0 and len(found) > 1 else 0)
    out: set[int] = set()
    for group in found:
        if len(out) + len(group) <= most:
            out.update(group)
    return out
