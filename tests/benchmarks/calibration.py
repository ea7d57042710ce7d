"""Do the statistics hold what they say? Simulated pairs of runs of which the truth is known.

    python tests/benchmarks/calibration.py --pairs 10000 --processes 16

For each setting: how often a test at 5 % raises a false alarm, how often a 95 % interval holds the truth, how often the
gate fails a variant that stands exactly at its margin, and how often early stopping errs when it looks after every
item. "Many" marks settings in which 25 items or more came out differently, where no test need be conservative. Ends in
one JSON line.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phibench.harness.stats import Pairs, paired_difference, resampling
from phibench.harness.stats.power import smallest_change, smallest_difference
from phibench.harness.stats.proportions import FEW, mcnemar, paired_proportions
from phibench.harness.stats.sequential import log_capital

SIZES = (50, 200, 1000, 5000)
RATES = (0.1, 0.25, 0.5, 0.9)
CORRELATIONS = (0.0, 0.5, 0.8, 0.95)
MARGIN = 0.03
_PART = 250


@dataclass(frozen=True)
class Rate:
    """How often something happened.

    Attributes:
        what: a false alarm of a test, a cover of an interval, ...
        setting: of the simulation.
        pairs, times: simulated pairs of runs, and in how many it did.
        pairs_25: how many of them have 25 or more differing items.
    """

    what: str
    setting: str
    pairs: int
    times: int
    pairs_25: int

    @property
    def all(self) -> float:
        """The share of all pairs of runs."""
        return self.times / self.pairs

    @property
    def many(self) -> bool:
        """Whether nine in ten of the pairs have 25 or more differing items.

        Of a setting as a whole: among pairs that were picked for how many items differ, no test keeps its level.
        """
        return self.pairs_25 >= 0.9 * self.pairs

    def __add__(self, other: Rate) -> Rate:
        counts = [getattr(self, name) + getattr(other, name) for name in ("pairs", "times", "pairs_25")]
        return Rate(self.what, self.setting, *counts)


def _rate(what: str, setting: str, happened: NDArray[np.bool_], differing: NDArray[np.int64]) -> Rate:
    many = differing >= FEW
    return Rate(what, setting, len(happened), int(happened.sum()), int(many.sum()))


def binary(items: int, rate: float, correlation: float, loss: float, pairs: int, seed: int) -> list[Rate]:
    """Right or wrong: McNemar's test, Tango's interval, and the gate at its margin, by counts of items won and lost.

    Args:
        items: of a run.
        rate: the baseline's accuracy.
        correlation: of the two variants' answers, where they are equally good.
        loss: by how much the variant is truly worse.
        pairs: of runs.
        seed: of the simulation.
    """
    moved = rate * (1 - rate) * (1 - correlation)
    won, lost = max(moved - loss / 2, 0.0), max(moved - loss / 2, 0.0) + loss
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(items, [won, lost, 1 - won - lost], size=pairs)
    differing = counts[:, 0] + counts[:, 1]
    setting = f"n {items}, accuracy {rate}, correlation {correlation}, loss {loss}"
    low, high = paired_proportions(counts[:, 0], counts[:, 1], items)
    found = [_rate("interval covers", setting, (low <= -loss) & (-loss <= high), differing)]
    if loss == 0:
        p = mcnemar(counts[:, 0], counts[:, 1])
        found.append(_rate("McNemar alarms", setting, p <= 0.05, differing))
    low, high = paired_proportions(counts[:, 0], counts[:, 1], items, 0.9)
    found.append(_rate("gate fails at its margin", setting, high < -loss, differing))
    found.append(_rate("gate passes at its margin", setting, low >= -loss, differing))
    return found


def _normal(generator: np.random.Generator, n: int, correlation: float) -> tuple[Any, Any]:
    shared = generator.normal(size=n)
    weights = np.sqrt(correlation), np.sqrt(1 - correlation)
    return tuple(weights[0] * shared + weights[1] * generator.normal(size=n) for _ in range(2))  # type: ignore[return-value]


def _scores(generator: np.random.Generator, n: int, correlation: float) -> tuple[Any, Any]:
    """Like ROUGE: between 0 and 1, skewed, and the same for both on a share of items that is the correlation."""
    before, other = generator.beta(1.2, 4, size=(2, n))
    return before, np.where(generator.random(n) < correlation, before, other)


def _heavy(generator: np.random.Generator, n: int, correlation: float) -> tuple[Any, Any]:
    """Like losses: skewed, without an upper end."""
    shared = generator.gamma(2.0, size=n)
    parts = [correlation * shared + (1 - correlation) * generator.exponential(size=n) for _ in range(2)]
    return parts[0], parts[1]


SHAPES: dict[str, Callable[[np.random.Generator, int, float], tuple[Any, Any]]] = {
    "normal": _normal,
    "scores": _scores,
    "losses": _heavy,
}


def continuous(shape: str, items: int, correlation: float, pairs: int, seed: int) -> list[Rate]:
    """Other metrics: the permutation test and the bootstrap's interval, through `paired_difference` itself."""
    generator = np.random.default_rng(seed)
    covers, alarms, differing = [], [], []
    for number in range(pairs):
        before, after = SHAPES[shape](generator, items, correlation)
        found = paired_difference(Pairs(before, after), aggregation="mean", higher_is_better=True, seed=number)
        assert found.interval is not None and found.p is not None
        covers.append(found.interval.low <= 0.0 <= found.interval.high)
        alarms.append(found.p <= 0.05)
        differing.append(int((before != after).sum()))
    setting = f"{shape}, n {items}, correlation {correlation}"
    counts = np.array(differing)
    return [
        _rate("interval covers", setting, np.array(covers), counts),
        _rate("permutation alarms", setting, np.array(alarms), counts),
    ]


