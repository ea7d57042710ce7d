"""The HTML report, read by a parser: self-contained, well formed, accessible, deaf to foreign text."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from phibench.harness.results import read_manifest
from phibench.reports.report import write_reports
from support.inert import Page, assert_inert_page
from support.run_folder import HOSTILE, IMAGE, SCRIPT, edit_manifest, overlapping, write_run_folder


def _page(run_dir: Path) -> Page:
    write_reports(run_dir)
    return Page((run_dir / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return _page(write_run_folder(tmp_path_factory.mktemp("runs") / "run"))


def test_nothing_is_fetched_and_nothing_runs(page: Page, tmp_path: Path) -> None:
    assert_inert_page(page)
    policies = [one["content"] for one in page.named("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"]
    run_dir = write_run_folder(tmp_path / "run", items=8)
    write_reports(run_dir)
    css = re.search(r"<style>(.*?)</style>", (run_dir / "report.html").read_text(encoding="utf-8"), re.DOTALL)
    assert css is not None
    assert "url(" not in css[1] and "@import" not in css[1]


def test_foreign_text_is_shown_as_text(page: Page) -> None:
    assert page.shown.count(SCRIPT) > 3
    assert IMAGE in page.shown
    assert "<img src=http://evil.example/a.png>" in page.shown
    assert "a | pipe \\| and a `backtick` and ```` four ````" in page.shown
    assert "\\u202eflip\\u202c" in page.shown and "\u202e" not in page.shown


def test_scores_and_differences_are_said(page: Page) -> None:
    for said in (
        "0.533 ± 0.065",
        "+0.13 [+0.05, +0.25]",
        "0.012",
        "McNemar, mid-p",
        "8 / 0 / 52",
        "▲ better",
        "▼ worse",
        "26.05",
    ):
        assert said in page.shown
    assert "3 variants of owner/small-model on 3 tasks (180 items)" in page.shown
    assert "wikitext" in page.shown and "1.70 GiB" in page.shown and "cae662172fd4" in page.shown


def test_tables_are_accessible_and_scroll_in_their_own_box(page: Page) -> None:
    tables = page.named("table")
    assert len(tables) == len(page.named("caption")) > 10
    assert all(one.get("scope") in ("row", "col") for one in page.named("th"))
    boxes = [one for one in page.named("div") if one.get("class") == "scroll"]
    assert len(boxes) == len(tables)
    assert all(one.get("tabindex") == "0" and one.get("aria-label") for one in boxes)


def test_headings_never_skip_a_level(page: Page) -> None:
    levels = [int(tag[1]) for tag, _, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_figures_stay_inside_their_box(page: Page) -> None:
    labels = [one.get("aria-label") or "" for one in page.named("svg")]
    assert sum(label.startswith("Interval plot of") for label in labels) == 4
    assert sum("held-out loss" in label for label in labels) == 1
    for tag in ("line", "circle"):
        for one in page.named(tag):
            for name in ("x1", "x2", "cx"):
                if name in one:
                    place = one[name] or ""
                    assert place.endswith("%") and 0 <= float(place[:-1]) <= 100
    for one in page.named("polyline"):
        points = [float(number) for pair in (one["points"] or "").split() for number in pair.split(",")]
        assert len(points) > 3 and all(0 <= number <= 100 for number in points)


def test_light_dark_and_small_screens(page: Page, tmp_path: Path) -> None:
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.named("meta")
    run_dir = write_run_folder(tmp_path / "run", items=8)
    write_reports(run_dir)
    assert "prefers-color-scheme: dark" in (run_dir / "report.html").read_text(encoding="utf-8")


def test_hostile_names_everywhere(tmp_path: Path) -> None:
    run_dir = write_run_folder(tmp_path / "run", items=12)
    manifest = read_manifest(run_dir)
    evil = "\"'></title></style>" + "".join(HOSTILE[:6]) + '" onload="alert(1)'
    edit_manifest(
        run_dir,
        name=evil,
        baseline=evil,
        versions={evil: evil},
        variants=[*manifest.variants, manifest.variants[0].model_copy(update={"name": evil, "error": evil})],
        tasks=[*manifest.tasks, manifest.tasks[0].model_copy(update={"name": evil, "dataset": evil})],
        adapters=[overlapping(manifest.adapters[0], evil)],
    )
    page = _page(run_dir)
    assert_inert_page(page)
    assert len(page.named("style")) == len(page.named("title")) == 1
    assert not {"\u202e", "\x00", "\x1b"} & set(page.shown)
