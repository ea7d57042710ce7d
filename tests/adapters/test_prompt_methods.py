"""Virtual tokens (prompt tuning, p-tuning, prefix tuning): by hand, through peft, and through the engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
from safetensors.torch import load_file
from transformers import DynamicCache

from phibench.adapters.spec import VariantSpec
from phibench.adapters.variants import VariantFactory
from phibench.errors import UserError
from phibench.harness.engine.plain import PlainEngine
from support.models import IDS, factory, load, logits, save_adapter, tiny_model

from .conftest import Saved

VIRTUAL = 5
PROMPT: dict[str, Callable[[], Any]] = {
    "prompt": lambda: PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL),
    "p-tuning": lambda: PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL, encoder_hidden_size=32),
    "prefix": lambda: PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL),
    "projected-prefix": lambda: PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL, prefix_projection=True, encoder_hidden_size=32
    ),
}
# Requests of differing lengths, so that batches are padded: (context, continuation) tokens.
PAIRS = [([7, 3, 90, 4], [11]), ([5], [9, 250, 31]), (list(range(40, 65)), [1, 2]), ([5, 6], [9, 250, 31])]
TEXTS = ["a", "a longer prompt than the first", "of middling length"]


@pytest.fixture(params=[(name, kind) for name in PROMPT for kind in ("llama", "phi")], ids="-".join)
def case(request: pytest.FixtureRequest, base_folder: Saved, tmp_path: Path) -> tuple[str, VariantFactory, Path]:
    """A method's name, a factory over it, and the adapter's folder."""
    name, kind = request.param
    base = base_folder(kind)
    folder = save_adapter(tiny_model(kind), tmp_path, PROMPT[name](), noise=0.3)
    return name, factory(load(base), a=folder), folder


@torch.no_grad()
def by_hand(name: str, base: Any, folder: Path, ids: list[int]) -> torch.Tensor:
    """The logits of `ids` behind the adapter's virtual tokens, with nothing of peft."""
    tensor = torch.tensor([ids])
    saved = load_file(folder / "adapter_model.safetensors")["prompt_embeddings"]
    if not name.endswith("prefix"):
        together = torch.cat([saved[None], base.get_input_embeddings()(tensor)], dim=1)
        return torch.as_tensor(base(inputs_embeds=together).logits[0, VIRTUAL:])
    config = base.config
    shape = (VIRTUAL, 2 * config.num_hidden_layers, config.num_key_value_heads, -1)
    keys_and_values = saved.view(*shape).permute(1, 2, 0, 3).unsqueeze(1)  # layer's K, layer's V, the next layer's ...
    cache = DynamicCache(config=config)
    for layer in range(config.num_hidden_layers):
        cache.update(keys_and_values[2 * layer], keys_and_values[2 * layer + 1], layer)
    return torch.as_tensor(base(input_ids=tensor, past_key_values=cache).logits[0])


def engine(made: VariantFactory, **spec: Any) -> PlainEngine:
    variant = made.make(VariantSpec(name="x", adapter="a", **spec))
    return PlainEngine(variant.model, variant.tokenizer)


def test_attached_is_pefts_own_and_does_what_its_paper_says(case: Any) -> None:
    name, made, folder = case
    attached = logits(made.make(VariantSpec(name="x", adapter="a")).model)
    own = PeftModel.from_pretrained(made.make(VariantSpec(name="x")).model, str(folder)).eval()
    assert torch.equal(attached, logits(own))
    for row, ids in enumerate(IDS.tolist()):
        found = attached[row, -IDS.shape[1] :]
        expected = by_hand(name, made.base.model, folder, ids)
        assert torch.allclose(found, expected, atol=1e-4)
        assert (found - logits(made.base.model)[row]).abs().max() > 0.1


def test_scores_are_those_of_each_request_by_itself(case: Any) -> None:
    name, made, folder = case
    found = dict(engine(made).score(PAIRS))
    for number, (context, continuation) in enumerate(PAIRS):
        rows = by_hand(name, made.base.model, folder, (context + continuation)[:-1])[-len(continuation) :]
        target = torch.tensor(continuation)
        expected = rows.log_softmax(-1).gather(1, target[:, None]).sum()
        assert found[number].loglikelihood == pytest.approx(float(expected), abs=1e-3)
        assert found[number].is_greedy == bool((rows.argmax(-1) == target).all())


