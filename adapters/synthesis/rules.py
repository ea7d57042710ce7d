"""Rules that clean texts, and the count of what each one did: nothing is dropped or changed without a trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

EXAMPLES = 3  # kept of each rule


@dataclass(frozen=True)
class Rule:
    """One named rule.

    Args:
        name: as the report has it.
        why: what it does and why, in a sentence.
        change: the text afterwards; None drops it. None for a rule that looks at more than a text, and that the
            pipeline applies.
    """

    name: str
    why: str
    change: Callable[[str], str | None] | None = None


@dataclass
class RuleCount:
    """What one rule did at one stage."""

    stage: str
    rule: str
    why: str
    dropped: int = 0
    changed: int = 0
    examples: list[tuple[str, str | None]] = field(default_factory=list)  # (before, after; None: dropped)


class Tally:
    """Counts of every rule, by stage, in the order of the rules."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], RuleCount] = {}

    def expect(self, stage: str, rules: Sequence[Rule]) -> None:
        """Count these rules too where they find nothing: that a rule had nothing to do is worth knowing."""
        for rule in rules:
            self._count(stage, rule)

    def record(self, stage: str, rule: Rule, before: str, after: str | None) -> None:
        """Note what a rule did to one text."""
        count = self._count(stage, rule)
        if after is None:
            count.dropped += 1
        else:
            count.changed += 1
        if len(count.examples) < EXAMPLES:
            count.examples.append((before, after))

    def apply(self, stage: str, rules: Sequence[Rule], text: str) -> str | None:
        """Put a text through rules, in order; None where one of them dropped it."""
        for rule in rules:
            if rule.change is None:
                raise ValueError(f'the rule "{rule.name}" does not work on a text alone')
            after = rule.change(text)
            if after != text:
                self.record(stage, rule, text, after)
            if after is None:
                return None
            text = after
        return text

    @property
    def counts(self) -> list[RuleCount]:
        """Every rule of every stage."""
        return list(self._counts.values())

    def _count(self, stage: str, rule: Rule) -> RuleCount:
        return self._counts.setdefault((stage, rule.name), RuleCount(stage, rule.name, rule.why))
