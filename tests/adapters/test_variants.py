"""Every variant against the same thing made by hand from peft, transformers and bitsandbytes: no number may differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM

from phibench.adapters.spec import VariantSpec, matrix_variants
from phibench.adapters.variants import VariantFactory
from support.models import (
    QUANTIZATIONS,
    adapter_logits,
    bits_and_bytes,
    dequantized_by_hand,
    factory,
    from_disk,
    linear4bit,
    load,
    logits,
    lora,
    save_adapter,
    set_cpu_repacking,
    tiny_model,
)

from .conftest import Saved

KINDS = ["llama", "phi"]
DTYPES = [torch.float32, torch.bfloat16]


def quantized_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every tensor that bitsandbytes made of a model's weights, by layer and name."""
    found: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            state = module.weight.quant_state
            found |= {f"{name}.weight": module.weight.data, f"{name}.absmax": state.absmax, f"{name}.code": state.code}
            if state.nested:
                found |= {f"{name}.{key}": getattr(state.state2, key) for key in ("absmax", "code")}
                found[f"{name}.offset"] = state.offset
        elif isinstance(module, bnb.nn.Linear8bitLt):
            found |= {f"{name}.weight": module.weight.data, f"{name}.SCB": module.weight.SCB}
    return found


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.fixture(params=[(kind, dtype) for kind in KINDS for dtype in DTYPES], ids=lambda p: f"{p[0]}-{p[1]}"[:10])
def shape(request: pytest.FixtureRequest) -> Any:
    """An architecture and a precision."""
    return request.param


@pytest.fixture
def made(shape: Any, base_folder: Saved, lora_folder: Saved) -> VariantFactory:
    return factory(load(base_folder(*shape)), a=lora_folder(*shape))


def variant(made: VariantFactory, **fields: Any) -> Any:
    return made.make(VariantSpec(name="x", **fields)).model


def test_base_is_the_model_on_disk(shape: Any, made: VariantFactory, base_folder: Saved) -> None:
    model = variant(made)
    assert model.dtype == shape[1]
    assert torch.equal(logits(model), logits(from_disk(base_folder(*shape), shape[1])))


def test_adapter_is_pefts_own(shape: Any, made: VariantFactory, base_folder: Saved, lora_folder: Saved) -> None:
    found = logits(variant(made, adapter="a"))
    assert torch.equal(found, adapter_logits(from_disk(base_folder(*shape), shape[1]), lora_folder(*shape)))
    assert (found - logits(variant(made))).abs().max() > 0.5


def test_merged_is_pefts_own(shape: Any, made: VariantFactory, base_folder: Saved, lora_folder: Saved) -> None:
    model = variant(made, adapter="a", merge="base")
    by_hand = PeftModel.from_pretrained(from_disk(base_folder(*shape), shape[1]), lora_folder(*shape))
    assert same(model.state_dict(), by_hand.merge_and_unload().state_dict())
    assert torch.equal(
        logits(model), adapter_logits(from_disk(base_folder(*shape), shape[1]), lora_folder(*shape), merge=True)
    )
    # The same function as the attached adapter, up to rounding: of bfloat16 weights, where the base is held in them.
    off = (logits(model) - logits(variant(made, adapter="a"))).abs().max()
    assert off < (1e-4 if shape[1] == torch.float32 else 0.2)


@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_quantized_base_is_what_from_pretrained_makes(
    name: str, shape: Any, made: VariantFactory, base_folder: Saved
) -> None:
    model, by_hand = variant(made, quantization=name), from_disk(base_folder(*shape), shape[1], name)
    tensors = quantized_tensors(model)
    assert len(tensors) >= 2 * 6 * 2
    assert same(tensors, quantized_tensors(by_hand))
    assert {k: v for k, v in model.state_dict().items() if v.is_floating_point()}.keys() == {
        k for k, v in by_hand.state_dict().items() if v.is_floating_point()
    }
    assert torch.equal(logits(model), logits(by_hand))
    assert model.is_quantized
    if name != "int8":  # of which it says nothing that counts
        assert model.config.quantization_config.to_dict() == by_hand.config.quantization_config.to_dict()


@pytest.mark.parametrize("name", ["nf4", "nf4-double", "int8"])
def test_adapter_on_the_quantized_base_is_pefts_own(
    name: str, shape: Any, made: VariantFactory, base_folder: Saved, lora_folder: Saved
) -> None:
    by_hand = adapter_logits(from_disk(base_folder(*shape), shape[1], name), lora_folder(*shape))
    assert torch.equal(logits(variant(made, adapter="a", quantization=name)), by_hand)


