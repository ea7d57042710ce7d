"""The front door: the terminal's app, its commands, and how an error or an interruption ends it."""

from __future__ import annotations

import io
import sys
import traceback
from typing import Annotated, NoReturn

import typer

from . import __version__
from .commands.baseline import app as baseline
from .commands.compare import compare
from .commands.console import ERR, OUT, complain
from .commands.gate import gate
from .commands.look import doctor, list_names
from .commands.options import EXIT_CODES, GATE_EXIT_CODES
from .commands.publish import merge, push
from .commands.suite import check, report, run
from .commands.synthesize import synthesize
from .commands.train import train
from .errors import Exit, UserError

app = typer.Typer(
    name="phibench",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="What did this adapter do to this model, in the form in which it will be shipped?\n\n"
    "Start with [bold]phibench run quickstart[/bold], or copy suites/quickstart.toml: its comments say what each key"
    f" does.\n\n{EXIT_CODES}",
)


@app.callback(invoke_without_command=True)
def _version(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        OUT.print(f"phibench {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise typer.Exit(Exit.USER_MISTAKE)


# In the order in which --help shows them.
app.command(epilog=EXIT_CODES)(run)
app.command(epilog="Exit codes: 0 trained, or found, 2 a mistake to mend, 130 interrupted.")(train)
app.command(epilog="Exit codes: 0 no fault, 2 faults to mend.")(check)
app.command("list", epilog="Exit codes: 0 done, 2 a mistake to mend, such as a list that there is not.")(list_names)
app.command(epilog="Exit codes: 0 done, 2 a mistake to mend, 130 interrupted; the same command then goes on.")(
    synthesize
)
app.command(epilog="Exit codes: 0 done, 2 a mistake to mend, such as a folder that holds no run.")(report)
app.command(epilog="Exit codes: 0 done, 2 a mistake to mend, such as a variant that the run does not have.")(compare)
app.command(epilog=GATE_EXIT_CODES)(gate)
app.add_typer(baseline, name="baseline")
app.command(epilog="Exit codes: 0 done, 2 a mistake to mend, such as an adapter of another base, 130 interrupted.")(
    merge
)
app.command(
    epilog="Exit codes: 0 done, 2 a mistake to mend, such as no token or another's repository, 130 interrupted."
)(push)
app.command(epilog="Exit codes: 0 all that is needed is here, 2 something is missing.")(doctor)


def main() -> NoReturn:
    """Run the command line; a user's mistake shows no traceback, a bug always does. Neither ends as a failed gate."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a log of a long run shows each cell as it ends
    try:
        app()
    except UserError as error:
        complain(error)
        sys.exit(Exit.USER_MISTAKE)
    except KeyboardInterrupt:
        ERR.print("interrupted")
        sys.exit(Exit.INTERRUPTED)
    except SystemExit as end:
        # Where whoever read the output went away, rich and click end with 1, which would be a gate that failed.
        if end.code == Exit.GATE_FAILED and isinstance(end.__context__, BrokenPipeError):
            sys.exit(Exit.USER_MISTAKE)
        raise
    except Exception:
        traceback.print_exc()
        sys.exit(Exit.BUG)
    sys.exit(Exit.DONE)
