"""Training from a recipe, through trl, on a tiny base: two steps show whether everything is where it belongs."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file

from phibench.adapters import train
from phibench.adapters.adapter_files import TRAINING, AdapterFiles
from phibench.adapters.base import LoadedBase
from phibench.adapters.spec import VariantSpec
from phibench.adapters.train import ensure_trained
from phibench.adapters.variants import VariantFactory
from phibench.adapters.watch import Step
from phibench.errors import UserError
from support.models import CPU, EOS_ID, QUANTIZATIONS, load, logits, save_base

from .conftest import Saved

ROWS = [
    {"id": str(number), "dialogue": f"A: {word}?\nB: yes.", "summary": f"They speak of {word}."}
    for number, word in enumerate(("tea", "rain", "bread", "stone"))
]
RECIPE = """
name = "tiny"
[data]
format = "dialogsum"
train.file = "rows.jsonl"
{quantization}
[lora]
r = 4
lora_alpha = 8
target_modules = ["q_proj", "v_proj"]
{lora}
[training]
max_steps = 2
per_device_train_batch_size = 2
learning_rate = 0.01
max_length = 128
gradient_checkpointing = false
{training}
"""
NF4 = '[quantization]\nload_in_4bit = true\nbnb_4bit_quant_type = "nf4"\nbnb_4bit_use_double_quant = true\n'


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """phibench's cache, and the loggers that trainers turn up."""
    monkeypatch.setenv("PHIBENCH_CACHE", str(tmp_path / "cache"))
    level = logging.getLogger("transformers").level
    yield tmp_path / "cache"
    logging.getLogger("transformers").setLevel(level)


@pytest.fixture
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    folder = tmp_path_factory.mktemp("base")
    return load(save_base(folder, "llama", max_position_embeddings=256))


