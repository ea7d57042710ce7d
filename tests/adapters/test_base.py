"""Loading a base and a tokenizer: what prompts become, and every way in which loading can fail."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import processors
from transformers import AutoTokenizer, BitsAndBytesConfig, CodeGenTokenizer

from phibench.adapters.base import LoadedBase, base_source, load_base, load_tokenizer
from phibench.adapters.spec import BaseSpec, VariantSpec
from phibench.errors import UserError
from phibench.harness.engine.plain import PlainEngine
from support.models import (
    CHATML,
    EOS,
    EOS_ID,
    TOKENS,
    factory,
    load,
    lora,
    save_adapter,
    tiny_model,
    tiny_tokenizer,
)

from .conftest import Saved

SPEC = BaseSpec(model="x")
PROMPT = "Question: why?"


def saved(folder: Path, tokenizer: Any) -> str:
    tokenizer.save_pretrained(folder)
    return str(folder)


# ---- EOS never reaches a prompt


def with_eos(**options: Any) -> Any:
    """A tokenizer as a training script leaves it: EOS after every text."""
    tokenizer = tiny_tokenizer(**options)
    tokenizer.add_eos_token = True
    return tokenizer


def with_bos_and_eos() -> Any:
    tokenizer = with_eos()
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer.add_bos_token = True
    return tokenizer


def in_a_sequence() -> Any:
    """As Llama 3's tokenizer.json has it: one of several post-processors adds the tokens."""
    tokenizer = tiny_tokenizer()
    template = processors.TemplateProcessing(single=f"$A {EOS}", special_tokens=[(EOS, EOS_ID)])
    tokenizer.backend_tokenizer.post_processor = processors.Sequence([processors.ByteLevel(), template])
    return tokenizer


@pytest.mark.parametrize("make", [with_eos, with_bos_and_eos, in_a_sequence], ids=lambda make: make.__name__)
def test_saved_with_eos(make: Callable[[], Any], tmp_path: Path) -> None:
    """transformers 5 writes the EOS into tokenizer.json and forgets that it was asked for."""
    tokenizer = make()
    source = saved(tmp_path, tokenizer)
    again = AutoTokenizer.from_pretrained(source)
    assert again.encode(PROMPT)[-1] == EOS_ID, "this tests nothing: the EOS was not saved"
    loaded = load_tokenizer(source, SPEC)
    assert loaded.encode(PROMPT) == tokenizer.encode(PROMPT)[:-1]
    assert loaded(PROMPT)["input_ids"] == tokenizer.encode(PROMPT)[:-1]
    assert loaded(["a", PROMPT], padding=True)["input_ids"][1] == tokenizer.encode(PROMPT)[:-1]
    assert loaded.encode(PROMPT, add_special_tokens=False) == tokenizer.encode(PROMPT, add_special_tokens=False)
    assert loaded.encode(f"a{EOS}")[-1] == EOS_ID  # one that the text spells out stays


def test_asked_for_in_the_configuration(tmp_path: Path) -> None:
    """Phi-2's own class, from vocab.json and merges.txt, with add_eos_token as its recipes set it."""
    vocabulary = tiny_tokenizer().get_vocab()
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    config = {"tokenizer_class": "CodeGenTokenizer", "add_eos_token": True, "eos_token": EOS, "bos_token": EOS}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    plain = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(plain, CodeGenTokenizer)
    assert plain.encode(PROMPT)[-1] == EOS_ID
    assert load_tokenizer(str(tmp_path), SPEC).encode(PROMPT) == plain.encode(PROMPT)[:-1]


@pytest.mark.parametrize("own", ["base", "adapter"])
def test_the_engine_sees_no_eos(own: str, base_folder: Saved, lora_folder: Saved, tmp_path: Path) -> None:
    """Answers are those of a tokenizer that never added it, whether it comes with the base or with the adapter."""
    base = Path(shutil.copytree(base_folder("llama"), tmp_path / "base"))
    adapter = Path(shutil.copytree(lora_folder("llama"), tmp_path / "adapter"))
    right = factory(load(base), a=adapter).make(VariantSpec(name="x", adapter="a"))
    saved(base if own == "base" else adapter, with_eos())
    variant = factory(load(base), a=adapter).make(VariantSpec(name="x", adapter="a"))
    request = (PROMPT, {"until": [], "max_gen_toks": 8, "do_sample": False}, 0)
    answers = [dict(PlainEngine(v.model, v.tokenizer).generate([request]))[0] for v in (right, variant)]
    assert answers[0] == answers[1]
    assert answers[0].tokens_in > len(PROMPT)


