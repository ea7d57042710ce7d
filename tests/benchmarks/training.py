"""Training a recipe: phibench's trainer against plain trl SFTTrainer, on the same rows and base, in one process.

Rows are the recipe's own, or with `--full` rows of exactly `max_length` tokens: what a card has to hold at most. Run by
hand; the last line is JSON.

    python tests/benchmarks/training.py webglm-qlora-small --steps 6 --peer
    python tests/benchmarks/training.py dialogsum-qlora --shape phi-2 --tokenizer FOLDER --steps 20 --peer
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from phibench.adapters.base import LoadedBase
from phibench.adapters.formats import FORMATS
from phibench.adapters.quantize import copy_of
from phibench.adapters.recipe import Recipe, read_recipe
from phibench.adapters.recipe_table import find_recipe
from phibench.adapters.rows import Rows, read_rows
from phibench.adapters.trainers import Job, make_trainer
from phibench.harness.environment import choose_device, hardware, versions
from phibench.harness.suite import Suite
from shapes import base_of


class _Clock(TrainerCallback):
    """When each step ended, and its loss."""

    def __init__(self) -> None:
        self.ended: list[float] = []
        self.losses: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ended.append(time.perf_counter())

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(round(float(logs["loss"]), 4))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--shape", choices=["phi-2"])
    parser.add_argument("--tokenizer")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--full", action="store_true", help="rows of exactly max_length tokens")
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--memory-fraction", type=float, help="of the card that this process may take")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    device = choose_device(args.device)
    if args.memory_fraction:
        torch.cuda.set_per_process_memory_fraction(args.memory_fraction)
    path = find_recipe(args.recipe)
    quick = [f"training.max_steps={args.steps}", "training.logging_steps=1", "training.save_strategy=no"]
    recipe = read_recipe(path, [*args.settings, *quick, "training.load_best_model_at_end=false"])
    assert recipe.base is not None
    spec = recipe.base.model_dump(exclude_none=True)
    suite = Suite.model_validate(
        {"name": "b", "base": spec, "variants": [{"name": "base"}], "tasks": [{"name": "piqa"}]}
    )
    base = base_of(suite, args.shape, args.tokenizer)
    rows = read_rows(recipe.data.train, path, offline=True)
    found = {"phibench": _ours(recipe, base, device, rows, full=args.full)}
    print(found, flush=True)
    if args.peer:
        gc.collect()
        found["trl"] = _peer(recipe, base, device, rows, full=args.full)
    about = {"versions": versions(), "hardware": hardware(device)}
    print(json.dumps({"benchmark": "training", "arguments": vars(args), **found, **about}, default=str))


def _ours(recipe: Recipe, base: LoadedBase, device: torch.device, rows: Rows, *, full: bool) -> dict[str, Any]:
    clock = _Clock()
    with tempfile.TemporaryDirectory() as scratch:
        made = make_trainer(Job(recipe, base, device, 0, rows, None, None, Path(scratch)), lambda step: None)
        if full:
            made.trainer.train_dataset = _full(made.trainer.train_dataset, made.trainer.args.max_length)
        made.trainer.start_clock()
        return _timed(made.trainer, clock, device)


def _peer(recipe: Recipe, base: LoadedBase, device: torch.device, rows: Rows, *, full: bool) -> dict[str, Any]:
    """trl with its defaults but for what the recipe says of rows, rates and steps."""
    texts = []
    for name, row in rows.rows:
        prompt, answer = next(iter(FORMATS[recipe.data.format](row, name)))
        texts.append({"prompt": prompt.text, "completion": answer.text})
    kept = {
        key: recipe.training[key]
        for key in (
            "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "lr_scheduler_type",
            "warmup_steps", "max_length", "max_steps", "optim", "logging_steps", "save_strategy",
            "train_sampling_strategy",
        )
        if key in recipe.training
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        config = SFTConfig(
            output_dir=scratch, seed=0, report_to="none", disable_tqdm=True, use_cpu=device.type == "cpu",
            include_num_input_tokens_seen="all", **kept,
        )  # fmt: skip
        trainer = SFTTrainer(
            model=copy_of(base, recipe.quantization, device),
            args=config,
            train_dataset=Dataset.from_list(texts),
            processing_class=base.tokenizer,
            peft_config=LoraConfig(**{"task_type": "CAUSAL_LM", **(recipe.lora or {})}),
        )
        if full:
            trainer.train_dataset = _full(trainer.train_dataset, config.max_length)
        return _timed(trainer, _Clock(), device)


def _full(data: Any, length: int | None) -> Any:
    """Every row repeated until it has `length` tokens."""
    assert length is not None

    def grown(row: dict[str, list[int]]) -> dict[str, list[int]]:
        return {key: (value * (length // len(value) + 1))[:length] for key, value in row.items() if key != "length"}

    return data.map(grown)


def _timed(trainer: Any, clock: _Clock, device: torch.device) -> dict[str, Any]:
    trainer.add_callback(clock)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    gaps = [b - a for a, b in zip(clock.ended[1:], clock.ended[2:], strict=False)]  # the first two steps warm up
    tokens = trainer.state.num_input_tokens_seen / max(len(clock.ended), 1)
    return {
        "seconds_a_step": round(statistics.mean(gaps), 3),
        "tokens_a_step": round(tokens),
        "tokens_per_second": round(tokens / statistics.mean(gaps)),
        "peak_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
        "peak_reserved_bytes": torch.cuda.max_memory_reserved() if device.type == "cuda" else None,
        "losses": clock.losses,
    }


if __name__ == "__main__":
    main()
