"""The spread across training seeds, kept apart from what the choice of items adds. Needs no torch.

Two trainings of one recipe differ though nothing does but the seed. That spread says how far a difference would move on
training again; the standard error over items, how far it would on asking other items. Neither tells of the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from .outcomes import Outcomes
from .results import MetricInfo, TaskInfo, VariantInfo
from .stats import CONFIDENCE, Interval
from .stats.interval import Floats
from .values import CellValues, matched


@dataclass(frozen=True)
class SeedSpread:
    """One form of a recipe's adapters under several training seeds, in one metric.

    Attributes:
        variants: the form's variants, a seed each.
        seeds: of their trainings.
        task, metric: on what.
        items: that all of them and the baseline answered.
        differences: to the baseline, of each.
        between: the standard deviation of these.
        over_items: the standard error over items of their mean.
        mean: their mean, with Student's t interval over seeds.
    """

    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    task: str
    metric: MetricInfo
    items: int
    differences: tuple[float, ...]
    between: float
    over_items: float
    mean: Interval


def measure_spread(outcomes: Outcomes) -> list[SeedSpread]:
    """The spread of every form that the run has under two or more training seeds, in each task's leading metric."""
    found = []
    for variants, seeds in _groups(outcomes):
        for info in outcomes.manifest.tasks:
            metric = outcomes.metric(info, None)
            if metric is not None and metric.aggregation == "mean":
                one = _measure(outcomes, variants, seeds, info, metric)
                if one is not None:
                    found.append(one)
    return found


def _groups(outcomes: Outcomes) -> Iterator[tuple[list[VariantInfo], list[int]]]:
    """The variants that are one form of one recipe, with their seeds."""
    seeds = {
        info.name: (info.source, info.seed)
        for info in outcomes.manifest.adapters
        if info.training is not None and info.seed is not None and info.null_of is None
    }
    groups: dict[tuple[object, ...], list[VariantInfo]] = {}
    for variant in outcomes.manifest.variants:
        if variant.adapter in seeds:
            source = seeds[variant.adapter][0]
            groups.setdefault((source, variant.quantization, variant.merge), []).append(variant)
    for variants in groups.values():
        told = [seeds[str(variant.adapter)][1] for variant in variants]
        if len(set(told)) > 1:
            yield variants, [seed for seed in told if seed is not None]


def _measure(
    outcomes: Outcomes, variants: list[VariantInfo], seeds: list[int], info: TaskInfo, metric: MetricInfo
) -> SeedSpread | None:
    key = metric.key
    base = outcomes.values(outcomes.manifest.baseline, info.name)
    cells = [outcomes.values(variant.name, info.name) for variant in variants]
    if not isinstance(base, CellValues):
        return None
    each: dict[int, tuple[VariantInfo, int, CellValues]] = {}  # a seed that stands there twice made one adapter
    for variant, seed, cell in zip(variants, seeds, cells, strict=True):
        if isinstance(cell, CellValues):
            each.setdefault(seed, (variant, seed, cell))
    answered = list(each.values())
    if len(answered) < 2 or any(cell.early for _, _, cell in answered):
        return None
    gains = np.stack([_gains(base, cell, key) for _, _, cell in answered])
    gains = gains[:, np.isfinite(gains).all(axis=0)]
    if gains.shape[1] < 2:
        return None
    differences = gains.mean(axis=1)
    between, mean, k = float(differences.std(ddof=1)), float(differences.mean()), len(answered)
    reach = float(stdtrit(k - 1, (1 + CONFIDENCE) / 2)) * between / math.sqrt(k)
    return SeedSpread(
        tuple(variant.name for variant, _, _ in answered),
        tuple(seed for _, seed, _ in answered),
        info.name,
        metric,
        gains.shape[1],
        tuple(float(one) for one in differences),
        between,
        float(gains.mean(axis=0).std(ddof=1)) / math.sqrt(gains.shape[1]),
        Interval(mean, mean - reach, mean + reach, "t over seeds"),
    )


def _gains(base: CellValues, cell: CellValues, key: tuple[str, str]) -> Floats:
    """(rows of the baseline,) what each item gained; NaN where one of the two has no value."""
    found = np.full(len(base), np.nan)
    if key in base.metrics and key in cell.metrics:
        left, right = matched(base, cell)
        found[left] = cell.metrics[key].numbers(len(cell))[right] - base.metrics[key].numbers(len(base))[left]
    return found
