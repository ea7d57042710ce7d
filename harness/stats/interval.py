"""An interval of a difference, how it reads, and why there may be none; for every statistic."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Values = Sequence[Any] | Floats  # of items, as lm-eval's aggregation takes them

CONFIDENCE = 0.95


class NoInterval(Exception):
    """Why no interval can be given; its text goes into the report."""


class Verdict(enum.StrEnum):
    """How a variant stands to the baseline, in the metric's own direction."""

    BETTER = "better"
    WORSE = "worse"
    DIFFERENT = "different"  # of a metric that has no better direction
    UNCLEAR = "no clear difference"


@dataclass(frozen=True)
class Interval:
    """A difference (variant minus baseline, in the metric's unit) and its interval, of 95 % unless asked otherwise."""

    estimate: float
    low: float
    high: float
    method: str

    def minus(self, number: float) -> Interval:
        """The same of the difference to a number."""
        return replace(self, estimate=self.estimate - number, low=self.low - number, high=self.high - number)

    def verdict(self, higher_is_better: bool | None) -> Verdict:
        """Better, worse or different where the interval leaves out zero, and unclear where it does not."""
        if self.low <= 0.0 <= self.high:
            return Verdict.UNCLEAR
        if higher_is_better is None:
            return Verdict.DIFFERENT
        return Verdict.BETTER if (self.low > 0.0) == higher_is_better else Verdict.WORSE