def write(folder: Path, *, quantization: str = "", lora: str = "", training: str = "") -> str:
    """A recipe beside its data; its name as a suite would give it."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    file = folder / "tiny.toml"
    text = RECIPE.format(quantization=quantization, lora=lora, training=training)
    for table in (lora, training):  # what is given replaces what is there
        for line in table.splitlines():
            key = line.split(" = ")[0]
            kept = [old for old in text.splitlines() if not old.startswith(f"{key} = ") or old == line]
            text = "\n".join(kept) + "\n"
    file.write_text(text)
    return str(file)


def ensure(
    recipe: str, base: LoadedBase, *, seed: int = 0, on_step: Callable[[Step], None] = lambda step: None
) -> tuple[AdapterFiles, dict[str, Any]]:
    adapter, trained = ensure_trained("a", recipe, base, CPU, seed=seed, on_step=on_step)
    return adapter, trained.record


def variant(base: LoadedBase, adapter: AdapterFiles, **fields: Any) -> torch.Tensor:
    made = VariantFactory(base, QUANTIZATIONS, {"a": adapter}, CPU)
    return logits(made.make(VariantSpec(name="x", adapter="a", **fields)).model)


def losses(record: dict[str, Any]) -> list[float]:
    return [point["loss"] for point in record["curve"]]


def forbidden(*_: Any, **__: Any) -> Any:
    raise AssertionError("trained again")


@pytest.mark.parametrize("quantization", ["", NF4], ids=["plain", "nf4"])
def test_trained_once_and_found_again(
    quantization: str, base: LoadedBase, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write(tmp_path, quantization=quantization)
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    told: list[Step] = []
    adapter, record = ensure(recipe, base, on_step=told.append)

    assert [(step.step, step.steps) for step in told] == [(1, 2), (2, 2)]
    assert [point["step"] for point in record["curve"]] == [1, 2]
    assert [point["loss"] for point in record["curve"]] == [step.loss for step in told]
    assert all(1 < step.loss < 20 for step in told)
    assert (record["rows"], record["seed"], record["recipe"]["lora"]["r"]) == (4, 0, 4)
    assert record["seconds"] > 0
    assert {"recipe", "data", "seed", "base", "dtype", "tokenizer", "version:peft", "version:trl"} <= record[
        "parts"
    ].keys()

    assert adapter.folder.parent == cache / "adapters"
    assert [path.name for path in adapter.folder.parent.iterdir()] == [adapter.folder.name]  # nothing half-made
    assert adapter.method == "LORA"
    assert not adapter.has_tokenizer
    base_logits = logits(base.model)
    assert (variant(base, adapter) - base_logits).abs().max() > 0.01
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert not base.model.training

    monkeypatch.setattr(train, "make_trainer", forbidden)
    again, record_again = ensure(recipe, base, on_step=forbidden)
    assert (again.folder, again.sha256) == (adapter.folder, adapter.sha256)
    assert record_again == record


def test_the_identity_of_variants_is_the_same_after_training_as_when_it_is_found(
    base: LoadedBase, tmp_path: Path
) -> None:
    """Else a run that trained its adapter could not be gone on with."""
    recipe = write(tmp_path)
    found = []
    for _ in range(2):
        adapter, _ = ensure(recipe, base)
        made = VariantFactory(base, QUANTIZATIONS, {"a": adapter}, CPU)
        found.append([made.parts(VariantSpec(name="x")), made.parts(VariantSpec(name="x", adapter="a"))])
    fresh = load(Path(base.source))
    adapter, _ = ensure(recipe, fresh)
    made = VariantFactory(fresh, QUANTIZATIONS, {"a": adapter}, CPU)
    found.append([made.parts(VariantSpec(name="x")), made.parts(VariantSpec(name="x", adapter="a"))])
    assert found[0] == found[1] == found[2]


def test_saved_weights_are_the_trained_ones(base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    first: list[dict[str, torch.Tensor]] = []
    own = train.make_trainer

    def watched(*args: Any, **options: Any) -> Any:
        made = own(*args, **options)
        kept.append(made.trainer)
        first.append({k: v.clone() for k, v in get_peft_model_state_dict(made.trainer.model).items()})
        return made

    monkeypatch.setattr(train, "make_trainer", watched)
    adapter, _ = ensure(write(tmp_path), base)
    saved = load_file(adapter.weights)
    trained = get_peft_model_state_dict(kept[0].model)
    assert saved.keys() == trained.keys()
    assert len(saved) == 2 * 2 * 2
    for name, tensor in saved.items():
        assert torch.equal(tensor, trained[name].cpu())
        assert not torch.equal(tensor, first[0][name].cpu()), f"{name} was not trained"
    # What it learned from: prompts that do not count, completions that do, and one EOS that counts too.
    for row in kept[0].train_dataset:
        assert row["input_ids"].count(EOS_ID) == 1
        assert row["labels"][-1] == row["input_ids"][-1] == EOS_ID
        learned = base.tokenizer.decode([label for label in row["labels"] if label != -100])
        assert re.fullmatch(r"They speak of \w+\.<\|endoftext\|>", learned)


def test_training_makes_the_data_likelier(base: LoadedBase, tmp_path: Path) -> None:
    adapter, record = ensure(write(tmp_path, training="max_steps = 12\nlearning_rate = 0.02"), base)
    losses = [point["loss"] for point in record["curve"]]
    assert losses[-1] < losses[0] - 0.5
    text = base.tokenizer("They speak of rain.", return_tensors="pt")["input_ids"]

    def likelihood(model: Any) -> float:
        rows = logits(model, text)[0, :-1].log_softmax(-1)
        return float(rows.gather(1, text[0, 1:, None]).sum())

    made = VariantFactory(base, QUANTIZATIONS, {"a": adapter}, CPU)
    assert likelihood(made.make(VariantSpec(name="x", adapter="a")).model) > likelihood(base.model) + 1


# ---- what makes another adapter, and what does not


def test_another_seed_is_another_adapter_and_the_same_is_the_same(
    base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write(tmp_path)
    first, record = ensure(recipe, base, seed=1)
    second, other = ensure(recipe, base, seed=2)
    assert first.folder != second.folder
    assert losses(record) != losses(other)
    assert not torch.equal(variant(base, first), variant(base, second))
    monkeypatch.setenv("PHIBENCH_CACHE", str(tmp_path / "another-cache"))
    torch.manual_seed(99)  # whatever happened before
    again, record_again = ensure(recipe, base, seed=1)
    assert again.folder != first.folder
    assert losses(record_again) == losses(record)
    assert torch.equal(variant(base, again), variant(base, first))


def test_each_part_of_what_it_is_made_from_counts(
    base: LoadedBase, base_folder: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the folder's name is looked at: nothing is trained."""
    asked: list[str] = []

    def note(folder: Path, *_: Any, **__: Any) -> None:
        asked.append(folder.name)
        raise UserError("enough")

    monkeypatch.setattr(train, "_train_into", note)

    def name(recipe: str, on: LoadedBase, **options: Any) -> str:
        with pytest.raises(UserError, match="enough"):
            ensure(recipe, on, **options)
        return asked[-1]

    recipe = write(tmp_path)
    plain = name(recipe, base)
    assert name(recipe, base) == plain
    text = Path(recipe).read_text()
    Path(recipe).write_text(text.replace("[lora]", "# a remark\n[lora]") + "\n")
    assert name(recipe, base) == plain
    Path(recipe).write_text('description = "told better"\n' + text)
    assert name(recipe, base) == plain
    others = {
        name(recipe, base, seed=1),
        name(recipe, load(Path(base.source), dtype="bfloat16")),
        name(recipe, load(base_folder("llama"))),
        name(write(tmp_path, lora="lora_alpha = 9"), base),
        name(write(tmp_path, training="learning_rate = 0.02"), base),
        name(write(tmp_path, quantization=NF4), base),
    }
    recipe = write(tmp_path)
    data = tmp_path / "rows.jsonl"
    data.write_text(data.read_text().replace("stone", "rocks"))
    others.add(name(recipe, base))
    assert len(others | {plain}) == 8


