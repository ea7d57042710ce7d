"""What a training goes on from: checkpoints that are still what was written, and no others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from phibench.adapters.base import LoadedBase
from phibench.adapters.checkpoints import COMPLETE
from phibench.adapters.watch import Step
from support.recipes import trained, write

pytestmark = pytest.mark.usefixtures("cache")


def stopped(path: Path, base: LoadedBase, cache: Path, *settings: str) -> Path:
    """The trainer's folder after a stop at the fifth step: checkpoints 2 and 4."""

    def stop(step: Step) -> None:
        if step.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(path, base, *settings, on_step=stop)
    [work] = cache.iterdir()
    return work / "trainer"


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("optimizer.pt", cut),
        ("adapter_model.safetensors", cut),
        ("adapter_model.safetensors", flip),
        ("rng_state.pth", Path.unlink),
        (COMPLETE, cut),
    ],
)
def test_a_checkpoint_that_was_spoilt_is_passed_over(
    name: str,
    spoil: Callable[[Path], None],
    base: LoadedBase,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write(tmp_path)
    work = stopped(path, base, cache)
    spoil(work / "checkpoint-4" / name)
    made = trained(path, base)
    assert made.record["resumed_at"] == 2
    [note] = made.record["notes"]
    assert note.startswith("checkpoint-4 is not gone on from: ") and name in note
    monkeypatch.setenv("PHIBENCH_CACHE", str(tmp_path / "another"))
    whole = trained(path, base)
    assert whole.record["notes"] == []
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (made.folder, whole.folder))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_training_starts_anew_where_no_checkpoint_is_left(base: LoadedBase, cache: Path, tmp_path: Path) -> None:
    path = write(tmp_path)
    work = stopped(path, base, cache)
    for step in (2, 4):
        cut(work / f"checkpoint-{step}" / "optimizer.pt")
    record = trained(path, base).record
    assert (record["resumed_at"], record["steps"], len(record["notes"])) == (None, 6, 2)


def test_a_checkpoint_counts_on_the_best_one_so_far(base: LoadedBase, cache: Path, tmp_path: Path) -> None:
    """It is what is saved in the end."""
    path = write(tmp_path)
    settings = ["training.load_best_model_at_end=true", "training.eval_steps=2", "training.greater_is_better=true"]
    work = stopped(path, base, cache, *settings)
    state = json.loads((work / "checkpoint-4" / "trainer_state.json").read_text())
    assert Path(state["best_model_checkpoint"]).name == "checkpoint-2"  # the largest loss, here
    cut(work / "checkpoint-2" / "adapter_model.safetensors")
    record = trained(path, base, *settings).record
    assert record["resumed_at"] is None
    assert "checkpoint-2, the best so far, is not what was written" in record["notes"][0]
