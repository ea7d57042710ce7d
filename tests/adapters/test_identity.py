"""A variant's identity: the same for the same model in any process, another for whatever changes an answer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from phibench.adapters.adapter_files import read_adapter
from phibench.adapters.identity import tokenizer_hash, variant_parts
from phibench.adapters.spec import QuantizationSpec, VariantSpec, matrix_variants
from phibench.files import sha256_json
from support.models import (
    CHATML,
    NF4,
    factory,
    load,
    save_base,
    tiny_model,
    tiny_tokenizer,
)

from .conftest import Saved

SEVEN = matrix_variants("a", "nf4")


@pytest.fixture
def base(base_folder: Saved, tmp_path: Path) -> Path:
    """A base of one's own, to be changed."""
    return Path(shutil.copytree(base_folder("llama"), tmp_path / "base"))


@pytest.fixture
def adapter(lora_folder: Saved, tmp_path: Path) -> Path:
    return Path(shutil.copytree(lora_folder("llama"), tmp_path / "adapter"))


def identities(base: Path, adapter: Path, **spec: Any) -> list[str]:
    made = factory(load(base, **spec), a=adapter)
    return [made.identity(variant) for variant in SEVEN]


def edit_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_tensor(file: Path, name: str) -> None:
    """Change one number of one tensor by the least that its type can."""
    tensors = load_file(file)
    key = next(key for key in sorted(tensors) if name in key)
    number = tensors[key].flatten()[:1]
    tensors[key].flatten()[:1] = torch.nextafter(number, number + 1)
    save_file(tensors, file, metadata={"format": "pt"})


def test_the_seven_are_seven(base: Path, adapter: Path) -> None:
    found = identities(base, adapter)
    assert len(set(found)) == 7
    assert all(len(identity) == 64 for identity in found)


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from support.models import factory, load
from phibench.adapters.spec import matrix_variants
made = factory(load(Path(sys.argv[1])), a=Path(sys.argv[2]))
print([made.identity(variant) for variant in matrix_variants("a", "nf4")])
"""


def test_stable_across_processes(base: Path, adapter: Path) -> None:
    """Hashes of strings, and so the order of sets, differ from one process to the next."""
    tests = Path(__file__).resolve().parent.parent
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = os.environ | {"PYTHONHASHSEED": "12345", "PYTHONPATH": paths}
    command = [sys.executable, "-c", SCRIPT, str(base), str(adapter), str(tests)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == str(identities(base, adapter))


def test_stable_whatever_the_tokenizer_did_before(base: Path, adapter: Path) -> None:
    """Padding and truncation stay on a tokenizer's backend after a call; training makes calls of its own."""
    loaded = load(base)
    made = factory(loaded, a=adapter)
    before = [made.identity(variant) for variant in SEVEN]
    loaded.tokenizer(["a", "longer"], padding=True, truncation=True, max_length=3)
    assert [made.identity(variant) for variant in SEVEN] == before
    made.make(SEVEN[3])
    assert [made.identity(variant) for variant in SEVEN] == before
    assert [factory(loaded, a=adapter).identity(variant) for variant in SEVEN] == before


def test_names_and_places_do_not_count(base: Path, adapter: Path, tmp_path: Path) -> None:
    found = identities(base, adapter)
    moved_base = Path(shutil.copytree(base, tmp_path / "elsewhere" / "model"))
    moved_adapter = Path(shutil.copytree(adapter, tmp_path / "elsewhere" / "adapter"))
    (moved_adapter / "README.md").write_text("another text")
    edit_json(
        moved_adapter / "adapter_config.json",
        base_model_name_or_path="somebody/something",
        inference_mode=False,
        revision="main",
        peft_version="0.1.0",
        auto_mapping={"base_model_class": "X"},
    )
    assert identities(moved_base, moved_adapter) == found
    loaded = load(base)
    other = factory(loaded, quantizations={"four": NF4}, other=moved_adapter)
    for variant, expected in zip(SEVEN, found, strict=True):
        renamed = {"name": "another-name", "adapter": variant.adapter and "other"}
        spec = variant.model_copy(update=renamed | {"quantization": variant.quantization and "four"})
        assert other.identity(spec) == expected


