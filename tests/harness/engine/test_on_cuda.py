"""What only a GPU shows: kernels compiled for it, steps recorded as CUDA graphs, and 4-bit layers among them.

The other tests hide GPUs and interpret the kernels (see tests/conftest.py). On a machine with one:

    CUDA_VISIBLE_DEVICES=0 TRITON_INTERPRET=0 pytest -m cuda
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from phibench.adapters.quantize import dequantize_once
from phibench.adapters.spec import VariantSpec
from phibench.harness.engine import decoding
from phibench.harness.engine.attention import Way
from phibench.harness.engine.decoding import Decoder
from phibench.harness.engine.scoring import TreeEngine
from phibench.harness.engine.support import find_way, why_not_decode
from support.families import SERVED, make
from support.models import factory, load, lora, save_adapter, save_base, tiny_model, tiny_tokenizer

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
OURS = "packed, over a cache of our own"
DTYPES = [torch.float16, torch.bfloat16, torch.float32]
ASKED: list[Any] = [
    (text, {"until": ["."], "max_gen_toks": 4 + n % 9}, n) for n, text in enumerate("one, a b c! a longer one".split())
]


def _moved(model: Any, dtype: torch.dtype) -> Any:
    return model.to(device="cuda", dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("family", SERVED)
def test_families_are_served(family: str, dtype: torch.dtype) -> None:
    model = _moved(make(SERVED[family]()), dtype)
    if family == "gemma-2":
        model.set_attn_implementation("eager")  # transformers 5.17 takes sdpa by default, without the cap on scores
    way = find_way(model)
    assert isinstance(way, Way)
    assert why_not_decode(model, way) is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_texts_come_from_steps(dtype: torch.dtype) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    engine = TreeEngine(_moved(tiny_model("llama"), dtype), tokenizer, batch_tokens=64)
    engine.warm_up()
    assert sorted(i for i, _ in engine.generate(ASKED)) == list(range(len(ASKED)))
    assert engine.texts_by() == OURS


def test_recorded_steps_are_those_that_are_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _moved(tiny_model("phi"), torch.float16)
    way = Way(kernels=True, fused=True)
    draw = torch.Generator("cuda").manual_seed(0)
    tokens = torch.randint(3, 250, (8, 5), generator=draw, device="cuda")
    starts = torch.arange(5, device="cuda") * 8

    def steps(decoder: Decoder) -> torch.Tensor:
        with decoder.ready():
            decoder.open(decoder.layers(), 40, 8)
            found = [decoder.step(row, torch.full_like(row, n), starts).clone() for n, row in enumerate(tokens)]
        return torch.stack(found)

    recorded = steps(Decoder(model, way))
    monkeypatch.setattr(decoding._Graphs, "_record", lambda self, size: None)
    plain = steps(Decoder(model, way))
    assert torch.allclose(recorded, plain, rtol=0.02, atol=0.02)
    assert recorded.std(dim=0).mean() > 0.02  # another place, another answer


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("adapter", [None, "a"])
def test_quantised_models_generate(adapter: str | None, once: bool, tmp_path: Path) -> None:
    base = load(save_base(tmp_path / "base", "phi"))
    folder = save_adapter(tiny_model("phi"), tmp_path / "lora", lora("phi"))
    spec = VariantSpec(name="x", adapter=adapter, quantization="nf4-double")
    made = factory(base, device=torch.device("cuda"), a=folder).make(spec)
    if once:
        assert dequantize_once(made.model)
    way = find_way(made.model)
    assert isinstance(way, Way)
    assert why_not_decode(made.model, way) is None
