"""Null controls: the shape and the norms of another adapter, in directions that have nothing to do with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PromptTuningConfig
from safetensors.torch import load_file, save_file

from phibench.adapters.adapter_files import AdapterFiles, read_adapter
from phibench.adapters.base import LoadedBase
from phibench.adapters.null import RECORD, ensure_null
from phibench.adapters.spec import VariantSpec
from phibench.errors import UserError
from support.models import adapter_logits, factory, load, logits, lora, save_adapter, tiny_model, tiny_tokenizer

from .conftest import Saved

WEIGHTS = "adapter_model.safetensors"
Tensors = dict[str, torch.Tensor]


def source(folder: Path) -> AdapterFiles:
    return read_adapter("a", folder, str(folder))


def null_of(folder: Path, base: LoadedBase, *, seed: int = 0) -> AdapterFiles:
    return ensure_null("random", source(folder), base, seed=seed)


def norm(tensor: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.double()))


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.double() * other.double()).sum()) / (norm(one) * norm(other))


def pairs(tensors: Tensors) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The matrices A and B of every module of a LoRA."""
    return {
        name: (tensor, tensors[name.replace("lora_A", "lora_B").replace("embedding_A", "embedding_B")])
        for name, tensor in tensors.items()
        if "lora_A" in name or "lora_embedding_A" in name
    }


def saved(tmp_path: Path, config: Any, kind: str = "llama", **options: Any) -> Path:
    return save_adapter(tiny_model(kind), tmp_path / "saved", config, **options)


def close(value: float) -> Any:
    return pytest.approx(value, rel=1e-5)


def assert_pairs(before: Tensors, after: Tensors, *, modules: int) -> None:
    """Norms of A and of the product are the same in each module, and the directions are others."""
    assert {name: tensor.shape for name, tensor in after.items()} == {n: tensor.shape for n, tensor in before.items()}
    assert len(pairs(before)) == modules
    for name, (a, b) in pairs(before).items():
        new_a, new_b = pairs(after)[name]
        product, new_product = b.double() @ a.double(), new_b.double() @ new_a.double()
        assert norm(new_a) == close(norm(a)), name
        assert norm(new_product) == close(norm(product)), name
        assert abs(cosine(a, new_a)) < 0.2, name
        assert abs(cosine(product, new_product)) < 0.2, name


@pytest.mark.parametrize("kind", ["llama", "phi"])
def test_a_null_has_the_norms_of_its_source_in_other_directions(
    kind: str, base_folder: Saved, lora_folder: Saved, cache: Path
) -> None:
    folder = lora_folder(kind)
    null = null_of(folder, load(base_folder(kind)))
    assert null.folder.parent == cache
    assert null.source == "null of a, seed 0"
    before, after = load_file(folder / WEIGHTS), load_file(null.weights)
    assert_pairs(before, after, modules=2 * (7 if kind == "llama" else 6))
    directions = [a.reshape(-1) for a, _ in pairs(after).values()]
    same_shape = [(x, y) for i, x in enumerate(directions) for y in directions[:i] if x.shape == y.shape]
    assert max(abs(cosine(x, y)) for x, y in same_shape) < 0.2  # each module's are its own
    assert (null.folder / "adapter_config.json").read_bytes() == (folder / "adapter_config.json").read_bytes()
    assert null.sha256 != source(folder).sha256


def test_a_seed_gives_the_same_bytes_and_another_seed_or_source_others(
    base_folder: Saved, lora_folder: Saved, cache: Path, tmp_path: Path
) -> None:
    base = load(base_folder("llama"))
    first = null_of(lora_folder("llama"), base)
    weights = first.weights.read_bytes()
    shutil.rmtree(cache)
    torch.manual_seed(99)  # torch's chance has no part in it
    again = null_of(lora_folder("llama"), base)
    assert (again.folder, again.weights.read_bytes()) == (first.folder, weights)
    other = null_of(lora_folder("llama"), base, seed=1)
    assert other.folder != first.folder
    assert_pairs(load_file(first.weights), load_file(other.weights), modules=14)
    copied = Path(shutil.copytree(lora_folder("llama"), tmp_path / "scaled"))
    save_file({n: 2 * t for n, t in load_file(copied / WEIGHTS).items()}, copied / WEIGHTS, metadata={"format": "pt"})
    scaled = null_of(copied, base)
    for name, (a, _) in pairs(load_file(scaled.weights)).items():
        assert abs(cosine(a, load_file(first.weights)[name])) < 0.2


