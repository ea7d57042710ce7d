"""How many items would decide a rule that its items leave undecided. Needs no torch."""

from __future__ import annotations

import math

import numpy as np

from ..stats import Interval
from ..stats.proportions import paired_proportions

_TRIED = 400  # numbers of items between those that there are and those that surely do
_MOST = 10**9  # more than any task has


def items_needed(
    items: int,
    to_pass: Interval,
    to_fail: Interval,
    limit: float,
    *,
    above: bool,
    levels: tuple[float, float],
    changed: tuple[int, int] | None = None,
) -> int | None:
    """How many items would decide, were they like those that there are.

    Intervals shrink at least with the root of the items' number. Of right and wrong answers they often shrink faster,
    and are looked at.

    Args:
        items: how many there are.
        to_pass, to_fail: the intervals by which the rule passes and fails.
        limit: which of them must be beyond it.
        above: whether it passes above the limit; else below.
        levels: the confidences of the two intervals.
        changed: how many answers turned (right, wrong), of a difference between right and wrong ones.

    Returns:
        The number; None where the estimate stands on the limit, so that no number is enough.
    """
    passes = to_pass.estimate > limit if above else to_pass.estimate < limit
    interval, confidence = (to_pass, levels[0]) if passes else (to_fail, levels[1])
    below = passes == above  # the end of the interval between the estimate and the limit
    reach = interval.estimate - interval.low if below else interval.high - interval.estimate
    distance = abs(interval.estimate - limit)
    if distance == 0 or not math.isfinite(reach) or not items:
        return None
    most = items * (reach / distance) ** 2
    if not most < _MOST:
        return None
    surely = max(items + 1, math.ceil(most))
    if changed is None:
        return surely
    tried = np.unique(np.geomspace(items + 1, surely, _TRIED).astype(np.int64))
    won, lost = (part * tried / items for part in changed)
    low, high = paired_proportions(won, lost, tried, confidence)
    decided = low > limit if below else high < limit
    return int(tried[np.argmax(decided)]) if decided.any() else surely
