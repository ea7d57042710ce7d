"""The gate: rules on finished cells, and the verdict that becomes an exit code. Needs no torch.

A rule on a metric is a pair of one-sided tests (Schuirmann 1987; Wellek 2010): it *passes* where an interval lies whole
on the right side of its limit, *fails* where it lies whole on the wrong side, and is *undecided* otherwise. Each pass
is at the gate's level, since the gate passes only where all rules do; a failure of any fails the gate, so that each of
k rules fails at level / k (Bonferroni): where nothing is wrong, a gate raises an alarm no more often than its level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..alike import made_otherwise
from ..outcomes import Outcomes
from .check import Check, GateVerdict, check_target
from .limits import refuse_impossible
from .names import refuse_unknown
from .spec import GateSpec
from .targets import binds_nothing, statistical, targets_of


@dataclass(frozen=True)
class GateResult:
    """A gate's verdict and what it rests on."""

    spec: GateSpec
    verdict: GateVerdict
    checks: tuple[Check, ...]
    against: str | None = None  # another run or baseline file that it was compared with
    notes: tuple[str, ...] = ()  # what else one must know of that comparison

    def count(self, verdict: GateVerdict) -> int:
        """How many checks came out so."""
        return sum(check.verdict is verdict for check in self.checks)


def judge_gate(
    spec: GateSpec, run: Outcomes, against: Outcomes | None = None, *, seed: int = 0, checked: bool = False
) -> GateResult:
    """Put a gate's rules to a run.

    Args:
        spec: the rules.
        run: what is judged.
        against: what it is compared with, where that is not the run's own baseline: of the variant that a rule's `than`
            names there, else of the same name, else of its baseline.
        seed: of the resampling.
        checked: whether the names were checked with the suite that the run is of: what is not there was then not run,
            and leaves its rule undecided.

    Raises:
        UserError: a rule names what neither has, binds nothing, or has a limit that no score can be beyond; or tasks
            were asked otherwise in `against` and cannot be compared.
    """
    refuse_unknown(spec, run, against, checked=checked)
    targets = targets_of(spec, run, against)
    bound = {target.number for target in targets}
    idle = [(number, rule) for number, rule in enumerate(spec.rules, 1) if number not in bound]
    if idle and not checked:
        raise binds_nothing(*idle[0], run)
    refuse_impossible(targets, run, against)
    count = statistical(targets)
    found = [check_target(target, spec, count, run, against, seed=seed) for target in targets]
    found += [
        Check(rule, number, "", GateVerdict.UNDECIDED, reason="nothing that it binds was run", missing=True)
        for number, rule in idle
    ]
    checks = tuple(sorted(found, key=lambda check: check.number))
    verdict = _verdict(checks, spec)
    if against is None:
        return GateResult(spec, verdict, checks)
    return GateResult(spec, verdict, checks, against.label, tuple(made_otherwise(run, against)))


def _verdict(checks: Sequence[Check], spec: GateSpec) -> GateVerdict:
    """What checks come to. The policy on undecided ones is for items that do not tell: no answer is no evidence."""
    if any(check.verdict is GateVerdict.FAIL for check in checks):
        return GateVerdict.FAIL
    undecided = [check for check in checks if check.verdict is GateVerdict.UNDECIDED]
    if not undecided:
        return GateVerdict.PASS
    missing = [check for check in undecided if check.missing]
    if len(missing) == len(undecided) or (missing and spec.undecided == "pass"):
        return GateVerdict.UNDECIDED
    return GateVerdict(spec.undecided)


def gate_of(run: Outcomes, folder: Path) -> GateSpec | None:
    """The gate that a run's own suite has, or None.

    Raises:
        UserError: it is of another version of phibench.
    """
    from ..comparison import read_part

    part = run.manifest.suite.get("gate")
    return None if part is None else read_part(run.manifest, GateSpec, part, folder)
