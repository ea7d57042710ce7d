"""The gate: rules on finished cells, and the verdict that becomes an exit code. Needs no torch.

A rule on a metric is a pair of one-sided tests (Schuirmann 1987; Wellek 2010): it *passes* where an interval lies whole
on the right side of its limit, *fails* where it lies whole on the wrong side, and is *undecided* otherwise. Each pass
is at the gate's level, since the gate passes only where all rules do; a failure of any fails the gate, so that each of
k rules fails at level / k (Bonferroni): where nothing is wrong, a gate raises an alarm no more often than its level.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import UserError
from .gate_spec import GateSpec, RuleSpec, in_bytes
from .outcomes import Gap, Outcomes
from .results import MetricInfo, TaskInfo, VariantInfo
from .stats import Interval, NoInterval, paired_difference, score_interval
from .values import CellValues, asked_otherwise, pair


class GateVerdict(enum.StrEnum):
    """What became of a rule, or of the gate."""

    PASS = "pass"
    FAIL = "fail"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Check:
    """One rule on one variant and one task (or group of tasks, or the variant as a whole).

    Attributes:
        rule: the rule; `number` is its place in the gate, from 1.
        variant, than: the variant that it binds, and what it is compared with.
        tasks: on which tasks; empty for a cost of the whole variant.
        metric: None for costs.
        measured: the difference or value with the interval of the pass (1 - 2 level); a cost's has no width.
        limit: what it must not be beyond, on the same scale.
        items: how many decided it; `items_needed` how many would, were the estimate the truth; None where that is no
            number, or where it is decided.
        reason: why there is nothing measured.
        early: whether its items were asked until it was decided.
    """

    rule: RuleSpec
    number: int
    variant: str
    verdict: GateVerdict
    tasks: tuple[str, ...] = ()
    than: str | None = None
    metric: MetricInfo | None = None
    measured: Interval | None = None
    limit: float | None = None
    items: int = 0
    items_needed: int | None = None
    reason: str | None = None
    early: bool = False


@dataclass(frozen=True)
class GateResult:
    """A gate's verdict and what it rests on."""

    spec: GateSpec
    verdict: GateVerdict
    checks: tuple[Check, ...]
    against: str | None = None  # another run or baseline file that it was compared with

    def count(self, verdict: GateVerdict) -> int:
        """How many checks came out so."""
        return sum(check.verdict is verdict for check in self.checks)


@dataclass(frozen=True)
class Target:
    """A check before it is measured."""

    rule: RuleSpec
    number: int
    variant: str
    tasks: tuple[str, ...] = ()


def judge_gate(spec: GateSpec, run: Outcomes, against: Outcomes | None = None, *, seed: int = 0) -> GateResult:
    """Put a gate's rules to a run.

    Args:
        spec: the rules.
        run: what is judged.
        against: what it is compared with, where that is not the run's own baseline: of the variant that a rule's `than`
            names there, else of the same name, else of its baseline.
        seed: of the resampling.

    Raises:
        UserError: a rule names what neither has, or tasks were asked otherwise there and cannot be compared.
    """
    targets = targets_of(spec, run, against)
    statistical = max(1, sum(not target.rule.is_cost for target in targets))
    checks = tuple(check_target(target, spec, statistical, run, against, seed=seed) for target in targets)
    verdicts = {check.verdict for check in checks}
    if GateVerdict.FAIL in verdicts:
        verdict = GateVerdict.FAIL
    elif GateVerdict.UNDECIDED in verdicts or not checks:
        verdict = GateVerdict(spec.undecided)
    else:
        verdict = GateVerdict.PASS
    return GateResult(spec, verdict, checks, None if against is None else against.label)


def targets_of(spec: GateSpec, run: Outcomes, against: Outcomes | None) -> list[Target]:
    """Every check that a gate's rules ask for.

    Raises:
        UserError: a rule names what the run does not have.
    """
    return [target for number, rule in enumerate(spec.rules, 1) for target in _targets(rule, number, run, against)]


