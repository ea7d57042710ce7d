"""How far variants' weights are from the trained form's, against the same taken from whole models made by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from phibench.adapters.adapter_files import TRAINING
from phibench.adapters.base import LoadedBase
from phibench.adapters.spec import VariantSpec
from phibench.adapters.variants import VariantFactory
from phibench.adapters.weight_error import LayerError, layer_errors
from support.models import (
    QUANTIZATIONS,
    dequantized,
    dequantized_by_hand,
    factory,
    from_disk,
    load,
    lora,
    save_adapter,
    tiny_model,
    tiny_tokenizer,
)

from .conftest import Saved

Weights = dict[str, torch.Tensor]
WEIGHTS = "adapter_model.safetensors"


def only(name: str) -> dict[str, Any]:
    return {"quantizations": {name: QUANTIZATIONS[name]}}


def attached(model: Any, folder: Path) -> Any:
    return PeftModel.from_pretrained(model, str(folder))


def weights_with(model: Any) -> Weights:
    """The whole weight of each layer under an attached adapter, in float32."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            weight = dequantized(module.get_base_layer()).float() + module.get_delta_weight("default").float()
            found[name.removeprefix("base_model.model.")] = weight
    return found


def updates_of(model: Any) -> Weights:
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    return {n.removeprefix("base_model.model."): m.get_delta_weight("default").float() for n, m in layers.items()}


def weights_of(model: Any, names: Weights) -> Weights:
    return {name: dequantized(model.get_submodule(name)).float() for name in names}


def by_hand(base: Path, folder: Path, dtype: torch.dtype, name: str, scratch: Path) -> dict[str, Weights]:
    """The weights under the adapter in every form of it, from whole models of peft, transformers and bitsandbytes."""
    forms = {
        "adapter": weights_with(attached(from_disk(base, dtype), folder)),
        f"adapter-{name}": weights_with(attached(from_disk(base, dtype, name), folder)),
    }
    merged = attached(from_disk(base, dtype), folder).merge_and_unload()
    merged.save_pretrained(scratch)
    whole = {
        "merged": merged,
        "merged-dequantized": attached(dequantized_by_hand(base, dtype, name), folder).merge_and_unload(),
        "merged-requantized": from_disk(scratch, dtype, name),
    }
    return forms | {kind: weights_of(model, forms["adapter"]) for kind, model in whole.items()}


def errors(made: VariantFactory, **fields: Any) -> dict[str, LayerError]:
    found = layer_errors(made, made.make(VariantSpec(name="x", adapter="a", **fields)))
    assert not isinstance(found, str), found
    assert [one.module for one in found] == sorted(one.module for one in found)
    return {one.module: one for one in found}


def norm(tensor: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.double()))


def assert_as(found: dict[str, LayerError], there: Weights, trained: Weights, updates: Weights) -> None:
    """Every layer's error is what its two weights give."""
    assert found.keys() == updates.keys()
    for name, error in found.items():
        off = norm(there[name] - trained[name])
        assert error.relative_to_update == pytest.approx(off / norm(updates[name]), rel=1e-3, abs=1e-5), name
        assert error.relative_to_weight == pytest.approx(off / norm(trained[name]), rel=1e-3, abs=1e-5), name


