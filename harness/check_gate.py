"""What a suite's gate names, and whether its rules can be decided; a part of `phibench check`."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from .gate.spec import RuleSpec
from .measured import split_reference
from .results import KL_DIVERGENCE, MARGIN, SAME_TOP_TOKEN, STOPPED
from .suite import Suite, TaskSpec
from .suite_file import SuiteFile

# What phibench measures beside a task's own metrics.
_OWN = {"generate_until": [STOPPED], "multiple_choice": [MARGIN]}


def gate_faults(file: SuiteFile, leaves: Mapping[str, Any] | None) -> list[UserError]:
    """What a gate's rules name that is not there, and those that nothing can decide.

    Args:
        file: the suite as read.
        leaves: every task that the suite's entries stand for, with lm-eval's entry of it where that was looked up;
            None where they are not known.
    """
    gate = file.suite.gate
    if gate is None or "gate" in file.left_out:
        return []
    judged = not {"variants", "matrix", "adapters", "quantizations"} & set(file.left_out)
    variants = [variant.name for variant in file.suite.all_variants()] if judged else None
    tasks = leaves if leaves is not None and "tasks" not in file.left_out else None
    faults = _against_faults(file, gate.against)
    for i, rule in enumerate(gate.rules):
        if variants is not None:
            faults += _variant_faults(file, i, rule, variants)
        if tasks is not None:
            faults += _task_faults(file, i, rule, tasks)
    return faults


def early_stopping_notes(suite: Suite) -> list[str]:
    """What of a gate with early stopping cannot be decided before all items are asked."""
    gate = suite.gate
    if gate is None or not gate.early_stopping:
        return []
    notes = [
        f"gate.rules[{i}]: the mean of a group needs all of its tasks' items: they are not stopped early"
        for i, rule in enumerate(gate.rules)
        if rule.group is not None
    ]
    notes += [
        f"tasks[{i}].source: items that share sources are not stopped early"
        for i, task in enumerate(suite.tasks)
        if task.source is not None
    ]
    notes += [
        f"tasks[{i}].divergence: it is measured on all items: they are not stopped early"
        for i, task in enumerate(suite.tasks)
        if task.divergence is not None
    ]
    if all(rule.is_cost for rule in gate.rules):
        notes.append("gate.early_stopping: no rule is of a metric, so that nothing is stopped early")
    return notes


def _against_faults(file: SuiteFile, against: str | None) -> list[UserError]:
    if against is None:
        return []
    path, _ = split_reference(against) or (Path(against), None)
    if path.exists():
        return []
    return [
        UserError(
            f"there is no run folder or baseline file {path}",
            where=file.where("gate", "against"),
            fix="make one: `phibench baseline save RUN --out FILE`; until there is one, drop the key",
        )
    ]


def _variant_faults(file: SuiteFile, i: int, rule: RuleSpec, variants: Collection[str]) -> list[UserError]:
    suite, gate = file.suite, file.suite.gate
    here = gate is not None and gate.against is None  # what it compares with is the suite's own
    faults = []
    for name, where in _each(file, i, "variant", rule.variant):
        faults += _unknown(name, variants, "variant", where)
    if rule.than is not None and here:
        faults += _unknown(rule.than, variants, "variant", file.where("gate", "rules", i, "than"))
    if rule.compares and here and not faults and variants:
        than = rule.than or suite.baseline_name()
        for name, where in _each(file, i, "variant", rule.variant):
            if name == than:
                what = f'"{than}" is compared with itself'
                faults.append(UserError(what, where=where, fix="name another variant, or give the gate an against"))
        if rule.variant is None and set(variants) <= {than}:
            where = file.where("gate", "rules", i)
            what = f'the rule binds no variant: there is none but "{than}", which it compares with'
            faults.append(UserError(what, where=where, fix="add a variant, or give the gate an against"))
    return faults


def _task_faults(file: SuiteFile, i: int, rule: RuleSpec, tasks: Mapping[str, Any]) -> list[UserError]:
    faults = []
    asked = {task.name: task.variants for task in file.suite.tasks}
    key, named = ("group", rule.group) if rule.group is not None else ("task", rule.task)
    for name, where in _each(file, i, key, named):
        faults += _unknown(name, list(tasks), "task", where)
        for variant in rule.variants or []:
            if name in tasks and variant not in (asked.get(name) or [variant]):
                what = f'the task "{name}" is not asked of the variant "{variant}"'
                faults.append(UserError(what, where=where, fix="add it to the task's variants, or name another"))
    if rule.metric is not None and not faults:
        faults += _metric_faults(file, i, rule, tasks)
    return faults


def _metric_faults(file: SuiteFile, i: int, rule: RuleSpec, tasks: Mapping[str, Any]) -> list[UserError]:
    """A metric that tasks do not measure, as far as their YAML tells; a run tells the rest before it asks anything."""
    specs = {task.name: task for task in file.suite.tasks}
    measured = {name: _metrics(entry, specs.get(name)) for name, entry in tasks.items()}
    named = rule.group or rule.tasks
    where = file.where("gate", "rules", i, "metric")
    assert rule.metric is not None
    metric = rule.metric.partition(",")[0]  # of a filter a run tells before it asks anything
    for name in named or []:
        known = measured[name]
        if known is not None and metric not in known:
            return [_missing(f'the task "{name}" does not measure "{rule.metric}"', rule.metric, known, where)]
    if named is None and all(known is not None and metric not in known for known in measured.values()):
        every = list(dict.fromkeys(metric for known in measured.values() for metric in known or []))
        return [_missing(f'no task measures "{rule.metric}"', rule.metric, every, where)]
    return []


def _metrics(entry: Any, spec: TaskSpec | None) -> list[str] | None:
    """The metrics that a task's YAML names, and ours; None where it leaves them to lm-eval or to code."""
    config = getattr(entry, "cfg", None) or {}
    told = config.get("metric_list")
    if not isinstance(told, list) or "class" in config or (spec is not None and "metric_list" in spec.override):
        return None
    names = [each.get("metric") if isinstance(each, dict) else None for each in told]
    if not all(isinstance(name, str) for name in names):
        return None
    own = [*_OWN.get(str(config.get("output_type")), [])]
    if spec is not None and spec.divergence is not None:
        own += [KL_DIVERGENCE, SAME_TOP_TOKEN]
    return [*map(str, names), *own]


def _missing(what: str, metric: str, known: list[str], where: str) -> UserError:
    near = difflib.get_close_matches(metric, known, n=1)
    return UserError(what, where=where, fix=f'did you mean "{near[0]}"?' if near else f"there is: {', '.join(known)}")


def _each(file: SuiteFile, i: int, key: str, value: str | list[str] | None) -> Iterator[tuple[str, str]]:
    """Each name of a key, with its place."""
    if isinstance(value, str):
        yield value, file.where("gate", "rules", i, key)
    else:
        yield from ((name, file.where("gate", "rules", i, key, j)) for j, name in enumerate(value or []))


def _unknown(name: str, known: Collection[str], what: str, where: str) -> list[UserError]:
    if name in known:
        return []
    near = difflib.get_close_matches(name, list(known), n=1)
    fix = f'did you mean "{near[0]}"?' if near else f"there is: {', '.join(known) or 'none'}"
    return [UserError(f'the suite has no {what} "{name}"', where=where, fix=fix)]