def early(items: int, changed: float, pairs: int, seed: int) -> list[Rate]:
    """Early stopping that looks after every item, of a variant that stands exactly at the margin."""
    generator = np.random.default_rng(seed)
    draws = generator.random((pairs, items))
    lost = (changed + MARGIN) / 2
    gains = np.where(draws < lost, -1.0, np.where(draws < changed, 1.0, 0.0))
    limit = (1 - MARGIN) / 2
    found = []
    for what, above in (("early stopping passes at its margin", True), ("early stopping fails at its margin", False)):
        reached = log_capital((gains + 1) / 2, limit, above=above).max(axis=1) >= -np.log(0.05)
        found.append(_rate(what, f"n {items}, {changed} change", reached, (gains != 0).sum(axis=1)))
    return found


def power(items: int, changed: float, pairs: int, seed: int) -> list[Rate]:
    """The smallest change that so many items are said to resolve at 80 %: how often is it found?"""
    difference = smallest_change(items, changed)
    if difference is None:
        return []
    generator = np.random.default_rng(seed)
    won, lost = (changed + difference) / 2, (changed - difference) / 2
    counts = generator.multinomial(items, [won, lost, 1 - changed], size=pairs)
    p = mcnemar(counts[:, 0], counts[:, 1])
    return [_rate("power where 80 % is said", f"n {items}, {changed} change", p <= 0.05, counts[:, :2].sum(axis=1))]


def power_of_means(items: int, pairs: int, seed: int) -> list[Rate]:
    """The same of other metrics, normal differences."""
    difference = smallest_difference(items, 1.0)
    assert difference is not None
    generator = np.random.default_rng(seed)
    clear = []
    for number in range(pairs):
        gains = generator.normal(difference, 1.0, size=items)
        found = paired_difference(Pairs(np.zeros(items), gains), aggregation="mean", higher_is_better=True, seed=number)
        clear.append(found.p is not None and found.p <= 0.05)
    return [_rate("power where 80 % is said", f"normal, n {items}", np.array(clear), np.full(pairs, items))]


def jobs(pairs: int, sizes: tuple[int, ...] = SIZES) -> Iterator[tuple[Callable[..., list[Rate]], tuple[Any, ...]]]:
    """Every setting, the long ones first."""
    seeds = itertools.count()
    for items, shape, correlation in itertools.product(reversed(sizes), SHAPES, (0.0, 0.8)):
        for part in _parts(pairs):
            yield continuous, (shape, items, correlation, part, next(seeds))
    for items in reversed(sizes):
        for part in _parts(pairs):
            yield power_of_means, (items, part, next(seeds))
    for items, changed in itertools.product((500, 2000), (0.05, 0.1, 0.3)):
        yield early, (items, changed, min(pairs, 10_000_000 // items), next(seeds))
    for items, rate, correlation, loss in itertools.product(sizes, RATES, CORRELATIONS, (0.0, MARGIN)):
        if loss <= rate * (1 - rate) * (1 - correlation) * 2:
            yield binary, (items, rate, correlation, loss, pairs, next(seeds))
    for items, changed in itertools.product(sizes, (0.05, 0.1, 0.3)):
        yield power, (items, changed, pairs, next(seeds))


def _parts(pairs: int) -> list[int]:
    """Pairs of runs in parts that keep all processes busy."""
    return [min(_PART, pairs - start) for start in range(0, pairs, _PART)]


def _run(job: tuple[Callable[..., list[Rate]], tuple[Any, ...]]) -> list[Rate]:
    function, arguments = job
    return function(*arguments)


def main() -> None:
    """Simulate, print every rate and the extremes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000, help="of runs, a setting")
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="items of a run")
    parser.add_argument("--resamples", type=int, default=resampling.RESAMPLES, help="of each bootstrap and permutation")
    parser.add_argument("--binary", action="store_true", help="right or wrong alone: seconds")
    options = parser.parse_args()
    # Read when a bootstrap starts; processes are forked and inherit it.
    resampling.bca_interval.__kwdefaults__["resamples"] = options.resamples
    resampling.permutation_p.__kwdefaults__["resamples"] = options.resamples
    started = time.perf_counter()
    told: dict[tuple[str, str], Rate] = {}
    with multiprocessing.get_context("fork").Pool(options.processes) as pool:
        chosen = (job for job in jobs(options.pairs, tuple(options.sizes)) if not options.binary or job[0] is binary)
        for rates in pool.imap_unordered(_run, chosen):
            for one in rates:
                key = one.what, one.setting
                told[key] = told[key] + one if key in told else one
    found = [told[key] for key in sorted(told)]
    for one in found:
        print(f"{one.what:38} {one.all:8.4f} {'many' if one.many else '':5} {one.setting}", flush=True)
    print()
    for what in sorted({one.what for one in found}):
        rates = [one.all for one in found if one.what == what]
        many = [one.all for one in found if one.what == what and one.many]
        among = f"; where many differ {min(many):.4f} to {max(many):.4f} of {len(many)}" if many else ""
        print(f"{what:38} {min(rates):.4f} to {max(rates):.4f} of {len(rates)} settings{among}")
    seconds = round(time.perf_counter() - started, 1)
    print(json.dumps({"pairs": options.pairs, "seconds": seconds, "rates": [asdict(one) for one in found]}))


if __name__ == "__main__":
    main()
