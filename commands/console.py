"""The terminal and what surrounds a command: what is printed, where libraries may talk, what a polite kill does."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..errors import Exit, SuiteFaults, UserError

OUT = Console()
ERR = Console(stderr=True)


def say(text: object, console: Console = OUT, *, style: str | None = None) -> None:
    """Print one line as it is: never broken, and nothing in it taken for markup."""
    console.print(str(text), style=style, highlight=False, soft_wrap=True, markup=False, emoji=False)


def complain(error: UserError) -> None:
    """Tell a user's mistake: what was wrong, where, and what to do."""
    faults = error.faults if isinstance(error, SuiteFaults) else [error]
    for fault in faults:
        place = f"{fault.where}: " if fault.where else ""
        ERR.print(f"[red]error:[/red] {escape(place)}{escape(fault.what)}", highlight=False, soft_wrap=True)
        if fault.fix:
            say(f"  -> {fault.fix}", ERR, style="cyan")
    if isinstance(error, SuiteFaults):
        ERR.print(escape(error.what), highlight=False)


def table_of(*headings: str) -> Table:
    """An empty table without lines."""
    table = Table(show_header=True, header_style="bold", box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


@contextmanager
def stoppable(what_is_left: str) -> Iterator[None]:
    """Let Ctrl-C, and a polite kill like it, end the command in a line and its exit code.

    Args:
        what_is_left: what the same command does when it is given again, where what was stopped does not tell.
    """
    polite_kill()
    try:
        yield
    except KeyboardInterrupt as stopped:
        interrupted(str(stopped) or what_is_left)


def interrupted(what_is_left: str) -> NoReturn:
    """Say that the command was stopped, and end it."""
    say(f"interrupted; the same command {what_is_left}", ERR)
    raise typer.Exit(Exit.INTERRUPTED) from None


class _Said(logging.Handler):
    """Says what is logged on the terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage(), ERR, style="yellow")


def say_stops() -> None:
    """Say on the terminal that a training was asked to stop and does so after its step, however quiet the log is."""
    log = logging.getLogger(f"{__package__.rpartition('.')[0]}.adapters.stop")
    log.setLevel(logging.WARNING)
    if not any(isinstance(handler, _Said) for handler in log.handlers):
        log.addHandler(_Said())


def polite_kill() -> None:
    """Let SIGTERM be what Ctrl-C is, so that it loses no more and leaves nothing half-written."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def quieten(*, offline: bool) -> None:
    """Set how libraries behave: no bars, no chatter, threads that share the machine; before they are imported."""
    for name, value in {
        "TQDM_DISABLE": "1",
        "HF_HUB_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "DATASETS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "BITSANDBYTES_NOWELCOME": "1",
        # Waiting threads soon sleep: where other work shares the cores, spinning ones make each step wait for a time
        # slice (docs/performance.md). GNU's OpenMP spins for a few microseconds before it does.
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "3000",
    }.items():
        os.environ.setdefault(name, value)
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def log_to(path: Path, *, verbose: bool) -> None:
    """Send every library's log to the log file of a folder, and to the terminal with -v."""
    logging.captureWarnings(True)
    if not verbose:
        warnings.simplefilter("default")
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    written = logging.FileHandler(path, encoding="utf-8")
    written.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(written)
    if verbose:
        from rich.logging import RichHandler

        root.addHandler(RichHandler(console=ERR, show_path=False))
    for name in ("httpx", "httpcore", "urllib3", "filelock", "fsspec"):
        logging.getLogger(name).setLevel(logging.WARNING)
