"""Every kind of adapter that peft loads: attached as peft does, merged as peft does, or refused by name."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoKrConfig,
    OFTConfig,
    PeftModel,
    TrainableTokensConfig,
    VeraConfig,
)
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from phibench.adapters.spec import VariantSpec, matrix_variants
from phibench.adapters.variants import VariantFactory
from phibench.errors import UserError
from support.models import (
    EOS_ID,
    IDS,
    LINEAR,
    ROWS,
    TOKENS,
    adapter_logits,
    factory,
    load,
    logits,
    lora,
    save_adapter,
    save_base,
    tiny_model,
    tiny_tokenizer,
)

from .conftest import Saved

DOWN = {"llama": "down_proj", "phi": "fc2"}
SEEN = sorted({int(token) for token in IDS.flatten()})[1:4]  # tokens that the tests' input holds


def causal(kind: str, config: type, **fields: Any) -> Any:
    return config(**{"task_type": "CAUSAL_LM", "target_modules": LINEAR[kind], **fields})


Make = Callable[[str], Any]
FORMATS: dict[str, Make] = {
    "rslora": lambda kind: lora(kind, use_rslora=True),
    "dora": lambda kind: lora(kind, use_dora=True),
    "bias-all": lambda kind: lora(kind, bias="all"),
    "bias-lora-only": lambda kind: lora(kind, bias="lora_only"),
    "patterns": lambda kind: lora(
        kind, rank_pattern={"q_proj": 4}, alpha_pattern={"q_proj": 3}, layers_to_transform=[1]
    ),
    "regex": lambda kind: lora(kind, target_modules=r".*\.1\..*(q|v)_proj"),
    "all-linear": lambda kind: lora(kind, target_modules="all-linear"),
    "embeddings-and-head": lambda kind: lora(kind, modules_to_save=["embed_tokens", "lm_head"]),
    "head-alone": lambda kind: lora(kind, modules_to_save=["lm_head"]),
    "lora-on-embeddings": lambda kind: lora(kind, target_modules=["q_proj", "embed_tokens"]),
    "lora-on-head": lambda kind: lora(kind, target_modules=["q_proj", "lm_head"]),
    "token-indices": lambda kind: lora(kind, trainable_token_indices={"embed_tokens": SEEN}),
    "trainable-tokens": lambda kind: TrainableTokensConfig(task_type="CAUSAL_LM", token_indices=SEEN),
    "ia3": lambda kind: causal(
        kind, IA3Config, target_modules=["k_proj", "v_proj", DOWN[kind]], feedforward_modules=[DOWN[kind]]
    ),
    "loha": lambda kind: causal(kind, LoHaConfig, r=4, alpha=8),
    "lokr": lambda kind: causal(kind, LoKrConfig, r=4, alpha=8),
    "oft": lambda kind: causal(kind, OFTConfig, target_modules=["q_proj"], oft_block_size=16, use_cayley_neumann=False),
    "vera": lambda kind: causal(kind, VeraConfig, target_modules=["q_proj", "v_proj"], r=16),
    "adalora": lambda kind: causal(kind, AdaLoraConfig, total_step=10),
    "layer-norm": lambda kind: causal(kind, LNTuningConfig, target_modules=["input_layernorm"]),
}
NOT_QUANTIZED = {"loha", "lokr"}  # peft cannot put these on bitsandbytes' layers
# Formats that change a weight through the tie of a tied base's embedding and head: peft's merge goes through it too.
THROUGH_THE_TIE = {"lora-on-embeddings", "lora-on-head"}


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*", "ignore:.*save_embedding_layers.*")
@pytest.mark.parametrize("kind", ["llama", "phi"])
@pytest.mark.parametrize("name", FORMATS)
def test_attached_and_merged_as_peft_does(name: str, kind: str, base_folder: Saved, tmp_path: Path) -> None:
    folder = save_adapter(tiny_model(kind), tmp_path, FORMATS[name](kind))
    made = factory(load(base_folder(kind)), a=folder)
    found = {spec.kind: spec for spec in matrix_variants("a", "nf4")}
    base = logits(made.make(found["base"]).model)

    attached = logits(made.make(found["adapter"]).model)
    assert torch.equal(attached, adapter_logits(load(base_folder(kind)).model, folder))
    assert (attached - base).abs().max() > 0.01, "an adapter without effect tests nothing"

    merged = logits(made.make(found["merged"]).model)
    assert torch.equal(merged, adapter_logits(load(base_folder(kind)).model, folder, merge=True))
    if not (kind == "llama" and name in THROUGH_THE_TIE):
        assert torch.allclose(merged, attached, atol=1e-3)

    if name in NOT_QUANTIZED:
        with pytest.raises(UserError, match="does not fit the quantised form of this base"):
            made.make(found["adapter-nf4"])
        return
    on_nf4 = logits(made.make(found["adapter-nf4"]).model)
    dequantized = logits(made.make(found["merged-dequantized"]).model)
    if not (kind == "llama" and name in THROUGH_THE_TIE):
        # Two ways of computing the same function: the adapter beside 4-bit weights, and merged into their values.
        assert torch.allclose(on_nf4, dequantized, atol=1e-3)
    assert (on_nf4 - logits(made.make(found["base-nf4"]).model)).abs().max() > 0.01


def test_bias_of_a_lora_merges_where_the_layer_has_one(base_folder: Saved, tmp_path: Path) -> None:
    folders = {kind: save_adapter(tiny_model(kind), tmp_path / kind, lora(kind, lora_bias=True)) for kind in DOWN}
    merged = VariantSpec(name="x", adapter="a", merge="base")
    attached = VariantSpec(name="x", adapter="a")
    phi = factory(load(base_folder("phi")), a=folders["phi"])
    assert torch.allclose(logits(phi.make(merged).model), logits(phi.make(attached).model), atol=1e-4)
    llama = factory(load(base_folder("llama")), a=folders["llama"])
    logits(llama.make(attached).model)
    with pytest.raises(UserError, match=r"could not be merged.*base layer has no bias"):
        llama.make(merged)


# ---- extra tokens


def grown_model(kind: str, rows: int = ROWS + 9) -> Any:
    model = tiny_model(kind)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model.resize_token_embeddings(rows, mean_resizing=False)
    return model


def grown_by_hand(base: Path, adapter: Path, rows: int) -> Any:
    """What a reader of the adapter's page does: resize the base, then let peft load everything."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.resize_token_embeddings(rows, mean_resizing=False)
    return PeftModel.from_pretrained(model, str(adapter))


