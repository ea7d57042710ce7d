"""`phibench baseline`: a run's results in a small file to commit, for gates to compare with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import ERR, OUT, quieten, say

app = typer.Typer(
    no_args_is_help=True, help="Keep a run's results in a small file that can be committed, and compared with."
)


@app.command(epilog="Exit codes: 0 saved, 2 a mistake to mend, such as a folder that holds no run.")
def save(
    runs: Annotated[list[str], typer.Argument(help="Run folders, or RUN:VARIANT for one variant of a run.")],
    out: Annotated[Path, typer.Option(help="The file to write; its old content is replaced.")],
    prompts: Annotated[
        bool, typer.Option("--prompts", help="Keep the first 200 characters of every prompt, too.")
    ] = False,
) -> None:
    """Save what variants of finished runs came to, item by item, for `phibench gate --against`.

    The file holds scores, costs, hashes of items and prompts, and each item's metrics. It holds no path of this
    machine, and no text of prompts, answers or targets unless asked. The same run gives the same file.

    Example: phibench baseline save runs/mine-1a2b3c4d:base --out baseline.json
    """
    from ..harness.baseline import save_baseline

    quieten(offline=True)
    saved = save_baseline(runs, out, prompts=prompts)
    for line in saved.left_out:
        say(f"left out: {line}", ERR, style="yellow")
    say(f"{out}: {saved.size:,} bytes")


@app.command(epilog="Exit codes: 0 done, 2 a mistake to mend, such as a file that is no baseline.")
def show(
    file: Annotated[Path, typer.Argument(help="A file that `phibench baseline save` wrote.")],
) -> None:
    """Show what a baseline file holds: how it was made, its variants and tasks, scores and items."""
    from ..harness.baseline import read_baseline
    from ..reports.baseline import baseline_text

    quieten(offline=True)
    OUT.print(baseline_text(read_baseline(file)))
