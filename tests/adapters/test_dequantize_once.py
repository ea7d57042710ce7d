"""4-bit weights dequantised once give what bitsandbytes gives on a CPU, bit for bit.

On CUDA bitsandbytes has other kernels for few rows; there each run compares a full forward before it goes on with them
(harness/variant_run.py).
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from phibench.adapters.quantize import dequantize_once, dequantized_bytes, put_back
from phibench.adapters.spec import QuantizationSpec, VariantSpec
from phibench.adapters.variants import model_bytes
from support.models import QUANTIZATIONS, factory, linear4bit, load, logits, lora, save_adapter, save_base, tiny_model


@pytest.mark.parametrize("kind", ["llama", "phi"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("quantization", ["nf4", "nf4-double", "fp4"])
@pytest.mark.parametrize("adapter", [None, "lora"])
def test_the_same_bits(kind: str, dtype: str, quantization: str, adapter: str | None, tmp_path: Path) -> None:
    base = load(save_base(tmp_path / "base", kind, dtype=getattr(torch, dtype)), dtype=dtype)
    folder = save_adapter(tiny_model(kind, dtype=getattr(torch, dtype)), tmp_path / "lora", lora(kind))
    variants = factory(base, lora=folder)
    model = variants.make(VariantSpec(name="x", adapter=adapter, quantization=quantization)).model
    expected, size, layers = logits(model), model_bytes(model), len(list(linear4bit(model)))
    grows = dequantized_bytes(model)
    replaced = dequantize_once(model)
    assert len(replaced) == layers > 0
    assert torch.equal(logits(model), expected)
    assert not list(linear4bit(model))
    assert size < model_bytes(model) < size + grows
    assert not dequantize_once(model)
    assert dequantized_bytes(model) == 0
    put_back(model, replaced)
    assert len(list(linear4bit(model))) == layers
    assert torch.equal(logits(model), expected)


def test_weights_that_compute_in_another_precision_are_left_alone(tmp_path: Path) -> None:
    spec = QuantizationSpec(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype="bfloat16")
    base = load(save_base(tmp_path / "base"), dtype="float32")
    model = factory(base, quantizations={"mixed": spec}).make(VariantSpec(name="x", quantization="mixed")).model
    assert not dequantize_once(model)
    assert list(linear4bit(model))


def test_there_is_nothing_to_do_for_other_models(tmp_path: Path) -> None:
    variants = factory(load(save_base(tmp_path / "base")), quantizations=QUANTIZATIONS)
    for quantization in (None, "int8"):
        model = variants.make(VariantSpec(name="x", quantization=quantization)).model
        expected = logits(model)
        assert not dequantize_once(model)
        assert dequantized_bytes(model) == 0
        assert torch.equal(logits(model), expected)
