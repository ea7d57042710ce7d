"""`phibench compare` at the command line: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from statsmodels.stats.multitest import multipletests

from phibench.harness.results import read_manifest
from support.command import Command, Ended
from support.run_folder import edit_cell, edit_manifest, write_run_folder


@pytest.fixture(autouse=True)
def run(phibench: Command) -> Path:
    return write_run_folder(Path("run"), items=20)


def is_clean(ended: Ended) -> bool:
    return ended.code == 2 and "error: " in ended.err and "Traceback" not in ended.all


def test_the_terminal_alone(phibench: Command) -> None:
    ended = phibench("compare", "run:base", "run:merged")
    assert ended.code == 0
    assert "compared with base" in ended.out
    assert "- On arc_easy, no difference between merged and base is shown: " in ended.out
    assert "Holm's method" in ended.out
    assert [path.name for path in Path().iterdir()] == ["run"]


def test_files_are_written_and_named(phibench: Command) -> None:
    ended = phibench("compare", "run:base", "run", "--html", "out/c.html", "--md", "c.md", "--json", "c.json")
    assert ended.code == 0
    assert ended.out.splitlines()[-3:] == ["out/c.html", "c.md", "c.json"]
    assert Path("out/c.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert Path("c.md").read_text(encoding="utf-8").startswith("## adapter-nf4 compared with base")
    assert json.loads(Path("c.json").read_text(encoding="utf-8"))["first"] == "base"


def test_standard_output_holds_nothing_else(phibench: Command) -> None:
    ended = phibench("compare", "run:base", "run:merged", "--json", "-")
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out)["family"] == 4
    assert phibench("compare", "run:base", "run:merged", "--md", "-").out.startswith("## merged compared with base\n")


def test_examples_are_as_many_as_asked(phibench: Command) -> None:
    counts = []
    for options in ([], ["--examples", "1"], ["--examples", "0"]):
        found = json.loads(phibench("compare", "run:base", "run", "--json", "-", *options).out)
        counts.append([len(task["examples"]) for task in found["tasks"]])
    assert counts == [[2, 5, 0], [1, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize(("own", "option", "heading", "said"), [
    (None, None, "p, Holm", "corrected by Holm's method for the"),
    ("fdr_bh", None, "p, Benjamini-Hochberg", "corrected by Benjamini and Hochberg's method for the"),
    ("fdr_bh", "none", "p, no correction", "not corrected for the"),
    (None, "fdr_bh", "p, Benjamini-Hochberg", "corrected by Benjamini and Hochberg's method for the"),
])  # fmt: skip
def test_the_correction_is_the_first_runs_or_the_one_that_is_asked(
    own: str | None, option: str | None, heading: str, said: str, phibench: Command
) -> None:
    write_run_folder(Path("other"), items=20)
    if own is not None:
        edit_manifest(Path("run"), suite={**read_manifest(Path("run")).suite, "statistics": {"correction": own}})
    sides = ["run:base", "run:merged", "other:adapter-nf4", *(["--correction", option] if option else [])]
    shown = phibench("compare", *sides, "--html", "c.html").out
    assert heading in shown
    assert said in " ".join(shown.split())
    assert heading in Path("c.html").read_text(encoding="utf-8")
    told = json.loads(phibench("compare", *sides, "--json", "-").out)
    assert told["correction"] == (option or own or "holm")
    ones = [one for task in told["tasks"] for metric in task["metrics"] for one in metric["differences"].values()]
    family = [one for one in ones if one["adjusted_p"] is not None]
    expected = [one["p"] for one in family]
    if (method := option or own or "holm") != "none":
        expected = list(multipletests(expected, method=method)[1])
    assert [one["adjusted_p"] for one in family] == pytest.approx(expected)
    assert any(one["adjusted_p"] != one["p"] for one in family) == (method != "none")


def test_that_items_were_asked_until_decided_is_a_setting(phibench: Command) -> None:
    write_run_folder(Path("other"), items=20)
    edit_cell(Path("other"), "merged", "arc_easy", stopped_early=True)
    told = json.loads(phibench("compare", "run:merged", "other:merged", "--json", "-").out)
    early = {"key": "tasks.arc_easy.items asked until decided", "values": {"run:merged": None, "other:merged": "yes"}}
    assert early in told["settings"]
    assert "items asked until decided" in phibench("compare", "run:merged", "other:merged").out
    within = phibench("compare", "run:merged", "run:base", "--json", "-").out
    assert "items asked until decided" not in within


def test_the_same_command_gives_the_same_files(phibench: Command) -> None:
    one, other = (phibench("compare", "run:base", "run", "--json", "-").out for _ in range(2))
    assert one == other


@pytest.mark.parametrize(("arguments", "says"), [
    (["run:base"], "a comparison needs at least two"),
    (["run:base", "gone:base"], "gone: this is not a run folder"),
    (["run:base", "run:mergd"], 'did you mean "merged"?'),
    (["run:base", "run:merged", "--md", "c", "--json", "c"], "two of these would be written to the same place"),
    (["run:base", "run:merged", "--md", "-", "--json", "-"], "two of these would be written to the same place"),
    (["run:base", "run:merged", "--html", "-"], "a page is written to a file"),
    (["run:base", "run:merged", "--md", "run"], "--md run: this file cannot be written: Is a directory"),
    (["run:base", "run:merged", "--md", "run/manifest.json/c"], "this file cannot be written"),
])  # fmt: skip
def test_mistakes_are_told_as_such(arguments: list[str], says: str, phibench: Command) -> None:
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    ended = phibench("compare", *arguments)
    assert is_clean(ended)
    assert says in ended.err
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
