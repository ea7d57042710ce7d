"""What a report says of claims: each with what became of it, and every statement with its numbers."""

from __future__ import annotations

from collections import Counter

from ..harness.claims import Finding, Judged, Outcome
from ..harness.comparison import RunComparison
from ..harness.stats import Verdict
from . import format as fmt
from .view import Cell, Column, Line, Table, line, name, prose

_TONES = {Outcome.CONFIRMED: Verdict.BETTER, Outcome.REFUTED: Verdict.WORSE, Outcome.UNDECIDED: None}


def claims_table(run: RunComparison) -> Table | None:
    """A row for each statement, the first of a claim with the claim and its outcome; None where nothing is claimed."""
    if not run.claims:
        return None
    columns = (
        Column(line("Claim"), wide=True),
        Column(line("Outcome")),
        Column(line("Statement"), wide=True),
        Column(line("Difference [95 % interval]"), numeric=True),
        Column(line("Items"), numeric=True),
        Column(line("Found"), wide=True),
    )
    rows = [row for judged in run.claims for row in _rows(judged)]
    return Table("Claims put to the test, at this size", columns, tuple(rows))


def claims_note(run: RunComparison) -> Line:
    """How claims are decided, and how many came out which way."""
    counts = Counter(judged.outcome for judged in run.claims)
    said = ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome])
    return line(
        f"Here: {said}. A statement is confirmed where its whole 95 % interval agrees with it, beyond the margin where"
        " it has one; a claim, where all of its statements are. One of k statements refutes the claim by its interval"
        " of 1 − 0.05/k. What is neither is undecided: the items do not tell. It holds for this model, data and size."
    )


def told(judged: Judged) -> str:
    """A claim and its outcome on one line, for the terminal."""
    return f"{judged.outcome}: {fmt.one_line(judged.claim.says, 200)}"


def _rows(judged: Judged) -> list[tuple[Cell, ...]]:
    source = line(" (", prose(judged.claim.source), ")") if judged.claim.source else ()
    outcome = line(str(judged.outcome)) + (line(f": {judged.reason}") if judged.reason else ())
    first = Cell(line(prose(judged.claim.says)) + source), Cell(outcome, _TONES[judged.outcome])
    again = Cell(()), Cell(())
    findings = [(finding, True) for finding in judged.given] + [(finding, False) for finding in judged.holds]
    return [
        (*(again if position else first), *_statement(finding, is_given))
        for position, (finding, is_given) in enumerate(findings)
    ]


def _statement(finding: Finding, is_given: bool) -> tuple[Cell, ...]:
    difference = fmt.NOTHING if finding.difference is None else fmt.interval(finding.difference)
    found = line(prose(finding.reason)) if finding.reason else line(str(finding.outcome))
    return (
        Cell(line("given: " if is_given else "") + _words(finding)),
        Cell(line(difference)),
        Cell(line(f"{finding.items:,}" if finding.items else fmt.NOTHING)),
        Cell(found, _TONES[finding.outcome]),
    )


def _words(finding: Finding) -> Line:
    """`a` better than `b` by more than 0.02 on `task` `metric` ↑."""
    stated = finding.statement
    than = name(stated.than) if isinstance(stated.than, str) else f"{stated.than:g}"
    margin = f"{stated.margin:g}"
    relation, by = {
        "better": ("better than", f" by more than {margin}"),
        "not worse": ("not worse than", f" by more than {margin}"),
        "same": ("the same as", f" within {margin}"),
        "not better": ("not better than", f" by more than {margin}"),
        "worse": ("worse than", f" by more than {margin}"),
    }[stated.expect]
    said = line(name(stated.variant), f" {relation} ", than, by if stated.margin else "", " on ", name(finding.task))
    if finding.metric is None:
        return said + (line(" ", name(stated.metric)) if stated.metric else ())
    return said + line(" ", name(fmt.metric_label(finding.metric)), f" {fmt.arrow(finding.metric)}".rstrip())
