"""Preference tuning: one recipe with each of the three ways to hold the reference, each in a process of its own.

`frozen_adapter` and `model` go on from the same start adapter and hold it as the reference. Their hashes differ, since
one is of the adapter and the other of a whole model, but the log-probability of the held-out pairs is the same. In
`adapters_off` a new adapter is trained and the base itself is the reference: there is no start in it. `merged` is
`adapters_off` on a base into which the start was merged: the same reference again up to rounding, but where the base is
quantised it is quantised after merging.

The start adapter has random weights in the shape that the recipe's start trains, unless `--start` names a folder: what
`phibench train` made, say. Peak memory is that of the steps alone: CUDA's own count, or the process's resident set,
which on the CPU includes the base that models are copied from. Run by hand; the last line is JSON.

    python tests/benchmarks/dpo_references.py --recipe dpo-small --steps 8
    python tests/benchmarks/dpo_references.py --recipe dpo --shape phi-2 --tokenizer FOLDER --steps 20 \\
        --set data.format=piqa_pairs --set 'data.train={path="baber/piqa",split="train[600:920]"}' \\
        --set 'data.eval={file="mini/piqa.jsonl"}'
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from phibench.adapters.adapter_files import AdapterFiles, read_adapter
from phibench.adapters.attach import attach
from phibench.adapters.base import LoadedBase, clone_to
from phibench.adapters.merge import merge
from phibench.adapters.recipe import Recipe, read_recipe
from phibench.adapters.recipe_table import find_recipe
from phibench.adapters.rows import read_data
from phibench.adapters.trainers import Job, make_trainer, reference_hash
from phibench.harness.environment import choose_device, hardware, versions
from phibench.harness.memory import PeakMemory
from phibench.harness.suite import Suite
from shapes import base_of

WAYS = ["frozen_adapter", "model", "adapters_off", "merged"]
_LORA = ("r", "lora_alpha", "lora_dropout", "bias", "target_modules")  # of a start: the shape of a new adapter
_MOST_WARM = 2  # steps


class _Watch(TrainerCallback):
    """What policy and reference are before the first step; each step's time and loss; the memory of all steps."""

    def __init__(self, trainer: Any, memory: PeakMemory) -> None:
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.before: dict[str, float] = {}
        self._trainer = trainer
        self._memory = memory
        self._started = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.before = _evaluated(self._trainer)  # not earlier: now the model computes in the recipe's precision
        self._memory.__enter__()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._memory.__exit__(None, None, None)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._started = _now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(_now() - self._started)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(round(float(logs["loss"]), 5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="dpo-small")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="table.key=value, as TOML has it")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--start", type=Path, help="the adapter to go on from; default: one of random weights")
    parser.add_argument("--shape", choices=["phi-2"], help="random weights in this shape instead of the recipe's base")
    parser.add_argument("--tokenizer", help="with --shape: the folder whose tokenizer is used")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--memory-fraction", type=float, help="of the card that each process may take")
    parser.add_argument("--only", choices=["start", *WAYS], help=argparse.SUPPRESS)  # what a process of ours does
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    if args.only is not None:
        print(json.dumps(_in_this_process(args)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        start = args.start
        if start is None:
            start = Path(scratch) / "start"
            _in_its_own_process("start", start)
        found = {}
        for way in args.ways:
            found[way] = _in_its_own_process(way, start)
            print(way, {key: value for key, value in found[way].items() if key != "about"}, flush=True)
    about = [one.pop("about") for one in found.values()]
    print(json.dumps({"benchmark": "dpo_references", "arguments": vars(args), **found, **about[0]}, default=str))


def _in_its_own_process(what: str, start: Path) -> dict[str, Any]:
    """The last line of this command's own process for one part of it."""
    call = [sys.executable, __file__, *sys.argv[1:], "--only", what, "--start", str(start)]
    done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.strip().split("\n")[-1]))


def _in_this_process(args: argparse.Namespace) -> dict[str, Any]:
    device = choose_device(args.device)
    if args.memory_fraction:
        torch.cuda.set_per_process_memory_fraction(args.memory_fraction)
    path = find_recipe(args.recipe)
    quick = [f"max_steps={args.steps}", "logging_steps=1", "save_strategy=no", "eval_strategy=no"]
    quick += ["eval_on_start=false", "load_best_model_at_end=false"]  # evaluated by hand, outside of what is measured
    recipe = read_recipe(path, [*args.settings, *(f"training.{setting}" for setting in quick)])
    assert recipe.base is not None
    spec = recipe.base.model_dump(exclude_none=True)
    suite = Suite.model_validate(
        {"name": "b", "base": spec, "variants": [{"name": "base"}], "tasks": [{"name": "piqa"}]}
    )
    base = base_of(suite, args.shape, args.tokenizer)
    if args.only == "start":
        return _save_start(recipe, path, base, args.start)
    start = read_adapter("start", args.start, str(args.start))
    return _measured(args.only, recipe, path, base, start, device)


