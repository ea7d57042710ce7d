"""`phibench gate` and `phibench baseline`: options, exit codes, files written, and mistakes told with their place."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from phibench.harness.results import read_manifest
from support.command import Command, Ended
from support.run_folder import edit_cell, edit_manifest, write_run_folder

RULES = """[[rules]]
variant = "adapter-nf4"
task = "arc_easy"
max_loss = 0.02
"""
FAILING = RULES.replace("max_loss = 0.02", "min_gain = 0.5")


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    return write_run_folder(tmp_path / "run")


def rules(text: str = RULES, name: str = "gate.toml") -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


def is_clean(ended: Ended) -> bool:
    return ended.code == 2 and "error: " in ended.err and "Traceback" not in ended.all


# ---- rules and verdicts


@pytest.mark.parametrize(("text", "code", "says"), [
    (RULES, 0, "gate passed (1 passed); exit code 0"),
    (FAILING, 1, "gate failed (1 failed); exit code 1"),
    (RULES.replace("adapter-nf4", "merged"), 4, "gate is undecided (1 undecided); exit code 4"),
    ("[gate]\nundecided = 'pass'\n" + RULES.replace("adapter-nf4", "merged").replace("[[", "[[gate."), 0, "passed"),
])  # fmt: skip
def test_rules_of_a_file(text: str, code: int, says: str, run_dir: Path, phibench: Command) -> None:
    ended = phibench("gate", "run", "--rules", rules(text))
    assert ended.code == code, ended.all
    assert ended.out.splitlines()[0] == "rules: those of gate.toml"
    assert says in ended.out.splitlines()[-1]
    assert "::" not in ended.out


def test_early_stopping_in_a_file_of_rules_is_said_to_do_nothing(run_dir: Path, phibench: Command) -> None:
    text = "[gate]\nearly_stopping = true\n" + RULES.replace("[[", "[[gate.")
    out = phibench("gate", "run", "--rules", rules(text)).out
    assert out.splitlines()[1] == ("early_stopping of gate.toml does nothing here: items are asked by `phibench run`")
    assert "early_stopping" not in phibench("gate", "run", "--rules", rules()).out


def test_a_cell_that_failed_is_not_passed_by_any_policy(run_dir: Path, phibench: Command) -> None:
    edit_cell(run_dir, "adapter-nf4", "arc_easy", status="failed", error="the device ran out of memory")
    ended = phibench("gate", "run", "--rules", rules(), "--undecided", "pass", "--junit", "j.xml")
    assert ended.code == 4
    assert "adapter-nf4 on arc_easy: failed: the device ran out of memory" in " ".join(ended.out.split())
    assert ended.out.splitlines()[-1].endswith("exit code 4: answers are missing")
    assert ET.parse("j.xml").getroot()[0].attrib["skipped"] == "1"


@pytest.mark.parametrize(("undecided", "code"), [("undecided", 4), ("pass", 0), ("fail", 1)])
def test_what_undecided_rules_count_as_can_be_said(undecided: str, code: int, run_dir: Path, phibench: Command) -> None:
    text = RULES.replace("adapter-nf4", "merged")
    assert phibench("gate", "run", "--rules", rules(text), "--undecided", undecided).code == code


def test_the_default_gate_is_said_and_its_margin_can_be_set(run_dir: Path, phibench: Command) -> None:
    assert "no variant loses more than 0.02 in any task's leading metric" in phibench("gate", "run").out
    ended = phibench("gate", "run", "--margin", "0.9")
    assert ended.code == 1  # word perplexity has its own scale
    assert "no variant loses more than 0.9 in" in ended.out
    assert is_clean(phibench("gate", "run", "--margin", "9"))  # which an accuracy cannot lose
    ended = phibench("gate", "run", "--margin", "0.1", "--rules", rules())
    assert is_clean(ended)
    assert "--margin would do nothing" in ended.err


def test_the_gate_of_the_runs_own_suite_is_used(run_dir: Path, phibench: Command) -> None:
    own = {"rules": [{"variant": "adapter-nf4", "task": "arc_easy", "min_gain": 0.5}]}
    edit_manifest(run_dir, suite={**read_manifest(run_dir).suite, "gate": own})
    ended = phibench("gate", "run")
    assert ended.code == 1
    assert ended.out.startswith("rules: the [gate] of the run's own suite")
    assert phibench("gate", "run", "--rules", rules()).code == 0
    assert is_clean(phibench("gate", "run", "--margin", "0.1"))
    edit_manifest(run_dir, suite={"gate": {"rules": [{"of another version": 1}]}})
    assert is_clean(phibench("gate", "run"))


@pytest.mark.parametrize(("text", "faults"), [
    ("[[rules]]\nmax_los = 1\n", [':2: rules[0].max_los: unknown key "max_los"', "did you mean \"max_loss\"?"]),
    ("[[gate.rules]]\nmax_loss = -1\n", [":2: gate.rules[0].max_loss: must be at least 0 (it is -1)"]),
    ("[gate]\nlevel = 0.5\n[[gate.rules]]\nmax_loss = 'a'\n", [
        ":2: gate.level: must be at most 0.2", ":4: gate.rules[0].max_loss: must be a number", "2 faults found",
    ]),
    ("", ['the key "rules" is missing']),
    ("gate = 3\n", [":1: gate: must be a table", "write [gate], and its keys below"]),
    ("[gat]\nrules = 1\n", [':1: gat: unknown key "gat"']),
    ("[gate]\nrules = [{ max_loss = 1 }]\n[[rules]]\nmax_loss = 1\n", [':3: rules: unknown key "rules"']),
    ('name = "x"\n[base]\nmodel = "m"\n[[tasks]]\nname = "t"\n', ["this suite has no [gate]"]),
    ("rules = [", ["this is not TOML"]),
    (None, ["the file of rules cannot be read"]),
])  # fmt: skip
def test_every_fault_of_a_file_of_rules_has_its_line(
    text: str | None, faults: list[str], run_dir: Path, phibench: Command
) -> None:
    if text is not None:
        rules(text)
    ended = phibench("gate", "run", "--rules", "gate.toml")
    assert is_clean(ended)
    assert [fault for fault in faults if fault not in ended.err] == [], ended.err
    assert "error: gate.toml" in ended.err


def test_a_suite_file_can_be_the_file_of_rules(run_dir: Path, phibench: Command) -> None:
    suite = 'name = "x"\n[base]\nmodel = "m"\n[[tasks]]\nname = "t"\n'
    assert phibench("gate", "run", "--rules", rules(suite + RULES.replace("[[", "[[gate."))).code == 0


def test_names_that_the_run_does_not_have(run_dir: Path, phibench: Command) -> None:
    ended = phibench("gate", "run", "--rules", rules(RULES.replace("arc_easy", "arc_esy")))
    assert is_clean(ended)
    assert 'gate.rules[0].task: run has no task "arc_esy"' in ended.err
    assert 'did you mean "arc_easy"?' in ended.err


@pytest.mark.parametrize("arguments", [["gate", "gone"], ["gate", "run", "--against", "gone.json"],
                                       ["gate", "run", "--against", "run:gone"], ["gate", "run", "--against", "."],
                                       ["baseline", "save", "gone", "--out", "b"], ["baseline", "show", "gone"],
                                       ["baseline", "save", "run:gone", "--out", "b"]])  # fmt: skip
def test_what_is_not_there(arguments: list[str], run_dir: Path, phibench: Command) -> None:
    ended = phibench(*arguments)
    assert is_clean(ended), ended.all
    assert not Path("b").exists()


# ---- against another run, or a baseline file


def test_a_committed_baseline_is_compared_with(run_dir: Path, phibench: Command) -> None:
    ended = phibench("baseline", "save", "run", "--out", "baseline.json")
    assert ended.code == 0, ended.all
    assert ended.out == f"baseline.json: {Path('baseline.json').stat().st_size:,} bytes\n"
    assert "left out: bleu of base on dialogsum: its items' values are texts" in ended.err
    # The same models, which answered the same: nothing is lost, however few the items are.
    ended = phibench("gate", "run", "--against", "baseline.json")
    assert ended.code == 0, ended.all
    assert "compared with baseline.json" in ended.out
    assert "the same model, by its identity" in ended.out
    # Every variant against the baseline's base: what the adapter lost in perplexity shows.
    ended = phibench("gate", "run", "--against", "baseline.json:base")
    assert ended.code == 1
    assert re.search(r"adapter-nf4 +wikitext .* loses at most 0.02 against base .* failed", ended.out)
    # The file's place counts from that of the rules.
    Path("sub").mkdir()
    Path("baseline.json").rename("sub/baseline.json")
    named = "[gate]\nagainst = 'baseline.json'\n[[gate.rules]]\nmax_loss = 0.02\n"
    ended = phibench("gate", "run", "--rules", rules(named, "sub/gate.toml"))
    assert ended.code == 0, ended.all
    assert "compared with sub/baseline.json" in ended.out


def test_a_baseline_is_shown(run_dir: Path, phibench: Command) -> None:
    phibench("baseline", "save", "run:base", "--out", "b.json")
    ended = phibench("baseline", "show", "b.json")
    assert ended.code == 0
    assert re.search(r"base \(baseline\) +arc_easy +acc ↑ +0\.\d+ ± 0\.\d+ +60 +2", ended.out)
    assert "owner/small-model, run 2025-01-02T03:04:05Z by phibench 0.1.0" in ended.out
    assert "python 3.11.9, torch 2.7.0" in ended.out


def test_prompts_go_into_a_baseline_only_when_asked(run_dir: Path, phibench: Command) -> None:
    phibench("baseline", "save", "run", "--out", "b.json")
    assert "Question: which" not in Path("b.json").read_text()
    phibench("baseline", "save", "run", "--out", "b.json", "--prompts")
    assert "Question: which" in Path("b.json").read_text()


def test_a_place_that_cannot_be_written_is_told(run_dir: Path, phibench: Command) -> None:
    Path("file").write_text("x")
    for option in ("--junit", "--comment", "--json", "--summary"):
        ended = phibench("gate", "run", option, "file/below")
        assert is_clean(ended), ended.all
        assert "file/below" in ended.err
    assert is_clean(phibench("baseline", "save", "run", "--out", "file/below"))


# ---- continuous integration


def test_a_folder_in_the_place_of_a_file_is_a_mistake_and_no_failed_gate(
    run_dir: Path, phibench: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("taken").mkdir()
    for option in ("--junit", "--comment", "--json", "--summary"):
        ended = phibench("gate", "run", "--rules", rules(), option, "taken")
        assert is_clean(ended), option
        assert f"{option} taken: this file cannot be written: Is a directory" in ended.err
    ended = phibench("baseline", "save", "run", "--out", "taken")
    assert is_clean(ended)
    assert "--out taken: this file cannot be written: Is a directory" in ended.err
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "taken")
    ended = phibench("gate", "run", "--rules", rules())
    assert is_clean(ended)
    assert "$GITHUB_STEP_SUMMARY taken: " in ended.err


def test_every_file_that_is_asked_for_is_written(run_dir: Path, phibench: Command) -> None:
    Path("summary.md").write_text("what another step wrote\n")
    ended = phibench(
        "gate", "run", "--junit", "ci/junit.xml", "--summary", "summary.md", "--comment", "c.md", "--json", "g.json"
    )
    assert ended.code == 1
    assert ET.parse("ci/junit.xml").getroot().attrib["tests"] == "6"
    assert Path("summary.md").read_text().startswith("what another step wrote\n## ❌ phibench gate: failed\n")
    assert Path("c.md").read_text().startswith("<!-- phibench-gate: ")
    assert json.loads(Path("g.json").read_text())["exit_code"] == 1
    assert "::error" not in ended.out


def test_in_github_actions_there_are_annotations_and_a_summary(
    run_dir: Path, phibench: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    ended = phibench("gate", "run")
    assert len(re.findall(r"^::error title=", ended.out, re.MULTILINE)) == 2
    assert Path("summary.md").read_text().startswith("## ❌")
    assert "::" not in phibench("gate", "run", "--no-annotations").out
    monkeypatch.delenv("GITHUB_ACTIONS")
    Path("summary.md").unlink()
    assert "::" not in phibench("gate", "run").out
    assert not Path("summary.md").exists()
    assert "::error" in phibench("gate", "run", "--annotations").out
