"""Ctrl-C and a polite kill: the step under way is kept, and what goes on from there is what was never stopped."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from phibench.adapters.base import LoadedBase
from phibench.adapters.sft import CompletionTrainer
from phibench.adapters.train import Trained
from phibench.adapters.watch import Step
from support.recipes import trained, write

pytestmark = pytest.mark.usefixtures("cache")


def at(step: int, *signals: signal.Signals) -> Callable[[Step], None]:
    """Sends signals to this process when a step is told, which is after it was done."""

    def told(seen: Step) -> None:
        if seen.step == step:
            for one in signals:
                os.kill(os.getpid(), one)

    return told


def during(monkeypatch: pytest.MonkeyPatch, step: int, *signals: signal.Signals) -> None:
    """Sends signals to this process in the middle of a step, once."""
    own, left = CompletionTrainer.training_step, list(signals)

    def sends(self: Any, *args: Any, **options: Any) -> Any:
        while left and self.state.global_step == step - 1:
            os.kill(os.getpid(), left.pop(0))
        return own(self, *args, **options)

    monkeypatch.setattr(CompletionTrainer, "training_step", sends)


def same(one: Trained, other: Trained) -> None:
    ours, theirs = (load_file(made.folder / "adapter_model.safetensors") for made in (one, other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def curve(made: Trained) -> list[Any]:
    return [(point["step"], point["loss"], point["eval_loss"]) for point in made.record["curve"]]


CASES: dict[str, tuple[int, list[str]]] = {
    "within-an-epoch": (5, []),
    "at-the-end-of-an-epoch": (4, ["training.save_steps=5", "training.eval_steps=6"]),
    "before-the-first-checkpoint": (1, []),
    "where-an-evaluation-is-due": (3, []),
    "evaluated-by-the-epoch": (3, ["training.eval_strategy=epoch", "training.save_strategy=epoch"]),
    "evaluated-at-the-end-of-an-epoch": (4, ["training.eval_strategy=epoch", "training.save_strategy=epoch"]),
    "evaluated-by-the-epoch-saved-by-steps": (4, ["training.eval_strategy=epoch", "training.save_steps=5"]),
    "the-best-is-kept": (
        5,
        ["training.load_best_model_at_end=true", "training.eval_steps=2", "training.learning_rate=0.2"],
    ),
    "no-checkpoints": (3, ["training.save_strategy=no"]),
    "several-batches-a-step": (
        3,
        ["training.per_device_train_batch_size=1", "training.gradient_accumulation_steps=3"],
    ),
    "by-length": (5, ["training.train_sampling_strategy=group_by_length"]),
}


@pytest.mark.parametrize("case", CASES)
def test_what_goes_on_is_what_was_never_stopped(
    case: str, base: LoadedBase, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, settings = CASES[case]
    path = write(tmp_path)
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patched:
        during(patched, step, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt) as caught:
            trained(path, base, *settings)
    assert str(caught.value) == f"goes on from the last checkpoint, of step {step}"
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before
    made = trained(path, base, *settings)
    assert made.record["resumed_at"] == step
    monkeypatch.setenv("PHIBENCH_CACHE", str(tmp_path / "another"))
    whole = trained(path, base, *settings)
    assert curve(made) == curve(whole)
    assert made.record.get("saved_step") == whole.record.get("saved_step")
    same(made, whole)


def test_the_best_checkpoint_is_not_what_a_stop_keeps(
    base: LoadedBase, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint where the best loss was found and none would be is put off, and weights are not swapped."""
    settings = ["training.load_best_model_at_end=true", "training.eval_steps=2", "training.save_steps=4"]
    path = write(tmp_path)
    with monkeypatch.context() as patched:
        during(patched, 2, signal.SIGTERM)
        patched.setattr(CompletionTrainer, "_put_back", lambda self: pytest.fail("weights were loaded"))
        with pytest.raises(KeyboardInterrupt, match="of step 3"):
            trained(path, base, *settings)
    made = trained(path, base, *settings)
    monkeypatch.setenv("PHIBENCH_CACHE", str(tmp_path / "another"))
    same(made, trained(path, base, *settings))


def test_the_second_signal_stops_at_once(
    base: LoadedBase, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    during(monkeypatch, 3, signal.SIGINT, signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="of step 2"):
        trained(write(tmp_path), base)
    monkeypatch.undo()


def test_before_the_first_step_nothing_is_waited_for(
    base: LoadedBase, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = CompletionTrainer.evaluate

    def evaluated(self: Any, *args: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return own(self, *args, **options)

    monkeypatch.setattr(CompletionTrainer, "evaluate", evaluated)
    with pytest.raises(KeyboardInterrupt, match="starts anew: no checkpoint was written yet"):
        trained(write(tmp_path), base)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("steps", [5, 6])
def test_after_the_last_step_the_result_is_kept(steps: int, base: LoadedBase, tmp_path: Path) -> None:
    path, settings = write(tmp_path), [f"training.max_steps={steps}"]
    with pytest.raises(KeyboardInterrupt, match="finds what was trained"):
        trained(path, base, *settings, on_step=at(steps, signal.SIGINT))
    made = trained(path, base, *settings)
    assert not made.is_new
    assert made.record["steps"] == steps


@pytest.mark.parametrize("steps", [5, 6])
def test_what_died_after_its_last_step_trains_no_further(
    steps: int, base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from phibench.adapters.trainers import Made

    def dies(self: Any, folder: Path) -> None:
        raise OSError("no room")

    path, settings = write(tmp_path), [f"training.max_steps={steps}"]
    with monkeypatch.context() as patched:
        patched.setattr(Made, "save", dies)
        with pytest.raises(OSError, match="no room"):
            trained(path, base, *settings)
    made = trained(path, base, *settings)
    assert (made.record["resumed_at"], made.record["steps"]) == (steps, steps)
    monkeypatch.setenv("PHIBENCH_CACHE", str(tmp_path / "another"))
    same(made, trained(path, base, *settings))


def test_in_another_thread_signals_are_left_alone(base: LoadedBase, tmp_path: Path) -> None:
    path, made = write(tmp_path), []
    thread = threading.Thread(target=lambda: made.append(trained(path, base, "training.max_steps=1")))
    thread.start()
    thread.join()
    assert made[0].is_new
