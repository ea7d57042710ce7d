"""Texts of the real small model: our steps against transformers' `generate`, one prompt at a time, token by token.

`PHIBENCH_TEST_LIMIT` sets the prompts of a task (few by default); docs/correctness.md has the figures for more.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from phibench.adapters.base import LoadedBase, clone_to, load_base
from phibench.adapters.spec import BaseSpec, VariantSpec
from phibench.harness.engine.attention import Way
from phibench.harness.engine.decoding import Decoder
from phibench.harness.engine.generate import Generation
from phibench.harness.engine.prompts import Prompt, read_prompts
from phibench.harness.engine.sampling import Choice
from phibench.harness.engine.support import find_way
from phibench.harness.suite import Suite
from phibench.harness.tasks import Prompting, build, load_tasks
from support.models import factory
from support.real import benchmark_cache, bundled_model

TIE = 1e-4  # of two logits: either token is right
NEW_TOKENS = 24
FORMS = {
    "base": {},
    "adapter": {"adapter": "a"},
    "base-nf4": {"quantization": "nf4"},
    "adapter-nf4": {"adapter": "a", "quantization": "nf4"},
    "merged": {"adapter": "a", "merge": "base"},
}
ENDS = {2}  # <|im_end|>, as its generation settings say


@cache
def real_base() -> LoadedBase:
    return load_base(BaseSpec(model=str(bundled_model()), dtype="float32"), offline=True)


def random_adapter(base: LoadedBase, folder: Path) -> Path:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=8, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(clone_to(base.model, torch.device("cpu")), config)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0.0, 0.1)
    model.save_pretrained(folder)
    return folder


def prompts(task: str, limit: int, tokenizer: Any) -> list[Prompt]:
    """A task's prompts, free to go on to the last token."""
    suite = Suite.model_validate(
        {"name": "x", "base": {"model": "m"}, "variants": [{"name": "base"}], "tasks": [{"name": task}]}
    )
    [loaded] = load_tasks(suite, suite.tasks)
    plain = Prompting(chat_template=None, system_instruction=None, fewshot_as_multiturn=False, key="plain")
    texts = dict.fromkeys(request.args[0] for request in build(suite, loaded, plain, None).requests)
    asked = [(text, {"until": [], "max_gen_toks": NEW_TOKENS}, 0) for text in list(texts)[:limit]]
    return read_prompts(asked, tokenizer, 2048)


def check(model: Any, tokenizer: Any, asked: list[Prompt]) -> tuple[int, int]:
    """(tokens that agree, texts that part at a tie); anything else fails."""
    way = find_way(model)
    assert isinstance(way, Way)
    generation = Generation(Decoder(model, way), tokenizer, Choice({}, {}), ENDS, 2048)
    found = dict(generation.run(range(len(asked)), asked))
    same, ties = 0, 0
    for i, prompt in enumerate(asked):
        given = torch.tensor([prompt.tokens])
        with torch.inference_mode():
            whole = model.generate(
                input_ids=given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                eos_token_id=sorted(ENDS),
                pad_token_id=0,
            )[0]
        expected = whole[len(prompt.tokens) :].tolist()
        parted = next((n for n, (a, b) in enumerate(zip(found[i], expected, strict=False)) if a != b), None)
        if parted is None:
            assert found[i] == expected
            same += len(expected)
            continue
        with torch.inference_mode():
            logits = model(input_ids=whole[None, : len(prompt.tokens) + parted]).logits[0, -1]
        gap = float(logits[expected[parted]] - logits[found[i][parted]])
        assert abs(gap) < TIE, (i, parted, gap)
        same, ties = same + parted, ties + 1
    return same, ties


@pytest.mark.model
@pytest.mark.parametrize("task", ["mini_webglm_qa", "mini_dialogsum"])
@pytest.mark.parametrize("form", FORMS)
def test_embedded_tasks_token_by_token(task: str, form: str, tmp_path: Path) -> None:
    base = real_base()
    model = factory(base, a=random_adapter(base, tmp_path)).make(VariantSpec(name="x", **FORMS[form])).model  # type: ignore[arg-type]
    asked = prompts(task, int(os.environ.get("PHIBENCH_TEST_LIMIT", "2")), base.tokenizer)
    same, ties = check(model, base.tokenizer, asked)
    print(f"{form} · {task}: {len(asked)} texts, {same} tokens the same, {ties} texts part at a tie")


@pytest.mark.hf
@pytest.mark.model
def test_dialogsum_token_by_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(benchmark_cache(tmp_path) / "datasets"))
    base = real_base()
    asked = prompts("dialogsum", int(os.environ.get("PHIBENCH_TEST_LIMIT", "4")), base.tokenizer)
    same, ties = check(clone_to(base.model, torch.device("cpu")), base.tokenizer, asked)
    print(f"base · dialogsum: {len(asked)} texts, {same} tokens the same, {ties} texts part at a tie")
