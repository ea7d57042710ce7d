"""Training at the terminal: for `phibench train`, and for a suite whose adapter is a recipe's."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .progress import RunProgress

if TYPE_CHECKING:
    from ..adapters.recipe import Recipe
    from ..adapters.watch import Step

_SILENCE = 30  # seconds without a word, where there is no bar


def train_recipe(
    recipe: Recipe, path: Path, progress: RunProgress, *, out: Path | None, seed: int, device: str, offline: bool
) -> Path:
    """Train a recipe on its own base.

    Args:
        recipe: what it says.
        path: its file.
        progress: the terminal.
        out: where the result is copied to; None: it stays in the cache.
        seed: of the order of rows, dropout and first weights.
        device: where to train, as a suite has it.
        offline: never ask the hub.

    Returns:
        The folder of the adapter, or of the model.

    Raises:
        UserError: for a recipe, base or data that cannot be used, or a loss that is not finite.
    """
    from ..adapters.base import load_base
    from ..adapters.settings import refuse_settings
    from ..adapters.train import train
    from .environment import choose_device

    if recipe.base is None:
        raise UserError("the recipe names no base", where=f"{path}: base", fix="--set base.model=smollm2-135m")
    with suppress(ImportError):  # without trl, what was trained before is still found
        refuse_settings(recipe)
    with progress.bar(f"loading {recipe.base.model}", None):
        base = load_base(recipe.base, offline=offline)
    with telling(progress, recipe.name) as on_step:
        trained = train(recipe, path, base, choose_device(device), seed=seed, on_step=on_step, offline=offline)
    say_trained(progress, recipe.name, trained.record, is_new=trained.is_new)
    if out is None:
        return trained.folder
    shutil.copytree(trained.folder, out)
    return out


@contextmanager
def telling(progress: RunProgress, name: str) -> Iterator[Callable[[Step], None]]:
    """A bar that every logged step moves on, with loss, speed and memory; a line now and then where there is no bar."""
    with progress.bar(f"training {name}", None) as bar:
        at, said, when = 0, 0, time.monotonic()
        shows_bar = progress.console.is_terminal

        def on_step(step: Step) -> None:
            nonlocal at, said, when
            bar.set_total(step.steps)
            told = [f"loss {step.loss:.3f}"]
            if step.tokens_per_second:
                told.append(f"{step.tokens_per_second:,.0f} tokens/s")
            if step.memory_bytes:
                told.append(f"{step.memory_bytes / 2**30:.1f} GiB")
            bar.advance(step.step - at, "  ".join(told))
            at = step.step
            is_due = 10 * (at - said) >= step.steps or time.monotonic() - when >= _SILENCE
            if is_due and not shows_bar:
                said, when = at, time.monotonic()
                progress.say(f"training {name}: step {at} of {step.steps}  {'  '.join(told)}")

        yield on_step


def say_trained(progress: RunProgress, name: str, record: dict[str, Any], *, is_new: bool) -> None:
    """Say how a training ended, in one line."""
    from ..adapters.encode import WHY

    if not is_new:
        progress.say(f"✓ {name}: trained before, found in the cache")
        return
    losses = [point["loss"] for point in record["curve"] if point["loss"] is not None]
    held_out = [point["eval_loss"] for point in record["curve"] if point["eval_loss"] is not None]
    told = [f"last loss {losses[-1]:.3f}"] if losses else []
    if held_out:
        told.append(f"held out {held_out[0]:.3f} before, {record.get('saved_loss', held_out[-1]):.3f} after")
    if "saved_step" in record:
        told.append(f"kept step {record['saved_step']}, the best")
    if record["resumed_at"]:
        told.append(f"gone on from step {record['resumed_at']}")
    for key, what in ({why: f"left out: {says}" for why, says in WHY.items()} | {"shortened": "shortened"}).items():
        if count := record[f"rows_{key}"]:
            told.append(f"{count} {'row' if count == 1 else 'rows'} {what}")
    for note in record.get("notes", []):
        progress.say(f"{name}: {note}", style="yellow")
    progress.say(f"✓ trained {name} in {record['seconds']:.0f} s: {', '.join(told)}")
