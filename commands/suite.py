"""`phibench run`, `check` and `report`: a suite, its faults, and the reports of its runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ..errors import Exit
from .console import ERR, interrupted, log_to, polite_kill, quieten, say, say_stops
from .options import Offline, Quiet, SuiteName, Verbose

if TYPE_CHECKING:
    from ..harness.gate.judge import GateResult
    from ..harness.gate.spec import GateSpec
    from ..harness.outcomes import Outcomes
    from ..harness.plan import RunOptions
    from ..harness.run_folder import RunFolder
    from ..harness.suite_file import SuiteFile


def run(
    suite: SuiteName,
    out: Annotated[
        Path | None,
        typer.Option(help="The run's folder. Default: a folder under the suite's output.dir, named by what it asks."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many items a task.")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Work on this variant or task only; give it several times for several."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; default: the suite's.")] = None,
    offline: Offline = False,
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume/--fresh",
            help="Go on in the folder (cells that are already there and unchanged are kept), or start over in it."
            " Default: go on when the folder holds the same suite.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before --fresh removes a run.")] = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Run a suite: make every variant, ask every task, write the reports.

    A run that was stopped goes on where it stopped when the same command is given again.
    """
    from ..harness.check import read_and_check
    from ..harness.gate.run import opened
    from ..harness.plan import RunOptions, select, suite_hash
    from ..harness.run_folder import RunFolder, disk_errors, refuse_mixing
    from ..harness.suite_file import find_suite

    options = RunOptions(limit=limit, only=tuple(only or ()), device=device, offline=offline)
    quieten(offline=offline)
    file = read_and_check(find_suite(suite))
    select(file.suite, options.only)  # refuses unknown names before anything is written or loaded
    gate = None if file.suite.gate is None else opened(file.suite.gate)  # refuses what cannot be compared with
    digest = suite_hash(file.suite, limit)
    folder = RunFolder(out or Path(file.suite.output.dir) / f"{file.suite.name}-{digest[:8]}")
    with disk_errors(folder.path):
        refuse_mixing(folder, digest, resume=resume, agrees=lambda question: yes or _agrees(question))
    with folder.locked():
        if resume is False:
            folder.clear()
        log_to(folder.log, verbose=verbose)
        if not verbose:
            say_stops()
        _run_and_report(file, options, folder, Console(quiet=quiet), gate)


def _agrees(question: str) -> bool:
    """Ask; where nobody can answer, the answer is no."""
    try:
        return typer.confirm(question)
    except typer.Abort:
        return False


def _run_and_report(
    file: SuiteFile,
    options: RunOptions,
    folder: RunFolder,
    console: Console,
    gate: tuple[Outcomes | None, GateSpec] | None,
) -> None:
    from ..adapters.identity import hash_ahead

    # Threads that mostly wait for a disk or a device take turns with one that computes: by Python's default each turn
    # waits 5 ms, thousands of times.
    sys.setswitchinterval(0.0005)
    weights = hash_ahead(file.suite.base.model)  # torch is not imported yet: that takes as long

    from ..harness.gate.run import exit_code
    from ..harness.progress import RunProgress
    from ..harness.runner import Runner
    from ..reports.gate_terminal import gate_text
    from ..reports.report import write_reports
    from ..reports.terminal import results_table

    polite_kill()
    folder.gate.unlink(missing_ok=True)  # of an earlier end: what it says is not true of a run that is stopped now
    outcome = None
    try:
        with RunProgress(console) as progress:
            outcome = Runner(file, options, folder, progress, weights).run()
    except KeyboardInterrupt:
        pass  # what is there is reported before it is said
    result = None
    if folder.results.exists():
        try:
            result = _judge(folder, gate) if outcome is not None else None
        finally:  # a run that cannot be compared has its reports all the same
            written = write_reports(folder.path)
            console.print(results_table(folder.path, console.width))
            for path in written:
                say(path, console, style="bold")
    if outcome is None:
        interrupted(f"goes on where this stopped (in {folder.path})")
    if outcome.failed:
        failed = "1 cell" if outcome.failed == 1 else f"{outcome.failed} cells"
        say(f"{failed} failed; see the report and {folder.log}", ERR, style="red")
    if result is not None:
        console.print(gate_text(result))
        raise typer.Exit(exit_code(result, outcome.failed))
    if outcome.failed:
        raise typer.Exit(Exit.SOME_CELLS_FAILED)


def _judge(folder: RunFolder, gate: tuple[Outcomes | None, GateSpec] | None) -> GateResult | None:
    """The verdict of the suite's gate, if it has one, which is kept in the run folder."""
    from ..harness.gate.run import gate_own

    return None if gate is None else gate_own(folder.path, *gate).result


def check(suite: SuiteName) -> None:
    """Validate a suite: every fault at once, with key and line. Loads no model and no dataset."""
    from ..harness.check import read_and_check
    from ..harness.check_gate import early_stopping_notes
    from ..harness.contract import suite_breaches
    from ..harness.gate.limits import limit_notes
    from ..harness.resolution import resolution_notes
    from ..harness.suite_file import find_suite

    quieten(offline=True)
    file = read_and_check(find_suite(suite))
    for note in [*suite_breaches(file.suite), *early_stopping_notes(file.suite), *limit_notes(file.suite.gate)]:
        say(f"warning: {note}", style="yellow")
    for note in resolution_notes(file.suite):
        say(note)
    variants = file.suite.all_variants()
    say(
        f"{file.path}: no fault found; {len(variants)} variants x {len(file.suite.tasks)} tasks,"
        f" baseline {file.suite.baseline_name()}"
    )


def report(
    run_dir: Annotated[Path, typer.Argument(help="The folder of a finished or half-finished run.")],
) -> None:
    """Make the reports of a run again. Needs no model and no GPU."""
    from ..harness.run_folder import disk_errors
    from ..reports.report import write_reports

    with disk_errors(run_dir):
        for path in write_reports(run_dir):
            say(path)