def compared_with(rule: RuleSpec, variant: str, run: Outcomes, against: Outcomes | None) -> str:
    """The name of the variant that a rule compares a variant with: one of `against`, where that is given."""
    if against is None:
        return rule.than or run.manifest.baseline
    names = [one.name for one in against.manifest.variants]
    if rule.than is not None:
        return rule.than
    return variant if variant in names else against.manifest.baseline


def refuse_unlike(mine: TaskInfo, theirs: TaskInfo, where: str) -> None:
    """Refuse to compare answers to a task that was not the same.

    Raises:
        UserError: telling what differs.
    """
    found = differing(mine, theirs)
    if found:
        raise UserError(
            f'"{mine.name}" cannot be compared: {"; ".join(found)}',
            where=where,
            fix="run both with the same versions and settings, or make the baseline again",
        )


def differing(mine: TaskInfo, theirs: TaskInfo) -> list[str]:
    """In what two runs asked a task differently, besides its items."""
    told = [("version", mine.version, theirs.version), ("few-shot examples", mine.num_fewshot, theirs.num_fewshot)]
    found = [f"its {what} was {old} there and is {new} here" for what, new, old in told if new != old]
    if not found and mine.config_hash != theirs.config_hash:
        found.append("its configuration differs (prompt, filters, metrics or the code behind them)")
    return found


def _targets(rule: RuleSpec, number: int, run: Outcomes, against: Outcomes | None) -> Iterator[Target]:
    where = f"gate.rules[{number - 1}]"
    names = [one.name for one in run.manifest.variants]
    tasks = [task.name for task in run.manifest.tasks]
    variants = _named(rule.variant, names, f"{where}.variant")
    wanted = _named(rule.group or rule.task, tasks, where + (".group" if rule.group else ".task"))
    for variant in variants or names:
        if (
            variants is None
            and rule.compares
            and against is None
            and variant == compared_with(rule, variant, run, None)
        ):
            continue
        if rule.condition in ("max_model_size", "max_memory"):
            yield Target(rule, number, variant)
        elif rule.group is not None:
            yield Target(rule, number, variant, tuple(wanted or ()))
        else:
            yield from (Target(rule, number, variant, (task,)) for task in wanted or _tasks(rule, variant, run))


def _tasks(rule: RuleSpec, variant: str, run: Outcomes) -> list[str]:
    """Every task that is asked of a variant and measures the rule's metric."""
    return [
        task.name
        for task in run.manifest.tasks
        if task.asks(variant) and (rule.is_cost or run.metric(task, rule.metric) is not None)
    ]


def _named(wanted: str | Sequence[str] | None, known: Sequence[str], where: str) -> list[str] | None:
    if wanted is None:
        return None
    found = [wanted] if isinstance(wanted, str) else list(wanted)
    for name in found:
        if name not in known:
            raise UserError(f'the run has no "{name}"', where=where, fix=f"it has: {', '.join(known)}")
    return found


def check_target(
    target: Target, spec: GateSpec, statistical: int, run: Outcomes, against: Outcomes | None, *, seed: int = 0
) -> Check:
    """One check, measured and judged.

    Args:
        target: which.
        spec: its gate.
        statistical: how many checks of the gate are not of costs: each fails at its share of the level.
        run: what is judged.
        against: what it is compared with, where that is not the run itself.
        seed: of the resampling.

    Raises:
        UserError: the task was asked otherwise in `against`.
    """
    rule = target.rule
    check = Check(rule, target.number, target.variant, GateVerdict.UNDECIDED, target.tasks)
    if rule.is_cost:
        return _check_cost(check, run)
    than = compared_with(rule, target.variant, run, against) if rule.compares else None
    check = replace(check, than=than)
    found = [_cells(check, task, run, against) for task in target.tasks]
    for one in found:
        if isinstance(one, str):
            return replace(check, reason=one)
    parts = [one for one in found if not isinstance(one, str)]
    metric = parts[0].metric
    early = any(part.cell.early for part in parts)
    check = replace(check, metric=metric, items=min(part.count for part in parts), early=early)
    try:
        to_pass = _interval(parts, rule, 1 - 2 * spec.level, seed)
        to_fail = _interval(parts, rule, 1 - 2 * spec.level / statistical, seed)
    except NoInterval as problem:
        return replace(check, reason=str(problem))
    return _decided(replace(check, measured=to_pass), to_fail)


