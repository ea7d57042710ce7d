"""Training the adapter of a recipe: found again by its hash, gone on with from its last checkpoint, or trained now."""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from .. import __version__
from ..errors import UserError
from ..files import find_change, hash_files, level_modes, sha256_json, write_text
from .adapter_files import LEFT_OUT, TRAINING, AdapterFiles, read_adapter
from .base import LoadedBase
from .bundled import cache_dir
from .checkpoints import counted, last_checkpoint, step_of, take_checkpoint
from .encode import WHY, nothing_to_learn, special_tokens, texts_read
from .identity import base_parts, tokenizer_hash, version
from .recipe import Recipe, read_recipe
from .recipe_table import find_recipe
from .rows import Rows, read_data, strings
from .stop import Stop
from .trainers import Job, make_trainer, needs_trl, sample_hash
from .watch import Step, curve_of

_log = logging.getLogger(__name__)
_TELLING = (
    "report_to",
    "run_name",
    "disable_tqdm",
    "logging_first_step",
    "log_level",
)  # change nothing that is trained
Told = Callable[[Step], None]


@dataclass(frozen=True)
class Trained:
    """A recipe's result: an adapter folder, or a whole model's where every weight was trained."""

    folder: Path
    record: dict[str, Any]  # how it was made
    is_new: bool  # trained now, and not found
    texts: list[tuple[str, str]]  # what it was trained on, with its start: the name and all text of each row
    unknown: str | None = None  # the ready-made adapter that it started from, whose rows are not known


def ensure_trained(
    name: str,
    recipe_name: str,
    base: LoadedBase,
    device: torch.device,
    *,
    seed: int,
    on_step: Told,
    offline: bool = False,
) -> tuple[AdapterFiles, Trained]:
    """The adapter of a suite's recipe: from phibench's cache, or trained now.

    Args:
        name: the adapter's name in the suite.
        recipe_name: the recipe, by name or file.
        base: the base to train on.
        device: where to train.
        seed: of the order of rows, dropout and the adapter's first weights.
        on_step: called after every logged step.
        offline: take datasets from this machine only.

    Returns:
        The adapter, and how it was made.

    Raises:
        UserError: for a recipe or data that cannot be used, or a loss that is not finite.
    """
    path = find_recipe(recipe_name)
    recipe = read_recipe(path)
    if recipe.lora is None and recipe.start is None:
        raise UserError(
            "this recipe trains every weight of the model: its result is a model, not an adapter",
            where=f"adapters.{name}.recipe = {recipe_name}",
            fix=f"phibench train {recipe_name} --out FOLDER, then base.model = FOLDER in a suite of its own",
        )
    trained = train(recipe, path, base, device, seed=seed, on_step=on_step, offline=offline)
    return read_adapter(name, trained.folder, f"recipe {recipe.name}"), trained


