"""Checkpoints of a training: marked when they are whole, and gone on from only while they still are."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from ..files import find_change, hash_files, write_text

COMPLETE = "phibench_complete"  # a checkpoint has this file, with the hashes of all others, when they are written

_log = logging.getLogger(__name__)


def mark_whole(folder: Path, **counts: float | None) -> None:
    """Say of a checkpoint that was just written that it is whole, what its files are, and what was counted so far."""
    write_text(folder / COMPLETE, json.dumps({**counts, "files": hash_files(folder, but=COMPLETE)}))


def counted(checkpoint: Path) -> dict[str, Any]:
    """What :func:`mark_whole` was told of a checkpoint."""
    found: dict[str, Any] = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
    return found


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint was written at."""
    return int(checkpoint.name.partition("-")[2])


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a trainer's folder that was written whole, whatever became of it since."""
    marked = [path for path in _checkpoints(folder) if (path / COMPLETE).exists()]
    return marked[0] if marked else None


def take_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that can be gone on from; those that cannot are removed, or they would be counted among
    the few that a trainer keeps.

    Returns:
        It, if there is one; and for each that was written whole and is no more, what is wrong with it.
    """
    passed: list[str] = []
    for path in _checkpoints(folder):
        fault = _fault(path) if (path / COMPLETE).exists() else None
        if fault is None and (path / COMPLETE).exists():
            return path, passed
        if fault is not None:
            passed.append(f"{path.name} is not gone on from: {fault}")
            _log.warning("%s", passed[-1])
        shutil.rmtree(path, ignore_errors=True)
    return None, passed


def _fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint that was written whole, or with the best one so far, which it counts on."""
    try:
        files = dict(counted(checkpoint)["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"{COMPLETE} cannot be read"
    if (fault := find_change(checkpoint, files)) is not None:
        return fault
    if "trainer_state.json" in files:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        best = Path(state.get("best_model_checkpoint") or checkpoint)
        if best.name != checkpoint.name and (not (best / COMPLETE).exists() or _fault(best) is not None):
            return f"{best.name}, the best so far, is not what was written"
    return None


def _checkpoints(folder: Path) -> list[Path]:
    """The newest first."""
    found = {step_of(path): path for path in folder.glob("checkpoint-*")}
    return [found[step] for step in sorted(found, reverse=True)]
