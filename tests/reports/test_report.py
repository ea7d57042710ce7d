"""Reports of runs in every state, written through the front door; and that none of it needs torch."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from phibench.errors import UserError
from phibench.harness.records import read_records, write_records
from phibench.harness.results import read_manifest
from phibench.reports.report import write_reports
from support.run_folder import drop_cells, edit_cell, edit_manifest, write_run_folder

NOT_NEEDED = ("torch", "transformers", "lm_eval", "datasets", "peft")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_run_folder(tmp_path / "run", items=12)


def _texts(run_dir: Path) -> tuple[str, str]:
    written = write_reports(run_dir)
    assert [path.name for path in written] == ["report.md", "report.html"]
    markdown, html = (path.read_text(encoding="utf-8") for path in written)
    return markdown, html


def test_the_same_folder_gives_the_same_reports(run_dir: Path) -> None:
    assert _texts(run_dir) == _texts(run_dir)
    assert not list(run_dir.glob(".*.part"))


def test_a_finished_run_has_no_notice(run_dir: Path) -> None:
    for text in _texts(run_dir):
        assert "Incomplete" not in text


def test_a_half_finished_run_says_first_what_is_missing(run_dir: Path) -> None:
    variants = read_manifest(run_dir).variants
    broken = variants[0].model_copy(update={"name": "merged-requantized", "error": "no bitsandbytes here"})
    edit_manifest(run_dir, variants=[*variants, broken], status="incomplete", finished=None)
    edit_cell(run_dir, "adapter-nf4", "wikitext", status="failed", error="out of memory", records=None, scores=[])
    drop_cells(run_dir, lambda cell: (cell.variant, cell.task) != ("merged", "arc_easy"))
    (run_dir / "records/merged/dialogsum.parquet").unlink()
    markdown, html = _texts(run_dir)
    for said in ("incomplete", "no bitsandbytes here", "out of memory", "Not run", "Records unreadable"):
        assert said in markdown[: markdown.index("### Scores")]
        assert said in html[: html.index('<h2 id="scores">')]
    assert "| `merged-requantized` | not made | not made | not made | not made |" in markdown
    assert "| failed |" in markdown and "| not run |" in markdown
    assert "| `arc_easy` | `acc` ↑ | `adapter-nf4` |" in markdown
    assert "| `wikitext` | `word_perplexity` ↓ | `merged` |" in markdown


@pytest.mark.parametrize("results", ["none", "empty", "pending"])
def test_a_run_without_a_finished_cell(run_dir: Path, results: str) -> None:
    edit_manifest(run_dir, status="running", finished=None)
    if results == "none":
        (run_dir / "results.json").unlink()
    elif results == "empty":
        drop_cells(run_dir, lambda cell: False)
    else:
        for variant in ("base", "adapter-nf4", "merged"):
            for task in ("arc_easy", "dialogsum", "wikitext"):
                edit_cell(run_dir, variant, task, status="pending", records=None, scores=[])
    for text in _texts(run_dir):
        assert "No cell has finished" in text
        assert "How it was run" in text
        assert "Scores</h2>" not in text and "### Scores" not in text


def test_a_run_of_the_baseline_alone(run_dir: Path) -> None:
    edit_manifest(run_dir, variants=read_manifest(run_dir).variants[:1])
    drop_cells(run_dir, lambda cell: cell.variant == "base")
    markdown, html = _texts(run_dir)
    assert "### Scores" in markdown and "### Differences" not in markdown
    assert "▲" not in markdown
    assert "Nothing to compare with the baseline" in html


def test_a_baseline_that_is_no_variant(run_dir: Path) -> None:
    edit_manifest(run_dir, baseline="base-nf4")
    for text in _texts(run_dir):
        assert "is none of the run" in text


def test_a_metric_without_a_better_direction(run_dir: Path) -> None:
    tasks = read_manifest(run_dir).tasks
    metrics = [one.model_copy(update={"higher_is_better": None}) for one in tasks[2].metrics]
    edit_manifest(run_dir, tasks=[*tasks[:2], tasks[2].model_copy(update={"metrics": metrics})])
    markdown, html = _texts(run_dir)
    assert "| `word_perplexity` | `adapter-nf4` |" in markdown
    assert "| – / – / 0 | ◆ different |" in markdown
    assert "neither side of zero is better" in html


def test_prompts_that_were_not_kept(tmp_path: Path) -> None:
    run_dir = write_run_folder(tmp_path / "run")
    for path in run_dir.glob("records/*/*.parquet"):
        write_records(path, [dataclasses.replace(one, prompt=None, choices=[]) for one in read_records(path)])
    markdown, _ = _texts(run_dir)
    assert "Examples: <code>arc_easy</code>" in markdown
    assert "`base`: `acc` 0.000" in markdown
    assert "which one is it" not in markdown


def test_variants_that_were_asked_with_other_prompts_are_marked(run_dir: Path) -> None:
    assert not any("with other prompts than" in text for text in _texts(run_dir))
    path = run_dir / "records/merged/arc_easy.parquet"
    write_records(path, [dataclasses.replace(one, prompt_hash="0" * 64) for one in read_records(path)])
    markdown, html = _texts(run_dir)
    assert "Asked `arc_easy` with other prompts than" in markdown
    assert "Asked <code>arc_easy</code> with other prompts than" in html
    assert ": `merged`. Differences to it are of models and prompts together." in markdown


def test_not_a_run_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        write_reports(tmp_path)


def test_reports_need_no_torch(run_dir: Path) -> None:
    program = (
        "import json, sys; from pathlib import Path\n"
        "from phibench.reports.report import write_reports\n"
        "from phibench.reports.terminal import results_table\n"
        "folder = Path(sys.argv[1]); write_reports(folder); results_table(folder, 100)\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(run_dir)], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout)
    assert "phibench.harness.comparison" in loaded
    assert not set(NOT_NEEDED) & set(loaded)


def test_a_zigzag_of_rows_grouped_by_length_is_explained(tmp_path: Path) -> None:
    run_dir = write_run_folder(tmp_path / "run")
    curve = [
        {"step": n, "loss": 1.0 + 0.3 * (n % 4), "eval_loss": None, "tokens_per_row": 400.0 - 90 * (n % 4)}
        for n in range(1, 13)
    ]
    recipe = {"training": {"train_sampling_strategy": "group_by_length"}}
    for training, said in (
        ({"recipe": recipe, "curve": curve}, "correlate by −1.00"),
        ({"recipe": recipe, "curve": [{"step": 1, "loss": None}, {"step": 2}]}, "Rows were grouped by length"),
        ({"recipe": {"training": {}}, "curve": curve}, None),
        ({"recipe": "other", "curve": curve}, None),
    ):
        [adapter] = read_manifest(run_dir).adapters
        edit_manifest(run_dir, adapters=[adapter.model_copy(update={"training": training})])
        write_reports(run_dir)
        text = (run_dir / "report.md").read_text(encoding="utf-8")
        assert (said or "grouped by length") in text if said else "grouped by length" not in text


def test_a_training_record_is_told_setting_by_setting(run_dir: Path) -> None:
    recipe = {"name": "mine", "lora": {"r": 16, "target_modules": ["q_proj"]}, "start": None}
    training = {"recipe": recipe, "rows_special": 0, "rows_special_names": [], "notes": [], "curve": []}
    [adapter] = read_manifest(run_dir).adapters[:1]
    edit_manifest(run_dir, adapters=[adapter.model_copy(update={"training": training})])
    text, _ = _texts(run_dir)
    told = [
        line.split("|")[1].strip(" `") for line in text.splitlines() if line.startswith("| `rec") or "rows_sp" in line
    ]
    assert told == ["recipe.name", "recipe.lora.r", "recipe.lora.target_modules", "rows_special"]
