"""Which checks a gate's rules ask for of a run: each rule on each variant and task that it binds. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ...errors import UserError
from ..outcomes import Outcomes
from .spec import GateSpec, RuleSpec


@dataclass(frozen=True)
class Target:
    """A check before it is measured."""

    rule: RuleSpec
    number: int
    variant: str
    tasks: tuple[str, ...] = ()


def targets_of(spec: GateSpec, run: Outcomes, against: Outcomes | None) -> list[Target]:
    """Every check that a gate's rules ask for, those on what was not run included."""
    return [target for number, rule in enumerate(spec.rules, 1) for target in _targets(rule, number, run, against)]


def statistical(targets: Iterable[Target]) -> int:
    """How many checks share the level: those that are not of costs, and what two rules ask alike but once."""
    told = (target for target in targets if not target.rule.is_cost)
    return max(1, len({(one.variant, one.tasks, one.rule.demand) for one in told}))


def compared_with(rule: RuleSpec, variant: str, run: Outcomes, against: Outcomes | None) -> str:
    """The name of the variant that a rule compares a variant with: one of `against`, where that is given."""
    if against is None:
        return rule.than or run.manifest.baseline
    names = [one.name for one in against.manifest.variants]
    if rule.than is not None:
        return rule.than
    return variant if variant in names else against.manifest.baseline


def binds_nothing(number: int, rule: RuleSpec, run: Outcomes) -> UserError:
    """What to say of a rule that no variant or task of a run comes under."""
    where = f"gate.rules[{number - 1}]"
    if rule.compares and rule.variant is None and len(run.manifest.variants) < 2:
        return UserError(
            f"there is nothing to compare: the run has no variant but {run.manifest.baseline}",
            where=where,
            fix="compare it with another run or baseline file: --against",
        )
    return UserError(
        "this rule binds nothing in the run", where=where, fix="name a variant, and tasks that are asked of it"
    )


def _targets(rule: RuleSpec, number: int, run: Outcomes, against: Outcomes | None) -> Iterator[Target]:
    named, tasks = rule.variants, rule.group or rule.tasks
    for variant in named or [one.name for one in run.manifest.variants]:
        itself = rule.compares and against is None and variant == compared_with(rule, variant, run, None)
        if named is None and itself:
            continue
        # A rule that names no variant binds those that are asked what it is about.
        asked = [task for task in tasks or () if named or (info := run.task(task)) is None or info.asks(variant)]
        if rule.condition in ("max_model_size", "max_memory"):
            yield Target(rule, number, variant)
        elif rule.group is not None:
            if len(asked) == len(rule.group):
                yield Target(rule, number, variant, tuple(asked))
        else:
            for task in asked if tasks else _tasks(rule, variant, run):
                yield Target(rule, number, variant, (task,))


def _tasks(rule: RuleSpec, variant: str, run: Outcomes) -> list[str]:
    """Every task that is asked of a variant and measures the rule's metric."""
    return [
        task.name
        for task in run.manifest.tasks
        if task.asks(variant) and (rule.is_cost or run.metric(task, rule.metric) is not None)
    ]
