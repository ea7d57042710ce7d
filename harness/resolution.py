"""What a suite's items can resolve, before it is run. Needs no torch and reads no dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .gate.spec import RuleSpec
from .stats.power import smallest_change
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
    for number, rule in enumerate(suite.gate.rules if suite.gate else ()):
        for task_name in _bound(rule, list(finest)):
            items, value = finest[task_name]
            margin = rule.max_loss if rule.max_loss is not None else rule.min_gain
            if margin and margin < value:
                points = "1 point" if margin == 0.01 else f"{100 * margin:g} points"
                what = f"{items:,} items of {task_name} cannot resolve {points}"
                notes.append(f"gate.rules[{number}]: {what}: expect it to be undecided more often than not")
    return notes


def _items(task: TaskSpec, limit: int | None) -> int | None:
    """How many items a task will ask, as far as that is known without reading it."""
    mini = _MINI / f"{task.name.removeprefix('mini_')}.jsonl"
    whole = SIZES.get(task.name)
    if task.name.startswith("mini_") and task.name.removeprefix("mini_") in SIZES and mini.exists():
        whole = len(mini.read_text(encoding="utf-8").splitlines())
    return None if whole is None else min(count for count in (whole, task.limit, limit) if count is not None)


def _bound(rule: RuleSpec, tasks: Sequence[str]) -> list[str]:
    """The tasks of known size that a rule with a margin binds by themselves."""
    if not rule.compares or rule.group is not None:
        return []
    wanted = [rule.task] if isinstance(rule.task, str) else rule.task
    return [task for task in tasks if wanted is None or task in wanted]
