"""Adapters that are broken or made for something else: always a UserError that says so, never silence."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PromptTuningConfig
from safetensors.torch import load_file, save_file

from phibench.adapters.adapter_files import AdapterFiles, find_adapter, read_adapter
from phibench.adapters.spec import AdapterSpec, VariantSpec
from phibench.adapters.variants import VariantFactory
from phibench.errors import UserError
from support.models import CPU, QUANTIZATIONS, factory, load, logits, lora, save_adapter, tiny_model

from .conftest import Saved

WEIGHTS = "adapter_model.safetensors"
ATTACHED = VariantSpec(name="x", adapter="a")
ON_NF4 = VariantSpec(name="x", adapter="a", quantization="nf4")
MERGED = VariantSpec(name="x", adapter="a", merge="base")


@pytest.fixture
def copied(lora_folder: Saved, tmp_path: Path) -> Path:
    """A good adapter for the tiny Llama, to be broken."""
    return Path(shutil.copytree(lora_folder("llama"), tmp_path / "copied"))


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


# ---- made for another base

OTHER_BASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "wider": ("llama", {"hidden_size": 128}, "size mismatch"),
    "narrower": ("llama", {"intermediate_size": 128}, "size mismatch"),
    "other-modules": ("phi", {}, "not in the adapter|have no place|not found in the base model"),
    "more-layers": ("llama", {"num_hidden_layers": 3}, "14 weights of the adapter have no place in this base"),
    "fewer-layers": ("llama", {"num_hidden_layers": 1}, "14 weights it needs are not in the adapter"),
}


@pytest.mark.parametrize("spec", [ATTACHED, ON_NF4, MERGED], ids=lambda spec: spec.kind)
@pytest.mark.parametrize("other", OTHER_BASES)
def test_made_for_another_base(other: str, spec: VariantSpec, base_folder: Saved, tmp_path: Path) -> None:
    kind, changes, message = OTHER_BASES[other]
    model = tiny_model(kind, **changes)
    model.name_or_path = "someone/another-base"
    folder = save_adapter(model, tmp_path, lora(kind), save_embedding_layers=False)
    with pytest.raises(UserError, match=message) as caught:
        factory(load(base_folder("llama")), a=folder).make(spec)
    assert "does not fit" in caught.value.what
    assert caught.value.where == f"adapters.a = {folder}"
    assert "someone/another-base" in str(caught.value.fix)


def test_peft_by_itself_would_ignore_the_layers_too_many(base_folder: Saved, tmp_path: Path) -> None:
    """Why the weights are counted here: half of this adapter goes nowhere and peft attaches it."""
    from peft import PeftModel

    folder = save_adapter(tiny_model("llama", num_hidden_layers=4), tmp_path, lora("llama"))
    logits(PeftModel.from_pretrained(load(base_folder("llama")).model, str(folder)).eval())


def test_weights_that_the_configuration_does_not_name(copied: Path, base_folder: Saved) -> None:
    """A configuration that targets less than the file holds would drop the rest in silence."""
    edit_config(copied, target_modules=["q_proj"])
    with pytest.raises(UserError, match="24 weights of the adapter have no place"):
        factory(load(base_folder("llama")), a=copied).make(ATTACHED)


def test_weights_of_a_head_that_nothing_targets(copied: Path, base_folder: Saved) -> None:
    def add(weights: dict[str, torch.Tensor]) -> None:
        weights["base_model.model.lm_head.lora_A.weight"] = torch.zeros(8, 64)

    edit_weights(copied, add)
    with pytest.raises(UserError, match=r"1 weights of the adapter have no place.*lm_head\.lora_A"):
        factory(load(base_folder("llama")), a=copied).make(ATTACHED)


def test_weights_that_are_missing(copied: Path, base_folder: Saved) -> None:
    def drop(weights: dict[str, torch.Tensor]) -> None:
        del weights[sorted(weights)[0]]

    edit_weights(copied, drop)
    with pytest.raises(UserError, match="1 weights it needs are not in the adapter"):
        factory(load(base_folder("llama")), a=copied).make(ATTACHED)


# ---- broken configurations

BROKEN_JSON = {
    "not-json": "{",
    "a-list": "[]",
    "no-type": "{}",
    "null": "null",
    "a-number-as-type": '{"peft_type": 3}',
    "empty": "",
}


@pytest.mark.parametrize("text", BROKEN_JSON.values(), ids=list(BROKEN_JSON))
def test_broken_json(text: str, copied: Path) -> None:
    (copied / "adapter_config.json").write_text(text)
    with pytest.raises(UserError, match=r"adapter_config\.json is broken"):
        read_adapter("a", copied, "here")


def test_configuration_in_another_encoding(copied: Path) -> None:
    (copied / "adapter_config.json").write_bytes('{"peft_type": "LÖRA"}'.encode("utf-16"))
    with pytest.raises(UserError, match=r"adapter_config\.json is broken"):
        read_adapter("a", copied, "here")


BAD_VALUES: dict[str, dict[str, Any]] = {
    "unknown-method": {"peft_type": "TELEPATHY"},
    "rank-as-text": {"r": "eight"},
    "rank-of-zero": {"r": 0},
    "no-targets": {"target_modules": None},
    "unknown-targets": {"target_modules": ["no_such_proj"]},
    "number-as-targets": {"target_modules": 7},
    "another-method": {"peft_type": "IA3"},
    "another-rank": {"r": 4},
    "unknown-task": {"task_type": "KNITTING"},
    "pattern-that-is-none": {"target_modules": "(["},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BAD_VALUES)
def test_well_formed_configuration_with_bad_values(name: str, copied: Path, base_folder: Saved) -> None:
    edit_config(copied, **BAD_VALUES[name])
    with pytest.raises(UserError) as caught:
        factory(load(base_folder("llama")), a=copied).make(ATTACHED)
    assert str(copied) in str(caught.value.where)
    assert len(caught.value.what.split()) > 5
    assert name != "unknown-method" or "the installed peft has no method TELEPATHY" in caught.value.what


@pytest.mark.parametrize("task", [None, "SEQ_CLS", "SEQ_2_SEQ_LM"])
def test_virtual_tokens_without_the_task(task: str | None, base_folder: Saved, tmp_path: Path) -> None:
    """Without a task_type peft attaches virtual tokens and leaves them out of every forward."""
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    folder = save_adapter(tiny_model("llama"), tmp_path, config)
    edit_config(folder, task_type=task)
    with pytest.raises(UserError, match=f"task_type of its virtual tokens is {task}"):
        factory(load(base_folder("llama")), a=folder).make(ATTACHED)


@pytest.mark.parametrize("task", [None, "SEQ_2_SEQ_LM"])
def test_a_lora_without_the_task_is_the_same_lora(task: str | None, copied: Path, base_folder: Saved) -> None:
    made = factory(load(base_folder("llama")), a=copied)
    right = logits(made.make(ATTACHED).model)
    edit_config(copied, task_type=task)
    assert torch.equal(logits(factory(made.base, a=copied).make(ATTACHED).model), right)


# ---- broken folders


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder") as caught:
        find_adapter("a", AdapterSpec(path=str(tmp_path / "nowhere")))
    assert caught.value.where == f"adapters.a = {tmp_path / 'nowhere'}"


def test_a_file_is_no_folder(copied: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        find_adapter("a", AdapterSpec(path=str(copied / WEIGHTS)))


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no adapter_config\.json"):
        find_adapter("a", AdapterSpec(path=str(tmp_path)))


def test_a_merged_model_in_place_of_an_adapter(base_folder: Saved) -> None:
    with pytest.raises(UserError, match="whole model, not an adapter"):
        find_adapter("a", AdapterSpec(path=str(base_folder("llama"))))


def test_missing_weights(copied: Path) -> None:
    (copied / WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"no adapter_model\.safetensors"):
        read_adapter("a", copied, "here")


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def cut_in_the_header(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:40])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def pointer(file: Path) -> None:
    """What a clone without git-lfs leaves."""
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 1234\n")


@pytest.mark.parametrize("damage", [cut_short, cut_in_the_header, emptied, pointer], ids=lambda f: f.__name__)
def test_damaged_weights(damage: Callable[[Path], None], copied: Path, base_folder: Saved) -> None:
    damage(copied / WEIGHTS)
    adapter = read_adapter("a", copied, "here")
    for read in (adapter.shapes, adapter.parameters):
        with pytest.raises(UserError, match=r"adapter_model\.safetensors cannot be read"):
            read()
    with pytest.raises(UserError, match=r"adapter_model\.safetensors cannot be read"):
        factory(load(base_folder("llama")), a=copied).make(ATTACHED)


# ---- pickles


@pytest.fixture
def pickled(copied: Path) -> Path:
    torch.save(load_file(copied / WEIGHTS), copied / "adapter_model.bin")
    (copied / WEIGHTS).unlink()
    return copied


def over(base: Any, adapter: AdapterFiles) -> VariantFactory:
    return VariantFactory(base, QUANTIZATIONS, {"a": adapter}, CPU)


def test_pickle_is_refused(pickled: Path) -> None:
    with pytest.raises(UserError, match="pickle") as caught:
        find_adapter("mine", AdapterSpec(path=str(pickled)))
    assert "adapters.mine.allow_pickle = true" in str(caught.value.fix)


def test_pickle_is_read_where_it_is_allowed(pickled: Path, base_folder: Saved, lora_folder: Saved) -> None:
    adapter = find_adapter("a", AdapterSpec(path=str(pickled), allow_pickle=True))
    assert adapter.weights.name == "adapter_model.bin"
    original = read_adapter("a", lora_folder("llama"), "here")
    assert adapter.shapes() == original.shapes()
    assert adapter.parameters() == original.parameters() > 10_000
    base = load(base_folder("llama"))
    found = logits(over(base, adapter).make(ATTACHED).model)
    assert torch.equal(found, logits(over(base, original).make(ATTACHED).model))


def test_pickle_beside_safetensors_is_not_read(copied: Path, base_folder: Saved) -> None:
    (copied / "adapter_model.bin").write_bytes(b"no pickle at all")
    adapter = find_adapter("a", AdapterSpec(path=str(copied)))
    assert adapter.weights.name == WEIGHTS
    over(load(base_folder("llama")), adapter).make(ATTACHED)


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


def test_an_allowed_pickle_still_runs_no_code(pickled: Path, tmp_path: Path, base_folder: Saved) -> None:
    mark = tmp_path / "ran"
    (pickled / "adapter_model.bin").write_bytes(pickle.dumps({"w": Bomb(mark)}))
    adapter = find_adapter("a", AdapterSpec(path=str(pickled), allow_pickle=True))
    with pytest.raises(UserError, match="cannot be read"):
        adapter.shapes()
    with pytest.raises(UserError, match="cannot be read"):
        over(load(base_folder("llama")), adapter).make(ATTACHED)
    assert not mark.exists()


def test_an_allowed_pickle_of_something_else(pickled: Path) -> None:
    torch.save([1, 2, 3], pickled / "adapter_model.bin")
    adapter = find_adapter("a", AdapterSpec(path=str(pickled), allow_pickle=True))
    with pytest.raises(UserError, match="cannot be read"):
        adapter.shapes()


def test_an_allowed_pickle_that_is_empty(pickled: Path) -> None:
    emptied(pickled / "adapter_model.bin")
    adapter = find_adapter("a", AdapterSpec(path=str(pickled), allow_pickle=True))
    with pytest.raises(UserError, match=r"adapter_model\.bin cannot be read: \w+"):
        adapter.shapes()


# ---- weights that are not numbers


def spoil(name: str, value: float) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(weights: dict[str, torch.Tensor]) -> None:
        weights[next(key for key in sorted(weights) if name in key)].flatten()[3] = value

    return change


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("form", ["merged", "dequantized", "requantized"])
def test_nan_is_not_merged(form: str, value: float, copied: Path, base_folder: Saved) -> None:
    edit_weights(copied, spoil("up_proj.lora_B", value))
    fields: dict[str, Any] = {"merge": "base"} if form == "merged" else {"merge": form, "quantization": "nf4"}
    with pytest.raises(UserError, match=r"not finite.*up_proj"):
        factory(load(base_folder("llama")), a=copied).make(VariantSpec(name="x", adapter="a", **fields))


def test_nan_in_a_module_that_was_saved_whole_is_not_merged(base_folder: Saved, tmp_path: Path) -> None:
    """peft's own `safe_merge` looks only at what its method adds to."""
    folder = save_adapter(tiny_model("llama"), tmp_path, lora("llama", modules_to_save=["lm_head"]))
    edit_weights(folder, spoil("lm_head", float("nan")))
    with pytest.raises(UserError, match=r"not finite.*lm_head"):
        factory(load(base_folder("llama")), a=folder).make(MERGED)


def test_a_change_too_large_for_half_precision_is_not_merged(copied: Path, base_folder: Saved) -> None:
    edit_weights(copied, spoil("up_proj.lora_B", 3e6))
    with pytest.raises(UserError, match="not finite"):
        factory(load(base_folder("llama"), dtype="float16"), a=copied).make(MERGED)


# ---- the hub


def test_a_hub_name_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("somebody/some-adapter", "not a name at all!"):
        with pytest.raises(UserError, match="the adapter cannot be fetched") as caught:
            find_adapter("a", AdapterSpec(hub=name), offline=True)
        assert caught.value.where == f"adapters.a.hub = {name}"


def test_a_recipe_is_not_looked_for_here() -> None:
    with pytest.raises(ValueError, match="trained first"):
        find_adapter("a", AdapterSpec(recipe="webglm-mini"))