def train(
    recipe: Recipe,
    path: Path,
    base: LoadedBase,
    device: torch.device,
    *,
    seed: int,
    on_step: Told,
    offline: bool = False,
    chain: Sequence[str] = (),
) -> Trained:
    """Train a recipe, or find what it made before.

    Args:
        recipe: what it says.
        path: its file, which its data stand beside.
        base: the base to train on.
        device: where to train.
        seed: of the order of rows, dropout and the adapter's first weights.
        on_step: called after every logged step.
        offline: take datasets from this machine only.
        chain: names of the recipes that this one is the start of.

    Raises:
        UserError: for a recipe or data that cannot be used, or a loss that is not finite.
    """
    if recipe.name in chain:
        raise UserError(
            f"it starts from itself: {' > '.join([*chain, recipe.name])}",
            where=recipe.where("start"),
            fix="name another recipe, or an adapter's folder",
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("training in several processes is not supported yet", where="WORLD_SIZE", fix="start one")
    rows, held_out = read_data(recipe, path, seed=seed, offline=offline)
    start, before = _start(
        recipe, base, device, seed=seed, on_step=on_step, offline=offline, chain=[*chain, recipe.name]
    )
    parts = _parts(recipe, base, device, rows, held_out, seed, start)
    folder = cache_dir() / "adapters" / f"{recipe.name}-{sha256_json(parts)[:16]}"
    record, _ = _finished(folder)
    is_new = record is None
    if record is None:
        needs_trl(recipe)
        work = folder.with_name(f".{folder.name}")
        with _alone(work, recipe):
            record, notes = _finished(folder)  # another process may just have made it
            if record is None:
                job = Job(recipe, base, device, seed, rows, held_out, start, work)
                record = _train_stoppably(folder, job, parts, on_step, notes)
        gc.collect()  # a trainer is full of cycles: its model and optimizer would stay on the device
    texts = _texts(recipe, rows, folder)
    if before is not None:
        return Trained(folder, record, is_new, [*before.texts, *texts], before.unknown)
    return Trained(folder, record, is_new, texts, Path(recipe.start).name if recipe.start else None)


def _start(
    recipe: Recipe, base: LoadedBase, device: torch.device, *, chain: list[str], **options: Any
) -> tuple[AdapterFiles | None, Trained | None]:
    """The adapter that training goes on from, with how it was trained, first, where it is a recipe's."""
    if recipe.start is None:
        return None, None
    given = Path(recipe.start).expanduser()
    if given.is_absolute() and given.suffix != ".toml":
        return read_adapter("start", given, recipe.start, place=recipe.where("start")), None
    file = given if given.is_file() else find_recipe(recipe.start)
    made = train(read_recipe(file), file, base, device, chain=chain, **options)
    return read_adapter("start", made.folder, recipe.start), made


def _texts(recipe: Recipe, rows: Rows, folder: Path) -> list[tuple[str, str]]:
    """The name and all text of each row that a result was trained on, of the columns that training reads."""
    file = folder / LEFT_OUT
    left_out = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    gone = {name for names in left_out.values() for name in names}
    read = texts_read(rows, recipe.data.format)
    return [(f"{rows.source} {name}", "\n".join(texts)) for name, texts in read if name not in gone]


def _finished(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The record of a result that is there and still what was written; or none, and what is wrong with it."""
    if not (folder / TRAINING).is_file():
        return None, []
    try:
        record: dict[str, Any] = json.loads((folder / TRAINING).read_text(encoding="utf-8"))
        fault = find_change(folder, record.get("files", {}))
    except (ValueError, AttributeError):
        fault = f"{TRAINING} cannot be read"
    if fault is None:
        return record, []
    told = f"what was trained before is not used: {fault}"
    _log.warning("%s: %s", folder.name, told)
    return None, [told]


def _parts(
    recipe: Recipe,
    base: LoadedBase,
    device: torch.device,
    rows: Rows,
    held_out: Rows | None,
    seed: int,
    start: AdapterFiles | None,
) -> dict[str, str]:
    """Everything that decides what is trained, by name."""
    told = recipe.model_dump(exclude={"name", "description", "base", "start", "data", "training"})
    data = {"format": recipe.data.format, "eval_fraction": recipe.data.eval_fraction}
    limits = [one.limit if one is not None else None for one in (recipe.data.train, recipe.data.eval)]
    training = {key: value for key, value in recipe.training.items() if key not in _TELLING}
    special = special_tokens(base.tokenizer, *recipe.tokenizer.add_tokens)
    spelt = any(special.search(text) for _, row in rows.rows for text in strings(row))
    return {
        "version:phibench": __version__,  # of this code, however it is installed
        "recipe": sha256_json({**told, "data": data, "limits": limits, "training": training}),
        "prompts": sample_hash(recipe, rows, base.tokenizer),
        "data": rows.sha256,
        **({"eval_data": held_out.sha256} if held_out is not None else {}),
        **({"start": start.sha256} if start is not None else {}),
        **({"special_tokens": "left out"} if spelt else {}),  # before, such rows were trained on
        **({"empty_rows": "left out"} if nothing_to_learn(rows, recipe.data.format) else {}),  # as those were
        "seed": str(seed),
        "device": device.type,
        "tokenizer": tokenizer_hash(base.tokenizer),
        **base_parts(base),
        **{f"version:{package}": version(package) for package in ("peft", "trl", "bitsandbytes")},
    }


@contextmanager
def _alone(work: Path, recipe: Recipe) -> Iterator[None]:
    """Let one process train one thing. What it leaves stays only where there is a checkpoint to go on from."""
    work.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(work / "lock", timeout=0):
            try:
                yield
            finally:
                if last_checkpoint(work / "trainer") is None:
                    shutil.rmtree(work, ignore_errors=True)
    except Timeout:
        raise UserError(
            "another process is training this very thing", where=f"recipe {recipe.name}", fix="wait for it"
        ) from None


def _train_stoppably(folder: Path, job: Job, parts: dict[str, str], on_step: Told, notes: list[str]) -> dict[str, Any]:
    """Train as :func:`_train_into` does; a first signal stops it after a step, with a checkpoint there.

    Raises:
        KeyboardInterrupt: with what the same call then finds.
    """
    stop = Stop()
    try:
        with stop.listening():
            return _train_into(folder, job, parts, on_step, notes, stop)
    except KeyboardInterrupt:
        kept = last_checkpoint(job.scratch / "trainer")
        if (folder / TRAINING).is_file():
            left = "finds what was trained"
        elif kept is not None:
            left = f"goes on from the last checkpoint, of step {step_of(kept)}"
        else:
            left = "starts anew: no checkpoint was written yet"
        raise KeyboardInterrupt(left) from None


def _train_into(
    folder: Path, job: Job, parts: dict[str, str], on_step: Told, notes: list[str], stop: Stop
) -> dict[str, Any]:
    """Train, and move the result into place; a training that is killed is gone on with by the same call.

    Returns:
        The record of how it was made.
    """
    started = time.perf_counter()
    recipe = job.recipe
    _log.info("training %s on %d rows", recipe.name, len(job.rows.rows))
    made = make_trainer(job, on_step, stop)
    trainer, watch = made.trainer, made.watch
    for what, names in (
        ("shortened", made.train.shortened),
        *((f"left out: {WHY[why]}", names) for why, names in made.train.left_out().items()),
    ):
        if names:
            _log.warning("%s: %d of %d rows %s", recipe.name, len(names), len(job.rows.rows), what)
    checkpoint, passed = take_checkpoint(job.scratch / "trainer")
    before = max(_earlier_seconds(job.scratch), float(counted(checkpoint).get("seconds") or 0) if checkpoint else 0.0)
    watch.spent = lambda: before + time.perf_counter() - started
    resumed_at = step_of(checkpoint) if checkpoint else None
    if checkpoint is not None:
        trainer.args.eval_on_start = False  # it was evaluated at the start
        watch.go_on_from(checkpoint)
    try:
        trainer.start_clock(resumed_at or 0)
        with made.refused():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if trainer.state.global_step < trainer.state.max_steps:
            stop.interrupt()
    except BaseException:  # Ctrl-C, no room left, a loss that is not finite: a whole checkpoint is gone on from
        write_text(job.scratch / "seconds", str(watch.spent()))
        raise
    result = job.scratch / "result"
    shutil.rmtree(result, ignore_errors=True)
    try:
        nonfinite_tensors = made.nonfinite()
    except UserError:  # its checkpoints lead to nothing else
        shutil.rmtree(job.scratch / "trainer", ignore_errors=True)
        raise
    saved = made.evaluate_saved()
    facts = made.facts()  # saving a whole model turns it back into the base's precision
    made.save(result)
    hashes, still = made.moved(result)
    write_text(result / LEFT_OUT, json.dumps(made.train.left_out(), indent=2) + "\n")
    record = {
        "recipe": recipe.model_dump(mode="json"),
        "rows": len(job.rows.rows),
        **made.train.told(),
        "eval_rows": len(made.held_out.rows) if made.held_out else None,
        **(made.held_out.told("eval_") if made.held_out else {}),
        "sources": [rows.source for rows in (job.rows, job.held_out) if rows is not None],
        "seed": job.seed,
        "device": str(job.device),
        "steps": trainer.state.global_step,
        "resumed_at": resumed_at,
        "notes": [*notes, *passed, *made.notes(), *still],
        "seconds": round(watch.spent(), 1),
        "nonfinite_losses": watch.nonfinite_losses,
        "nonfinite_gradients": watch.nonfinite_gradients,
        "nonfinite_tensors": nonfinite_tensors,
        "parts": parts,
        "curve": curve_of(trainer.state.log_history),
        **saved,
        **facts,
        **hashes,
        "files": hash_files(result, but=TRAINING),
    }
    if (events := job.scratch / "trainer" / "runs").is_dir():  # where transformers writes TensorBoard's, by default
        events.rename(result / "runs")
    level_modes(result)
    text = json.dumps(record, indent=2)
    write_text(result / TRAINING, f"{text}\n")
    shutil.rmtree(folder, ignore_errors=True)
    result.rename(folder)
    shutil.rmtree(job.scratch, ignore_errors=True)
    told: dict[str, Any] = json.loads(text)
    return told


def _earlier_seconds(scratch: Path) -> float:
    """How long an interrupted training of the same thing took; 0 where nobody said. A killed one says nothing here: its
    last checkpoint does."""
    file = scratch / "seconds"
    return float(file.read_text(encoding="utf-8")) if file.is_file() else 0.0
