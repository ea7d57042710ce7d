"""The Markdown report, read as a renderer reads it: what it says, and that foreign text stays inert."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from phibench.harness.results import read_manifest
from phibench.reports import markdown
from phibench.reports.markdown import code, fenced, inline
from phibench.reports.report import write_reports
from support.inert import assert_inert_markdown, assert_tables_keep_their_columns, tokens
from support.run_folder import HOSTILE, IMAGE, SCRIPT, VARIANTS, edit_manifest, overlapping, write_run_folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    run_dir = write_run_folder(tmp_path_factory.mktemp("runs") / "run")
    write_reports(run_dir)
    return (run_dir / "report.md").read_text(encoding="utf-8")


def test_nothing_foreign_is_rendered(text: str) -> None:
    assert "alert(1)" in text and "pixel.png" in text
    assert_inert_markdown(text)
    assert sum(token.type == "heading_open" for token in tokens(text)) == 5  # title, scores, forms, differences, cost


def test_nothing_foreign_is_linked_outside_code(text: str) -> None:
    spoken = "\n".join(token.content for token in tokens(text) if token.type == "text")
    assert "octocat" in spoken
    assert not re.search(r"@\w|#\d|https?://|www\.", spoken)


def test_first_screen_comes_in_order(text: str) -> None:
    said = [
        "3 variants of `owner/small-model` on 3 tasks (180 items)",
        "### Scores",
        "| `base` (baseline) | 0.400 ± 0.064 |",
        "▲ better",
        "3 prompts did not fit the context and lost 21 tokens",
        "### Differences to `base`",
        "### Cost",
        "<details>",
    ]
    places = [text.index(piece) for piece in said]
    assert places == sorted(places)


def test_scores_differences_and_costs_are_said(text: str) -> None:
    assert "| `adapter-nf4` | 0.533 ± 0.065 ▲ |" in text
    assert "| 26.05 ▼ |" in text
    assert (
        "| `arc_easy` | `acc` ↑ | `adapter-nf4` | +0.13 [+0.05, +0.25] | 0.012 | +0.39 | 8 / 0 / 52 | ▲ better |"
        in text
    )
    unclear = "+0.033 [−0.058, +0.134] | 0.75 | +0.13 | 3 / 1 / 56 | no clear difference; 60 items resolve 0.095 |"
    assert f"| `merged` | {unclear}" in text
    assert "| `adapter-nf4` | 1.70 GiB | 1.50 GiB | 12.3 s | 1,155 | 400 |" in text
    assert (
        "| `wikitext` | `bits_per_byte` ↓ | `adapter-nf4` | 0.941 | [0.919, 0.962] | 60 "
        "| +0.0564 [+0.0532, +0.0597] | < 0.001 | – | 0 / 60 / 0 | ▼ worse "
        "| paired BCa bootstrap and t, 10,000 resamples; permutation |"
    ) in text
    assert "not compared: no interval is known for the aggregation 'bleu'" in text


def test_how_it_was_run_is_said(text: str) -> None:
    for said in ("attention: sdpa", "batch: 16,384 tokens", "`torch`", "79.16 GiB", "7,864,320", "`cae662172fd4`"):
        assert said in text
    assert "loss 3.378 → 1.205, held-out loss 1.800 → 1.400 over steps 10 to 500" in text


def test_examples_show_prompt_reference_and_answers(text: str) -> None:
    fences = [token.content for token in tokens(text) if token.type == "fence"]
    assert any(fence.startswith("Summarise.") for fence in fences)
    for variant in VARIANTS:
        assert any(fence.startswith(f"{variant} says of") for fence in fences)
    assert "| reference |" in text


def test_tables_keep_their_columns(text: str) -> None:
    assert_tables_keep_their_columns(text, 51)


@pytest.mark.parametrize(
    "hostile", [*HOSTILE, "", "`", "\\", "\\|", "a  `` b", "[x]: http://evil", "&lt;b&gt;", "- - x", "1. x"]
)
def test_escapes_hold_in_a_paragraph_and_in_a_table(hostile: str) -> None:
    for written in (inline(hostile), code(hostile)):
        page = f"{written}\n\n| a | b |\n| --- | --- |\n| {written} | end |\n\n- {written}\n"
        assert_inert_markdown(page)
        found = tokens(page)
        assert sum(token.type == "td_open" for token in found) == 2
        assert sum(token.type == "list_item_open" for token in found) == 1
        assert "\n" not in written


@pytest.mark.parametrize("hostile", [*HOSTILE, "code:\n```\n# out\n", "````\n<b>out</b>\n```", "~~~\nout\n~~~"])
def test_a_fence_holds_any_text(hostile: str) -> None:
    found = tokens(f"before\n\n{fenced(hostile)}\n\nafter")
    assert [token.type for token in found if token.type in ("fence", "html_block", "heading_open")] == ["fence"]
    assert sum(token.type == "paragraph_open" for token in found) == 2


def test_escaped_text_reads_as_it_was() -> None:
    for hostile in (SCRIPT, IMAGE, HOSTILE[1], "1. x", "a_b*c*"):
        page = MarkdownIt("commonmark").parse(inline(hostile))
        shown = "".join(token.content for token in page[1].children or [])
        assert shown.replace("\u200b", "") == hostile


def test_a_long_report_leaves_folds_out_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = write_run_folder(tmp_path / "run", items=20)
    monkeypatch.setattr(markdown, "LONGEST", 8000)
    write_reports(run_dir)
    text = (run_dir / "report.md").read_text(encoding="utf-8")
    assert len(text) <= 8000
    assert "<summary>How it was run</summary>" in text
    assert "Examples: <code>dialogsum" not in text
    assert "Left out, to stay within the length of a comment (report.html has them)" in text
    assert "examples of `dialogsum`" in text


def test_hostile_names_everywhere(tmp_path: Path) -> None:
    run_dir = write_run_folder(tmp_path / "run", items=12)
    manifest = read_manifest(run_dir)
    evil = HOSTILE[1] + IMAGE + HOSTILE[3] + SCRIPT + HOSTILE[5]
    edit_manifest(
        run_dir,
        name=evil,
        versions={evil: evil},
        hardware={evil: [evil]},
        variants=[*manifest.variants, manifest.variants[0].model_copy(update={"name": evil, "error": evil})],
        tasks=[*manifest.tasks, manifest.tasks[0].model_copy(update={"name": evil, "dataset": evil})],
        adapters=[overlapping(manifest.adapters[0], evil)],
        status="interrupted",
    )
    write_reports(run_dir)
    text = (run_dir / "report.md").read_text(encoding="utf-8")
    assert_inert_markdown(text)
    assert_tables_keep_their_columns(text, 51)