def test_a_null_is_found_again_and_drawn_anew_where_it_was_spoilt(
    base_folder: Saved, lora_folder: Saved, cache: Path
) -> None:
    base = load(base_folder("llama"))
    first = null_of(lora_folder("llama"), base)
    weights, written = first.weights.read_bytes(), first.weights.stat().st_mtime_ns
    assert null_of(lora_folder("llama"), base).weights.stat().st_mtime_ns == written
    first.weights.write_bytes(weights[:-8])
    assert null_of(lora_folder("llama"), base).weights.read_bytes() == weights
    (first.folder / RECORD).write_text("{")
    assert null_of(lora_folder("llama"), base).sha256 == first.sha256
    (first.folder / "adapter_config.json").unlink()
    assert null_of(lora_folder("llama"), base).sha256 == first.sha256
    assert [entry.name for entry in cache.iterdir()] == [first.folder.name]


def test_a_null_is_written_whole_or_not_at_all(
    base_folder: Saved, lora_folder: Saved, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("phibench.adapters.null.write_text", full)
        with pytest.raises(UserError, match="cannot be written: No space left"):
            null_of(lora_folder("llama"), load(base_folder("llama")))
    assert list(cache.iterdir()) == []


def test_a_null_carries_the_tokenizer_that_its_source_carries(
    base_folder: Saved, lora_folder: Saved, cache: Path, tmp_path: Path
) -> None:
    base = load(base_folder("llama"))
    assert not null_of(lora_folder("llama"), base).has_tokenizer
    copied = Path(shutil.copytree(lora_folder("llama"), tmp_path / "copied"))
    tiny_tokenizer(chat_template="{{ messages }}").save_pretrained(copied)
    (copied / "optimizer.pt").write_bytes(b"x")
    null = null_of(copied, base)
    assert null.has_tokenizer
    made = factory(base, random=null.folder)
    assert made.tokenizer(VariantSpec(name="x", adapter="random")).chat_template == "{{ messages }}"
    assert not (null.folder / "optimizer.pt").exists()


def test_a_null_loads_in_peft_and_changes_what_the_model_says(
    base_folder: Saved, lora_folder: Saved, cache: Path
) -> None:
    base = load(base_folder("llama"))
    null = null_of(lora_folder("llama"), base)
    plain, trained = (
        logits(load(base_folder("llama")).model),
        adapter_logits(load(base_folder("llama")).model, lora_folder("llama")),
    )
    random = adapter_logits(load(base_folder("llama")).model, null.folder)
    moved, trained_moved = norm(random - plain), norm(trained - plain)
    assert 0.2 < moved / trained_moved < 5
    assert norm(random - trained) > 0.5 * trained_moved
    made = factory(base, random=null.folder)
    for merge, quantization in [("base", None), ("dequantized", "nf4"), ("requantized", "nf4")]:
        spec = VariantSpec(name="x", adapter="random", merge=merge, quantization=quantization)  # type: ignore[arg-type]
        assert norm(logits(made.make(spec).model) - plain) > 0.1 * trained_moved


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 1},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
        {"use_rslora": True},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"init_lora_weights": "orthogonal"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_other_loras(settings: dict[str, Any], base_folder: Saved, cache: Path, tmp_path: Path) -> None:
    folder = saved(tmp_path, lora("llama", **settings), save_embedding_layers=False)
    null = null_of(folder, load(base_folder("llama")))
    before, after = load_file(folder / WEIGHTS), load_file(null.weights)
    if settings.get("r") == 1:  # a vector has few directions, and its product one
        assert {name: norm(t) for name, t in pairs_a(after).items()} == {
            n: close(norm(t)) for n, t in pairs_a(before).items()
        }
    else:
        assert_pairs(before, after, modules=len(pairs(before)))
    adapter_logits(load(base_folder("llama")).model, null.folder)


def pairs_a(tensors: Tensors) -> Tensors:
    return {name: a for name, (a, _) in pairs(tensors).items()}


def test_an_adapter_in_half_precision_and_one_that_was_never_trained(
    base_folder: Saved, lora_folder: Saved, cache: Path, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(lora_folder("llama"), tmp_path / "half"))
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(copied / WEIGHTS).items()}
    empty = next(name for name in tensors if "lora_B" in name)
    tensors[empty] = torch.zeros_like(tensors[empty])
    save_file(tensors, copied / WEIGHTS, metadata={"format": "pt"})
    after = load_file(null_of(copied, load(base_folder("llama"))).weights)
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    assert not after[empty].any()  # no change has no size
    trained = {name: tensor for name, tensor in tensors.items() if name not in (empty, empty.replace("B", "A"))}
    assert_pairs(trained, {name: after[name] for name in trained}, modules=13)


