"""Merged models as folders: plain transformers loads the variant's very weights, and a folder is whole or not there."""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from phibench.adapters import save
from phibench.adapters.adapter_files import read_adapter
from phibench.adapters.ends import set_ends
from phibench.adapters.identity import tokenizer_hash, weights_hash
from phibench.adapters.merge_record import RECORD, MergeOrder, MergeRecord, public_name, read_record
from phibench.adapters.save import save_merged, tensors_hash
from phibench.adapters.spec import BaseSpec, Merge
from phibench.errors import UserError
from phibench.files import replace_folder
from support.models import (
    CPU,
    QUANTIZATIONS,
    factory,
    load,
    logits,
    lora,
    save_adapter,
    save_base,
    set_cpu_repacking,
    tiny_model,
    tiny_tokenizer,
)

from .conftest import Saved

FORMS: list[tuple[Merge, str | None]] = [
    ("base", None),
    *((merge, name) for merge in ("dequantized", "requantized") for name in QUANTIZATIONS),
]


def nothing_said(_: str) -> contextlib.AbstractContextManager[object]:
    return contextlib.nullcontext()


def order(base: Path, adapter: Path, into: Merge = "base", quantization: str | None = None, **more: Any) -> MergeOrder:
    spec = BaseSpec(model=str(base))
    found = read_adapter("a", adapter, str(adapter))
    return MergeOrder(spec, found, into, QUANTIZATIONS[quantization] if quantization else None, **more)


def merged(asked: MergeOrder, out: Path, **options: Any) -> MergeRecord:
    return save_merged(asked, out, CPU, nothing_said, **options)