@dataclass(frozen=True)
class _Part:
    """One task's cell, and the one that it is compared with."""

    metric: MetricInfo
    cell: CellValues
    other: CellValues | None

    @property
    def count(self) -> int:
        """Items that decide."""
        key = (self.metric.name, self.metric.filter)
        if self.other is None:
            return len(self.cell.metrics[key].rows) if key in self.cell.metrics else 0
        return len(pair(self.other, self.cell, key).before)


def _cells(check: Check, task: str, run: Outcomes, against: Outcomes | None) -> _Part | str:
    info = run.task(task)
    metric = run.metric(info, check.rule.metric) if info is not None else None
    if info is None or metric is None:
        return f"{task} does not measure {check.rule.metric}"
    cell = run.values(check.variant, task)
    if isinstance(cell, Gap):
        return f"{check.variant} on {task}: {cell.state}"
    if check.than is None:
        return _Part(metric, cell, None)
    side = run if against is None else against
    theirs = side.task(task)
    if theirs is None:
        return f"{side.label} has no {task}"
    other = side.values(check.than, task)
    if isinstance(other, Gap):
        return f"{check.than} on {task}: {other.state}"
    if against is not None:
        refuse_unlike(info, theirs, against.label)
        if asked := asked_otherwise(other, cell):
            raise UserError(
                f'"{task}" cannot be compared: {asked} of its items were asked with other prompts there',
                where=against.label,
                fix="run both with the same chat template, few-shot examples and tokenizer, or make the baseline again",
            )
    return _Part(metric, cell, other)


def _interval(parts: Sequence[_Part], rule: RuleSpec, confidence: float, seed: int) -> Interval:
    """What the rule looks at, with an interval; of a group, the mean over its tasks.

    The group's interval is put together from its tasks' by the squares of their reaches (MOVER: Zou and Donner 2008,
    "Construction of confidence limits about effect measures"), which keeps their skewness.
    """
    found = [_part_interval(part, rule, confidence, seed) for part in parts]
    if len(found) == 1:
        return found[0]
    k = len(found)
    estimate = sum(one.estimate for one in found) / k
    down = math.sqrt(sum((one.estimate - one.low) ** 2 for one in found)) / k
    up = math.sqrt(sum((one.high - one.estimate) ** 2 for one in found)) / k
    return Interval(estimate, estimate - down, estimate + up, f"mean of {k} tasks (MOVER)")


def _part_interval(part: _Part, rule: RuleSpec, confidence: float, seed: int) -> Interval:
    key = (part.metric.name, part.metric.filter)
    if part.other is None:
        values = part.cell.metrics[key].values if key in part.cell.metrics else []
        return score_interval(
            values,
            aggregation=part.metric.aggregation,
            sources=part.cell.sources,
            early=part.cell.early,
            seed=seed,
            confidence=confidence,
        )
    pairs = pair(part.other, part.cell, key)
    found = paired_difference(
        pairs,
        aggregation=part.metric.aggregation,
        higher_is_better=part.metric.higher_is_better,
        seed=seed,
        confidence=confidence,
    )
    if found.interval is None:
        raise NoInterval(str(found.reason))
    return found.interval


