"""Did training change more than a random nudge of its size would? An adapter against its null. Needs no torch.

A null control (`null_of` in a suite) has an adapter's shape and the norms of its weights, in random directions.
"""

from __future__ import annotations

from dataclasses import dataclass

from .cell_scores import cell_difference
from .outcomes import Outcomes
from .results import MetricInfo, VariantInfo
from .stats import Difference
from .stats.family import Correction, corrected
from .values import CellValues


@dataclass(frozen=True)
class NullControl:
    """A trained form against the same form of its null, in one metric.

    Attributes:
        trained, null: the two variants.
        task, metric: on what.
        difference: trained minus null, corrected for how many there are.
    """

    trained: str
    null: str
    task: str
    metric: MetricInfo
    difference: Difference


def measure_null_controls(outcomes: Outcomes, *, correction: Correction = "holm", seed: int = 0) -> list[NullControl]:
    """Every form of each adapter that has a null, against it, in the headline metrics.

    Args:
        outcomes: the run's.
        correction: for the number of comparisons.
        seed: of the resampling.
    """
    found = []
    for trained, null in _twins(outcomes):
        for info in outcomes.manifest.tasks:
            cells = [outcomes.values(one.name, info.name) for one in (null, trained) if info.asks(one.name)]
            both = [cell for cell in cells if isinstance(cell, CellValues)]
            if len(both) < 2:
                continue
            for metric, headline in outcomes.metrics(info):
                if headline:
                    difference = cell_difference(both[0], both[1], metric, seed=seed)
                    found.append(NullControl(trained.name, null.name, info.name, metric, difference))
    family = {index: one.difference for index, one in enumerate(found)}
    told = corrected(family, {index: one.metric.higher_is_better for index, one in enumerate(found)}, correction)
    return [NullControl(one.trained, one.null, one.task, one.metric, told[index]) for index, one in enumerate(found)]


def _twins(outcomes: Outcomes) -> list[tuple[VariantInfo, VariantInfo]]:
    """(a form of a trained adapter, the same form of its null)."""
    null_of = {info.name: info.null_of for info in outcomes.manifest.adapters if info.null_of is not None}
    variants = outcomes.manifest.variants
    return [
        (trained, null)
        for null in variants
        if null.adapter in null_of
        for trained in variants
        if trained.adapter == null_of[null.adapter]
        and (trained.quantization, trained.merge) == (null.quantization, null.merge)
    ]
