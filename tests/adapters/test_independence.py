"""No variant marks another: every order gives the same numbers, and the master copy of the base is never changed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from phibench.adapters.base import clone_to
from phibench.adapters.spec import VariantSpec, matrix_variants
from phibench.errors import UserError
from support.models import (
    CPU,
    EOS_ID,
    QUANTIZATIONS,
    ROWS,
    adapter_logits,
    factory,
    linear4bit,
    load,
    logits,
    lora,
    save_adapter,
    tiny_model,
)

from .conftest import Saved


def state(model: Any) -> dict[str, Any]:
    """Everything of a model that a variant could change: values, storage, flags, configuration and class of modules."""
    return {
        "values": {name: tensor.clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())},
        "storage": {name: tensor.data_ptr() for name, tensor in (*model.named_parameters(), *model.named_buffers())},
        "classes": {name: type(module).__name__ for name, module in model.named_modules()},
        "config": model.config.to_dict(),
        "generation": model.generation_config.to_dict(),
        "gradients": {name: (p.requires_grad, p.grad) for name, p in model.named_parameters()},
        "training": {module.training for module in model.modules()},
        "quantized": getattr(model, "is_quantized", False),
    }


def assert_unchanged(model: Any, before: dict[str, Any]) -> None:
    after = state(model)
    values, earlier = after.pop("values"), before["values"]
    assert values.keys() == earlier.keys()
    assert all(torch.equal(values[name], earlier[name]) for name in values)
    assert after == {key: value for key, value in before.items() if key != "values"}


def everything(kind: str, tmp_path: Path) -> dict[str, Path]:
    """Adapters that reach into every part of a base: its linear layers, biases, embeddings and head."""
    whole = lora(kind, modules_to_save=["embed_tokens", "lm_head"])
    tokens = lora(kind, trainable_token_indices={"embed_tokens": [3, EOS_ID]})
    grown = tiny_model(kind)
    grown.resize_token_embeddings(ROWS + 9, mean_resizing=False)
    biased = lora(kind, bias="all")
    return {
        "plain": save_adapter(tiny_model(kind), tmp_path / "plain", lora(kind)),
        "whole": save_adapter(tiny_model(kind), tmp_path / "whole", whole, seed=2),
        "tokens": save_adapter(tiny_model(kind), tmp_path / "tokens", tokens, seed=3),
        "grown": save_adapter(grown, tmp_path / "grown", whole, seed=4),
        "biased": save_adapter(tiny_model(kind), tmp_path / "biased", biased, seed=5),
    }


@pytest.mark.parametrize("kind", ["llama", "phi"])
def test_any_order_gives_the_same_logits_and_leaves_the_base_alone(
    kind: str, base_folder: Saved, tmp_path: Path
) -> None:
    base = load(base_folder(kind))
    before = state(base.model)
    adapters = everything(kind, tmp_path)
    specs = {f"{name} {spec.kind}": spec for name in adapters for spec in matrix_variants(name, "nf4")}
    first: dict[str, torch.Tensor] = {}
    for seed in (0, 1):
        order = list(specs)
        random.Random(seed).shuffle(order)
        made = factory(base, **adapters)
        torch.manual_seed(seed)  # nothing drawn at random may be left in a variant
        for name in order:
            found = logits(made.make(specs[name]).model)
            assert torch.equal(first.setdefault(name, found), found), f"{name} depends on what was made before it"
            assert bool(torch.isfinite(found).all())
        assert_unchanged(base.model, before)
    # Of the kinds that use it, each adapter gives another model: none stands in for another.
    assert len({first[f"{name} merged"].sum().item() for name in adapters}) == len(adapters)


def test_variants_in_use_do_not_mark_the_base_or_each_other(base_folder: Saved, lora_folder: Saved) -> None:
    """Training, generating with and destroying one variant leaves the others and the master as they were."""
    base = load(base_folder("llama"))
    before = state(base.model)
    made = factory(base, a=lora_folder("llama"))
    kept = {spec.name: made.make(spec) for spec in matrix_variants("a", "nf4")}
    numbers = {name: logits(variant.model) for name, variant in kept.items()}
    for spec in matrix_variants("a", "nf4"):
        victim: Any = made.make(spec).model
        victim.generate(input_ids=torch.tensor([[1, 2, 3]]), max_new_tokens=3, do_sample=False)
        victim.config.vocab_size = 7
        victim.generation_config.max_new_tokens = 5
        with torch.no_grad():
            for tensor in (*victim.parameters(), *victim.buffers()):
                tensor.zero_()
    assert_unchanged(base.model, before)
    for name, variant in kept.items():
        assert torch.equal(logits(variant.model), numbers[name])


def test_a_tied_head_is_never_quantized(base_folder: Saved) -> None:
    """transformers makes a model of it that fails at its first forward; ours would have shared the master's weights."""
    all_layers = {"all": QUANTIZATIONS["nf4"].model_copy(update={"llm_int8_skip_modules": []})}
    spec = VariantSpec(name="x", quantization="all")
    with pytest.raises(UserError, match="lm_head cannot be quantised: its weights are tied"):
        factory(load(base_folder("llama")), quantizations=all_layers).make(spec)
    base = load(base_folder("llama-untied"))
    before = state(base.model)
    model: Any = factory(base, quantizations=all_layers).make(spec).model
    assert "lm_head" in dict(linear4bit(model))
    masters = {parameter.data_ptr() for parameter in base.model.parameters()}
    assert not masters & {parameter.data_ptr() for parameter in model.parameters()}
    assert_unchanged(base.model, before)