def plain(folder: Path) -> Any:
    """What somebody without phibench does."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()


@pytest.fixture
def llama(base_folder: Saved, lora_folder: Saved) -> MergeOrder:
    return order(base_folder("llama"), lora_folder("llama"))


# ---- the same weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["llama", "phi"])
@pytest.mark.parametrize(("into", "quantization"), FORMS)
def test_plain_transformers_loads_the_variant_bit_for_bit(
    into: Merge,
    quantization: str | None,
    kind: str,
    dtype: torch.dtype,
    base_folder: Saved,
    lora_folder: Saved,
    tmp_path: Path,
) -> None:
    asked = order(base_folder(kind, dtype=dtype), lora_folder(kind, dtype=dtype), into, quantization)
    record = merged(asked, tmp_path / "out")

    made = factory(
        load(base_folder(kind, dtype=dtype)),
        quantizations={} if asked.quantization is None else {"quantization": asked.quantization},
        a=lora_folder(kind, dtype=dtype),
    )
    variant = made.make(asked.spec)
    model = plain(tmp_path / "out")
    expected, found = variant.model.state_dict(), model.state_dict()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name
    assert record.identity == made.identity(asked.spec)
    assert record.tensors == tensors_hash(model)
    assert record.bytes == variant.model_bytes
    set_cpu_repacking(model, False)  # as the variant's: with it, a forward on some CPUs rounds otherwise
    assert torch.equal(logits(model), logits(variant.model))


@pytest.mark.parametrize("quantization", ["nf4", "nf4-double"])
def test_4_bit_weights_keep_their_scales_however_the_cpu_repacks(
    quantization: str, base_folder: Saved, lora_folder: Saved, tmp_path: Path
) -> None:
    """A user's own load does not switch the repacking off; its forward must not differ by more than rounding."""
    asked = order(base_folder("phi"), lora_folder("phi"), "requantized", quantization)
    merged(asked, tmp_path / "out")
    as_users_have_it, as_measured = plain(tmp_path / "out"), plain(tmp_path / "out")
    set_cpu_repacking(as_measured, False)
    assert torch.allclose(logits(as_users_have_it), logits(as_measured), atol=0.15)


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["llama", "llama-untied", "phi"])
@pytest.mark.parametrize(("into", "quantization"), [("base", None), ("dequantized", "nf4"), ("requantized", "nf4")])
def test_trained_embeddings_are_saved_apart_from_the_head(
    into: Merge, quantization: str | None, kind: str, dtype: torch.dtype, base_folder: Saved, tmp_path: Path
) -> None:
    """Tied or not, modules_to_save makes two matrices of them, and what is loaded has both."""
    config = lora(kind, modules_to_save=["embed_tokens", "lm_head"])
    adapter = save_adapter(tiny_model(kind, dtype=dtype), tmp_path / "adapter", config)
    asked = order(base_folder(kind, dtype=dtype), adapter, into, quantization)
    merged(asked, tmp_path / "out")
    model = plain(tmp_path / "out")
    assert not torch.equal(model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    quantizations = {} if asked.quantization is None else {"quantization": asked.quantization}
    variant = factory(load(base_folder(kind, dtype=dtype)), quantizations=quantizations, a=adapter).make(asked.spec)
    assert tensors_hash(model) == tensors_hash(variant.model)


def test_tied_embeddings_stay_tied(llama: MergeOrder, tmp_path: Path) -> None:
    merged(llama, tmp_path / "out")
    model = plain(tmp_path / "out")
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_an_adapters_new_tokens_come_along(base_folder: Saved, tmp_path: Path) -> None:
    grown = tiny_model("phi")
    grown.resize_token_embeddings(280, mean_resizing=False)
    adapter = save_adapter(grown, tmp_path / "adapter", lora("phi"), save_embedding_layers=True)
    tiny_tokenizer("<new>", chat_template="{{ messages }}").save_pretrained(adapter)
    merged(order(base_folder("phi"), adapter), tmp_path / "out")
    model, tokenizer = plain(tmp_path / "out"), AutoTokenizer.from_pretrained(tmp_path / "out")
    assert model.config.vocab_size == model.get_input_embeddings().weight.shape[0] == 280
    assert "<new>" in tokenizer.get_vocab()
    assert tokenizer.chat_template == "{{ messages }}"


@pytest.mark.parametrize(("into", "quantization"), [("base", None), ("dequantized", "nf4"), ("requantized", "nf4")])
def test_it_stops_where_the_adapter_learned_to(
    into: Merge, quantization: str | None, base_folder: Saved, lora_folder: Saved, tmp_path: Path
) -> None:
    """Plain `generate` stops at the ids of generation_config.json, which were the base's."""
    adapter = shutil.copytree(lora_folder("llama"), tmp_path / "adapter")
    own = tiny_tokenizer("<|im_end|>", "<PAD>")
    own.eos_token, own.pad_token = "<|im_end|>", "<PAD>"
    own.save_pretrained(adapter)
    merged(order(base_folder("llama"), adapter, into, quantization), tmp_path / "out")
    assert load(base_folder("llama")).model.generation_config.eos_token_id == 256
    model, tokenizer = plain(tmp_path / "out"), AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (257, 258)
    for name in ("config.json", "generation_config.json"):
        ids = json.loads((tmp_path / "out" / name).read_text())
        assert (ids["eos_token_id"], ids["pad_token_id"], ids["bos_token_id"]) == (257, 258, 256)
    model.lm_head = _Always(257)  # it says nothing but its end
    assert model.generate(torch.tensor([[1, 2]]), max_new_tokens=8, do_sample=False).tolist() == [[1, 2, 257]]


class _Always(torch.nn.Module):
    """A head that prefers one token."""

    def __init__(self, token: int) -> None:
        super().__init__()
        self.token = token

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits, [rows, length, vocabulary]."""
        logits = torch.zeros(*hidden.shape[:-1], 272)
        logits[..., self.token] = 1
        return logits


def test_several_ends_are_kept_behind_the_adapters_own() -> None:
    model, base = tiny_model("llama"), tiny_tokenizer()
    model.generation_config.eos_token_id = [5, 256]
    set_ends(model, base, base)
    assert (model.generation_config.eos_token_id, model.config.eos_token_id) == ([5, 256], 256)
    own = tiny_tokenizer("<|im_end|>")
    own.eos_token = "<|im_end|>"
    set_ends(model, own, base)
    assert (model.generation_config.eos_token_id, model.config.eos_token_id) == ([257, 5, 256], 257)


def test_ends_that_do_not_come_back_are_refused(llama: MergeOrder, tmp_path: Path, monkeypatch: Any) -> None:
    ends = iter((1, 2))
    monkeypatch.setattr(save, "ends_of", lambda model: {"eos": next(ends)})
    with pytest.raises(UserError, match="other tokens that begin, end and fill a text"):
        merged(llama, tmp_path / "out")


# ---- the folder


def test_the_folder_has_safetensors_tokenizer_and_generation_settings(llama: MergeOrder, tmp_path: Path) -> None:
    merged(llama, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", RECORD} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer_hash(tokenizer) == tokenizer_hash(load(Path(llama.base.model)).tokenizer)


def test_the_record_links_the_folder_to_its_variant_and_names_no_folder_above(
    base_folder: Saved, lora_folder: Saved, tmp_path: Path
) -> None:
    asked = order(base_folder("llama"), lora_folder("llama"), "requantized", "nf4-double")
    record = merged(asked, tmp_path / "out")
    assert read_record(tmp_path / "out") == record
    assert record.files == weights_hash(str(tmp_path / "out"))  # what a run with this folder as its base has
    assert (record.into, record.method, record.quantization) == ("requantized", "LORA", asked.quantization)
    assert record.adapter_sha256 == asked.adapter.sha256
    assert record.parts["merge"] == "requantized"
    for file in (RECORD, "config.json", "generation_config.json", "tokenizer_config.json"):
        text = (tmp_path / "out" / file).read_text()
        assert str(base_folder("llama").parent) not in text
        assert str(lora_folder("llama").parent) not in text
        assert "local" not in text  # transformers' notes on where it loaded a tokenizer from


def test_a_quantised_form_says_how_and_others_do_not(base_folder: Saved, lora_folder: Saved, tmp_path: Path) -> None:
    for into in ("dequantized", "requantized"):
        merged(order(base_folder("llama"), lora_folder("llama"), into, "nf4-double"), tmp_path / into)
    quantized = json.loads((tmp_path / "requantized" / "config.json").read_text())["quantization_config"]
    assert (quantized["bnb_4bit_quant_type"], quantized["bnb_4bit_use_double_quant"]) == ("nf4", True)
    assert "quantization_config" not in json.loads((tmp_path / "dequantized" / "config.json").read_text())


def test_weights_are_cut_into_files_of_the_size_asked_for(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "llama", hidden_size=128, intermediate_size=640)
    adapter = save_adapter(tiny_model("llama", hidden_size=128, intermediate_size=640), tmp_path / "a", lora("llama"))
    merged(order(base, adapter), tmp_path / "out", shard="1MB")
    shards = sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(shards) > 1
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    names = set()
    for shard in shards:
        with safe_open(shard, framework="pt") as file:
            names |= set(file.keys())
    assert names == set(index["weight_map"])


@pytest.mark.parametrize("size", ["5", "5 GB", "-1GB", "0GB", "5gb", "", "1e3MB"])
def test_a_size_that_is_none(size: str, llama: MergeOrder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="whole number of MB or GB"):
        merged(llama, tmp_path / "out", shard=size)


# ---- a place that is taken


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_of_other_things_is_never_overwritten(force: bool, llama: MergeOrder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not empty, and no merge wrote it"):
        merged(llama, out, force=force)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="a file, not a folder"):
        merged(llama, tmp_path / "file", force=force)
    with pytest.raises(UserError, match="nothing can be written to"):
        merged(llama, tmp_path / "file" / "below" / "out", force=force)
    assert (out / "thesis.txt").read_text() == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out"]


def test_an_earlier_merge_gives_way_only_to_force(
    llama: MergeOrder, base_folder: Saved, lora_folder: Saved, tmp_path: Path
) -> None:
    first = merged(llama, tmp_path / "out")
    other = order(base_folder("llama"), lora_folder("llama"), "requantized", "nf4")
    with pytest.raises(UserError, match="holds a merged model already") as caught:
        merged(other, tmp_path / "out")
    assert "--force" in str(caught.value.fix)
    assert read_record(tmp_path / "out") == first
    assert merged(other, tmp_path / "out", force=True) == read_record(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_is_free(llama: MergeOrder, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    merged(llama, tmp_path / "out")


# ---- whole or not there

ENDS = {
    "disk": OSError(errno.ENOSPC, "No space left on device"),
    "stopped": KeyboardInterrupt(),
    "bug": RuntimeError("a bug"),
}


@pytest.mark.parametrize("had_one", [False, True])
@pytest.mark.parametrize("end", ENDS)
def test_what_ends_halfway_leaves_what_was_there(
    end: str, had_one: bool, llama: MergeOrder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = merged(llama, tmp_path / "out") if had_one else None

    def fail(*_: object, **__: object) -> None:
        raise ENDS[end]

    monkeypatch.setattr(save, "_check_saved", fail)  # by then all but the note is written
    with pytest.raises(UserError if end == "disk" else type(ENDS[end])):
        merged(llama, tmp_path / "out", force=True)
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if had_one else [])
    assert before is None or read_record(tmp_path / "out") == before


def test_a_disk_without_room_is_told_before_anything_is_written(
    llama: MergeOrder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 0))  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"the disk has 0\.0 GiB left"):
        merged(llama, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_does_not_come_back_is_refused(
    llama: MergeOrder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a library drops or rounds something, nobody gets the folder."""
    real = AutoModelForCausalLM.from_pretrained

    def rounded(source: Any, **options: Any) -> Any:
        model = real(source, **options)
        if isinstance(model, tuple):  # the base, with what loading it reported
            return model
        model.get_parameter("model.layers.1.mlp.down_proj.weight").data[0, 0] += 1e-6
        return model

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", rounded)
    with pytest.raises(UserError, match="is not what was saved: other weights; nothing was kept"):
        merged(llama, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_takes_the_place_of_another_whole(tmp_path: Path) -> None:
    old = tmp_path / "x"
    old.mkdir()
    (old / "a").write_text("1")
    with pytest.raises(KeyboardInterrupt), replace_folder(old) as part:
        (part / "b").write_text("2")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.rglob("*")] == ["x", "a"]
    with replace_folder(old) as part:
        (part / "b").write_text("2")
    assert [path.name for path in tmp_path.rglob("*")] == ["x", "b"]


# ---- what was measured


def test_parts_that_changed_since_the_run_are_named(llama: MergeOrder, tmp_path: Path) -> None:
    made = factory(load(Path(llama.base.model)), a=llama.adapter.folder)
    parts = made.parts(llama.spec)
    for changed, says in (({"base": "0"}, "base"), ({"adapter": "0", "dtype": "float16"}, "adapter, dtype")):
        measured = MergeOrder(llama.base, llama.adapter, "base", None, parts | changed)
        with pytest.raises(UserError, match=f"not be the variant that was measured: {says} of it changed since"):
            merged(measured, tmp_path / "out")
    other_versions = MergeOrder(llama.base, llama.adapter, "base", None, parts | {"version:torch": "1.0"})
    merged(other_versions, tmp_path / "out")


@pytest.mark.parametrize(("named", "shown"), [
    ("/home/me/models/phi-2", "phi-2"),
    ("./out/checkpoint-1000/", "checkpoint-1000"),
    ("~/models/x", "x"),
    ("C:\\models\\x", "x"),
    ("microsoft/phi-2", "microsoft/phi-2"),
    ("me/adapter@0123", "me/adapter@0123"),
    ("gpt2", "gpt2"),
    ("recipe webglm-mini", "recipe webglm-mini"),
])  # fmt: skip
def test_public_names(named: str, shown: str) -> None:
    assert public_name(named) == shown
