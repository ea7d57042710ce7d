"""The HTML report in a real browser: its own parser finds no more elements than we wrote, and all of it is drawn."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from phibench.harness.compare import compare_sides
from phibench.harness.sides import open_sides
from phibench.reports.compare_build import build_compare_view
from phibench.reports.compare_html import render_compare_html
from phibench.reports.report import write_reports
from support.run_folder import HOSTILE, edit_manifest, write_run_folder

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=400,1200",
)

pytestmark = [pytest.mark.browser, pytest.mark.skipif(BROWSER is None, reason="no Chromium here")]


def _run(run_dir: Path, profile: Path, *wanted: str) -> str:
    page = (run_dir / "report.html").as_uri()
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={profile}", *wanted, page]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def test_the_browser_finds_no_foreign_element(tmp_path: Path) -> None:
    run_dir = write_run_folder(tmp_path / "run")
    edit_manifest(run_dir, name="</title><img src=x onerror=alert(1)>" + HOSTILE[3])
    write_reports(run_dir)
    dom = _run(run_dir, tmp_path / "profile", "--dump-dom")
    assert "alert(1)" in dom and "<table>" in dom
    assert not re.search(r"<(script|img|a|iframe|link|object|form)\b", dom)
    assert dom.count("<title>") == 1


def test_the_report_is_drawn(tmp_path: Path) -> None:
    run_dir = write_run_folder(tmp_path / "run")
    write_reports(run_dir)
    shot = tmp_path / "shot.png"
    _run(run_dir, tmp_path / "profile", f"--screenshot={shot}")
    assert shot.read_bytes().startswith(b"\x89PNG")
    assert shot.stat().st_size > 20_000  # a blank page of this size takes a tenth of that


def test_the_browser_finds_no_foreign_element_in_a_comparison(tmp_path: Path) -> None:
    run_dir = write_run_folder(tmp_path / "<img src=x onerror=alert(1)>" / "run")
    edit_manifest(run_dir, model="</title><img src=x onerror=alert(1)>" + HOSTILE[3])
    found = compare_sides(open_sides([f"{run_dir}:base", f"{run_dir}:adapter-nf4", f"{run_dir}:merged"]))
    page = tmp_path / "report.html"
    page.write_text(render_compare_html(build_compare_view(found)), encoding="utf-8")
    dom = _run(tmp_path, tmp_path / "profile", "--dump-dom")
    assert "alert(1)" in dom and dom.count("<table>") > 6
    assert not re.search(r"<(script|img|a|iframe|link|object|form)\b", dom)
    shot = tmp_path / "shot.png"
    _run(tmp_path, tmp_path / "profile", f"--screenshot={shot}")
    assert shot.stat().st_size > 20_000
