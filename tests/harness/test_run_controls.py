"""Runs with a null control, and what their manifests tell of how far each form's weights are from the trained one's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phibench.harness import weight_error
from phibench.harness.measured import find_measured
from phibench.harness.results import AdapterInfo, Manifest, VariantInfo, read_manifest, read_results
from support.command import Command
from support.tiny import save_tiny_adapter, save_tiny_model

# The null stands before what it is a null of.
SUITE = """
name = "controls"
[base]
model = "base"
dtype = "bfloat16"
[quantizations.nf4]
load_in_4bit = true
bnb_4bit_quant_type = "nf4"
[adapters.random]
null_of = "mine"
seed = 3
[adapters.mine]
path = "adapter"
[matrix]
adapter = ["mine", "random"]
quantization = "nf4"
[[tasks]]
name = "mini_piqa"
"""


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PHIBENCH_CACHE", str(tmp_path / "cache"))
    base = save_tiny_model(tmp_path / "base")
    save_tiny_adapter(tmp_path / "adapter", base)
    path = tmp_path / "suite.toml"
    path.write_text(SUITE)
    return path


Ran = Callable[..., Manifest]


@pytest.fixture
def ran(phibench: Command, suite: Path, tmp_path: Path) -> Ran:
    """The manifest of a run of the suite into `out`."""

    def call(*options: object) -> Manifest:
        ended = phibench("run", suite, "--out", tmp_path / "out", "--limit", 3, *options)
        assert ended.code == 0, ended.all
        return read_manifest(tmp_path / "out")

    return call


def adapters(manifest: Manifest) -> dict[str, AdapterInfo]:
    return {info.name: info for info in manifest.adapters}


def variants(manifest: Manifest) -> dict[str, VariantInfo]:
    return {info.name: info for info in manifest.variants}


def scores(out: Path, variant: str) -> Any:
    cell = read_results(out).cell(variant, "mini_piqa")
    assert cell is not None
    return cell


def test_a_null_is_run_in_every_form(ran: Ran, suite: Path, tmp_path: Path) -> None:
    manifest = ran()
    mine, random = adapters(manifest)["mine"], adapters(manifest)["random"]
    assert (random.source, random.null_of, random.seed) == ("null of mine, seed 3", "mine", 3)
    assert (mine.null_of, mine.seed) == (None, None)
    assert random.parameters == mine.parameters
    assert random.sha256 != mine.sha256
    assert len(variants(manifest)) == 2 + 2 * 5
    assert len({info.identity for info in manifest.variants}) == 12
    assert {cell.status for cell in read_results(tmp_path / "out").cells} == {"done"}
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "`null of mine, seed 3`" in report
    assert "drawn and not trained" in report
    found = find_measured(tmp_path / "out", "random.merged")  # what `phibench merge` goes by
    assert found.adapter.sha256 == random.sha256
    again = ran()
    assert again.variants == manifest.variants


def test_what_a_null_is_of_need_not_be_run_itself(ran: Ran, suite: Path, tmp_path: Path) -> None:
    suite.write_text(SUITE.replace('["mine", "random"]', '"random"'))
    manifest = ran("--only", "merged")
    assert list(adapters(manifest)) == ["mine", "random"]
    assert scores(tmp_path / "out", "merged").status == "done"


def test_a_null_that_cannot_be_drawn_leaves_its_own_variants_unmade(
    phibench: Command, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("phibench.adapters.null.save_file", full)
    ended = phibench("run", suite, "--out", tmp_path / "out", "--limit", 2)
    assert ended.code == 3, ended.all
    assert "Traceback" not in ended.all
    states = {cell.variant: cell.status for cell in read_results(tmp_path / "out").cells}
    assert {status for name, status in states.items() if name.startswith("random")} == {"failed"}
    assert {status for name, status in states.items() if not name.startswith("random")} == {"done"}
    assert "could not be drawn" in str(variants(read_manifest(tmp_path / "out"))["random.merged"].error)


def test_the_manifest_says_how_far_weights_are_from_the_trained_forms(ran: Ran, tmp_path: Path) -> None:
    for adapter in ("mine", "random"):
        found = {info.kind: info.weight_error for info in ran().variants if info.adapter == adapter}
        assert found.keys() == {"adapter", "adapter-nf4", "merged", "merged-dequantized", "merged-requantized"}
        layers = {f"model.layers.{n}.self_attn.{name}" for n in range(2) for name in ("q_proj", "v_proj")}
        assert all({one.module for one in errors} == layers for errors in found.values())
        worst = {kind: max(one.relative_to_update for one in errors) for kind, errors in found.items()}
        assert worst["adapter-nf4"] == 0 < worst["merged-dequantized"] < worst["adapter"]
        assert worst["merged"] > 0.01
    assert variants(ran())["base-nf4"].weight_error == []
    log = (tmp_path / "out" / "log.txt").read_text(encoding="utf-8")
    assert "comparing the weights of mine.merged: 0." in log


def test_what_was_measured_of_weights_stays_where_a_run_goes_on(ran: Ran) -> None:
    first = variants(ran("--only", "mine.merged"))["mine.merged"]
    assert first.weight_error
    assert variants(ran())["mine.merged"] == first


def test_weights_that_cannot_be_compared_fail_nothing(
    ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("pretended")

    monkeypatch.setattr(weight_error, "layer_errors", broken)
    manifest = ran("--only", "mine.merged")
    assert variants(manifest)["mine.merged"].weight_error == []
    assert scores(tmp_path / "out", "mine.merged").status == "done"
    log = (tmp_path / "out" / "log.txt").read_text(encoding="utf-8")
    assert "mine.merged: its weights could not be compared: pretended" in log


def test_without_a_quantisation_there_is_nothing_to_compare(ran: Ran, suite: Path) -> None:
    suite.write_text(
        SUITE.replace('quantization = "nf4"\n', "").replace(
            SUITE[SUITE.index("[quantizations") : SUITE.index("[adapters.random")], ""
        )
    )
    assert all(info.weight_error == [] for info in ran("--only", "mine.merged").variants)