def _save_start(recipe: Recipe, path: Path, base: LoadedBase, folder: Path) -> dict[str, Any]:
    """Write an adapter of random weights in the shape of the recipe's start (which changes the base in place)."""
    from peft import LoraConfig, get_peft_model

    lora = recipe.lora
    if recipe.start is not None:
        beside = path.with_name(f"{recipe.start}.toml")
        lora = read_recipe(beside if beside.is_file() else find_recipe(recipe.start)).lora
    assert lora is not None, "give --start FOLDER"
    made = get_peft_model(base.model, LoraConfig(**{"task_type": "CAUSAL_LM", **lora}))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_" in name:
                parameter.normal_(0.0, 0.02)
    made.save_pretrained(folder)
    return {"parameters": sum(p.numel() for name, p in made.named_parameters() if "lora_" in name)}


def _measured(
    way: str, recipe: Recipe, path: Path, base: LoadedBase, start: AdapterFiles, device: torch.device
) -> dict[str, Any]:
    """Train with one way to hold the reference."""
    new = {key: start.config[key] for key in _LORA}
    if way == "merged":
        model = merge(attach(clone_to(base.model, base.model.device), start), start)
        base = dataclasses.replace(base, model=model, weights=None)
    if way in ("adapters_off", "merged"):
        changes = {"reference": "adapters_off", "start": None, "lora": new}
    else:
        changes = {"reference": way, "start": str(start.folder), "lora": None}
    recipe = recipe.model_copy(update=changes)
    goes_on = start if recipe.start is not None else None
    rows, held_out = read_data(recipe, path, seed=0, offline=True)
    memory = PeakMemory(device)
    with tempfile.TemporaryDirectory() as scratch:
        made = make_trainer(Job(recipe, base, device, 0, rows, held_out, goes_on, Path(scratch)), lambda step: None)
        trainer = made.trainer
        watch = _Watch(trainer, memory)
        trainer.add_callback(watch)
        trainer.start_clock()
        trainer.train()
        after = _evaluated(trainer)
    timed = watch.seconds[min(_MOST_WARM, len(watch.seconds) - 1) :]
    return {
        "seconds_a_step": round(statistics.median(timed), 4),
        "spread": [round(min(timed), 4), round(max(timed), 4)],
        "steps_timed": len(timed),
        "peak_bytes": memory.bytes,
        "pairs": len(made.train.rows),
        "held_out_pairs": len(made.held_out.rows) if made.held_out else 0,
        "before": watch.before,
        "after": after,
        "losses": watch.losses,
        "trainable_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "reference_hash": [made.reference, reference_hash(trainer)],
        "about": {"versions": versions(), "hardware": hardware(device)},
    }


def _evaluated(trainer: Any) -> dict[str, float]:
    """The held-out pairs: the policy's measures, and what the reference gives them."""
    found = trainer.evaluate()
    measures = {key: round(found[f"eval_{key}"], 5) for key in ("loss", "accuracy", "margin")}
    return {**measures, "reference_log_prob": _reference_log_prob(trainer)}


@torch.no_grad()
def _reference_log_prob(trainer: Any) -> float:
    """The log-probability that the reference gives to all answers of the held-out pairs, in nats."""
    total, was_training = 0.0, trainer.model.training
    trainer.model.eval()
    for batch in trainer.get_eval_dataloader():
        inputs = trainer._prepare_inputs(batch)
        tokens, mask = inputs["input_ids"], inputs["attention_mask"]
        with trainer.compute_loss_context_manager(), trainer._as_reference() as reference:
            logits = reference(input_ids=tokens, attention_mask=mask, use_cache=False).logits[:, :-1]
        found = logits.float().log_softmax(-1).gather(-1, tokens[:, 1:, None])[:, :, 0]
        total += float((found * (inputs["completion_mask"] * mask)[:, 1:]).double().sum())
    trainer.model.train(was_training)
    return round(total, 3)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
