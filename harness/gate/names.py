"""What a gate's rules name, held against what a run has: typing errors are refused, with their key. Needs no torch."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence

from ...errors import UserError
from ..outcomes import Outcomes
from ..results import MetricInfo, metric_names
from .spec import GateSpec, RuleSpec


def refuse_unknown(spec: GateSpec, run: Outcomes, against: Outcomes | None, *, checked: bool = False) -> None:
    """Refuse rules on variants, tasks and metrics that are not there, and on a variant compared with itself.

    Args:
        spec: the rules.
        run: what is judged.
        against: what it is compared with, where that is not the run itself.
        checked: whether the rules are those of the run's own suite, which knows its names; then only what they name
            of `against` is looked at.

    Raises:
        UserError: for the first such name, with its key.
    """
    variants = [one.name for one in run.manifest.variants]
    tasks = [task.name for task in run.manifest.tasks]
    side = run if against is None else against
    for i, rule in enumerate(spec.rules):
        where = f"gate.rules[{i}]"
        if rule.than is not None and (against is not None or not checked):
            others = [one.name for one in side.manifest.variants]
            _known(rule.than, others, f"{side.label} has no variant", f"{where}.than")
        if checked:
            continue
        for name in rule.variants or []:
            _known(name, variants, f"{run.label} has no variant", f"{where}.variant")
        for name in rule.tasks or []:
            _known(name, tasks, f"{run.label} has no task", f"{where}.task")
        for name in rule.group or []:
            _known(name, tasks, f"{run.label} has no task", f"{where}.group")
        if rule.compares and against is None and (rule.than or run.manifest.baseline) in (rule.variants or []):
            raise UserError(
                f'"{rule.than or run.manifest.baseline}" is compared with itself',
                where=f"{where}.variant",
                fix="name another variant, or compare with another run: --against",
            )
    if not checked:
        refuse_unmeasured(spec, {task.name: [one for one, _ in run.metrics(task)] for task in run.manifest.tasks})


def refuse_unmeasured(
    spec: GateSpec | None, measured: Mapping[str, Sequence[MetricInfo]], *, whole: bool = True
) -> None:
    """Refuse rules on metrics that their tasks do not measure; before anything is asked, or afterwards.

    Args:
        spec: a suite's gate, if it has one.
        measured: the metrics of each task that is known; rules on others are passed over.
        whole: whether these are all tasks that there are: only then a metric that none of them measures is a mistake.

    Raises:
        UserError: for the first such rule.
    """
    for i, rule in enumerate(spec.rules if spec is not None else []):
        if rule.metric is not None and (found := _missing_metric(rule, measured, whole)) is not None:
            what, known = found
            near = difflib.get_close_matches(rule.metric, known, n=1)
            raise UserError(
                f'{what} "{rule.metric}"',
                where=f"gate.rules[{i}].metric",
                fix=f'did you mean "{near[0]}"?' if near else f"there is: {', '.join(known)}",
            )


def _missing_metric(
    rule: RuleSpec, measured: Mapping[str, Sequence[MetricInfo]], whole: bool
) -> tuple[str, list[str]] | None:
    """What does not measure a rule's metric, and what it measures instead."""
    named = rule.group or rule.tasks
    for task in named or []:
        if task in measured and not any(metric.is_named(rule.metric) for metric in measured[task]):
            return f'the task "{task}" does not measure', metric_names(measured[task])
    every = [metric for metrics in measured.values() for metric in metrics]
    if named is None and whole and not any(metric.is_named(rule.metric) for metric in every):
        return "no task measures", list(dict.fromkeys(name for one in measured.values() for name in metric_names(one)))
    return None


def _known(name: str, known: Collection[str], what: str, where: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, list(known), n=1)
        fix = f'did you mean "{near[0]}"?' if near else f"it has: {', '.join(known) or 'none'}"
        raise UserError(f'{what} "{name}"', where=where, fix=fix)