@pytest.mark.parametrize("name", ["nf4", "nf4-double", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["llama", "phi"])
def test_every_form_against_models_made_by_hand(
    kind: str, dtype: torch.dtype, name: str, base_folder: Saved, lora_folder: Saved, tmp_path: Path
) -> None:
    base, folder = base_folder(kind, dtype), lora_folder(kind, dtype)
    forms = by_hand(base, folder, dtype, name, tmp_path)
    trained, updates = forms[f"adapter-{name}"], updates_of(attached(from_disk(base, dtype), folder))
    made = factory(load(base), a=folder, **only(name))
    found = {
        "adapter": errors(made),
        f"adapter-{name}": errors(made, quantization=name),
        "merged": errors(made, merge="base"),
        "merged-dequantized": errors(made, quantization=name, merge="dequantized"),
        "merged-requantized": errors(made, quantization=name, merge="requantized"),
    }
    assert found.keys() == forms.keys()
    for form, layers in found.items():
        assert_as(layers, forms[form], trained, updates)
    assert {error.relative_to_update for error in found[f"adapter-{name}"].values()} == {0.0}
    assert {error.relative_to_weight for error in found[f"adapter-{name}"].values()} == {0.0}
    assert min(error.relative_to_update for error in found["merged"].values()) > 1e-4
    if dtype == torch.float32:
        assert max(error.relative_to_update for error in found["merged-dequantized"].values()) < 1e-4


def test_layers_that_stay_in_their_own_precision_and_the_base_is_left_as_it_was(tmp_path: Path) -> None:
    """A head is not quantised: an attached one is the trained form's own, and merging must not mark the base."""
    tiny_model("llama-untied").save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    config = lora("llama", target_modules=["lm_head", "q_proj"])
    folder = save_adapter(tiny_model("llama-untied"), tmp_path / "a", config, save_embedding_layers=False)
    base = load(tmp_path / "base")
    before = {key: tensor.clone() for key, tensor in base.model.state_dict().items()}
    made = factory(base, a=folder, **only("nf4"))
    for fields in ({}, {"merge": "base"}, {"quantization": "nf4", "merge": "requantized"}):
        found = errors(made, **fields)
        assert len(found) == 3
        assert found["lm_head"].relative_to_update < 1e-4 < found["model.layers.0.self_attn.q_proj"].relative_to_update
    after = base.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(
    "settings",
    [
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3, "layers.1.mlp.up_proj": 5}},
        {"use_rslora": True, "lora_alpha": 3},
        {"lora_bias": True, "target_modules": ["q_proj", "dense"]},
    ],
    ids=["patterns", "rslora", "bias"],
)
def test_other_loras(settings: dict[str, Any], base_folder: Saved, tmp_path: Path) -> None:
    kind = "phi" if "lora_bias" in settings else "llama"
    base = base_folder(kind)
    folder = save_adapter(tiny_model(kind), tmp_path / "a", lora(kind, **settings))
    forms = by_hand(base, folder, torch.float32, "nf4", tmp_path / "merged")
    updates = updates_of(attached(from_disk(base, torch.float32), folder))
    made = factory(load(base), a=folder, **only("nf4"))
    found = errors(made, merge="base")
    assert_as(found, forms["merged"], forms["adapter-nf4"], updates)
    found = errors(made, quantization="nf4", merge="requantized")
    assert_as(found, forms["merged-requantized"], forms["adapter-nf4"], updates)


def test_layers_whose_weights_lie_the_other_way(tmp_path: Path) -> None:
    """GPT-2's: (inputs, outputs), and turned when they are quantised."""
    config = GPT2Config(
        vocab_size=272, hidden_size=64, n_embd=64, n_layer=2, n_head=4, initializer_range=0.2, bos_token_id=256
    )
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    settings = lora("llama", target_modules=["c_attn"], fan_in_fan_out=True)
    folder = save_adapter(GPT2LMHeadModel.from_pretrained(tmp_path / "base"), tmp_path / "a", settings)
    made = factory(load(tmp_path / "base"), a=folder, **only("nf4"))
    assert {error.relative_to_update for error in errors(made, quantization="nf4").values()} == {0.0}
    quantized, plain = (attached(from_disk(tmp_path / "base", torch.float32, q), folder) for q in ("nf4", None))
    trained, updates = weights_with(quantized), {name: update.T for name, update in updates_of(plain).items()}
    merged = plain.merge_and_unload()
    there = {name: merged.get_submodule(name).weight.T for name in trained}
    assert_as(errors(made, merge="base"), there, trained, updates)


