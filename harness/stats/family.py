"""Many comparisons at once: p-values corrected for how many there are. Needs no torch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Literal, TypeVar

import numpy as np
from scipy.stats import false_discovery_control

from .interval import CONFIDENCE, Floats, Verdict
from .paired import Difference

Correction = Literal["holm", "fdr_bh", "none"]  # statsmodels' names
NAMES: dict[Correction, str] = {"holm": "Holm", "fdr_bh": "Benjamini-Hochberg", "none": "no correction"}
_Key = TypeVar("_Key", bound=Hashable)


def adjusted(p_values: Mapping[_Key, float], method: Correction = "holm") -> dict[_Key, float]:
    """p-values corrected for their number.

    Holm 1979 holds the chance of any false alarm below the level; Benjamini and Hochberg 1995, the expected share of
    false ones among the alarms.
    """
    if method == "none" or not p_values:
        return dict(p_values)
    given = np.fromiter(p_values.values(), dtype=np.float64)
    found = false_discovery_control(given) if method == "fdr_bh" else _holm(given)
    return {key: float(p) for key, p in zip(p_values, found, strict=True)}


def _holm(p_values: Floats) -> Floats:
    """As statsmodels' `multipletests` has it, which collects garbage at each call: most of a second beside torch."""
    order = np.argsort(p_values, kind="stable")
    stepped = p_values[order] * np.arange(len(order), 0, -1)
    found = np.empty_like(p_values)
    found[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return found


def corrected(
    family: Mapping[_Key, Difference], directions: Mapping[_Key, bool | None], method: Correction = "holm"
) -> dict[_Key, Difference]:
    """Differences with their adjusted p-values, and verdicts for which both these and the intervals must be clear.

    Args:
        family: the differences that are looked at together; those without an interval stay as they are.
        directions: whether higher is better, of each.
        method: the correction.
    """
    p_values = adjusted({key: one.p for key, one in family.items() if one.p is not None}, method)
    found = dict(family)
    for key, p in p_values.items():
        one = family[key]
        assert one.interval is not None
        clear = p <= 1 - CONFIDENCE + 1e-12
        verdict = one.interval.verdict(directions[key]) if clear else Verdict.UNCLEAR
        found[key] = replace(one, adjusted_p=p, verdict=verdict)
    return found