def test_whole_weights_are_as_far_from_the_base_as_the_trained_ones(
    base_folder: Saved, cache: Path, tmp_path: Path
) -> None:
    """Rows that were trained, rows that were not, new rows, and the two ends of a tie."""
    tokens = 280
    config = lora("llama", target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    grown = tiny_model("llama-untied")
    grown.resize_token_embeddings(tokens, mean_resizing=False)
    folder = save_adapter(grown, tmp_path / "saved", config, save_embedding_layers=False)
    base = load(base_folder("llama-untied"))
    before, after = load_file(folder / WEIGHTS), load_file(null_of(folder, base).weights)
    for name, own in (("model.embed_tokens", base.model.model.embed_tokens), ("lm_head", base.model.lm_head)):
        key = f"base_model.model.{name}.weight"
        change = before[key][: len(own.weight)] - own.weight
        new_change = after[key][: len(own.weight)] - own.weight
        assert norm(change) > 0.1
        assert norm(new_change) == close(norm(change))
        assert abs(cosine(change, new_change)) < 0.1
        assert norm(after[key][len(own.weight) :]) == close(norm(before[key][len(own.weight) :]))
    logits(factory(base, random=null_of(folder, base).folder).make(VariantSpec(name="x", adapter="random")).model)


def test_whole_weights_that_training_left_alone_stay(base_folder: Saved, cache: Path, tmp_path: Path) -> None:
    config = lora("llama", target_modules=["q_proj"])
    folder = save_adapter(tiny_model("llama"), tmp_path / "saved", config, save_embedding_layers=True)
    before = load_file(folder / WEIGHTS)
    after = load_file(null_of(folder, load(base_folder("llama"))).weights)
    whole = [name for name in before if "lora_" not in name]
    assert whole
    assert all(torch.equal(before[name], after[name]) for name in whole)


def test_biases_and_the_vectors_of_ia3(base_folder: Saved, cache: Path, tmp_path: Path) -> None:
    base = load(base_folder("phi"))
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], lora_bias=True)
    folder = save_adapter(tiny_model("phi"), tmp_path / "bias", config)
    before, after = load_file(folder / WEIGHTS), load_file(null_of(folder, base).weights)
    added = [name for name in before if name.endswith("lora_B.bias")]
    assert len(added) == 2
    for name in added:
        assert norm(after[name]) == close(norm(before[name]))
        assert abs(cosine(before[name], after[name])) < 0.5
    ia3 = IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "fc2"], feedforward_modules=["fc2"])
    folder = save_adapter(tiny_model("phi"), tmp_path / "ia3", ia3)
    before, after = load_file(folder / WEIGHTS), load_file(null_of(folder, base).weights)
    for name, tensor in before.items():
        assert norm(after[name] - 1) == close(norm(tensor - 1))
        assert not torch.allclose(after[name], tensor)
    adapter_logits(tiny_model("phi"), null_of(folder, base).folder)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (lora("llama", use_dora=True), "with use_dora it is more than the product"),
        (PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), "its method is PROMPT_TUNING"),
        (lora("llama", trainable_token_indices=[3]), "it is not known what .*trainable_tokens"),
    ],
    ids=["dora", "prompt", "tokens"],
)
def test_what_no_null_can_be_drawn_of_is_refused(
    config: Any, says: str, base_folder: Saved, cache: Path, tmp_path: Path
) -> None:
    folder = saved(tmp_path, config, save_embedding_layers=False)
    with pytest.raises(UserError, match=says) as refused:
        null_of(folder, load(base_folder("llama")))
    assert refused.value.where == "adapters.random = null of a"
    assert not cache.exists() or not list(cache.iterdir())


def test_starts_that_change_the_base_and_weights_that_are_not_finite_are_refused(
    base_folder: Saved, lora_folder: Saved, cache: Path, tmp_path: Path
) -> None:
    base = load(base_folder("llama"))
    copied = Path(shutil.copytree(lora_folder("llama"), tmp_path / "copied"))
    file = copied / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"init_lora_weights": "pissa"}))
    with pytest.raises(UserError, match="changes the base's own weights"):
        null_of(copied, base)
    file.write_text(json.dumps(config))
    tensors = load_file(copied / WEIGHTS)
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, copied / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(UserError, match="not finite"):
        null_of(copied, base)