def _decided(check: Check, to_fail: Interval) -> Check:
    """The verdict of a check by its two intervals."""
    rule, metric = check.rule, check.metric
    assert check.measured is not None and metric is not None
    better_is_up = metric.higher_is_better is not False
    limit, above = {
        "max_loss": (-(rule.max_loss or 0.0) if better_is_up else rule.max_loss or 0.0, better_is_up),
        "min_gain": ((rule.min_gain or 0.0) if better_is_up else -(rule.min_gain or 0.0), better_is_up),
        "at_least": (rule.at_least or 0.0, True),
        "at_most": (rule.at_most or 0.0, False),
    }[rule.condition]
    strict = rule.condition == "min_gain"
    verdict = GateVerdict.UNDECIDED
    if _beyond(check.measured, limit, above, strict):
        verdict = GateVerdict.PASS
    elif _beyond(to_fail, limit, not above, not strict):
        verdict = GateVerdict.FAIL
    needed = _items_needed(check, limit, above) if verdict is GateVerdict.UNDECIDED else None
    return replace(check, verdict=verdict, limit=limit, items_needed=needed)


def _beyond(interval: Interval, limit: float, above: bool, strict: bool) -> bool:
    """Whether a whole interval lies above (or below) a limit."""
    edge = interval.low - limit if above else limit - interval.high
    return edge > 0 if strict else edge >= 0


def _items_needed(check: Check, limit: float, above: bool) -> int | None:
    """How many items would decide, were the estimate the truth: reaches shrink with the root of their number."""
    interval = check.measured
    assert interval is not None
    side = interval.estimate >= limit if above else interval.estimate <= limit
    distance = abs(interval.estimate - limit)
    down = side == above
    reach = interval.estimate - interval.low if down else interval.high - interval.estimate
    if distance == 0 or not math.isfinite(reach):
        return None
    return max(check.items + 1, math.ceil(check.items * (reach / distance) ** 2))


def _check_cost(check: Check, run: Outcomes) -> Check:
    """Costs are measured without sampling error, and pass or fail; so does not what was not measured."""
    rule = check.rule
    info = next(one for one in run.manifest.variants if one.name == check.variant)
    value, limit = _cost(rule, info, check, run)
    if value is None:
        return replace(check, reason="it was not measured")
    verdict = GateVerdict.PASS if value <= limit else GateVerdict.FAIL
    return replace(check, verdict=verdict, limit=limit, measured=Interval(value, value, value, "measured"))


def _cost(rule: RuleSpec, info: VariantInfo, check: Check, run: Outcomes) -> tuple[float | None, float]:
    if rule.max_model_size is not None:
        return info.model_bytes, in_bytes(rule.max_model_size)
    if rule.max_memory is not None:
        return peak_memory(run, info), in_bytes(rule.max_memory)
    assert rule.max_seconds_per_item is not None
    cell = run.cell(info.name, check.tasks[0])
    if cell is None or cell.status != "done" or not cell.items:
        return None, rule.max_seconds_per_item
    return cell.seconds / cell.items, rule.max_seconds_per_item


def peak_memory(run: Outcomes, info: VariantInfo) -> int | None:
    """The most bytes a variant took: in its real form where it was scored in another, and of scoring where it was.

    Generating takes what memory helps its speed, so that scoring says more of what a form needs.
    """
    if info.real_form is not None:
        return info.real_form.peak_memory_bytes
    generated = {task.name for task in run.manifest.tasks if task.output_type == "generate_until"}
    cells = [cell for cell in run.results.cells if cell.variant == info.name and cell.status == "done"]
    scored = [cell for cell in cells if cell.task not in generated]
    return max((c.peak_memory_bytes for c in scored or cells if c.peak_memory_bytes is not None), default=None)


def gate_of(run: Outcomes, folder: Path) -> GateSpec | None:
    """The gate that a run's own suite has, or None.

    Raises:
        UserError: it is of another version of phibench.
    """
    from .comparison import read_part

    part = run.manifest.suite.get("gate")
    return None if part is None else read_part(run.manifest, GateSpec, part, folder)
