"""The table that ends a run."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from phibench.reports.terminal import results_table
from support.run_folder import SCRIPT, drop_cells, edit_cell, edit_manifest, write_run_folder


def _shown(run_dir: Path, width: int = 160) -> list[str]:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(results_table(run_dir, width))
    return capture.get().splitlines()


def _row(lines: list[str], variant: str) -> str:
    return next(line for line in lines if line.startswith(f"│ {variant} "))


def test_variants_by_leading_metrics(tmp_path: Path) -> None:
    lines = _shown(write_run_folder(tmp_path / "run"))
    assert "▲ 0.533 ± 0.065" in _row(lines, "adapter-nf4")
    assert "▼ 26.05" in _row(lines, "adapter-nf4")
    merged = _row(lines, "merged").split("│")
    assert "0.433 ± 0.065" in merged[2] and "▲" not in merged[2] and "▼" not in merged[2]
    assert any("acc ↑" in line and "word_perplexity ↓" in line and "stopped" not in line for line in lines)
    places = {line.index("±") for line in lines if "±" in line}
    assert len(places) == 1  # the marks do not move the numbers


def test_gaps_and_hostile_names(tmp_path: Path) -> None:
    run_dir = write_run_folder(tmp_path / "run", items=8)
    edit_cell(run_dir, "merged", "wikitext", status="failed", error="x", records=None, scores=[])
    drop_cells(run_dir, lambda cell: (cell.variant, cell.task) != ("merged", "arc_easy"))
    edit_manifest(run_dir, name=f"[bold]{SCRIPT}[/bold]\x1b[31m")
    lines = _shown(run_dir)
    assert "not run" in _row(lines, "merged") and "failed" in _row(lines, "merged")
    text = "\n".join(lines)
    assert f"[bold]{SCRIPT}[/bold]\\x1b[31m" in text
    assert "\x1b" not in text


def test_a_narrow_terminal_gets_a_row_for_each_task_and_variant(tmp_path: Path) -> None:
    run_dir = write_run_folder(tmp_path / "run")
    lines = _shown(run_dir, width=64)
    scores = [line for line in lines if " adapter-nf4 " in line]
    assert len(scores) == 3
    assert "▲ 0.533 ± 0.065" in scores[0] and "[" in scores[0]
    assert any(line.split()[:3] == ["base", "0.283", "±"] or " – " in line for line in lines)