@pytest.mark.parametrize("kind", ["llama", "llama-untied", "phi"])
def test_clone_keeps_ties_and_shares_nothing(kind: str, base_folder: Saved) -> None:
    master: Any = load(base_folder(kind)).model
    clone: Any = clone_to(master, CPU)
    assert type(clone) is type(master)
    tied = kind == "llama"
    assert (clone.lm_head.weight is clone.model.embed_tokens.weight) == tied
    assert (master.lm_head.weight is master.model.embed_tokens.weight) == tied
    assert not {p.data_ptr() for p in master.parameters()} & {p.data_ptr() for p in clone.parameters()}
    assert not {b.data_ptr() for b in master.buffers()} & {b.data_ptr() for b in clone.buffers()}
    assert clone.config is not master.config
    assert clone.generation_config is not master.generation_config
    assert torch.equal(logits(clone), logits(master))
    assert not any(parameter.requires_grad for parameter in clone.parameters())


def test_clone_shares_what_it_is_told_to(base_folder: Saved) -> None:
    master: Any = load(base_folder("llama")).model
    shared = master.model.layers[0].self_attn.q_proj.weight
    clone: Any = clone_to(master, CPU, share={id(shared)})
    assert clone.model.layers[0].self_attn.q_proj.weight is shared
    assert clone.model.layers[1].self_attn.q_proj.weight is not master.model.layers[1].self_attn.q_proj.weight


@pytest.mark.parametrize("merge", ["base", "requantized"])
def test_ties_of_merged_variants(merge: str, base_folder: Saved, lora_folder: Saved) -> None:
    """A merge that leaves the embeddings alone keeps them tied; memory is counted once."""
    made = factory(load(base_folder("llama")), a=lora_folder("llama"))
    quantization = "nf4" if merge == "requantized" else None
    variant = made.make(VariantSpec(name="x", adapter="a", merge=merge, quantization=quantization))  # type: ignore[arg-type]
    model: Any = variant.model
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_merge_through_a_tie_is_pefts_own_and_stays_in_its_variant(base_folder: Saved, tmp_path: Path) -> None:
    """peft merges a LoRA on a tied head into the embedding too (and warns): what is shipped is what is evaluated."""
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["lm_head", "q_proj"])
    folder = save_adapter(tiny_model("llama"), tmp_path, config, save_embedding_layers=False)
    base = load(base_folder("llama"))
    before = state(base.model)
    made = factory(base, a=folder)
    with pytest.warns(UserWarning, match="tied"):
        merged = logits(made.make(VariantSpec(name="x", adapter="a", merge="base")).model)
        by_hand = adapter_logits(load(base_folder("llama")).model, folder, merge=True)
    assert torch.equal(merged, by_hand)
    attached = logits(made.make(VariantSpec(name="x", adapter="a")).model)
    assert (attached - merged).abs().max() > 0.05
    assert_unchanged(base.model, before)
