"""`phibench train`: a process of its own, from a recipe file to a folder; refusals, and going on after Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from support.models import save_base

ROWS = [{"user": f"What is {n} and {n}?", "chip2": f"It is {2 * n}, which is {'even ' * (n % 4)}."} for n in range(12)]
RECIPE = """
name = "sums"
[base]
model = "{base}"
[data]
format = "instructions"
train.file = "rows.jsonl"
eval_fraction = 0.25
[lora]
r = 4
target_modules = ["q_proj", "v_proj"]
[training]
max_steps = 4
per_device_train_batch_size = 2
learning_rate = 0.01
gradient_checkpointing = false
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    base = save_base(tmp_path / "base", "llama", max_position_embeddings=256)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "sums.toml").write_text(RECIPE.format(base=base))
    return "sums.toml"


def environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PHIBENCH_CACHE": str(folder / "cache"),
        "COLUMNS": "160",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }


def phibench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "phibench", "train", *arguments]
    return subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False)


def record(folder: Path) -> Any:
    return json.loads((folder / "phibench_training.json").read_text())


def test_a_recipe_is_trained_once_and_told_in_a_line(recipe: str, tmp_path: Path) -> None:
    first = phibench(tmp_path, recipe, "--out", "mine")
    assert first.returncode == 0, first.stderr
    assert "✓ trained sums in " in first.stdout
    assert "held out " in first.stdout
    steps = [text for text in first.stdout.splitlines() if text.startswith("training sums: step ")]
    assert [text.split("  ")[0].split()[-3:] for text in steps] == [[str(step), "of", "4"] for step in (1, 2, 3, 4)]
    assert "tokens/s" in steps[-1] and "loss " in steps[-1]  # there is no bar without a terminal
    assert first.stdout.splitlines()[-1] == "mine"
    assert first.stderr == ""
    assert record(tmp_path / "mine")["steps"] == 4
    assert json.loads((tmp_path / "mine" / "adapter_config.json").read_text())["base_model_name_or_path"]
    again = phibench(tmp_path, recipe, "-q")
    assert again.returncode == 0
    [folder] = again.stdout.split()
    assert Path(folder).parent == tmp_path / "cache" / "adapters"
    assert record(Path(folder)) == record(tmp_path / "mine")
    other = phibench(tmp_path, recipe, "--set", "training.max_steps=2", "--seed", "3", "-q")
    assert record(Path(other.stdout.strip()))["steps"] == 2
    assert record(Path(other.stdout.strip()))["seed"] == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing-like-it"], "there is no such recipe"),
        (["sums.toml", "--out", "base"], "there is something already"),
        (["sums.toml", "--set", "training.max_step=3"], "max_step"),
        (["sums.toml", "--set", "max_steps"], "no setting"),
        (["sums.toml", "--set", "base.model=./nowhere"], "no config.json"),
        (["sums.toml", "--device", "cuda:7"], "cuda:7"),
        (["sums.toml", "--device", "gpu"], "-> give auto, cpu, cuda, cuda:0 (or another number) or mps"),
        (["sums.toml", "--seed", "-1"], "--seed"),
        (["sums.toml", "--seed", str(2**32)], "--seed"),
        (["sums.toml", "--set", "training.report_to=clearml"], "pip install clearml"),
    ],
)
def test_mistakes_are_told_without_a_traceback(arguments: list[str], says: str, recipe: str, tmp_path: Path) -> None:
    ended = phibench(tmp_path, *arguments)
    assert ended.returncode == 2
    assert says in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr


def test_ctrl_c_keeps_the_step_under_way(recipe: str, tmp_path: Path) -> None:
    settings = ["--set", "training.max_steps=400", "--set", "training.save_steps=5"]
    command = [sys.executable, "-m", "phibench", "train", recipe, *settings]
    under_way = subprocess.Popen(
        command, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 90
    while not list((tmp_path / "cache" / "adapters").glob(".sums-*/trainer/checkpoint-*/phibench_complete")):
        assert under_way.poll() is None and time.monotonic() < deadline, under_way.communicate()
        time.sleep(0.05)
    under_way.send_signal(signal.SIGINT)
    _, error = under_way.communicate(timeout=60)
    assert under_way.returncode == 130
    assert "stopping after this step; once more to stop at once" in error
    [kept] = re.findall("interrupted; the same command goes on from the last checkpoint, of step ([0-9]+)", error)
    assert "Traceback" not in error
    went_on = phibench(tmp_path, recipe, *settings)
    assert went_on.returncode == 0, went_on.stderr
    assert f"gone on from step {kept}" in went_on.stdout
