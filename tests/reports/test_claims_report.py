"""Claims in the reports and the terminal: outcomes with their numbers, hostile text inert."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from phibench.errors import UserError
from phibench.harness.comparison import compare_run
from phibench.harness.results import read_manifest
from phibench.reports.build import build_view
from phibench.reports.html import render_html
from phibench.reports.markdown import render_markdown
from phibench.reports.terminal import results_table
from support.run_folder import IMAGE, SCRIPT, edit_manifest, write_run_folder

STATED = {"variant": "adapter-nf4", "than": "base", "task": "arc_easy", "expect": "better"}
CLAIMS = [
    {"says": f"it learns {SCRIPT}", "source": IMAGE, "holds": [STATED, {**STATED, "than": 0.2, "margin": 0.01}]},
    {"says": "it unlearns", "holds": [{**STATED, "expect": "worse"}]},
    {"says": "it is the same", "holds": [{**STATED, "variant": "merged", "expect": "same", "margin": 0.01}]},
    {"says": "it was never measured", "holds": [{**STATED, "metric": "f1"}], "given": [{**STATED, "expect": "worse"}]},
]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = write_run_folder(tmp_path / "run")
    edit_manifest(folder, suite={**read_manifest(folder).suite, "claims": CLAIMS})
    return folder


def claims_of(report: str) -> str:
    return report[report.index("### Claims") : report.index("### Scores")]


def test_each_claim_has_its_outcome_and_every_statement_its_numbers(run_dir: Path) -> None:
    report = render_markdown(build_view(compare_run(run_dir)))
    section = claims_of(report)
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    assert [re.split(r"(?<!\\) \| ", row)[1] for row in rows] == [
        "confirmed", "", "refuted", "undecided", "undecided: what it is said of was not seen here", "",
    ]  # fmt: skip
    assert "`adapter-nf4` better than `base` on `arc_easy` `acc` ↑ | +" in rows[0]
    assert "better than 0.2 by more than 0.01" in rows[1]
    assert "given: `adapter-nf4` worse than `base`" in rows[4]
    assert "arc\\_easy does not measure f1" in rows[5]
    assert "Here: 1 confirmed, 1 refuted, 2 undecided." in section
    assert all(re.search(r"\[[−+]?\d", row) for row in rows[:5])


def test_nothing_in_a_claim_becomes_markup(run_dir: Path) -> None:
    view = build_view(compare_run(run_dir))
    html = render_html(view)
    assert SCRIPT not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    blocks = MarkdownIt("commonmark").enable("table").parse(claims_of(render_markdown(view)))
    kinds = {token.type for block in blocks for token in [block, *(block.children or [])]}
    assert "td_open" in kinds
    assert not kinds & {"image", "link_open", "html_inline", "html_block"}


def test_the_terminal_names_each_claim(run_dir: Path) -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(results_table(run_dir, 200))
    printed = console.export_text()
    assert "refuted: it unlearns" in printed
    assert f"confirmed: it learns {SCRIPT}" in printed


def test_without_claims_nothing_is_said_of_them(tmp_path: Path) -> None:
    view = build_view(compare_run(write_run_folder(tmp_path / "run")))
    assert "Claims" not in render_markdown(view)
    assert "Claims" not in render_html(view)


def test_claims_of_another_version_are_refused(run_dir: Path) -> None:
    suite = read_manifest(run_dir).suite
    edit_manifest(run_dir, suite={**suite, "claims": [{"says": "x", "holds": [{"other": 1}]}]})
    with pytest.raises(UserError, match="claims"):
        compare_run(run_dir)