@pytest.mark.parametrize("name", ["nf4", "nf4-double", "int8"])
def test_merged_dequantized_is_the_merge_into_the_weights_that_were_quantized(
    name: str, shape: Any, made: VariantFactory, base_folder: Saved, lora_folder: Saved
) -> None:
    model = variant(made, adapter="a", quantization=name, merge="dequantized")
    by_hand = PeftModel.from_pretrained(
        dequantized_by_hand(base_folder(*shape), shape[1], name), lora_folder(*shape)
    ).merge_and_unload()
    assert same(model.state_dict(), by_hand.state_dict())
    assert torch.equal(logits(model), logits(by_hand.eval()))
    assert model.dtype == shape[1]
    assert not list(linear4bit(model))


@pytest.mark.parametrize("name", ["nf4", "nf4-double"])
def test_merged_dequantized_is_what_the_quantized_model_computes(
    name: str, shape: Any, base_folder: Saved, tmp_path: Path
) -> None:
    """An adapter of zeros leaves the dequantised model alone: it must answer as the 4-bit one, bit for bit."""
    kind, dtype = shape
    folder = save_adapter(tiny_model(kind, dtype=dtype), tmp_path, lora(kind), noise=0.0)
    made = factory(load(base_folder(kind, dtype)), nothing=folder)
    dequantized = variant(made, adapter="nothing", quantization=name, merge="dequantized")
    assert torch.equal(logits(dequantized), logits(variant(made, quantization=name)))


@pytest.mark.parametrize("name", ["nf4", "nf4-double", "int8"])
def test_merged_requantized_is_the_merged_model_saved_and_loaded_quantized(
    name: str, shape: Any, made: VariantFactory, base_folder: Saved, lora_folder: Saved, tmp_path: Path
) -> None:
    merged = PeftModel.from_pretrained(from_disk(base_folder(*shape), shape[1]), lora_folder(*shape)).merge_and_unload()
    merged.save_pretrained(tmp_path)
    by_hand = from_disk(tmp_path, shape[1], name)
    model = variant(made, adapter="a", quantization=name, merge="requantized")
    assert same(quantized_tensors(model), quantized_tensors(by_hand))
    assert torch.equal(logits(model), logits(by_hand))


def test_dtype_asked_for_is_the_dtype_of_every_form(base_folder: Saved, lora_folder: Saved) -> None:
    """A base stored in float32 and asked for in bfloat16 is rounded first; everything else follows from that."""
    folder, adapter = base_folder("phi"), lora_folder("phi")
    made = factory(load(folder, dtype="bfloat16"), a=adapter)
    rounded = from_disk(folder, torch.bfloat16)
    assert torch.equal(logits(variant(made)), logits(rounded))
    assert torch.equal(logits(variant(made, adapter="a", merge="base")), adapter_logits(rounded, adapter, merge=True))
    quantized = from_disk(folder, torch.bfloat16, "nf4")
    assert torch.equal(logits(variant(made, quantization="nf4")), logits(quantized))


def test_compute_dtype_is_the_bases_unless_the_suite_says_otherwise(base_folder: Saved) -> None:
    double = QUANTIZATIONS["nf4"].model_copy(update={"bnb_4bit_compute_dtype": "bfloat16"})
    made = factory(load(base_folder("llama")), quantizations={"own": QUANTIZATIONS["nf4"], "bf16": double})
    own, bf16 = variant(made, quantization="own"), variant(made, quantization="bf16")
    assert {module.compute_dtype for _, module in linear4bit(own)} == {torch.float32}
    assert {module.compute_dtype for _, module in linear4bit(bf16)} == {torch.bfloat16}
    assert same(quantized_tensors(own), quantized_tensors(bf16))
    config = bits_and_bytes("nf4", torch.bfloat16)
    by_hand = AutoModelForCausalLM.from_pretrained(
        base_folder("llama"), quantization_config=config, dtype=torch.float32
    )
    set_cpu_repacking(by_hand, False)
    assert torch.equal(logits(bf16), logits(by_hand.eval()))


def test_skipped_modules_stay_as_they_are(base_folder: Saved) -> None:
    skipping = QUANTIZATIONS["nf4"].model_copy(update={"llm_int8_skip_modules": ["lm_head", "down_proj"]})
    made = factory(load(base_folder("llama")), quantizations={"most": skipping})
    names = {name.rsplit(".", 1)[-1] for name, _ in linear4bit(variant(made, quantization="most"))}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"}


def test_matrix_is_the_seven_kinds_in_the_cheapest_order() -> None:
    kinds = ["base", "base-nf4", "adapter", "adapter-nf4", "merged", "merged-dequantized", "merged-requantized"]
    assert [variant.kind for variant in matrix_variants("a", "nf4")] == kinds
    assert [variant.name for variant in matrix_variants("a", "nf4", prefix="a-")] == [
        kind if kind.startswith("base") else f"a-{kind}" for kind in kinds
    ]
    assert [variant.kind for variant in matrix_variants("a", None)] == ["base", "adapter", "merged"]