GROWN: dict[str, Make] = {
    "saved-beside-a-lora": lora,
    "modules-to-save": lambda kind: lora(kind, modules_to_save=["embed_tokens", "lm_head"]),
    "token-indices": lambda kind: lora(kind, trainable_token_indices={"embed_tokens": [ROWS, ROWS + 3]}),
    "lora-on-embeddings": lambda kind: lora(kind, target_modules=["q_proj", "embed_tokens"]),
}
# A shrunk embedding has no such tokens; and of an untied head's new rows see below.
NOT_RESIZED = {("token-indices", kind, TOKENS + 2) for kind in DOWN} | {("lora-on-embeddings", "phi", ROWS + 9)}
RESIZED = [case for case in itertools.product(GROWN, DOWN, (ROWS + 9, TOKENS + 2)) if case not in NOT_RESIZED]


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*", "ignore:.*save_embedding_layers.*")
@pytest.mark.parametrize(("name", "kind", "rows"), RESIZED)
def test_resized_embeddings_come_with_the_adapter(
    name: str, kind: str, rows: int, base_folder: Saved, tmp_path: Path
) -> None:
    """Phi's head has a bias, which peft saves with it; tied embeddings stay tied unless the adapter unties them."""
    folder = save_adapter(grown_model(kind, rows), tmp_path, GROWN[name](kind), save_embedding_layers=True)
    tiny_tokenizer("<new>").save_pretrained(folder)
    made = factory(load(base_folder(kind)), a=folder)
    ids = torch.arange(rows - 40, rows)[None]

    variant = made.make(VariantSpec(name="x", adapter="a"))
    attached = logits(variant.model, ids)
    assert attached.shape[-1] == rows
    assert torch.equal(attached, logits(grown_by_hand(base_folder(kind), folder, rows).eval(), ids))
    assert "<new>" in variant.tokenizer.get_vocab()
    merged = logits(made.make(VariantSpec(name="x", adapter="a", merge="base")).model, ids)
    by_hand = grown_by_hand(base_folder(kind), folder, rows).merge_and_unload()
    assert torch.equal(merged, logits(by_hand.eval(), ids))
    for spec in matrix_variants("a", "nf4"):
        model: Any = made.make(spec).model
        assert logits(model, ids[:, :1]).shape[-1] == (rows if spec.adapter else ROWS)
        assert model.config.vocab_size == (rows if spec.adapter else ROWS)
    assert made.base.model.config.vocab_size == ROWS


def test_the_new_rows_are_the_adapters_own(base_folder: Saved, tmp_path: Path) -> None:
    """Without modules_to_save the file's embedding is the only place the new rows come from."""
    folder = save_adapter(grown_model("phi"), tmp_path, lora("phi"), save_embedding_layers=True)
    model: Any = factory(load(base_folder("phi")), a=folder).make(VariantSpec(name="x", adapter="a")).model
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        for key in ("model.embed_tokens.weight", "lm_head.weight", "lm_head.bias"):
            assert torch.equal(
                model.get_parameter(f"base_model.model.{key}"), file.get_tensor(f"base_model.model.{key}")
            )


