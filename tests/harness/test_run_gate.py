"""`phibench run` and its gate: judged at the end, kept with the run, and told by the exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phibench.harness.engine.scoring import TreeEngine
from phibench.harness.runner import Runner
from support.command import Command
from support.tiny import save_tiny_model

YAML = Path(__file__).parent / "yaml"
SUITE = """
name = "gated"
include = ["{yaml}"]
[base]
model = "{base}"
dtype = "float32"
[quantizations.nf4]
load_in_4bit = true
[[variants]]
name = "base"
[[variants]]
name = "base-nf4"
quantization = "nf4"
[[tasks]]
name = "mini_arc_easy"
[[tasks]]
name = "test_sampled"
[data]
"test/rolling" = "rows.jsonl"
"""
TEXTS = ["The old bridge in the north was built of stone.", "Bread rises because yeast makes gas."]
PASSES = "[[gate.rules]]\nat_least = 0\ntask = 'mini_arc_easy'\n"
FAILS = "[[gate.rules]]\nat_least = 1\ntask = 'mini_arc_easy'\n"
UNDECIDED = "[[gate.rules]]\nmax_loss = 0.001\ntask = 'mini_arc_easy'\n"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "base")


def write(base: Path, gate: str, **more: str) -> Path:
    path = Path("suite.toml")
    Path("rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    text = SUITE.format(yaml=YAML, base=base)
    for old, new in more.items():
        text = text.replace(old, new)
    path.write_text(text + gate, encoding="utf-8")
    return path


def run(phibench: Command, *more: str) -> Any:
    return phibench("run", "suite.toml", "--out", "out", "--limit", 8, "--offline", *more)


def test_the_gate_is_judged_at_the_end_and_another_gate_asks_nothing_again(
    phibench: Command, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(base, "")
    ended = run(phibench)
    assert ended.code == 0, ended.all
    assert not Path("out/gate.json").exists()
    monkeypatch.setattr(TreeEngine, "score_all", _never)
    for gate, code, verdict in ((PASSES, 0, "pass"), (FAILS, 1, "fail"), (UNDECIDED, 4, "undecided")):
        write(base, gate)
        ended = run(phibench)
        assert ended.code == code, ended.all
        assert f"exit code {code}" in ended.out
        told = json.loads(Path("out/gate.json").read_text())
        assert (told["verdict"], told["exit_code"]) == (verdict, code)
        for report in ("out/report.md", "out/report.html"):
            assert "Gate" in Path(report).read_text(encoding="utf-8")
        again = phibench("gate", "out")
        assert again.code == code
        assert "the [gate] of the run's own suite" in again.out
    # Compared with itself it is the same model, whose few items then tell all.
    write(base, "[gate]\nagainst = 'out'\n" + UNDECIDED)
    ended = run(phibench)
    assert ended.code == 0, ended.all
    assert "compared with out" in ended.out
    write(base, "")
    assert run(phibench).code == 0
    assert not Path("out/gate.json").exists()
    assert "### Gate" not in Path("out/report.md").read_text(encoding="utf-8")


def test_cells_that_failed_go_before_an_undecided_gate_and_after_a_failed_one(
    phibench: Command, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: TreeEngine, requests: Any) -> Any:
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr(TreeEngine, "generate", broken)
    for gate, code in ((PASSES, 3), (UNDECIDED, 3), (FAILS, 1)):
        write(base, gate)
        ended = run(phibench)
        assert ended.code == code, ended.all
    write(base, "[[gate.rules]]\ntask = 'test_sampled'\nmax_loss = 0.5\n")
    assert run(phibench).code == 3
    assert "test\\_sampled: failed" in Path("out/report.md").read_text(encoding="utf-8")


def test_what_was_not_asked_leaves_its_rule_undecided(phibench: Command, base: Path) -> None:
    write(base, PASSES + "[[gate.rules]]\nmax_loss = 0.5\n[[gate.rules]]\nmetric = 'exact_match'\nat_least = 0\n")
    ended = run(phibench, "--only", "base", "--only", "mini_arc_easy")
    assert ended.code == 4, ended.all
    checks = json.loads(Path("out/gate.json").read_text())["checks"]
    assert {check["verdict"] for check in checks if check["variant"] == "base-nf4"} == {"undecided"}
    assert [check["reason"] for check in checks if check["number"] == 3] == ["nothing that it binds was run"]


def test_what_cannot_be_judged_is_refused_before_anything_is_asked(phibench: Command, base: Path) -> None:
    write(base, "[gate]\nagainst = 'gone.json'\n" + PASSES)
    ended = run(phibench)
    assert (ended.code, Path("out").exists()) == (2, False)
    assert "there is no run folder or baseline file" in ended.err
    Path("gone.json").write_text("{}")
    ended = run(phibench)
    assert (ended.code, Path("out").exists()) == (2, False)
    assert "this is not a baseline file" in ended.err
    own = {'name = "mini_arc_easy"': 'name = "mini_arc_easy"\noverride = { metric_list = [{ metric = "acc" }] }'}
    write(base, "[[gate.rules]]\nmetric = 'acc_norm'\nmax_loss = 0.1\ntask = 'mini_arc_easy'\n", **own)
    ended = run(phibench)
    assert ended.code == 2, ended.all
    assert 'gate.rules[0].metric: the task "mini_arc_easy" does not measure "acc_norm"' in ended.err
    assert not Path("out/results.json").exists()


def test_a_limit_in_per_cent_is_told_before_anything_is_asked_and_refused_by_the_answers(
    phibench: Command, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(base, "[[gate.rules]]\nmax_loss = 5\ntask = 'mini_arc_easy'\n")
    ended = run(phibench)
    assert ended.code == 2, ended.all
    assert "gate.rules[0].max_loss: 5 can never fail: acc_norm on mini_arc_easy lies between 0 and 1" in ended.err
    assert "warning: gate.rules[0].max_loss: 5 can never fail: acc_norm lies between 0 and 1" in ended.out
    monkeypatch.setattr(TreeEngine, "score_all", _never)
    write(base, PASSES)  # the answers stand
    assert run(phibench).code == 0
    assert "can never" not in Path("out/report.md").read_text(encoding="utf-8")


def test_a_run_that_was_stopped_keeps_no_verdict(
    phibench: Command, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(base, PASSES)
    assert run(phibench).code == 0

    def stopped(self: Runner) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Runner, "run", stopped)
    assert run(phibench).code == 130
    assert not Path("out/gate.json").exists()
    assert "### Gate" not in Path("out/report.md").read_text(encoding="utf-8")


def test_a_run_that_cannot_be_compared_has_its_reports_all_the_same(phibench: Command, base: Path) -> None:
    write(base, "")
    assert run(phibench).code == 0
    Path("out").rename("before")
    otherwise = {'name = "mini_arc_easy"': 'name = "mini_arc_easy"\noverride = { target_delimiter = "" }'}
    write(base, "[gate]\nagainst = 'before'\n" + UNDECIDED, **otherwise)
    ended = run(phibench)
    assert ended.code == 2, ended.all
    assert '"mini_arc_easy" cannot be compared' in ended.err
    assert Path("out/report.md").exists()
    assert not Path("out/gate.json").exists()


def _never(*_: Any, **__: Any) -> Any:
    raise AssertionError("a cell that was there was asked again")


@pytest.mark.parametrize(("name", "says"), [
    ("topik", "there is: characters of the prompt, number of choices, "),
    ("number of chioces", 'did you mean "number of'),
    ("source", "there is: "),  # what items are made from is no kind of items
])  # fmt: skip
def test_fields_for_slices_that_no_item_has_are_refused_before_anything_is_asked(
    name: str, says: str, phibench: Command, base: Path
) -> None:
    write(base, f'[statistics]\nslices = ["number of choices", "{name}"]\n')
    ended = run(phibench)
    assert ended.code == 2, ended.all
    assert f'statistics.slices[1]: no item of any task has the field "{name}"' in ended.err
    assert says in ended.err
    assert not list(Path("out").rglob("*.parquet"))


def test_fields_of_any_task_are_known_and_those_of_tasks_that_are_left_out_are_not_judged(
    phibench: Command, base: Path
) -> None:
    write(base, '[statistics]\nslices = ["number of choices"]\n')
    assert run(phibench, "--only", "test_sampled", "--only", "base").code == 0  # it has no choices
    assert run(phibench, "--fresh", "--yes").code == 0
