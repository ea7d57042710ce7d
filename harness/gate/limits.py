"""Limits that no score can be beyond: a gate that can never fail, or never pass. Needs no torch.

The likeliest such mistake is to give per cent where the metric is a share of 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import UserError
from ..outcomes import Gap, Outcomes
from ..results import STOPPED, MetricInfo, TaskInfo
from ..shares import is_share
from ..values import CellValues
from .spec import GateSpec, RuleSpec
from .targets import Target

_NAMED_SHARES = {"acc", "acc_norm", "exact_match", "f1", "citation_f1", STOPPED}
_FIX = "give a share, not per cent: 0.05 is 5 per cent"


def refuse_impossible(targets: Sequence[Target], run: Outcomes, against: Outcomes | None) -> None:
    """Refuse limits that shares cannot be beyond, where the items' values say that a metric is a share.

    A metric of which less is better may be a loss whose values happen to lie between 0 and 1: it is passed over.

    Args:
        targets: the checks of a gate.
        run: what is judged.
        against: what it is compared with, where that is not the run itself.

    Raises:
        UserError: for the first such limit, with its key.
    """
    for target in targets:
        rule = target.rule
        if _possible(rule) or not target.tasks:
            continue
        if all(_is_share_on(task, rule, run, against) for task in target.tasks):
            metrics = [run.metric(info, rule.metric) for task in target.tasks if (info := run.task(task)) is not None]
            names = ", ".join(dict.fromkeys(metric.name for metric in metrics if metric is not None))
            raise UserError(
                f"{_said(rule)}: {names} on {', '.join(target.tasks)} lies between 0 and 1",
                where=f"gate.rules[{target.number - 1}].{rule.condition}",
                fix=f"{_FIX}; metrics of another scale need a rule of their own",
            )


def limit_notes(spec: GateSpec | None, tasks: Sequence[TaskInfo] = ()) -> list[str]:
    """Limits that no score can be beyond, as far as the metrics' names tell; before anything is asked.

    Args:
        spec: a suite's gate, if it has one.
        tasks: those that will be asked, where they are known: they tell which metrics a rule that names none is about.
    """
    notes = []
    for i, rule in enumerate(spec.rules if spec is not None else []):
        metrics = _metrics(rule, tasks)
        if not _possible(rule) and metrics and all(map(is_named_share, metrics)):
            said = f"{_said(rule)}: {', '.join(metrics)} lies between 0 and 1"
            notes.append(f"gate.rules[{i}].{rule.condition}: {said}; {_FIX}")
    return notes


def _metrics(rule: RuleSpec, tasks: Sequence[TaskInfo]) -> list[str]:
    """The metrics that a rule is about: the one it names, or the leading one of each task that it binds."""
    if rule.metric is not None:
        return [rule.metric]
    named = rule.group or rule.tasks
    leading = [info.headline[0] for info in tasks if info.headline and (named is None or info.name in named)]
    return list(dict.fromkeys(leading))


def _possible(rule: RuleSpec) -> bool:
    """Whether a share, or a difference of two, can be on either side of a rule's limit; costs are no shares."""
    return rule.is_cost or 0 <= getattr(rule, rule.condition) <= 1


def _said(rule: RuleSpec) -> str:
    limit = getattr(rule, rule.condition)
    beyond_all = rule.condition == "max_loss" or (rule.condition == "at_most") == (limit > 1)
    return f"{limit:g} can never {'fail' if beyond_all else 'pass'}"


def is_named_share(metric: str) -> bool:
    """Whether a metric is a share, as far as its name tells."""
    name = metric.partition(",")[0]
    return name in _NAMED_SHARES or name.startswith("rouge")


def _is_share_on(task: str, rule: RuleSpec, run: Outcomes, against: Outcomes | None) -> bool:
    info = run.task(task)
    metric = None if info is None else run.metric(info, rule.metric)
    if metric is None or metric.higher_is_better is False:
        return False
    return is_share(metric, _known_cells(task, metric, run, against))


def _known_cells(task: str, metric: MetricInfo, run: Outcomes, against: Outcomes | None) -> list[CellValues]:
    """Every cell of a task that has the metric."""
    sides = [run] if against is None else [run, against]
    found = [side.values(variant.name, task) for side in sides for variant in side.manifest.variants]
    return [cell for cell in found if not isinstance(cell, Gap) and metric.key in cell.metrics]