def test_one_that_adds_none_is_left_alone(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    template = processors.TemplateProcessing(single=f"{EOS} $A", special_tokens=[(EOS, EOS_ID)])
    tokenizer.backend_tokenizer.post_processor = template  # BOS, which is EOS here as in Phi-2's tokenizer
    loaded = load_tokenizer(saved(tmp_path, tokenizer), SPEC)
    assert loaded.encode("ab") == [EOS_ID, *tiny_tokenizer().encode("ab")]
    assert loaded.backend_tokenizer.post_processor.__getstate__() == template.__getstate__()


# ---- the padding token


def test_padding_token_is_eos_where_there_is_none(tmp_path: Path) -> None:
    loaded = load_tokenizer(saved(tmp_path, tiny_tokenizer()), SPEC)
    assert (loaded.pad_token, loaded.pad_token_id) == (EOS, EOS_ID)
    assert len(loaded) == TOKENS


def test_padding_token_of_its_own_is_kept(tmp_path: Path) -> None:
    loaded = load_tokenizer(saved(tmp_path, tiny_tokenizer("<pad>", pad_token="<pad>")), SPEC)
    assert (loaded.pad_token, loaded.pad_token_id) == ("<pad>", TOKENS)


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="no end-of-sequence token"):
        load_tokenizer(saved(tmp_path, tokenizer), SPEC)


# ---- chat templates


def test_missing_chat_template(base_folder: Saved) -> None:
    with pytest.raises(UserError, match="no chat template of its own") as caught:
        load(base_folder("llama"), chat_template=True)
    assert caught.value.where == "base.chat_template"


def test_own_chat_template(tmp_path: Path) -> None:
    source = saved(tmp_path, tiny_tokenizer(chat_template=CHATML))
    for asked in (True, False):
        assert load_tokenizer(source, BaseSpec(model="x", chat_template=asked)).chat_template == CHATML


def test_chat_template_from_a_file_comes_first(tmp_path: Path) -> None:
    source = saved(tmp_path, tiny_tokenizer(chat_template="{{ 1 }}"))
    file = tmp_path / "mine.jinja"
    file.write_text(CHATML)
    loaded = load_tokenizer(source, BaseSpec(model="x", chat_template=str(file)))
    messages = [{"role": "user", "content": "hi"}]
    assert loaded.apply_chat_template(messages, tokenize=False) == "<|user|>hi"


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"], ids=["missing", "not-text"])
def test_chat_template_file_that_cannot_be_read(content: bytes | None, base_folder: Saved, tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match="the chat template cannot be read") as caught:
        load(base_folder("llama"), chat_template=str(file))
    assert caught.value.where == f"base.chat_template = {file}"


def test_an_adapters_tokenizer_needs_the_template_too(base_folder: Saved, tmp_path: Path) -> None:
    base = Path(shutil.copytree(base_folder("llama"), tmp_path / "base"))
    saved(base, tiny_tokenizer(chat_template=CHATML))
    adapter = save_adapter(tiny_model("llama"), tmp_path / "adapter", lora("llama"))
    saved(adapter, tiny_tokenizer())
    made = factory(load(base, chat_template=True), a=adapter)
    with pytest.raises(UserError, match="no chat template of its own"):
        made.tokenizer(VariantSpec(name="x", adapter="a"))


def test_an_adapters_tokenizer_that_is_broken(base_folder: Saved, lora_folder: Saved, tmp_path: Path) -> None:
    adapter = Path(shutil.copytree(lora_folder("llama"), tmp_path / "adapter"))
    saved(adapter, tiny_tokenizer())
    (adapter / "tokenizer.json").write_text("{")
    made = factory(load(base_folder("llama")), a=adapter)
    with pytest.raises(UserError, match="its tokenizer cannot be loaded") as caught:
        made.identity(VariantSpec(name="x", adapter="a"))
    assert caught.value.where == f"adapters.a = {adapter}"


# ---- the model


