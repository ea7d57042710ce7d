"""A finished run put to a gate: which rules, compared with what, and the exit code that comes of it. Needs no torch."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ... import __version__
from ...errors import Exit, UserError
from ...files import write_text
from ..baseline import open_against
from ..outcomes import Outcomes, open_run
from ..run_folder import GATE
from .check import GateVerdict
from .file import read_rules
from .judge import GateResult, gate_of, judge_gate
from .spec import DEFAULT_MARGIN, GateSpec, Undecided, default_gate

_SCHEMA_VERSION = "1"
_EXITS = {
    GateVerdict.PASS: Exit.DONE,
    GateVerdict.FAIL: Exit.GATE_FAILED,
    GateVerdict.UNDECIDED: Exit.GATE_UNDECIDED,
}


@dataclass(frozen=True)
class Gated:
    """A run's gate as judged.

    Attributes:
        name: of the run.
        result: the verdict and its checks.
        chosen: what was chosen for the user, and whose rules they are.
    """

    name: str
    result: GateResult
    chosen: tuple[str, ...] = ()


def gate_run(
    run_dir: Path,
    *,
    rules: Path | None = None,
    against: str | None = None,
    margin: float | None = None,
    undecided: Undecided | None = None,
) -> Gated:
    """Put a run to a gate.

    Args:
        run_dir: the run folder, finished or not.
        rules: a TOML file of rules; by default the run's own suite's gate, else the default gate.
        against: what it is compared with: a run folder or a baseline file, with `:VARIANT` or not; by default what the
            rules say, else the run's own baseline.
        margin: of the default gate.
        undecided: what undecided rules make of the gate; by default what the rules say.

    Raises:
        UserError: there is no such run, file, name or variant, or tasks were asked otherwise.
    """
    if margin is not None and not math.isfinite(margin):
        raise UserError("the margin is not a finite number", where=f"--margin {margin}", fix="give a share, as 0.02")
    run = open_run(run_dir)
    own = gate_of(run, run_dir) if rules is None else None
    if margin is not None and (rules is not None or own is not None):
        raise UserError(
            f"--margin would do nothing: the rules are those of {rules or 'the suite of this run'}",
            where=f"--margin {margin:g}",
            fix="leave it out, or write max_loss into the rules",
        )
    chosen: tuple[str, ...]
    if rules is not None:
        spec, chosen = read_rules(rules), (f"rules: those of {rules}",)
        if spec.early_stopping:
            chosen += (f"early_stopping of {rules} does nothing here: items are asked by `phibench run`",)
    elif own is not None:
        spec, chosen = own, ("rules: the [gate] of the run's own suite",)
    else:
        spec = default_gate(margin)
        chosen = (
            f"rules: the default gate, for the suite has none: no variant loses more than"
            f" {DEFAULT_MARGIN if margin is None else margin:g} in any task's leading metric",
        )
    if undecided is not None:
        spec = spec.model_copy(update={"undecided": undecided})
    other, spec = opened(spec, against)
    return Gated(run.manifest.name, _judged(spec, run, other, checked=own is not None), chosen)


def opened(spec: GateSpec, against: str | None = None) -> tuple[Outcomes | None, GateSpec]:
    """What a gate compares with where that is not the run itself, and its rules with the variant that was named there.

    Raises:
        UserError: there is no such run, file or variant.
    """
    text = against or spec.against
    if text is None:
        return None, spec
    other, variant = open_against(text)
    if variant is not None:
        rules = [
            rule.model_copy(update={"than": variant}) if rule.compares and rule.than is None else rule
            for rule in spec.rules
        ]
        spec = spec.model_copy(update={"rules": rules})
    return replace(other, label=_shown(other.label)), spec


def gate_own(run_dir: Path, against: Outcomes | None, spec: GateSpec) -> Gated:
    """Put a run to the gate of its suite, and keep what came of it in the run folder.

    Args:
        run_dir: the run, finished or not.
        against: what :func:`opened` found, before the run.
        spec: the rules that it gave.

    Raises:
        UserError: tasks were asked otherwise in `against`.
    """
    run = open_run(run_dir)
    gated = Gated(run.manifest.name, _judged(spec, run, against, checked=True))
    write_text(run_dir / GATE, gate_json(gated))
    return gated


def exit_code(result: GateResult, failed_cells: int = 0) -> Exit:
    """The exit code of a verdict: a failed gate goes before cells that failed, and those before an undecided one."""
    if failed_cells and result.verdict is not GateVerdict.FAIL:
        return Exit.SOME_CELLS_FAILED
    return _EXITS[result.verdict]


def gate_json(gated: Gated) -> str:
    """The whole result as JSON, for other programs."""
    told = {
        "schema_version": _SCHEMA_VERSION,
        "phibench_version": __version__,
        "run": gated.name,
        "exit_code": int(exit_code(gated.result)),
        "chosen": list(gated.chosen),
        **TypeAdapter(GateResult).dump_python(gated.result, mode="json", exclude_none=True),
    }
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"


def read_gate(run_dir: Path) -> GateResult | None:
    """What :func:`gate_own` kept in a run folder; None where there is nothing.

    Raises:
        UserError: it cannot be read.
    """
    path = run_dir / GATE
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        fields = {key: told[key] for key in ("spec", "verdict", "checks", "against", "notes") if key in told}
        return TypeAdapter(GateResult).validate_json(json.dumps(fields))
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError, TypeError, ValidationError):
        fix = "remove it, and run the suite again: it finds every cell done"
        raise UserError("it cannot be read", where=str(path), fix=fix) from None


def _judged(spec: GateSpec, run: Outcomes, against: Outcomes | None, *, checked: bool) -> GateResult:
    return judge_gate(spec, run, against, seed=run.manifest.seeds.get("bootstrap", 0), checked=checked)


def _shown(label: str) -> str:
    """A path as it is from the working folder, where it is in that."""
    path = Path(label)
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_absolute() and path.is_relative_to(here) else label