@pytest.mark.parametrize("name", ["nf4", "nf4-double", "int8"])
def test_a_layer_is_quantised_as_a_whole_model_is_and_read_again_the_same(name: str, base_folder: Saved) -> None:
    dtype = torch.bfloat16
    quantizer = factory(load(base_folder("phi", dtype))).layer_quantizer(name)
    whole = from_disk(base_folder("phi", dtype), dtype, name)
    layers = [n for n, m in whole.named_modules() if hasattr(m, "weight") and "quantized" not in n and "layers" in n]
    layers = [n for n in layers if "norm" not in n]
    assert len(layers) == 12
    for layer in layers * 2:  # the second time from the file, if there is one
        assert torch.equal(quantizer.dense(layer), dequantized(whole.get_submodule(layer)))


def test_a_layer_that_the_adapter_leaves_alone_has_no_unit(
    base_folder: Saved, lora_folder: Saved, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(lora_folder("llama"), tmp_path / "copied"))
    tensors = load_file(copied / WEIGHTS)
    name = "model.layers.1.mlp.up_proj"
    tensors[f"base_model.model.{name}.lora_B.weight"].zero_()
    save_file(tensors, copied / WEIGHTS, metadata={"format": "pt"})
    found = errors(factory(load(base_folder("llama")), a=copied, **only("nf4")), merge="base")
    assert name not in found
    assert len(found) == 13


def test_the_trained_form_is_on_the_variants_own_quantisation_or_on_the_only_one(
    base_folder: Saved, lora_folder: Saved
) -> None:
    made = factory(load(base_folder("llama")), a=lora_folder("llama"))
    for name in ("nf4", "fp4"):
        assert {one.relative_to_update for one in errors(made, quantization=name).values()} == {0.0}
    for fields in ({}, {"merge": "base"}):
        found = layer_errors(made, made.make(VariantSpec(name="x", adapter="a", **fields)))  # type: ignore[arg-type]
        assert found == "the suite has 4 quantisations, and the variant names none"


def base_and(folder: Path, base: LoadedBase, merge: str = "none") -> list[LayerError] | str:
    made = factory(base, a=folder, **only("nf4"))
    return layer_errors(made, made.make(VariantSpec(name="x", adapter="a", merge=merge)))  # type: ignore[arg-type]


def test_what_is_not_compared_says_why(base_folder: Saved, lora_folder: Saved, tmp_path: Path) -> None:
    base = load(base_folder("llama"))
    made = factory(base, a=lora_folder("llama"), **only("nf4"))
    assert layer_errors(made, made.make(VariantSpec(name="x"))) == "it has no adapter"
    dora = save_adapter(tiny_model("llama"), tmp_path / "dora", lora("llama", use_dora=True))
    assert base_and(dora, base) == "with use_dora it is more than the product of two matrices"
    ia3 = IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[])
    assert base_and(save_adapter(tiny_model("llama"), tmp_path / "ia3", ia3), base) == "its method is IA3"
    plain = Path(shutil.copytree(lora_folder("llama"), tmp_path / "plain"))
    (plain / TRAINING).write_text(json.dumps({"recipe": {"quantization": None}}))
    assert base_and(plain, base) == "its adapter was trained on a base that is not quantised"
    (plain / TRAINING).write_text(json.dumps({"recipe": {"quantization": {"load_in_4bit": True}}}))
    assert len(base_and(plain, base)) == 14


def test_a_weight_that_is_not_finite_is_no_number(base_folder: Saved, lora_folder: Saved) -> None:
    made = factory(load(base_folder("llama")), a=lora_folder("llama"), **only("nf4"))
    variant = made.make(VariantSpec(name="x", adapter="a", merge="base"))
    layer = variant.model.get_submodule("model.layers.0.mlp.up_proj")
    assert isinstance(layer, nn.Linear)
    layer.weight[0, 0] = float("inf")
    with pytest.raises(ValueError, match="not finite"):
        layer_errors(made, variant)