@torch.no_grad()
def greedy(name: str, made: VariantFactory, folder: Path, text: str, steps: int = 8) -> list[int]:
    """Greedy decoding by hand, without a cache and without peft; ends before EOS."""
    prompt = made.base.tokenizer.encode(text)
    ids = list(prompt)
    for _ in range(steps):
        newest = int(by_hand(name, made.base.model, folder, ids)[-1].argmax())
        if newest == made.base.tokenizer.eos_token_id:
            break
        ids.append(newest)
    return ids[len(prompt) :]


GREEDY = {"until": [], "max_gen_toks": 8, "do_sample": False}


def test_generation_one_by_one(case: Any) -> None:
    """The engine, peft's `generate` at batch size 1, and greedy decoding by hand agree."""
    name, made, folder = case
    runner = engine(made)
    own = PeftModel.from_pretrained(made.make(VariantSpec(name="x")).model, str(folder)).eval()
    for text in TEXTS:
        expected = greedy(name, made, folder, text)
        ids = made.base.tokenizer(text, return_tensors="pt")
        alone = own.generate(**ids, max_new_tokens=8, do_sample=False, pad_token_id=0)[0, ids["input_ids"].shape[1] :]
        assert alone.tolist()[: len(expected)] == expected
        [(_, response)] = runner.generate([(text, GREEDY, 0)])
        assert response.text == made.base.tokenizer.decode(expected, skip_special_tokens=True)
        assert response.tokens == len(expected)


def test_generation_of_several_prompts(case: Any) -> None:
    name, made, folder = case
    found = dict(engine(made).generate([(text, GREEDY, 0) for text in TEXTS]))
    for number, text in enumerate(TEXTS):
        expected = made.base.tokenizer.decode(greedy(name, made, folder, text), skip_special_tokens=True)
        assert found[number].text == expected


def test_on_the_quantized_base_too(case: Any) -> None:
    name, made, folder = case
    base = made.make(VariantSpec(name="x", quantization="nf4")).model
    attached = logits(made.make(VariantSpec(name="x", adapter="a", quantization="nf4")).model)
    for row, ids in enumerate(IDS.tolist()):
        assert torch.allclose(attached[row, -IDS.shape[1] :], by_hand(name, base, folder, ids), atol=1e-3)


@pytest.mark.parametrize(
    "form",
    [
        {"merge": "base"},
        {"merge": "dequantized", "quantization": "nf4"},
        {"merge": "requantized", "quantization": "nf4"},
    ],
    ids=lambda form: form["merge"],
)
def test_cannot_be_merged(form: dict[str, Any], case: Any) -> None:
    _, made, _ = case
    with pytest.raises(UserError, match="cannot be merged: it adds virtual tokens") as caught:
        made.make(VariantSpec(name="x", adapter="a", **form))
    assert caught.value.fix is not None
    assert "drop the merged variants" in caught.value.fix


MISFITS: dict[str, tuple[str, dict[str, Any], str]] = {
    "another-width": ("prompt", {"hidden_size": 32}, "does not fit this base"),
    "p-tuning-of-another-width": ("p-tuning", {"hidden_size": 32}, "does not fit this base"),
    "fewer-layers": ("prefix", {"num_hidden_layers": 1}, "made for 1 layers, and the base has 2"),
    "more-layers": ("prefix", {"num_hidden_layers": 3}, "made for 3 layers, and the base has 2"),
    "other-heads": ("prefix", {"num_key_value_heads": 2}, "does not fit this base"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_virtual_tokens_of_another_base_are_refused(misfit: str, base_folder: Saved, tmp_path: Path) -> None:
    """peft attaches them all; they fail at the first forward, or (more layers) are left unread without a word."""
    name, changes, message = MISFITS[misfit]
    folder = save_adapter(tiny_model("llama", **changes), tmp_path, PROMPT[name]())
    with pytest.raises(UserError, match=message):
        factory(load(base_folder("llama")), a=folder).make(VariantSpec(name="x", adapter="a"))
