"""Early stopping: fewer items, the same order for every variant, verdicts by the confidence sequence."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from phibench.cli import main
from phibench.harness.outcomes import open_run
from phibench.harness.records import read_records
from phibench.harness.results import read_results
from phibench.harness.stats.sequential import confidence_sequence
from phibench.harness.values import pair
from support.tiny import save_tiny_adapter, save_tiny_model

Run = Callable[..., int]

SUITE = """
name = "early"
[base]
model = "{base}"
dtype = "float32"
[adapters.a]
path = "{adapter}"
[[variants]]
name = "same"
[[variants]]
name = "base"
[[variants]]
name = "tuned"
adapter = "a"
[[tasks]]
name = "mini_arc_easy"
[[tasks]]
name = "mini_piqa"
metrics = ["loglikelihood_margin"]
"""

GATE = """
[gate]
early_stopping = true
[[gate.rules]]
variant = ["same", "tuned"]
than = "base"
task = "mini_arc_easy"
max_loss = {margin}
[[gate.rules]]
variant = "same"
than = "base"
task = "mini_piqa"
max_loss = 0.5
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    base = save_tiny_model(folder / "base")
    return base, save_tiny_adapter(folder / "adapter", base)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["phibench", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0)

    return call


def _suite(tmp_path: Path, models: tuple[Path, Path], gate: str) -> Path:
    path = tmp_path / "suite.toml"
    path.write_text(SUITE.format(base=models[0], adapter=models[1]) + gate, encoding="utf-8")
    return path


def test_a_cell_stops_when_its_rules_are_decided(run: Run, tmp_path: Path, models: tuple[Path, Path]) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    run("run", _suite(tmp_path, models, GATE.format(margin=0.3)), "--out", out)
    run("run", _suite(tmp_path, models, ""), "--out", whole)
    cells = {(cell.variant, cell.task): cell for cell in read_results(out).cells}
    assert all(cell.status == "done" for cell in cells.values())
    # Two variants that never differ cannot lose 30 points; a cell that others are compared with is asked in full.
    assert cells["same", "mini_arc_easy"].items < cells["base", "mini_arc_easy"].items
    assert [name for name, cell in cells.items() if cell.stopped_early] == [
        ("same", "mini_arc_easy"),
        ("tuned", "mini_arc_easy"),
    ]
    # A metric without bounds gives no bet: all is asked, and judged as ever.
    assert cells["same", "mini_piqa"].items == cells["base", "mini_piqa"].items
    for name, cell in cells.items():
        asked = read_records(out / str(cell.records))
        full = {record.item: record for record in read_records(whole / str(cell.records))}
        assert len(asked) == cell.items
        if not cell.stopped_early:
            assert len(asked) == len(full)
        for record in asked:  # what was asked has the answers that it has in a whole run
            values = [[metric.value for metric in one.metrics] for one in (record, full[record.item])]
            assert values[0] == pytest.approx(values[1], abs=1e-4), name
    orders = [[r.item for r in read_records(out / f"records/{v}/mini_arc_easy.parquet")] for v in ("same", "tuned")]
    shared = min(map(len, orders))
    assert orders[0][:shared] == orders[1][:shared] != sorted(orders[0][:shared])


def test_items_that_share_sources_are_all_asked(
    run: Run, tmp_path: Path, models: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    suite = _suite(tmp_path, models, GATE.format(margin=0.3))
    task = '[[tasks]]\nname = "mini_arc_easy"\n'
    suite.write_text(suite.read_text().replace(task, f'{task}source = "answerKey"\n'))
    run("check", suite)
    assert "tasks[0].source: items that share sources are not stopped early" in capsys.readouterr().out
    run("run", suite, "--out", tmp_path / "out")
    said = capsys.readouterr().out
    assert "gate.early_stopping: items of mini_arc_easy share sources: all of them are asked" in said
    assert "loglikelihood_margin of mini_piqa is not known to lie between 0 and 1" in said
    assert not any(cell.stopped_early for cell in read_results(tmp_path / "out").cells)


def test_what_stopped_early_is_judged_by_what_allows_it(run: Run, tmp_path: Path, models: tuple[Path, Path]) -> None:
    out = tmp_path / "out"
    run("run", _suite(tmp_path, models, GATE.format(margin=0.3)), "--out", out)
    outcomes = open_run(out)
    base, same = (outcomes.values(name, "mini_arc_easy") for name in ("base", "same"))
    pairs = pair(base, same, ("acc_norm", "none"))  # type: ignore[arg-type]
    assert pairs.early and pairs.baseline_only > 0
    low, _ = confidence_sequence((pairs.after - pairs.before + 1) / 2, 0.9)  # type: ignore[operator]
    assert 2 * low - 1 >= -0.3


def test_an_early_run_is_found_again_and_another_margin_asks_anew(
    run: Run, tmp_path: Path, models: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    suite = _suite(tmp_path, models, GATE.format(margin=0.3))
    run("run", suite, "--out", out)
    before = read_results(out)
    capsys.readouterr()
    run("run", suite, "--out", out)
    assert "every cell is already here" in capsys.readouterr().out
    assert read_results(out) == before
    other = tmp_path / "other"
    run("run", _suite(tmp_path, models, GATE.format(margin=0.12)), "--out", other)
    cells = [read_results(folder).cell("same", "mini_arc_easy") for folder in (out, other)]
    assert cells[0] is not None and cells[1] is not None
    assert cells[1].items > cells[0].items
    assert cells[1].cell_hash != cells[0].cell_hash