def test_a_folder_without_its_record_is_trained_again(base: LoadedBase, tmp_path: Path) -> None:
    recipe = write(tmp_path)
    adapter, record = ensure(recipe, base)
    (adapter.folder / TRAINING).unlink()
    (adapter.folder / "adapter_model.safetensors").write_bytes(b"")
    again, second = ensure(recipe, base)
    assert again.sha256 == adapter.sha256
    assert losses(second) == losses(record)


def test_rows_that_are_cut_off_are_counted(base: LoadedBase, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = write(tmp_path)
    _, record = ensure(recipe, base)
    assert record["rows_dropped"] == 0
    long = {"id": "5", "dialogue": "A: " + "very " * 60, "summary": "Long."}
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write(json.dumps(long) + "\n")
    with caplog.at_level(logging.WARNING):
        _, record = ensure(recipe, base)
    assert (record["rows"], record["rows_dropped"]) == (5, 1)
    assert "1 of 5 rows left out: too long" in caplog.text


def test_bfloat16(base: LoadedBase, tmp_path: Path) -> None:
    halved = load(Path(base.source), dtype="bfloat16")
    adapter, record = ensure(write(tmp_path), halved)
    assert all(1 < point["loss"] < 20 for point in record["curve"])
    assert (variant(halved, adapter).float() - logits(halved.model).float()).abs().max() > 0.01


# ---- mistakes and accidents


def leftovers(cache: Path) -> list[str]:
    return [path.name for path in (cache / "adapters").glob("*")] if (cache / "adapters").exists() else []


def test_a_loss_that_is_not_finite_stops(base: LoadedBase, cache: Path, tmp_path: Path) -> None:
    told: list[Step] = []
    recipe = write(tmp_path, training="learning_rate = 1e38\nmax_steps = 50")
    with pytest.raises(UserError, match="a gradient is not finite at step 2") as caught:
        ensure(recipe, base, on_step=told.append)
    assert "lower learning_rate" in str(caught.value.fix)
    assert [step.step for step in told] == [1]
    assert leftovers(cache) == []


def test_an_interrupted_training_leaves_nothing(base: LoadedBase, cache: Path, tmp_path: Path) -> None:
    def stop(step: Step) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure(write(tmp_path), base, on_step=stop)
    assert leftovers(cache) == []


def test_trl_is_missing(base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(UserError, match="training needs trl") as caught:
        ensure(write(tmp_path), base)
    assert "phibench[train]" in str(caught.value.fix)
