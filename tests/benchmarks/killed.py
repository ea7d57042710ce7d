"""A recipe's training killed with SIGKILL after its first checkpoint and gone on with, against one left alone.

    python tests/benchmarks/killed.py webglm-mini --set training.max_steps=6 --set training.save_steps=2

Each is `phibench train` in processes of its own, with a cache of its own. Prints one JSON line: the step that it went
on from, and of both the SHA-256 of the weights' file and the losses. `same`: the weights, byte for byte, and all
held-out losses; a training loss that is logged every few steps is at first a mean since the checkpoint.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> int:
    """Train twice; the exit code says whether both ended alike."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    asked = parser.parse_args()
    flags = [part for setting in asked.settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "phibench", "train", asked.recipe, *flags, "-q"]
    with tempfile.TemporaryDirectory() as folder:
        whole = trained(command, Path(folder) / "whole")
        kill_after_checkpoint(command, Path(folder) / "killed")
        killed = trained(command, Path(folder) / "killed")
    same = whole["sha256"] == killed["sha256"] and held_out(whole) == held_out(killed)
    told = {"recipe": asked.recipe, "settings": asked.settings, "same": same, "whole": whole, "killed": killed}
    print(json.dumps(told))
    return 0 if same else 1


def trained(command: list[str], cache: Path) -> dict[str, Any]:
    """What a training ends in: the hash of its weights, its losses and where it went on from."""
    ran = subprocess.run(command, env=environment(cache), stdout=subprocess.PIPE, text=True, check=True)
    folder = Path(ran.stdout.split()[-1])
    record = json.loads((folder / "phibench_training.json").read_text())
    [weights] = folder.glob("*model.safetensors")
    losses = [(point["step"], point["loss"], point["eval_loss"]) for point in record["curve"]]
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    return {"sha256": digest, "resumed_at": record["resumed_at"], "seconds": record["seconds"], "losses": losses}


def held_out(ended: dict[str, Any]) -> list[Any]:
    """The held-out losses of a training, by step."""
    return [(step, loss) for step, _, loss in ended["losses"] if loss is not None]


def kill_after_checkpoint(command: list[str], cache: Path) -> None:
    """Start a training and kill it as soon as a whole checkpoint of the recipe itself is there."""
    under_way = subprocess.Popen(command, env=environment(cache), stdout=subprocess.DEVNULL)
    name = command[command.index("train") + 1]
    while not list((cache / "adapters").glob(f".{name}-*/trainer/checkpoint-*/phibench_complete")):
        if under_way.poll() is not None:
            raise SystemExit("it ended before a checkpoint was seen: give it more steps")
        time.sleep(0.05)
    under_way.kill()
    under_way.wait()


def environment(cache: Path) -> dict[str, str]:
    """This process's, with a cache of its own; the bundled model comes along by a link, or is made again."""
    from phibench.adapters.bundled import cache_dir

    cache.mkdir(exist_ok=True)
    if (cache_dir() / "models").is_dir() and not (cache / "models").exists():
        (cache / "models").symlink_to((cache_dir() / "models").resolve())
    return {**os.environ, "PHIBENCH_CACHE": str(cache)}


if __name__ == "__main__":
    sys.exit(main())
