"""Preference tuning: each way to hold the reference, what moves and what does not, and its measure pair by pair."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from phibench.adapters import train as module
from phibench.adapters.base import LoadedBase
from phibench.adapters.recipe import read_recipe
from phibench.adapters.settings import refuse_settings
from phibench.adapters.train import Trained, train
from phibench.errors import UserError
from support.models import CPU, load

ROWS = [
    {"goal": f"Open {thing}", "sol1": "Turn it.", "sol2": "Sing to it loudly.", "label": number % 2}
    for number, thing in enumerate(("a jar", "a door", "a can", "a box", "a tap", "a nut"))
]
SFT = """
name = "sft"
[data]
format = "instructions"
train.file = "sft.jsonl"
[lora]
r = 4
lora_alpha = 8
target_modules = ["q_proj", "v_proj"]
[training]
max_steps = 2
per_device_train_batch_size = 2
learning_rate = 0.05
gradient_checkpointing = false
"""
DPO = """
name = "pairs"
method = "dpo"
{top}
[data]
format = "piqa_pairs"
train.file = "rows.jsonl"
eval.file = "rows.jsonl"
{lora}
[training]
max_steps = 4
per_device_train_batch_size = 2
learning_rate = 0.01
gradient_checkpointing = false
beta = 0.5
eval_steps = 4
"""
LORA = '[lora]\nr = 4\nlora_alpha = 8\ntarget_modules = ["q_proj", "v_proj"]\n'
WAYS = {
    "adapters-off": ('reference = "adapters_off"', LORA),
    "model": ('reference = "model"', LORA),
    "frozen-adapter": ('reference = "frozen_adapter"\nstart = "sft"', ""),
    "model-with-adapter": ('reference = "model"\nstart = "sft"', ""),
}


pytestmark = pytest.mark.usefixtures("cache")


def run(folder: Path, base: LoadedBase, way: str, *settings: str) -> Trained:
    top, lora = WAYS[way]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    sft = [{"user": row["goal"], "chip2": row["sol2"]} for row in ROWS]
    (folder / "sft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sft))
    (folder / "sft.toml").write_text(SFT)
    path = folder / "pairs.toml"
    path.write_text(DPO.format(top=top, lora=lora))
    return train(read_recipe(path, settings), path, base, CPU, seed=0, on_step=lambda step: None)


def points(record: dict[str, Any]) -> dict[int, dict[str, Any]]:
    return {point["step"]: point for point in record["curve"] if point["eval_loss"] is not None}


@torch.no_grad()
def log_prob(model: Any, tokenizer: Any, prompt: str, answer: str) -> float:
    """The log-probability of an answer and the end after it, by hand."""
    start = tokenizer(prompt)["input_ids"]
    rest = [*tokenizer(answer)["input_ids"], tokenizer.eos_token_id]
    logits = model.eval()(input_ids=torch.tensor([start + rest])).logits[0].float().log_softmax(-1)
    return float(logits[len(start) - 1 : -1].gather(1, torch.tensor(rest)[:, None]).sum())


def margins(policy: Any, reference: Any, tokenizer: Any) -> list[float]:
    found = []
    for row in ROWS:
        prompt = f"Question: {row['goal']}\nAnswer:"
        solutions = [f" {row['sol1']}", f" {row['sol2']}"]
        chosen, rejected = solutions if row["label"] == 0 else solutions[::-1]
        gains = [
            log_prob(policy, tokenizer, prompt, a) - log_prob(reference, tokenizer, prompt, a)
            for a in (chosen, rejected)
        ]
        found.append(0.5 * (gains[0] - gains[1]))
    return found


def test_a_reference_needs_what_holds_it(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    path = tmp_path / "pairs.toml"
    path.write_text(DPO.format(top="", lora=""))
    with pytest.raises(UserError, match="trl then keeps no reference") as caught:
        refuse_settings(read_recipe(path, ["training.precompute_ref_log_probs=true"]))
    assert caught.value.where == "--set training.precompute_ref_log_probs=true"
    refuse_settings(read_recipe(path, ["reference=model", "training.precompute_ref_log_probs=true"]))
    path.write_text(DPO.format(top='reference = "adapters_off"', lora=""))
    with pytest.raises(UserError, match=r"needs \[lora\]: the adapter that is switched off"):
        read_recipe(path)


@pytest.mark.parametrize("way", WAYS)
def test_the_policy_moves_and_the_reference_does_not(way: str, base: LoadedBase, cache: Path, tmp_path: Path) -> None:
    made = run(tmp_path, base, way)
    record = made.record
    before, after = points(record)[0], points(record)[4]
    assert (before["eval_loss"], before["eval_accuracy"]) == (pytest.approx(0.6931, abs=1e-3), 0.5)  # all ties
    assert after["eval_loss"] < before["eval_loss"]
    assert sorted(entry.name for entry in made.folder.iterdir() if entry.is_dir()) == []  # one adapter, at the root

    # What is saved is the trained policy: its margins against a reference made anew are those of the last evaluation.
    fresh = load(Path(base.source)).model
    policy = PeftModel.from_pretrained(fresh, made.folder)
    reference: Any = load(Path(base.source)).model
    if "start" in WAYS[way][0]:
        [sft] = cache.glob("sft-*")
        reference = PeftModel.from_pretrained(reference, sft)
        start, trained = (load_file(folder / "adapter_model.safetensors") for folder in (sft, made.folder))
        assert start.keys() == trained.keys()
        assert not any(torch.equal(start[name], trained[name]) for name in start)
    by_hand = margins(policy, reference, base.tokenizer)
    assert record["held_out_margins"] == pytest.approx(by_hand, abs=2e-4)
    assert after["eval_margin"] == pytest.approx(sum(by_hand) / len(by_hand), abs=2e-4)
    assert after["eval_accuracy"] == sum(margin > 0 for margin in by_hand) / len(by_hand)


def test_ways_to_hold_the_same_reference_agree(base: LoadedBase, tmp_path: Path) -> None:
    def curve(way: str) -> list[float]:
        return [point["loss"] for point in run(tmp_path, base, way).record["curve"] if point["loss"] is not None]

    assert curve("adapters-off") == pytest.approx(curve("model"), abs=1e-4)
    assert curve("frozen-adapter") == pytest.approx(curve("model-with-adapter"), abs=1e-4)


def test_the_measure_does_not_depend_on_the_batch_size(base: LoadedBase, tmp_path: Path) -> None:
    one = run(tmp_path, base, "adapters-off", "training.per_device_eval_batch_size=1").record
    four = run(tmp_path, base, "adapters-off", "training.per_device_eval_batch_size=4").record
    for key in ("eval_loss", "eval_accuracy", "eval_margin"):
        assert points(one)[4][key] == pytest.approx(points(four)[4][key], abs=1e-4)


def test_no_held_out_pairs_are_no_accuracy(base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from phibench.adapters.dpo import PreferenceTrainer

    monkeypatch.setattr(PreferenceTrainer, "get_eval_dataloader", lambda self, dataset=None: [])
    with pytest.raises(UserError, match="there are no held-out pairs"):
        run(tmp_path, base, "adapters-off")


def test_a_reference_that_moves_is_a_bug_that_shows(
    base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = module.make_trainer

    def loose(*args: Any, **options: Any) -> Any:
        made = own(*args, **options)
        for name, parameter in made.trainer.model.named_parameters():
            if ".ref." in name:
                parameter.data += 1e-3
        return made

    monkeypatch.setattr(module, "make_trainer", loose)
    with pytest.raises(RuntimeError, match="the reference changed"):
        run(tmp_path, base, "frozen-adapter")


@pytest.mark.parametrize("way", ["model", "frozen-adapter"])
def test_a_stopped_tuning_ends_like_one_that_was_not(
    way: str, base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from phibench.adapters.dpo import PreferenceTrainer

    own = PreferenceTrainer.training_step

    def sends(self: Any, *args: Any, **options: Any) -> Any:
        if self.state.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return own(self, *args, **options)

    settings = ["training.save_steps=4"]
    run(tmp_path, base, way, *settings, "training.max_steps=1")  # what it starts from
    with monkeypatch.context() as patched:
        patched.setattr(PreferenceTrainer, "training_step", sends)
        with pytest.raises(KeyboardInterrupt, match="of step 2"):
            run(tmp_path, base, way, *settings)
    made = run(tmp_path, base, way, *settings)
    assert made.record["resumed_at"] == 2
    monkeypatch.setenv("PHIBENCH_CACHE", str(tmp_path / "another"))
    whole = run(tmp_path, base, way, *settings)
    assert points(made.record).keys() == points(whole.record).keys()
    assert made.record["held_out_margins"] == whole.record["held_out_margins"]
    ours, theirs = (load_file(one.folder / "adapter_model.safetensors") for one in (made, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_on_a_4_bit_base_the_policy_starts_as_its_reference(dtype: str, base: LoadedBase, tmp_path: Path) -> None:
    """trl rounds what is trained to bfloat16: what is held in float32 has the start's own values again."""
    settings = ["quantization.load_in_4bit=true", f"trainable_dtype={dtype}", "training.bf16=false"]
    made = run(tmp_path, base, "frozen-adapter", *settings)
    assert points(made.record)[0]["eval_margin"] == pytest.approx(0.0, abs=0.0 if dtype == "float32" else 0.1)
    rounded = [tensor.bfloat16().float().equal(tensor.float()) for tensor in load_file(trained_start(made)).values()]
    assert not all(rounded)


def trained_start(made: Trained) -> Path:
    [sft] = made.folder.parent.glob("sft-*")
    return sft / "adapter_model.safetensors"


@pytest.mark.parametrize("rate", [0.0, 0.01])
@pytest.mark.parametrize("way", ["frozen-adapter", "model"])
def test_what_is_saved_is_what_was_trained(way: str, rate: float, base: LoadedBase, tmp_path: Path) -> None:
    """By values, not by files: those of a start in float32 and of the same saved in bfloat16 differ."""
    settings = [f"training.learning_rate={rate}", "quantization.load_in_4bit=true"]
    record = run(tmp_path, base, way, *settings).record
    still = "nothing was learned: what is saved has the very values that it started from"
    assert record["trainable_dtypes"] == ["bfloat16"]
    assert (record["start_values"] == record["saved_values"]) == (rate == 0)
    assert (still in record["notes"]) == (rate == 0)
