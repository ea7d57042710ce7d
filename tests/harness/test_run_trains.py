"""Runs that train: what a bad recipe stops, what it does not, and what is told of an adapter's contract."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from phibench.harness.results import read_manifest, read_results
from support.command import Command
from support.tiny import save_tiny_model

RECIPE = """
name = "{name}"
[data]
format = "instructions"
train.file = "rows.jsonl"
[lora]
r = 2
target_modules = ["q_proj"]
[training]
max_steps = 2
max_length = {length}
per_device_train_batch_size = 2
gradient_checkpointing = false
{more}
"""
SUITE = """
name = "two"
[base]
model = "{base}"
max_length = 200
[[variants]]
name = "base"
[adapters.good]
recipe = "good.toml"
[adapters.bad]
recipe = "bad.toml"
[[variants]]
name = "good"
adapter = "good"
[[variants]]
name = "bad"
adapter = "bad"
[[tasks]]
name = "mini_piqa"
"""


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PHIBENCH_CACHE", str(tmp_path / "cache"))
    rows = [{"instruction": f"Say {n}.", "output": f"It is {n}."} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = save_tiny_model(tmp_path / "base")
    path = tmp_path / "suite.toml"
    path.write_text(SUITE.format(base=base))
    return path


def write(suite: Path, name: str, more: str = "", length: int = 200) -> None:
    (suite.parent / f"{name}.toml").write_text(RECIPE.format(name=name, more=more, length=length))


def test_a_training_that_fails_leaves_its_own_variants_unmade(phibench: Command, suite: Path, tmp_path: Path) -> None:
    write(suite, "good")
    write(suite, "bad", "learning_rate = 1e30\nmax_grad_norm = 0.0\noptim = 'sgd'")
    out = tmp_path / "out"
    ended = phibench("run", suite, "--out", out, "--limit", 3)
    assert ended.code == 3, ended.all
    assert "is not finite" in ended.all or "loss is nan" in ended.all
    status = {cell.variant: cell.status for cell in read_results(out).cells}
    assert status == {"base": "done", "good": "done", "bad": "failed"}
    told = {variant.name: variant.error for variant in read_manifest(out).variants}
    assert told["good"] is None
    assert "its adapter bad could not be trained" in str(told["bad"])
    assert "could not be trained" in (out / "report.md").read_text(encoding="utf-8")
    write(suite, "bad")  # mended: the same command goes on, and asks only what is missing
    ended = phibench("run", suite, "--out", out, "--limit", 3)
    assert ended.code == 0, ended.all
    assert ended.all.count("every cell is already here") == 2


def test_a_setting_that_cannot_be_is_told_before_anything_is_trained(
    phibench: Command, suite: Path, tmp_path: Path
) -> None:
    write(suite, "good")
    write(suite, "bad", "learning_rat = 0.1")
    ended = phibench("run", suite, "--out", tmp_path / "out", "--limit", 3)
    assert ended.code == 2
    assert "learning_rat" in ended.all
    assert "trained good" not in ended.all


def test_what_breaks_a_contract_stands_in_the_manifest_and_the_report(
    phibench: Command, suite: Path, tmp_path: Path
) -> None:
    write(suite, "good", length=100)
    write(suite, "bad")
    out = tmp_path / "out"
    ended = phibench("run", suite, "--out", out, "--limit", 3)
    assert ended.code == 0, ended.all
    [warning] = read_manifest(out).warnings
    assert warning == "adapters.good: it was trained on at most 100 tokens; base.max_length = 200 asks it more"
    assert warning in ended.all.replace("\n", " ")
    assert "at most 100 tokens" in (out / "report.md").read_text(encoding="utf-8")
    assert phibench("run", suite, "--out", out, "--limit", 3).code == 0  # nothing left to ask: it stays
    assert read_manifest(out).warnings == [warning]


SEEDS = """
name = "seeds"
[base]
model = "{base}"
[adapters.one]
recipe = "good.toml"
[adapters.same]
recipe = "good.toml"
seed = 5
[adapters.other]
recipe = "good.toml"
seed = 6
[matrix]
adapter = ["one", "same", "other"]
kinds = ["adapter"]
[[tasks]]
name = "mini_piqa"
[seeds]
training = 5
"""


def test_an_adapter_is_trained_with_a_seed_of_its_own(phibench: Command, suite: Path, tmp_path: Path) -> None:
    write(suite, "good")
    suite.write_text(SEEDS.format(base=tmp_path / "base"))
    out = tmp_path / "out"
    ended = phibench("run", suite, "--out", out, "--limit", 2)
    assert ended.code == 0, ended.all
    manifest = read_manifest(out)
    seeds = {info.name: (info.seed, (info.training or {})["seed"]) for info in manifest.adapters}
    assert seeds == {"one": (5, 5), "same": (5, 5), "other": (6, 6)}
    hashes = {info.name: info.sha256 for info in manifest.adapters}
    assert hashes["one"] == hashes["same"] != hashes["other"]
    assert "same: trained before" in ended.all  # the seed is all that an adapter's own entry says
    assert len({variant.identity for variant in manifest.variants}) == 2


def test_a_null_of_what_could_not_be_trained_is_not_there_either(
    phibench: Command, suite: Path, tmp_path: Path
) -> None:
    write(suite, "good")
    write(suite, "bad", "learning_rate = 1e30\nmax_grad_norm = 0.0\noptim = 'sgd'")
    nulls = "".join(
        f'\n[adapters.of-{name}]\nnull_of = "{name}"\n[[variants]]\nname = "of-{name}"\nadapter = "of-{name}"\n'
        for name in ("bad", "good")
    )
    suite.write_text(suite.read_text() + nulls)
    out = tmp_path / "out"
    ended = phibench("run", suite, "--out", out, "--limit", 2)
    assert ended.code == 3, ended.all
    status = {cell.variant: cell.status for cell in read_results(out).cells}
    assert status == {"base": "done", "good": "done", "bad": "failed", "of-bad": "failed", "of-good": "done"}
    told = {variant.name: variant.error for variant in read_manifest(out).variants}
    assert told["of-bad"] == "its adapter of-bad is a null of bad, which is not there"
    infos = {info.name: info for info in read_manifest(out).adapters}
    assert infos["of-good"].source == "null of good, seed 0"
    assert infos["of-good"].training is None