@pytest.mark.filterwarnings("ignore:.*save_embedding_layers.*")
@pytest.mark.parametrize(("targets", "lost"), [("embed_tokens", "lm_head"), ("lm_head", "model.embed_tokens")])
def test_new_rows_that_nobody_saved_are_refused(targets: str, lost: str, base_folder: Saved, tmp_path: Path) -> None:
    """peft writes only the side that the LoRA is on; the other's new rows would be drawn at random."""
    config = lora("phi", target_modules=["q_proj", targets])
    folder = save_adapter(grown_model("phi"), tmp_path, config, save_embedding_layers=True)
    with pytest.raises(UserError, match=f"adds 9 tokens but does not carry their rows of {lost}"):
        factory(load(base_folder("phi")), a=folder).make(VariantSpec(name="x", adapter="a"))


def test_spare_rows_are_not_cut(base_folder: Saved, tmp_path: Path) -> None:
    """As Phi-2 with its 51,200 rows for 50,295 tokens: tokens that fit the spare rows resize nothing."""
    extra = [f"<extra{number}>" for number in range(ROWS - TOKENS)]
    folder = save_adapter(tiny_model("phi"), tmp_path, lora("phi", modules_to_save=["embed_tokens", "lm_head"]))
    tokenizer = tiny_tokenizer(*extra)
    assert len(tokenizer) == ROWS
    tokenizer.save_pretrained(folder)
    made = factory(load(base_folder("phi")), a=folder)
    assert len(made.base.tokenizer) == TOKENS
    for spec in matrix_variants("a", "nf4"):
        variant = made.make(spec)
        model: Any = variant.model
        assert model.get_input_embeddings().weight.shape[0] == ROWS
        assert model.get_output_embeddings().weight.shape[0] == ROWS
        assert len(variant.tokenizer) == (ROWS if spec.adapter else TOKENS)
        assert logits(model, torch.tensor([variant.tokenizer.encode("a<extra3>")])).shape == (
            (1, 2, ROWS) if spec.adapter else (1, 9, ROWS)
        )


def test_tokens_without_rows_are_refused(base_folder: Saved, tmp_path: Path) -> None:
    """An adapter saved without its enlarged embedding would fail on the first prompt with a new token."""
    extra = [f"<extra{number}>" for number in range(ROWS - TOKENS + 1)]
    folder = save_adapter(grown_model("phi"), tmp_path, lora("phi"), save_embedding_layers=False)
    tiny_tokenizer(*extra).save_pretrained(folder)
    made = factory(load(base_folder("phi")), a=folder)
    for merge in ("none", "base"):
        with pytest.raises(UserError, match=r"273 tokens.*272 rows"):
            made.make(VariantSpec(name="x", adapter="a", merge=merge))  # type: ignore[arg-type]


def test_a_base_whose_own_tokenizer_is_too_big_still_loads(tmp_path: Path, lora_folder: Saved) -> None:
    """Some published bases are so, with tokens nobody uses; an adapter with the same tokenizer changes nothing."""
    extra = [f"<extra{number}>" for number in range(30)]
    folder = save_base(tmp_path / "base", "phi", tokenizer=tiny_tokenizer(*extra))
    adapter = save_adapter(tiny_model("phi"), tmp_path / "adapter", lora("phi"))
    tiny_tokenizer(*extra).save_pretrained(adapter)
    made = factory(load(folder), a=adapter)
    logits(made.make(VariantSpec(name="x", adapter="a")).model)


def test_adapter_tokenizer_is_the_bases_where_the_folder_has_none(made: VariantFactory) -> None:
    spec = VariantSpec(name="x", adapter="a")
    assert made.tokenizer(spec) is made.base.tokenizer
    assert made.make(spec).tokenizer is made.base.tokenizer
    assert made.base.tokenizer.eos_token_id == EOS_ID


@pytest.fixture
def made(base_folder: Saved, lora_folder: Saved) -> VariantFactory:
    return factory(load(base_folder("llama")), a=lora_folder("llama"))


def test_an_adapter_that_was_saved_as_an_older_peft_saves_it(base_folder: Saved, tmp_path: Path) -> None:
    """Unknown keys of adapter_config.json, as newer versions of peft add, do not stop it; unread weights would."""
    folder = save_adapter(tiny_model("llama"), tmp_path, lora("llama"))
    config = json.loads((folder / "adapter_config.json").read_text())
    old = {key: config[key] for key in ("peft_type", "task_type", "r", "lora_alpha", "target_modules", "bias")}
    expected = adapter_logits(load(base_folder("llama")).model, folder)
    for variation in (old, config | {"a_key_of_tomorrow": 3}):
        (folder / "adapter_config.json").write_text(json.dumps(variation))
        made = factory(load(base_folder("llama")), a=folder)
        assert torch.equal(logits(made.make(VariantSpec(name="x", adapter="a")).model), expected)
