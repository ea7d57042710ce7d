"""A step's rows in one batch, and in smaller ones where there is no room: losses and weights of the published way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from phibench.adapters.base import LoadedBase
from phibench.adapters.recipe import read_recipe
from phibench.adapters.sft import CompletionTrainer, _parts
from phibench.adapters.train import Trained
from phibench.adapters.watch import Step
from phibench.errors import UserError
from support.recipes import RECIPE, trained, write

pytestmark = pytest.mark.usefixtures("cache")
STILL = ["lora.lora_dropout=0.0", "training.max_steps=3"]  # dropout draws by the batch
APART = [*STILL, "training.per_device_train_batch_size=1", "training.gradient_accumulation_steps=4"]
JOINED = [*APART, "join_batches=true"]


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each training batch had."""
    seen: list[int] = []
    summed = CompletionTrainer._summed

    def counted(model: Any, inputs: dict[str, Any]) -> Any:
        if model.training:
            seen.append(len(inputs["input_ids"]))
        return summed(model, inputs)

    monkeypatch.setattr(CompletionTrainer, "_summed", staticmethod(counted))
    return seen


def small_room(monkeypatch: pytest.MonkeyPatch, most: int, *, late: bool = False) -> None:
    """A device that holds so many rows; `late`: it is found out after some gradients were made."""
    step = CompletionTrainer.compute_loss

    def refused(self: Any, model: Any, inputs: dict[str, Any], *args: Any, **options: Any) -> Any:
        loss = step(self, model, inputs, *args, **options)
        if len(inputs["input_ids"]) > most:
            if late:
                loss.backward(retain_graph=True)
            raise torch.OutOfMemoryError("no room")
        return loss

    monkeypatch.setattr(CompletionTrainer, "compute_loss", refused)


def losses(made: Trained) -> list[float]:
    return [point["loss"] for point in made.record["curve"] if point["loss"] is not None]


def weights(made: Trained) -> torch.Tensor:
    return torch.cat(
        [value.flatten() for _, value in sorted(load_file(made.folder / "adapter_model.safetensors").items())]
    )


def test_a_steps_rows_go_in_one_batch(base: LoadedBase, tmp_path: Path, sizes: list[int]) -> None:
    path = write(tmp_path)
    apart = trained(path, base, *APART)
    assert sizes == [1] * 12
    sizes.clear()
    joined = trained(path, base, *JOINED)
    assert sizes == [4] * 3
    assert losses(joined) == pytest.approx(losses(apart), rel=1e-4)
    torch.testing.assert_close(weights(joined), weights(apart), rtol=2e-3, atol=2e-4)
    assert joined.folder != apart.folder
    assert joined.record["notes"] == []


@pytest.mark.parametrize("late", [False, True])
def test_where_there_is_no_room_the_batch_is_cut(
    late: bool, base: LoadedBase, tmp_path: Path, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = trained(write(tmp_path), base, *APART)
    sizes.clear()
    small_room(monkeypatch, 2, late=late)
    cut = trained(write(tmp_path), base, *JOINED)
    assert sizes == [4, 2, 2, 2, 2, 2, 2]
    assert losses(cut) == pytest.approx(losses(apart), rel=1e-4)
    torch.testing.assert_close(weights(cut), weights(apart), rtol=2e-3, atol=2e-4)
    assert "no more than 2 rows" in cut.record["notes"][0]


def test_a_training_that_goes_on_keeps_its_batches_small(
    base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout is drawn by the batch: with room again, the same weights come from the same cut."""

    def stop(step: Step) -> None:
        if step.step == 3:
            raise KeyboardInterrupt

    path, settings = write(tmp_path), [*JOINED, "lora.lora_dropout=0.2", "training.max_steps=4"]
    with monkeypatch.context() as patched:
        small_room(patched, 2)
        with pytest.raises(KeyboardInterrupt):
            trained(path, base, *settings, on_step=stop)
    made = trained(path, base, *settings)
    assert made.record["resumed_at"] == 2
    [note] = made.record["notes"]
    assert note.startswith("there was room for no more than 2 rows at once: the loss is the same sum")
    assert note.endswith("dropout, where there is any, was drawn anew for the smaller batches")
    monkeypatch.setenv("PHIBENCH_CACHE", str(tmp_path / "another"))
    small_room(monkeypatch, 2)
    whole = trained(path, base, *settings)
    assert losses(made) == losses(whole)
    assert torch.equal(weights(made), weights(whole))


def test_one_row_that_has_no_room_is_an_error(
    base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_room(monkeypatch, 0)
    with pytest.raises(torch.OutOfMemoryError):
        trained(write(tmp_path), base, *JOINED)


def test_the_parts_of_a_batch_are_its_rows_without_needless_padding() -> None:
    lengths = [2, 5, 3, 5, 1]
    mask = torch.tensor([[1] * n + [0] * (5 - n) for n in lengths])
    inputs = {"input_ids": torch.arange(25).reshape(5, 5) * mask, "attention_mask": mask}
    parts = _parts(inputs, 2)
    assert [part["input_ids"].shape for part in parts] == [(2, 5), (2, 3), (1, 1)]
    rows = sorted(row.tolist() for part in parts for row in part["input_ids"] for row in [row[row > 0]])
    assert rows == sorted(row[row > 0].tolist() for row in inputs["input_ids"])
    assert _parts(inputs, 5) == [inputs]


def test_preferences_are_not_joined(tmp_path: Path) -> None:
    text = RECIPE.replace('"dialogsum"', '"piqa_pairs"').replace('name = "tiny"', 'name = "tiny"\nmethod = "dpo"')
    with pytest.raises(UserError, match="join_batches belongs"):
        read_recipe(write(tmp_path, text), ["join_batches=true"])
