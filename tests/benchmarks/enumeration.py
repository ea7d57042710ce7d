"""Intervals of paired proportions over every outcome that two runs can have: exact, nothing is simulated.

    python tests/benchmarks/enumeration.py

For each setting (items, how many differ, how many of these one way): how often the 95 % interval holds the truth, and
how often each one-sided limit at 5 % errs. Prints the worst of all, and the same without a correction for continuity.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from phibench.harness.stats import proportions

ITEMS = (50, 100, 200, 500, 1000)
DIFFER = (1, 2, 4, 6, 9, 13, 19, 25, 32, 36, 40, 55, 70, 94)  # items, on average
ONE_WAY = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5)  # of those that differ, the rarer way
MANY = 25  # items that differ
_WEIGHTLESS = 1e-10  # a probability of an outcome


@dataclass(frozen=True)
class Exact:
    """What holds of an interval in one setting, as probabilities.

    Attributes:
        covers: the interval at 95 % holds the truth.
        low_errs, high_errs: a lower, an upper limit at the level lies beyond the truth.
        alarms: McNemar's test at 5 % finds a difference.
        many: 25 or more items differ.
    """

    covers: float
    low_errs: float
    high_errs: float
    alarms: float
    many: float


def exact(items: int, differing: float, winning: float, level: float = 0.05) -> Exact:
    """Sum over every outcome of any weight.

    Args:
        items: of each run.
        differing: the probability that an item comes out differently.
        winning: the probability that it is then won.
        level: of the one-sided limits.
    """
    low, high = (int(binom.ppf(tail, items, differing)) for tail in (_WEIGHTLESS, 1 - _WEIGHTLESS))
    each = np.arange(low, high + 1)
    both = np.repeat(each, each + 1)
    won = np.concatenate([np.arange(count + 1) for count in each])
    weight = binom.pmf(both, items, differing) * binom.pmf(won, both, winning)
    won, both, weight = won[weight > _WEIGHTLESS], both[weight > _WEIGHTLESS], weight[weight > _WEIGHTLESS]
    truth = (2 * winning - 1) * differing
    low95, high95 = proportions.paired_proportions(won, both - won, items)
    low90, high90 = proportions.paired_proportions(won, both - won, items, 1 - 2 * level)
    return Exact(
        covers=float(weight[(low95 <= truth) & (truth <= high95)].sum()),
        low_errs=float(weight[low90 > truth].sum()),
        high_errs=float(weight[high90 < truth].sum()),
        alarms=float(weight[proportions.mcnemar(won, both - won) <= 0.05].sum()),
        many=float(weight[both >= MANY].sum()),
    )


def settings() -> list[tuple[int, float, float]]:
    """Items, how many differ and how many of these are won, with every item's probability below 1."""
    grid = itertools.product(ITEMS, DIFFER, ONE_WAY)
    return [(items, min(differ / items, 0.94), rarer) for items, differ, rarer in grid]


def report(title: str) -> None:
    """Print the extremes over all settings, and over those in which 25 or more items differ nine times in ten."""
    found = [(setting, exact(*setting)) for setting in settings()]
    for what, some in (("all", found), ("where 25 items or more differ", [one for one in found if one[1].many >= 0.9])):
        covers = [one.covers for _, one in some]
        errs = max(max(one.low_errs, one.high_errs) for _, one in some)
        alarms = [one.alarms for (_, _, winning), one in some if winning == 0.5]
        wide = sum(one > 0.96 for one in covers)
        print(f"{title}, {len(some)} settings, {what}:")
        print(f"  interval covers {min(covers):.4f} to {max(covers):.4f}, above 0.96 in {wide}")
        print(f"  one-sided limit errs at most {errs:.4f}")
        print(f"  McNemar alarms {min(alarms):.4f} to {max(alarms):.4f}", flush=True)


def main() -> None:
    """Enumerate as it is, and without a correction."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    report("corrected")
    for level in (0.01, 0.001):  # as one of 5, and of 50, checks fails
        for what, most in (("", 1.0), (", where no more than half of the items differ", 0.5)):
            found = [exact(*setting, level) for setting in settings() if setting[1] <= most]
            worst = max(max(one.low_errs, one.high_errs) for one in found)
            print(f"at {level}, a one-sided limit errs at most {worst:.5f}{what}", flush=True)
    proportions.FEW = proportions.LOPSIDED = 0
    report("not corrected")


if __name__ == "__main__":
    main()
