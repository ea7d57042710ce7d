"""Our tasks on a user's own rows: one local file in the place of the hub's dataset, from end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phibench.harness.results import read_results
from support.command import Command
from support.tiny import save_tiny_model

WEBGLM = [
    {"question": "Why?", "answer": "It is wet [1].", "references": ["Rain.", "Iron."]},
    {"question": "How?", "answer": "By hand [2].", "references": ["Tea.", "Hands."]},
]
DIALOGSUM = [{"id": f"test_{n}_1", "dialogue": f"#Person1#: {n}?", "summary": f"They ask {n}."} for n in range(2)]
CASES: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "webglm_qa": ("THUDM/webglm-qa", WEBGLM),
    "webglm_qa_loss": ("THUDM/webglm-qa", WEBGLM),
    "webglm_pairs": ("THUDM/webglm-qa", WEBGLM),
    "dialogsum": ("knkarthick/dialogsum", DIALOGSUM),
    "dialogsum_loss": ("knkarthick/dialogsum", DIALOGSUM),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), context=512)


def write(folder: Path, model: Path, task: str, rows: list[dict[str, Any]]) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    suite = folder / "suite.toml"
    suite.write_text(
        f'name = "own"\n[base]\nmodel = "{model}"\n[[variants]]\nname = "base"\n[[tasks]]\nname = "{task}"\n'
        f'[data]\n"{CASES[task][0]}" = "rows.jsonl"\n[generation]\nmax_gen_toks = 4\n'
    )
    return suite


@pytest.mark.parametrize("task", CASES)
def test_one_file_is_what_is_evaluated(task: str, tmp_path: Path, model: Path, phibench: Command) -> None:
    suite = write(tmp_path, model, task, CASES[task][1])
    ended = phibench("run", suite, "--out", tmp_path / "out")
    assert ended.code == 0, ended.all
    [cell] = read_results(tmp_path / "out").cells
    assert (cell.status, cell.items) == ("done", 2)


def test_rows_of_which_none_makes_an_item_are_told(tmp_path: Path, model: Path, phibench: Command) -> None:
    suite = write(tmp_path, model, "webglm_pairs", [{**WEBGLM[0], "answer": "It cites nothing."}])
    ended = phibench("run", suite, "--out", tmp_path / "out")
    assert ended.code == 2
    assert "tasks: webglm_pairs: there is no item to ask" in ended.all.replace("\n", " ")
