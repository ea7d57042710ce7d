"""The contract check: each way in which a suite may ask an adapter otherwise than it was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phibench.adapters.adapter_files import TRAINING
from phibench.adapters.formats import CHAT_TEMPLATES
from phibench.adapters.recipe import USUAL_LENGTH, Recipe, TokenizerSpec, read_recipe
from phibench.adapters.recipe_table import find_recipe
from phibench.files import sha256_json
from phibench.harness.contract import breaches, folder_breaches, suite_breaches
from phibench.harness.suite import Suite

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}


def suite(base: dict[str, Any] | None = None, nf4: dict[str, Any] | None = None, **task: Any) -> Suite:
    return Suite.model_validate(
        {
            "name": "s",
            "base": {"model": "smollm2-135m", **(base or {})},
            "quantizations": {"nf4": {**NF4, **(nf4 or {})}},
            "adapters": {"a": {"path": "nowhere"}},
            "variants": [{"name": "x", "adapter": "a", "quantization": "nf4"}],
            "tasks": [{"name": "mini_webglm_qa", **task}],
        }
    )


def recipe(name: str = "webglm-qlora-small", *settings: str) -> Recipe:
    return read_recipe(find_recipe(name), settings)


def test_an_adapter_that_is_asked_as_it_was_trained() -> None:
    assert breaches(suite(), "a", recipe=recipe()) == []
    assert breaches(suite({"max_length": 1024}), "a", config={}, recipe=recipe(), parts={"dtype": "bfloat16"}) == []
    config = {"base_model_name_or_path": "/elsewhere/smollm2-135m/", "revision": None}
    assert breaches(suite(), "a", config=config) == []
    assert breaches(suite(nf4={"bnb_4bit_compute_dtype": "bfloat16"}), "a", recipe=recipe()) == []  # the base's own


BREACHES: list[tuple[Suite, dict[str, Any], str]] = [
    (
        suite(),
        {"config": {"base_model_name_or_path": "microsoft/phi-2"}},
        "made for the base microsoft/phi-2; base.mod",
    ),
    (
        suite(),
        {"config": {"base_model_name_or_path": "evil/phi-2"}},
        "made for the base evil/phi-2; base.model is smol",
    ),
    (suite({"revision": "b"}), {"config": {"revision": "a"}}, "revision a of the base; base.revision is b"),
    (
        suite(),
        {"recipe": recipe("riddles-chatml-qlora-small")},
        'riddles in a chat template ("chatml"); base.chat_te',
    ),
    (suite({"chat_template": True}), {"recipe": recipe()}, "trained on plain prompts (webglm_qa); base.chat_template"),
    (
        suite(override={"doc_to_text": "Q: {{question}}"}),
        {"recipe": recipe()},
        "tasks.mini_webglm_qa.override changes doc",
    ),
    (suite(nf4={"bnb_4bit_quant_type": "fp4"}), {"recipe": recipe()}, "quantizations.nf4: bnb_4bit_quant_type"),
    (
        suite(nf4={"bnb_4bit_use_double_quant": False}),
        {"recipe": recipe()},
        "quantizations.nf4: bnb_4bit_use_double_quant",
    ),
    (
        suite(name="mini_webglm_qa_loss", override={"doc_to_text": "Q: {{question}}"}),
        {"recipe": recipe()},
        "tasks.mini_webglm_qa_loss.override changes doc_to_text",
    ),
    (
        suite(name="webglm_pairs", override={"description": "Hear!"}),
        {"recipe": recipe()},
        "tasks.webglm_pairs.override changes description",
    ),
    (suite(num_fewshot=2), {"recipe": recipe()}, "without examples before a prompt; tasks.mini_webglm_qa puts 2"),
    (
        suite({"system_instruction": "Be brief."}),
        {"recipe": recipe()},
        "without a system instruction; base.system_instruction is put",
    ),
    (suite({"max_length": 512}), {"recipe": recipe()}, "at most 1024 tokens; base.max_length = 512 cuts"),
    (suite({"max_length": 2048}), {"recipe": recipe()}, "at most 1024 tokens; base.max_length = 2048"),
    (suite({"dtype": "float16"}), {"parts": {"dtype": "bfloat16"}}, "a base in bfloat16; base.dtype is float16"),
]


@pytest.mark.parametrize(("asked", "trained", "says"), BREACHES, ids=[says[:40] for *_, says in BREACHES])
def test_breaches(asked: Suite, trained: dict[str, Any], says: str) -> None:
    found = breaches(asked, "a", **trained)
    assert any(says in breach and breach.startswith("adapters.a: ") for breach in found), found


def test_trained_on_a_quantised_base_and_asked_on_none() -> None:
    fields = suite().model_dump(exclude_none=True)
    plain = Suite.model_validate({**fields, "quantizations": {}, "variants": [{"name": "x", "adapter": "a"}]})
    [told] = breaches(plain, "a", recipe=recipe())
    assert told == "adapters.a: it was trained on a quantised base, and no variant asks it on one"


def test_tokens_and_modules_of_a_folder(tmp_path: Path) -> None:
    config = {"base_model_name_or_path": "smollm2-135m", "target_modules": ["q_proj", "fc1", "layers.0.v_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    tokens = {"bos": None, "eos": "<|im_end|>", "pad": "<PAD>", "chat_template": None}
    (tmp_path / "phibench_training.json").write_text(json.dumps({"tokens": tokens}))
    asked = {"bos": None, "eos": "<|endoftext|>", "pad": "<|endoftext|>"}
    assert folder_breaches(suite(), "a", tmp_path, tokens=asked, modules={"q_proj", "v_proj", "layers"}) == [
        "adapters.a: it was trained with '<|im_end|>' at the end of a text;"
        " the tokenizer that it is asked with has '<|endoftext|>'",
        "adapters.a: it targets fc1, of which the base has no module",
    ]
    assert folder_breaches(suite(), "a", tmp_path, tokens={**asked, "eos": "<|im_end|>"}) == []


def test_tasks_of_another_format_may_be_changed() -> None:
    other = suite(name="mini_dialogsum", num_fewshot=2, override={"doc_to_text": "{{dialogue}}"})
    assert breaches(other, "a", recipe=recipe()) == []


def test_the_chat_template_is_the_one_that_was_trained_in(tmp_path: Path) -> None:
    chat, other = "trained in another chat template", tmp_path / "other.jinja"
    other.write_text("{{ messages }}")
    riddles = recipe("riddles-chatml-qlora-small").model_copy(update={"tokenizer": TokenizerSpec()})
    assert not any(chat in told for told in breaches(suite({"chat_template": "chatml"}), "a", recipe=riddles))
    assert any(chat in told for told in breaches(suite({"chat_template": str(other)}), "a", recipe=riddles))

    (tmp_path / "adapter_config.json").write_text("{}")
    own = sha256_json(CHAT_TEMPLATES["riddles"])
    record = {"recipe": riddles.model_dump(mode="json"), "tokens": {"chat_template": "base's own"}}
    asked = suite({"chat_template": True})
    for told, template, differs in ((record, own, False), (record, "another", True), (record, None, False)):
        (tmp_path / "phibench_training.json").write_text(json.dumps(told))
        found = folder_breaches(asked, "a", tmp_path, template=template)
        assert any(chat in breach for breach in found) == differs
    # Where the recipe put the template into the tokenizer, the record says which it was.
    changed = riddles.model_copy(update={"tokenizer": TokenizerSpec(chat_template=True)})
    told = {"recipe": changed.model_dump(mode="json"), "tokens": {"chat_template": "an earlier one"}}
    (tmp_path / "phibench_training.json").write_text(json.dumps(told))
    assert any(chat in breach for breach in folder_breaches(asked, "a", tmp_path, template=own))
    assert not any(chat in breach for breach in folder_breaches(asked, "a", tmp_path, template="an earlier one"))


def test_a_recipe_without_a_length_has_the_libraries_own() -> None:
    from trl import DPOConfig, SFTConfig

    assert {config.__dataclass_fields__["max_length"].default for config in (SFTConfig, DPOConfig)} == {USUAL_LENGTH}
    read = recipe()
    del read.training["max_length"]
    assert breaches(suite({"max_length": USUAL_LENGTH}), "a", recipe=read) == []
    (told,) = breaches(suite({"max_length": 2048}), "a", recipe=read)
    assert "trained on at most 1024 tokens; base.max_length = 2048 asks it more" in told


@pytest.mark.parametrize("text", ["[]", "{", "3", '{"recipe": []}'])
def test_a_broken_training_record_is_as_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / TRAINING).write_text(text)
    assert folder_breaches(suite(), "a", tmp_path) == []


def test_a_model_that_reads_less_than_was_trained_on(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "phibench_training.json").write_text(json.dumps({"recipe": recipe().model_dump(mode="json")}))
    assert folder_breaches(suite(), "a", tmp_path, context=1024) == []
    [told] = folder_breaches(suite(), "a", tmp_path, context=512)
    assert told == "adapters.a: it was trained on at most 1024 tokens; the model reads 512, and longer prompts are cut"
    assert folder_breaches(suite({"max_length": 1024}), "a", tmp_path, context=512) == []


def test_trained_without_quantisation() -> None:
    plain = recipe("webglm-qlora-small").model_copy(update={"quantization": None})
    assert breaches(suite(), "a", recipe=plain) == ["adapters.a: it was trained on a base that is not quantised"]


def test_the_base_is_known_by_its_weights_where_it_can_be() -> None:
    parts = {"base": "123"}
    config = {"base_model_name_or_path": "a-copy"}
    assert breaches(suite(), "a", config=config, parts=parts, base="123") == []
    [told] = breaches(suite(), "a", config={"base_model_name_or_path": "smollm2-135m"}, parts=parts, base="124")
    assert told == "adapters.a: it was trained on other weights than those of smollm2-135m"


def test_a_record_of_another_version_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "phibench_training.json").write_text(json.dumps({"recipe": {"task": "webglm_qa"}}))
    assert folder_breaches(suite(), "a", tmp_path) == []


def test_from_a_folder_and_from_a_suite(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "gpt2"}))
    [only] = folder_breaches(suite(), "a", tmp_path)
    record = {"recipe": recipe().model_dump(mode="json"), "parts": {"dtype": "float32"}}
    (tmp_path / "phibench_training.json").write_text(json.dumps(record))
    both = folder_breaches(suite({"dtype": "bfloat16"}), "a", tmp_path)
    assert both == [only, "adapters.a: it was trained on a base in float32; base.dtype is bfloat16"]
    fields = suite().model_dump(exclude_none=True)
    fields["adapters"] = {"a": {"path": str(tmp_path)}, "b": {"recipe": "dialogsum-qlora"}, "c": {"path": "nowhere"}}
    told = suite_breaches(Suite.model_validate(fields))
    assert [breach.partition(":")[0] for breach in told] == ["adapters.a"]  # b is trained on the suite's own base


@pytest.mark.parametrize(
    ("trained", "asked", "same"),
    [
        ("microsoft/phi-2", "/models/phi-2", True),
        ("microsoft/phi-2", "evil/phi-2", False),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m", True),
        ("/cache/models/smollm2-135m-0.1.2", "smollm2-135m", True),
        ("microsoft/phi-2", "/hub/models--microsoft--phi-2/snapshots/abc", True),
        ("evil/phi-2", "/hub/models--microsoft--phi-2/snapshots/abc", False),
    ],
)
def test_names_of_one_model(trained: str, asked: str, same: bool) -> None:
    found = breaches(suite({"model": asked}), "a", config={"base_model_name_or_path": trained})
    assert (found == []) == same


def test_a_hub_commit_and_a_hash_of_files_are_not_compared() -> None:
    config = {"base_model_name_or_path": "microsoft/phi-2"}
    parts = {"base": "microsoft/phi-2@abc"}
    assert breaches(suite({"model": "/models/phi-2"}), "a", config=config, parts=parts, base="0f") == []
