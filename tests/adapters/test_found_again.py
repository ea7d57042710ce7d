"""What is found in the cache: only what is still as it was written; anything else is trained anew, and told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from phibench.adapters.adapter_files import LEFT_OUT, TRAINING
from phibench.adapters.base import LoadedBase
from support.recipes import trained, write

WEIGHTS = "adapter_model.safetensors"


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("name", "spoil", "says"),
    [
        (WEIGHTS, cut, f"{WEIGHTS} is not what was written"),
        (WEIGHTS, Path.unlink, f"{WEIGHTS} cannot be read"),
        ("adapter_config.json", cut, "adapter_config.json is not what was written"),
        (LEFT_OUT, cut, f"{LEFT_OUT} is not what was written"),
        (TRAINING, cut, f"{TRAINING} cannot be read"),
    ],
)
def test_a_result_that_was_spoilt_is_trained_anew(
    name: str, spoil: Callable[[Path], None], says: str, base: LoadedBase, cache: Path, tmp_path: Path
) -> None:
    path = write(tmp_path)
    first = trained(path, base, "training.max_steps=1")
    weights = (first.folder / WEIGHTS).read_bytes()
    assert not trained(path, base, "training.max_steps=1").is_new
    spoil(first.folder / name)
    again = trained(path, base, "training.max_steps=1")
    assert (again.is_new, again.folder) == (True, first.folder)
    [note] = again.record["notes"]
    assert note.startswith(f"what was trained before is not used: {says}")
    assert (again.folder / WEIGHTS).read_bytes() == weights
    assert not trained(path, base, "training.max_steps=1").is_new
    assert [entry.name for entry in cache.iterdir()] == [first.folder.name]


def test_a_record_of_before_hashes_is_taken_at_its_word(base: LoadedBase, cache: Path, tmp_path: Path) -> None:
    path = write(tmp_path)
    first = trained(path, base, "training.max_steps=1")
    record = json.loads((first.folder / TRAINING).read_text())
    del record["files"]
    (first.folder / TRAINING).write_text(json.dumps(record))
    (first.folder / LEFT_OUT).unlink()
    again = trained(path, base, "training.max_steps=1")
    assert not again.is_new
    assert len(again.texts) == 4
