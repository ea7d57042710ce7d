"""`phibench train`: a recipe to an adapter, or to a model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..errors import UserError
from .console import quieten, say, say_stops, stoppable
from .options import Offline, Verbose


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of one that comes with phibench.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a key, such as training.max_steps=20; give it several times for several."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Copy the result to this folder, which must not be there. Default: the cache.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Of the order of rows, dropout and first weights.")
    ] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto: the GPU where there is one.")] = "auto",
    offline: Offline = False,
    verbose: Verbose = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the result's folder.")] = False,
) -> None:
    """Train a recipe on the base it names; what was trained before is found again.

    Ctrl-C stops it after the step under way, with a checkpoint there; a second one at once. The same command then goes
    on from the last checkpoint. A suite that names the recipe and has the same base finds the result, too.
    """
    from ..adapters.recipe import read_recipe
    from ..adapters.recipe_table import find_recipe

    quieten(offline=offline)
    path = find_recipe(recipe)
    read = read_recipe(path, settings or [])
    if out is not None and out.exists():
        raise UserError("there is something already", where=f"--out {out}", fix="give another folder")
    logging.captureWarnings(True)
    if not verbose:
        logging.getLogger().setLevel(logging.ERROR)
        logging.getLogger("py.warnings").addHandler(logging.NullHandler())
    say_stops()

    from ..harness.progress import RunProgress
    from ..harness.training import train_recipe

    with stoppable("goes on from the last checkpoint, if there is one"), RunProgress(Console(quiet=quiet)) as progress:
        folder = train_recipe(read, path, progress, out=out, seed=seed, device=device, offline=offline)
    say(folder)