def test_the_order_that_peft_writes_sets_in_does_not_count(base: Path, adapter: Path) -> None:
    found = identities(base, adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    edit_json(adapter / "adapter_config.json", target_modules=config["target_modules"][::-1])
    assert identities(base, adapter) == found


# ---- what counts, and for which of the seven


ALL = set(range(7))
WITH_ADAPTER = {number for number, variant in enumerate(SEVEN) if variant.adapter}
QUANTIZED = {number for number, variant in enumerate(SEVEN) if variant.quantization}


def changed(before: list[str], after: list[str]) -> set[int]:
    return {number for number, (left, right) in enumerate(zip(before, after, strict=True)) if left != right}


BASE_CHANGES: dict[str, Callable[[Path], Any]] = {
    "one-bit-of-one-weight": lambda folder: edit_tensor(folder / "model.safetensors", "layers.1.mlp.up_proj"),
    "configuration": lambda folder: edit_json(folder / "config.json", rms_norm_eps=1e-3),
    "generation-configuration": lambda folder: edit_json(folder / "generation_config.json", temperature=0.2),
    "code-of-its-own": lambda folder: (folder / "modeling_own.py").write_text("X = 1\n"),
    "vocabulary": lambda folder: tiny_tokenizer("<new>").save_pretrained(folder),
    "special-tokens": lambda folder: edit_json(folder / "tokenizer_config.json", eos_token="a"),
    "chat-template": lambda folder: (folder / "chat_template.jinja").write_text(CHATML),
}


@pytest.mark.parametrize("change", BASE_CHANGES)
def test_base_counts(change: str, base: Path, adapter: Path) -> None:
    before = identities(base, adapter)
    BASE_CHANGES[change](base)
    assert changed(before, identities(base, adapter)) == ALL


def test_code_of_the_base_counts_when_it_changes(base: Path, adapter: Path) -> None:
    (base / "modeling_own.py").write_text("X = 1\n")
    before = identities(base, adapter)
    (base / "modeling_own.py").write_text("X = 2\n")
    assert changed(before, identities(base, adapter)) == ALL


@pytest.mark.parametrize("spec", [{"dtype": "bfloat16"}, {"attn_implementation": "eager"}], ids=str)
def test_how_the_base_is_loaded_counts(spec: dict[str, str], base: Path, adapter: Path) -> None:
    assert changed(identities(base, adapter), identities(base, adapter, **spec)) == ALL


def test_the_template_asked_for_counts(base: Path, adapter: Path, tmp_path: Path) -> None:
    found = []
    for number, text in enumerate((CHATML, CHATML + "\n")):
        file = tmp_path / f"{number}.jinja"
        file.write_text(text)
        found.append(identities(base, adapter, chat_template=str(file)))
    assert changed(*found) == ALL


ADAPTER_CHANGES: dict[str, Callable[[Path], Any]] = {
    "one-bit-of-one-weight": lambda folder: edit_tensor(folder / "adapter_model.safetensors", "lora_A"),
    "scale": lambda folder: edit_json(folder / "adapter_config.json", lora_alpha=17),
    "rslora": lambda folder: edit_json(folder / "adapter_config.json", use_rslora=True),
    "targets": lambda folder: edit_json(folder / "adapter_config.json", target_modules=["q_proj"]),
    "tokenizer-of-its-own": lambda folder: tiny_tokenizer("<new>").save_pretrained(folder),
    "template-of-its-own": lambda folder: tiny_tokenizer(chat_template=CHATML).save_pretrained(folder),
}


@pytest.mark.parametrize("change", ADAPTER_CHANGES)
def test_adapter_counts(change: str, base: Path, adapter: Path) -> None:
    before = identities(base, adapter)
    ADAPTER_CHANGES[change](adapter)
    assert changed(before, identities(base, adapter)) == WITH_ADAPTER


def test_an_adapters_copy_of_the_bases_tokenizer_changes_nothing(base: Path, adapter: Path) -> None:
    """As trainers write one beside every adapter."""
    before = identities(base, adapter)
    load(base).tokenizer.save_pretrained(adapter)
    assert identities(base, adapter) == before


OTHER_VALUES: dict[str, Any] = {
    "bnb_4bit_quant_type": "fp4",
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_quant_storage": "float16",
    "llm_int8_threshold": 5.0,
    "llm_int8_skip_modules": ["lm_head", "down_proj"],
    "llm_int8_enable_fp32_cpu_offload": True,
    "llm_int8_has_fp16_weight": True,
}


def test_every_field_of_a_quantization_counts(base: Path, adapter: Path) -> None:
    assert OTHER_VALUES.keys() | {"load_in_4bit", "load_in_8bit"} == QuantizationSpec.model_fields.keys()
    loaded = load(base)
    before = [factory(loaded, a=adapter).identity(variant) for variant in SEVEN]
    widths = {"load_in_4bit": False, "load_in_8bit": True}
    for change in [{key: value} for key, value in OTHER_VALUES.items()] + [widths]:
        other = {"nf4": QuantizationSpec(**(NF4.model_dump() | change))}
        after = [factory(loaded, quantizations=other, a=adapter).identity(variant) for variant in SEVEN]
        assert changed(before, after) == QUANTIZED, change
        assert len(set(after)) == 7


def test_versions_count(base: Path, adapter: Path) -> None:
    parts = factory(load(base), a=adapter).parts(SEVEN[3])
    for package, module in (("torch", torch), ("peft", sys.modules[PeftModel.__module__.partition(".")[0]])):
        assert parts[f"version:{package}"] == module.__version__
    assert {"version:transformers", "version:bitsandbytes"} <= parts.keys()
    assert "absent" not in parts.values()


def test_identity_is_the_hash_of_its_parts(base: Path, adapter: Path) -> None:
    made = factory(load(base), a=adapter)
    for variant in SEVEN:
        parts = made.parts(variant)
        assert made.identity(variant) == sha256_json(parts)
        assert set(map(type, parts.values())) == {str}
    bare = variant_parts(
        VariantSpec(name="x"), {"base": "1"}, adapter=None, quantization=None, tokenizer=tiny_tokenizer()
    )
    assert bare.keys() == {"base", "merge", "tokenizer", "chat_template"}


def test_tokenizer_hash_sees_what_prompts_become() -> None:
    plain = tokenizer_hash(tiny_tokenizer())
    assert tokenizer_hash(tiny_tokenizer()) == plain
    assert tokenizer_hash(tiny_tokenizer("<new>")) != plain
    with_bos = tiny_tokenizer()
    with_bos.add_bos_token = True
    assert tokenizer_hash(with_bos) != plain


def test_adapter_hash_needs_no_model(adapter: Path) -> None:
    assert read_adapter("a", adapter, "here").sha256 == read_adapter("b", adapter, "there").sha256


def test_two_bases_that_differ_only_in_their_seed(adapter: Path, tmp_path: Path) -> None:
    folders = [save_base(tmp_path / str(seed), "llama", seed=seed) for seed in (0, 1)]
    assert not torch.equal(tiny_model("llama").lm_head.weight, tiny_model("llama", seed=1).lm_head.weight)
    assert changed(*(identities(folder, adapter) for folder in folders)) == ALL
