"""A small recipe of dialogues with its data, trained on a tiny base in a second or two."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from phibench.adapters.base import LoadedBase
from phibench.adapters.recipe import read_recipe
from phibench.adapters.train import Trained, train
from phibench.adapters.watch import Step
from support.models import CPU

ROWS = [
    {"id": str(number), "dialogue": f"A: {word}?\nB: {'yes ' * number}.", "summary": f"They speak of {word}."}
    for number, word in enumerate(("tea", "rain", "bread", "stone", "wood", "salt"))
]
RECIPE = """
name = "tiny"
[data]
format = "dialogsum"
train.file = "rows.jsonl"
eval.file = "held.jsonl"
[lora]
r = 4
lora_alpha = 8
lora_dropout = 0.1
target_modules = ["q_proj", "v_proj"]
[training]
max_steps = 6
per_device_train_batch_size = 2
learning_rate = 0.01
max_length = 128
gradient_checkpointing = false
eval_steps = 3
save_steps = 2
"""


def write(folder: Path, text: str = RECIPE) -> Path:
    """The recipe in a folder, beside its data."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:4]))
    (folder / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[3:]))
    (folder / "tiny.toml").write_text(text)
    return folder / "tiny.toml"


def trained(
    path: Path, base: LoadedBase, *settings: str, on_step: Callable[[Step], None] = lambda step: None, seed: int = 0
) -> Trained:
    """A recipe's result on a base, with what `--set` would change."""
    return train(read_recipe(path, settings), path, base, CPU, seed=seed, on_step=on_step)
