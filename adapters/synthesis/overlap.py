"""What texts have in common word for word: between the data set and the seeds, and between its two splits."""

from __future__ import annotations

from collections.abc import Sequence

from .results import Overlap, Pair
from .similarity import Index, runs

LENGTHS = (5, 8, 13)  # words in a row
_CLOSEST = 5  # pairs that are shown


def overlap(what: str, texts: Sequence[str], others: Sequence[str]) -> Overlap:
    """Count the texts that share runs of words with any of the others, and find the pairs that are most alike.

    Args:
        what: for the report.
        texts: those that are counted.
        others: those that they are held against.
    """
    shared = {}
    for length in LENGTHS:
        known = set().union(*(runs(other, length) for other in others))
        shared[str(length)] = sum(not known.isdisjoint(runs(text, length)) for text in texts)
    index = Index()
    for other in others:
        index.add(other)
    pairs = []
    for text in texts:
        if (closest := index.closest(text)) is not None:
            pairs.append(Pair(text=text, other=others[closest[0]], likeness=round(closest[1], 3)))
    pairs.sort(key=lambda pair: -pair.likeness)
    return Overlap(what=what, texts=len(texts), others=len(others), shared=shared, closest=pairs[:_CLOSEST])
