"""What a report says of a gate: each check with its rule in words, what was measured, and the verdict."""

from __future__ import annotations

from ..harness.gate.check import SAME_MODEL, Check, GateVerdict
from ..harness.gate.judge import GateResult
from ..harness.gate.run import exit_code
from ..harness.stats import Interval, Verdict
from . import format as fmt
from .view import Cell, Column, Line, Table, joined, line, name, prose

TONES = {GateVerdict.PASS: Verdict.BETTER, GateVerdict.FAIL: Verdict.WORSE, GateVerdict.UNDECIDED: None}
SAID = {GateVerdict.PASS: "passed", GateVerdict.FAIL: "failed", GateVerdict.UNDECIDED: "undecided"}
_ORDER = (GateVerdict.FAIL, GateVerdict.UNDECIDED, GateVerdict.PASS)
_MANY = 100  # times the items at hand: a number of more says no more
_EXITS = {
    GateVerdict.PASS: "every rule holds",
    GateVerdict.FAIL: "a rule is broken",
    GateVerdict.UNDECIDED: "the items do not tell",
}


def gate_table(result: GateResult, *, only: tuple[GateVerdict, ...] = _ORDER) -> Table | None:
    """A row for each check with one of these verdicts, failed ones first; None where there is none."""
    checks = [check for verdict in _ORDER if verdict in only for check in result.checks if check.verdict is verdict]
    if not checks:
        return None
    columns = (
        Column(line("Variant")),
        Column(line("Task")),
        Column(line("Metric")),
        Column(line("Rule"), wide=True),
        Column(line(f"Measured [{100 * (1 - 2 * result.spec.level):g} % interval]"), numeric=True),
        Column(line("Verdict"), wide=True),
    )
    return Table("Checks of the gate", columns, tuple(_row(check) for check in checks))


def gate_note(result: GateResult) -> Line:
    """The verdict, how many checks came out which way, how they are decided, and what it was compared with."""
    level = result.spec.level
    said = line(f"The gate {_is(result)}{SAID[result.verdict]}: {counted(result)}. ")
    if result.against is not None:
        said += line("Compared with ", name(result.against), ". ")
    for note in result.notes:
        said += line("Note: ", prose(note), ". ")
    return said + line(
        f"A rule passes where its whole {100 * (1 - 2 * level):g} % interval lies on the right side of its limit (a"
        f" one-sided test at {level:g}), and fails where the interval of {level:g} divided by the number of statistical"
        " checks lies on the wrong one. What is neither is undecided. Costs are compared as measured."
    )


def counted(result: GateResult) -> str:
    """`1 failed, 2 undecided, 3 passed`."""
    return ", ".join(f"{count:,} {SAID[verdict]}" for verdict in _ORDER if (count := result.count(verdict)))


def verdict_line(result: GateResult) -> str:
    """The verdict and what its exit code means, for the terminal."""
    decided = result.verdict
    undecided = result.count(GateVerdict.UNDECIDED)
    why = _EXITS[decided]
    if decided is GateVerdict.UNDECIDED and any(check.missing for check in result.checks):
        why = "answers are missing"
    if undecided and decided is not GateVerdict.UNDECIDED and not result.count(GateVerdict.FAIL):
        why = f"undecided rules count as {'passed' if decided is GateVerdict.PASS else 'failed'}: gate.undecided"
    return f"gate {_is(result)}{SAID[decided]} ({counted(result)}); exit code {int(exit_code(result))}: {why}"


def _is(result: GateResult) -> str:
    return "is " if result.verdict is GateVerdict.UNDECIDED else ""


def rule_words(check: Check) -> Line:
    """`loses at most 0.02 against` `base`."""
    rule, than = check.rule, (name(check.than) if check.than is not None else "its baseline")
    if rule.condition == "max_loss":
        return line(f"loses at most {rule.max_loss:g} against ", than)
    if rule.condition == "min_gain":
        return line(f"gains more than {rule.min_gain:g} over ", than)
    if rule.condition in ("at_least", "at_most"):
        return line(f"is {rule.condition.replace('_', ' ')} {getattr(rule, rule.condition):g}")
    if rule.max_seconds_per_item is not None:
        return line(f"takes at most {rule.max_seconds_per_item:g} s an item")
    return line("is at most ", prose(str(rule.max_model_size or rule.max_memory)))


def subject_words(check: Check) -> Line:
    """`merged` on `mini_piqa`, `acc` ↑."""
    said = line(name(check.variant) if check.variant else "the rule")
    if check.tasks:
        said += line(" on ") + task_words(check)
    return said + line(", ") + metric_words(check)


def task_words(check: Check) -> Line:
    """The task, or the group of tasks."""
    if not check.tasks:
        return line(fmt.NOTHING)
    return line("mean of " if len(check.tasks) > 1 else "", *joined(list(check.tasks)))


def metric_words(check: Check) -> Line:
    """The metric with its direction, or the cost."""
    rule = check.rule
    if rule.is_cost:
        costs = {"max_model_size": "model size", "max_memory": "peak memory", "max_seconds_per_item": "time"}
        return line(costs[rule.condition])
    if check.metric is None or (len(check.tasks) > 1 and rule.metric is None):
        return line(name(rule.metric)) if rule.metric is not None else line("leading metric")
    return line(name(fmt.metric_label(check.metric)), f" {fmt.arrow(check.metric)}".rstrip())


def measured_words(check: Check) -> str:
    """The difference or value with its interval, or the cost."""
    if check.measured is None:
        return fmt.NOTHING
    if check.rule.max_seconds_per_item is not None:
        return f"{check.measured.estimate:.3g} s"
    if check.rule.is_cost:
        return fmt.size(round(check.measured.estimate))
    if check.rule.compares:
        return fmt.interval(check.measured)
    return _value(check.measured)


def verdict_words(check: Check) -> Line:
    """The verdict, with why it is undecided and how many items would decide."""
    said = line(SAID[check.verdict])
    if check.reason is not None:
        return said + line(": ", prose(check.reason))
    if check.measured is not None and check.measured.method == SAME_MODEL:
        said += line(f": {SAME_MODEL}")
    if check.verdict is GateVerdict.UNDECIDED:
        more = "more items do not help: the estimate stands on the limit"
        if check.items_needed is not None and check.items_needed > _MANY * check.items:
            more = f"more than {_MANY} times as many would decide"
        elif check.items_needed is not None:
            more = f"about {check.items_needed:,} items{' of each task' if len(check.tasks) > 1 else ''} would decide"
        said += line(f": {fmt.plural(check.items, 'item')} do not tell, {more}")
    elif check.early:
        said += line(f" after {fmt.plural(check.items, 'item')}")
    if check.left_out:
        said += line(f"; {check.left_out:,} items answered by only one of the two are left out")
    return said


def _row(check: Check) -> tuple[Cell, ...]:
    return (
        Cell(line(name(check.variant) if check.variant else fmt.NOTHING)),
        Cell(task_words(check)),
        Cell(metric_words(check)),
        Cell(rule_words(check)),
        Cell(line(measured_words(check))),
        Cell(verdict_words(check), TONES[check.verdict]),
    )


def _value(found: Interval) -> str:
    """A value with its interval: no sign stands before what is no difference."""
    places = fmt.decimals((found.high - found.low) / 2, found.estimate)
    low, high = (fmt.number(end, places) for end in (found.low, found.high))
    return f"{fmt.number(found.estimate, places)} [{low}, {high}]"
