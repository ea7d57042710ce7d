"""What both reports say of contamination. That hostile names stay text: test_markdown.py and test_html.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from phibench.harness.comparison import compare_run
from phibench.harness.results import AdapterInfo, Contamination, read_manifest
from phibench.reports.build import build_view
from phibench.reports.report import write_reports
from phibench.reports.view import Line
from support.run_folder import edit_manifest, write_run_folder

FOUND = Contamination(
    task="arc_easy",
    words=13,
    rows=5000,
    items=500,
    items_checked=488,
    overlapping_items=23,
    item_ids=["arc-1", "arc-7"],
    overlapping_rows=2,
    row_names=["line 3", "line 9"],
    longest=21,
    example="which of these animals",
)
NONE = Contamination(task="dialogsum", words=13, rows=5000, items=60, items_checked=60)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_run_folder(tmp_path / "run", items=8)


def _set(run_dir: Path, contamination: list[Contamination], **changes: object) -> None:
    [adapter] = read_manifest(run_dir).adapters
    edit_manifest(run_dir, adapters=[adapter.model_copy(update={"contamination": contamination, **changes})])


def _said(content: Line) -> str:
    return "".join(span.text for span in content)


def _block(run_dir: Path) -> list[str]:
    [block] = [one for one in build_view(compare_run(run_dir)).how if _said(one.title) == "Contamination"]
    return [_said(content) for content in block.lines]


def test_counts_and_names(run_dir: Path) -> None:
    _set(run_dir, [FOUND, NONE])
    counted = (
        "23 of 500 items share 13 words in a row, or a whole shorter text, with 2 of 5,000 training rows of summaries."
    )
    assert _block(run_dir) == [
        f"arc_easy: {counted} Items: arc-1, arc-7 and 21 more. Rows: line 3, line 9. "
        "The longest run has 21 words: which of these animals. Too short to tell: 12 items.",
        "dialogsum: none of 60 items shares 13 words in a row, or a whole shorter text, "
        "with any of 5,000 training rows of summaries.",
    ]
    notes = [_said(content) for content in build_view(compare_run(run_dir)).legend]
    assert [note for note in notes if "Contamination" in note] == [f"Contamination: arc_easy: {counted}"]


def test_both_reports_say_it(run_dir: Path) -> None:
    _set(run_dir, [FOUND, NONE])
    markdown, html = (path.read_text(encoding="utf-8") for path in write_reports(run_dir))
    assert "Contamination: `arc_easy`: 23 of 500 items share" in markdown[: markdown.index("### Differences")]
    assert "Contamination: <code>arc_easy</code>: 23 of 500 items share" in html[: html.index('<h2 id="differences">')]
    assert "Items: `arc-1`, `arc-7` and 21 more." in markdown
    assert "Items: <code>arc-1</code>, <code>arc-7</code> and 21 more." in html


def test_one_item(run_dir: Path) -> None:
    one = {"overlapping_items": 1, "item_ids": ["arc-1"], "overlapping_rows": 1, "row_names": ["line 3"]}
    _set(run_dir, [FOUND.model_copy(update={**one, "longest": 13, "items_checked": 500})])
    assert _block(run_dir) == [
        "arc_easy: 1 of 500 items shares 13 words in a row, or a whole shorter text, with 1 of 5,000 training rows of "
        "summaries. Items: arc-1. Rows: line 3. The longest run has 13 words: which of these animals."
    ]


@pytest.mark.parametrize(
    ("training", "said"),
    [
        (None, "summaries: not known: the adapter does not say what it was trained on."),
        ({"rows": 5}, "summaries: not checked."),
    ],
)
def test_what_is_not_known(run_dir: Path, training: object, said: str) -> None:
    _set(run_dir, [], training=training)
    assert _block(run_dir) == [said]
    assert not any("Contamination" in _said(content) for content in build_view(compare_run(run_dir)).legend)


def test_the_rows_of_a_ready_made_start_are_not_known(run_dir: Path) -> None:
    _set(run_dir, [NONE], unknown_start="earlier")
    told = "what that was trained on is not known, and its rows are not among these."
    said = f"summaries was trained on from earlier: {told}"
    assert _block(run_dir)[1:] == [said]
    notes = [_said(content) for content in build_view(compare_run(run_dir)).legend]
    assert f"Contamination: {said}" in notes


def test_no_adapter_no_word(run_dir: Path) -> None:
    edit_manifest(run_dir, adapters=[])
    for path in write_reports(run_dir):
        assert "ontamination" not in path.read_text(encoding="utf-8")


def test_older_manifests_are_read() -> None:
    fields = {"name": "a", "source": "./a", "method": "LORA", "sha256": "0", "parameters": 1}
    assert AdapterInfo.model_validate(fields).contamination == []
