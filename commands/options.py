"""Options that several commands have, so that they are called and told alike."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

EXIT_CODES = (
    "Exit codes: 0 done, 1 a gate failed, 2 a mistake to mend, 3 some cells failed (the rest is there),"
    " 4 a gate is undecided, 130 interrupted."
)
GATE_EXIT_CODES = "Exit codes: 0 passed, 1 failed, 2 a mistake to mend, 4 undecided: the items do not tell."
Precision = Literal["float32", "bfloat16", "float16"]
SuiteName = Annotated[str, typer.Argument(help="A suite file, or the name of one that comes with phibench.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never ask the hub; use what is on this machine.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the libraries' own messages.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that the base brings along. Read it first.")
]
