"""The bytes a variant is said to hold, against a count by hand from its shapes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from phibench.adapters.spec import VariantSpec
from phibench.adapters.variants import model_bytes
from support.models import ROWS, factory, load, logits, lora, save_adapter, tiny_model

from .conftest import Saved

H, F, LAYERS, RANK = 64, 320, 2, 8  # of the tiny models: width, feed-forward width, layers; and of the LoRA
# (outputs, inputs) of every linear layer of one block.
BLOCK = {
    "llama": [(H, H)] * 4 + [(F, H), (F, H), (H, F)],
    "phi": [(H, H)] * 4 + [(F, H), (H, F)],
}
# Everything else, in numbers: embeddings, norms, biases, head.
REST = {
    "llama": ROWS * H + (2 * LAYERS + 1) * H,
    "phi": 2 * ROWS * H + ROWS + (LAYERS + 1) * 2 * H + LAYERS * (5 * H + F),
}
# Rotary frequencies, in float32 whatever the weights are: half a head's (rotated) width, held twice.
BUFFERS = {"llama": 2 * (H // 4 // 2) * 4, "phi": 2 * (H // 4 // 2 // 2) * 4}


def layer_bytes(outputs: int, inputs: int, name: str) -> int:
    """One quantised layer: its packed weights and what is needed to unpack them."""
    weights = outputs * inputs
    if name == "int8":
        return weights + 4 * outputs  # a scale for every output
    blocks = weights // 64  # each with its largest value
    table = 16 * 4
    if name == "nf4":
        return weights // 2 + 4 * blocks + table
    scales = blocks + 4 * math.ceil(blocks / 256)  # a byte each, with scales of their own
    return weights // 2 + scales + table + 256 * 4 + 4  # their table and their offset


def plain_bytes(kind: str, width: int) -> int:
    return width * (REST[kind] + LAYERS * sum(a * b for a, b in BLOCK[kind])) + BUFFERS[kind]


def quantized_bytes(kind: str, width: int, name: str) -> int:
    return width * REST[kind] + LAYERS * sum(layer_bytes(a, b, name) for a, b in BLOCK[kind]) + BUFFERS[kind]


def lora_bytes(kind: str) -> int:
    return 4 * RANK * LAYERS * sum(a + b for a, b in BLOCK[kind])  # peft holds an adapter in float32


@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 4), (torch.bfloat16, 2)], ids=str)
@pytest.mark.parametrize("kind", ["llama", "phi"])
def test_counted_by_hand(kind: str, dtype: torch.dtype, width: int, base_folder: Saved, lora_folder: Saved) -> None:
    made = factory(load(base_folder(kind, dtype)), a=lora_folder(kind, dtype))

    def held(**fields: Any) -> int:
        return made.make(VariantSpec(name="x", **fields)).model_bytes

    assert held() == plain_bytes(kind, width)
    assert held(adapter="a") == plain_bytes(kind, width) + lora_bytes(kind)
    assert held(adapter="a", merge="base") == plain_bytes(kind, width)
    for name in ("nf4", "nf4-double", "int8"):
        assert held(quantization=name) == quantized_bytes(kind, width, name)
        assert held(quantization=name, adapter="a") == quantized_bytes(kind, width, name) + lora_bytes(kind)
        assert held(quantization=name, adapter="a", merge="dequantized") == plain_bytes(kind, width)
        assert held(quantization=name, adapter="a", merge="requantized") == quantized_bytes(kind, width, name)
    assert held(quantization="fp4") == quantized_bytes(kind, width, "nf4")


@pytest.mark.parametrize("name", [None, "nf4", "nf4-double", "int8"])
def test_a_forward_changes_nothing(name: str | None, base_folder: Saved) -> None:
    """bitsandbytes moves the scales of 8-bit weights from the weight to its layer at the first forward."""
    variant = factory(load(base_folder("phi"))).make(VariantSpec(name="x", quantization=name))
    before = variant.model_bytes
    logits(variant.model)
    assert variant.model_bytes == before


def test_quarter_of_the_weights(base_folder: Saved) -> None:
    """The rule of thumb that people check: 4 bits and a half, or 4 and an eighth with double quantisation, a weight."""
    weights = 4096 * 16384
    assert layer_bytes(4096, 16384, "nf4") * 8 / weights == pytest.approx(4.5, abs=0.01)
    assert layer_bytes(4096, 16384, "nf4-double") * 8 / weights == pytest.approx(4.127, abs=0.01)


def test_untied_weights_count_twice_and_tied_ones_once(base_folder: Saved, tmp_path: Any) -> None:
    made = factory(load(base_folder("llama")))
    tied = made.make(VariantSpec(name="x")).model_bytes
    untied = factory(load(base_folder("llama-untied"))).make(VariantSpec(name="x")).model_bytes
    assert untied - tied == 4 * ROWS * H
    folder = save_adapter(tiny_model("llama"), tmp_path, lora("llama", modules_to_save=["lm_head"]))
    merged = factory(made.base, a=folder).make(VariantSpec(name="x", adapter="a", merge="base"))
    assert merged.model_bytes == untied  # such an adapter unties them


def test_the_model_itself_is_what_is_counted() -> None:
    model = tiny_model("llama")
    assert model_bytes(model) == plain_bytes("llama", 4)
    model.register_buffer("extra", torch.zeros(10, dtype=torch.int64))
    model.register_buffer("again", model.extra)
    assert model_bytes(model) == plain_bytes("llama", 4) + 80
