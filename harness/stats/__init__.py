"""Statistics of paired comparisons, by scipy and statsmodels where they have them. Needs no torch.

A difference comes with an interval or not at all: where none can be given, a reason stands in its place. What each
statistic is and how it was checked: docs/statistics.md.
"""

from .interval import CONFIDENCE, Interval, NoInterval, Verdict
from .paired import Difference, Pairs, paired_difference
from .scores import score_interval

__all__ = [
    "CONFIDENCE",
    "Difference",
    "Interval",
    "NoInterval",
    "Pairs",
    "Verdict",
    "paired_difference",
    "score_interval",
]