def test_loaded_as_it_is_on_disk(base_folder: Saved) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        base = load(base_folder("phi", dtype))
        assert base.dtype == dtype
        assert base.source == str(base_folder("phi", dtype))
        assert base.revision is None
        assert not base.model.training
        assert not any(parameter.requires_grad for parameter in base.model.parameters())
        weights = load_file(base_folder("phi", dtype) / "model.safetensors")
        assert all(torch.equal(tensor, base.model.state_dict()[name]) for name, tensor in weights.items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_loaded_in_the_precision_asked_for(dtype: str, base_folder: Saved) -> None:
    base = load(base_folder("llama"), dtype=dtype)
    assert base.dtype == getattr(torch, dtype)
    assert {parameter.dtype for parameter in base.model.parameters()} == {getattr(torch, dtype)}


def test_attention_asked_for(base_folder: Saved) -> None:
    for name in ("eager", "sdpa"):
        assert load(base_folder("llama"), attn_implementation=name).model.config._attn_implementation == name


Break = Callable[[Path], Any]
BROKEN: dict[str, tuple[Break, str]] = {
    "no-configuration": (lambda f: (f / "config.json").unlink(), r"no config\.json"),
    "broken-configuration": (lambda f: (f / "config.json").write_text("{"), "cannot be loaded"),
    "unknown-architecture": (
        lambda f: (f / "config.json").write_text('{"model_type": "telepathy"}'),
        "cannot be loaded",
    ),
    "no-weights": (lambda f: (f / "model.safetensors").unlink(), "no safetensors weights|cannot be loaded"),
    "weights-cut-short": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:5000]),
        "cannot be loaded|safetensors",
    ),
    "no-tokenizer": (
        lambda f: [(f / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")],
        "cannot be loaded",
    ),
    "broken-tokenizer": (lambda f: (f / "tokenizer.json").write_text("{"), "cannot be loaded"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_folders(name: str, base_folder: Saved, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base_folder("llama"), tmp_path / "base"))
    breaking, message = BROKEN[name]
    breaking(folder)
    with pytest.raises(UserError, match=message) as caught:
        load(folder)
    assert caught.value.where == f"base.model = {folder}"


def test_weights_that_the_model_does_not_have(base_folder: Saved, tmp_path: Path) -> None:
    """transformers draws weights that are missing at random, and says so only in its log."""
    folder = Path(shutil.copytree(base_folder("phi"), tmp_path / "base"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(UserError, match=r"weights.*model\.layers\.2"):
        load(folder)


def test_weights_of_another_shape(base_folder: Saved, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base_folder("phi"), tmp_path / "base"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 128}))
    with pytest.raises(UserError, match="cannot be loaded"):
        load(folder)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        base_source(BaseSpec(model=str(tmp_path / "nowhere")))


def test_a_hub_name_is_handed_on() -> None:
    assert base_source(BaseSpec(model="microsoft/phi-2")) == "microsoft/phi-2"


def test_a_hub_name_that_is_not_cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="cannot be loaded") as caught:
        load_base(BaseSpec(model="somebody/some-model"), offline=True)
    assert caught.value.where == "base.model = somebody/some-model"


def test_a_quantized_base_is_refused(base_folder: Saved, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base_folder("llama"), tmp_path / "base"))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = BitsAndBytesConfig(load_in_4bit=True).to_dict()
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="already quantised"):
        load(folder)


def test_pickled_weights_are_read_only_where_that_is_allowed(base_folder: Saved, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base_folder("phi"), tmp_path / "base"))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="safetensors") as caught:
        load(folder)
    assert "allow_pickle = true" in str(caught.value.fix)
    allowed = load(folder, allow_pickle=True)
    right = load(base_folder("phi")).model.state_dict()
    assert all(torch.equal(tensor, right[name]) for name, tensor in allowed.model.state_dict().items())


def test_code_of_its_own_is_not_run(base_folder: Saved, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base_folder("llama"), tmp_path / "base"))
    mark = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w')\n")
    auto = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    config = json.loads((folder / "config.json").read_text()) | {"auto_map": auto, "model_type": "own"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="runs code of its own") as caught:
        load(folder)
    assert "base.trust_remote_code = true" in str(caught.value.fix)
    assert not mark.exists()


def test_a_loaded_base_says_what_it_is(base_folder: Saved) -> None:
    base = load(base_folder("llama"))
    assert isinstance(base, LoadedBase)
    assert base.spec == BaseSpec(model=str(base_folder("llama")))
