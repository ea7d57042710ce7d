"""What a suite's items can resolve, before it is run. Needs no torch and reads no dataset."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from scipy.special import ndtr, ndtri

from .gate.limits import is_named_share
from .gate.spec import RuleSpec
from .stats.power import POWER, smallest_change
from .suite import Suite, TaskSpec

_MINI = Path(__file__).resolve().parent.parent / "suites" / "data" / "mini"
CHANGED = (0.1, 0.2)  # the share of answers whose rightness changes: of NF4 against full precision, about 0.1 was seen
# Items of the evaluated split of tasks that are right or wrong, as published with the datasets.
SIZES = {
    "arc_challenge": 1172,
    "arc_easy": 2376,
    "boolq": 3270,
    "hellaswag": 10042,
    "lambada_openai": 5153,
    "openbookqa": 500,
    "piqa": 1838,
    "sciq": 1000,
    "truthfulqa_mc1": 817,
    "winogrande": 1267,
}


def resolution_notes(suite: Suite, limit: int | None = None) -> list[str]:
    """A line for each task of right or wrong whose number of items is known, and for each rule that is beyond it.

    Args:
        suite: the suite.
        limit: of the command line.
    """
    if len(suite.all_variants()) < 2 and suite.gate is None:
        return []
    notes, finest = [], {}
    for task in suite.tasks:
        items = _items(task, limit)
        if items is None:
            continue
        least = [smallest_change(items, changed) for changed in CHANGED]
        told = ["nothing" if value is None else f"{100 * value:.1f} points" for value in least]
        finest[task.name] = (items, least[0] or least[1] or 1.0)
        notes.append(f"{task.name}: {items:,} items resolve {told[0]} ({told[1]})")
    if notes:
        notes.insert(0, "At 80 % power, were 1 answer in 10 (in 5) to change between two variants:")
    gate = suite.gate
    for number, rule in enumerate(gate.rules if gate else ()):
        for task_name in _bound(rule, list(finest)):
            items, value = finest[task_name]
            margin = rule.max_loss if rule.max_loss is not None else rule.min_gain
            if gate is not None and margin and margin < value:
                points = "1 point" if margin == 0.01 else f"{100 * margin:g} points"
                what = f"gate.rules[{number}]: {items:,} items of {task_name} cannot resolve {points}"
                notes.append(f"{what}: {_expected(rule, margin, items, gate.level)}")
    return notes


def _expected(rule: RuleSpec, margin: float, items: int, level: float) -> str:
    """What becomes of a rule on so many items of which 1 in 10 changes (by the normal distribution)."""
    error = math.sqrt(CHANGED[0] / items)
    if rule.max_loss is not None:
        passes = float(ndtr(margin / error - ndtri(1 - level)))
        return f"were nothing lost, it would pass {100 * passes:.0f} % of the time, and else be undecided"
    needed = margin + float(ndtri(1 - level) + ndtri(POWER)) * error
    return f"a gain of {100 * needed:.1f} points would pass {100 * POWER:.0f} % of the time"


def _items(task: TaskSpec, limit: int | None) -> int | None:
    """How many items a task will ask, as far as that is known without reading it."""
    mini = _MINI / f"{task.name.removeprefix('mini_')}.jsonl"
    whole = SIZES.get(task.name)
    if task.name.startswith("mini_") and task.name.removeprefix("mini_") in SIZES and mini.exists():
        whole = len(mini.read_text(encoding="utf-8").splitlines())
    return None if whole is None else min(count for count in (whole, task.limit, limit) if count is not None)


def _bound(rule: RuleSpec, tasks: Sequence[str]) -> list[str]:
    """The tasks of known size that a rule with a margin binds by themselves."""
    if not rule.compares or rule.group is not None or not (rule.metric is None or is_named_share(rule.metric)):
        return []
    wanted = [rule.task] if isinstance(rule.task, str) else rule.task
    return [task for task in tasks if wanted is None or task in wanted]
