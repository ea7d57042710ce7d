"""A gate in the reports, the terminal, JUnit, annotations and comments: its numbers, and hostile text inert."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from phibench.errors import Exit, UserError
from phibench.harness.gate.check import GateVerdict
from phibench.harness.gate.judge import GateResult, judge_gate
from phibench.harness.gate.run import Gated, exit_code, gate_json, gate_own, gate_run, opened, read_gate
from phibench.harness.gate.spec import GateSpec
from phibench.harness.outcomes import Outcomes
from phibench.harness.results import read_manifest
from phibench.reports.ci import github_annotations, junit_xml
from phibench.reports.gate import gate_table, rule_words, verdict_line, verdict_words
from phibench.reports.gate_comment import gate_comment, gate_summary, marker
from phibench.reports.gate_terminal import gate_text, plain
from phibench.reports.markdown import LONGEST
from phibench.reports.report import write_reports
from support.outcomes import outcomes_of
from support.run_folder import HOSTILE, IMAGE, SCRIPT, edit_manifest, write_run_folder

RULES: list[dict[str, Any]] = [
    {"variant": "adapter-nf4", "max_loss": 0.02},
    {"variant": "merged", "task": "dialogsum", "min_gain": 0.5},
    {"variant": "merged", "group": ["arc_easy", "dialogsum"], "min_gain": 0.06},
    {"variant": "base", "task": "dialogsum", "metric": "rouge1", "at_least": 0.2},
    {"variant": "base", "max_model_size": "1 GiB"},
    {"variant": "base", "max_memory": "9 GiB"},
    {"variant": "base", "task": "arc_easy", "max_seconds_per_item": 0.5},
]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = write_run_folder(tmp_path / "run")
    edit_manifest(folder, suite={**read_manifest(folder).suite, "gate": {"rules": RULES}})
    return folder


def gated_of(result: GateResult, name: str = "mine") -> Gated:
    return Gated(name, result)


def hostile_result(*, undecided: bool = False) -> GateResult:
    """Checks on variants and tasks of hostile names: all failed, or all undecided."""
    values = {(variant, task): [float(i)] * 40 for task in HOSTILE for i, variant in enumerate(("good", *HOSTILE[:2]))}
    cells: dict[tuple[str, str], list[float]] = {
        key: [1.0] * 40 if key[0] == "good" or undecided else [0.0] * 40 for key in values
    }
    run = outcomes_of(cells, baseline="good")
    return judge_gate(GateSpec.model_validate({"rules": [{"max_loss": 0.02}]}), run)


# ---- in the run's own reports


def own_gate(run_dir: Path) -> GateResult:
    spec = GateSpec.model_validate({"rules": RULES})
    return gate_own(run_dir, *opened(spec)).result


def section(report: str) -> str:
    return report[report.index("### Gate") : report.index("### Scores")]


def test_the_reports_have_the_gate_with_each_check(run_dir: Path) -> None:
    result = own_gate(run_dir)
    write_reports(run_dir)
    found = section((run_dir / "report.md").read_text(encoding="utf-8"))
    rows = [line for line in found.splitlines() if line.startswith("|")][2:]
    assert len(rows) == len(result.checks) == 9
    told = [re.split(r" \| ", row.strip("| "))[-1].split(":")[0] for row in rows]
    assert told == sorted(told, key=["failed", "undecided", "passed"].index)
    assert any("gains more than 0.5 over `base`" in row and row.endswith("failed |") for row in rows)
    assert any("mean of `arc_easy`, `dialogsum`" in row for row in rows)
    assert any(
        "`base` | `dialogsum` | `rouge1` ↑ | is at least 0.2 | 0.314 [0.298, 0.331] | passed" in row for row in rows
    )
    assert any("model size | is at most 1 GiB | 5.18 GiB | failed" in row for row in rows)
    assert any("time | takes at most 0.5 s an item | 0.05 s | passed" in row for row in rows)
    assert "Measured [90 % interval]" in found
    html = (run_dir / "report.html").read_text(encoding="utf-8")
    assert '<h2 id="gate">Gate</h2>' in html
    assert "gains more than 0.5 over <code>base</code>" in html


def test_without_a_gate_nothing_is_said_of_one(tmp_path: Path) -> None:
    folder = write_run_folder(tmp_path / "run", items=8)
    write_reports(folder)
    for name in ("report.md", "report.html"):
        assert "Gate" not in (folder / name).read_text(encoding="utf-8")


def test_the_reports_can_be_made_again_with_the_gate_as_it_was_judged(run_dir: Path) -> None:
    result = own_gate(run_dir)
    assert read_gate(run_dir) == result
    first = [path.read_bytes() for path in write_reports(run_dir)]
    assert [path.read_bytes() for path in write_reports(run_dir)] == first


@pytest.mark.parametrize("text", ["{", "[]", "1", '{"verdict": "pass"}', '{"spec": {"rules": []}, "checks": []}'])
def test_a_gate_json_that_cannot_be_read_is_told(text: str, run_dir: Path) -> None:
    (run_dir / "gate.json").write_text(text)
    with pytest.raises(UserError, match="cannot be read") as raised:
        write_reports(run_dir)
    assert raised.value.where == str(run_dir / "gate.json")


# ---- exit codes


@pytest.mark.parametrize(("verdict", "failed_cells", "code"), [
    ("pass", 0, Exit.DONE), ("fail", 0, Exit.GATE_FAILED), ("undecided", 0, Exit.GATE_UNDECIDED),
    ("pass", 2, Exit.SOME_CELLS_FAILED), ("fail", 2, Exit.GATE_FAILED), ("undecided", 2, Exit.SOME_CELLS_FAILED),
])  # fmt: skip
def test_a_failed_gate_goes_before_failed_cells_and_those_before_an_undecided_one(
    verdict: str, failed_cells: int, code: Exit
) -> None:
    spec = GateSpec.model_validate({"rules": [{"max_loss": 0.1}]})
    assert exit_code(GateResult(spec, GateVerdict(verdict), ()), failed_cells) is code


# ---- the terminal


def printed(result: GateResult) -> str:
    console = Console(width=250, record=True, file=io.StringIO())
    console.print(gate_text(result))
    return console.export_text()


def test_the_terminal_tells_what_would_decide_and_what_the_exit_code_means(run_dir: Path) -> None:
    text = printed(gate_run(run_dir).result)
    assert re.search(r"undecided: 60 items do not tell, about [\d,]+ items of each task would decide", text)
    assert "exit code 1: a rule is broken" in text.splitlines()[-1]


@pytest.mark.parametrize(("undecided", "says"), [
    ("undecided", "gate is undecided (14 undecided); exit code 4: the items do not tell"),
    ("pass", "gate passed (14 undecided); exit code 0: undecided rules count as passed"),
    ("fail", "gate failed (14 undecided); exit code 1: undecided rules count as failed"),
])  # fmt: skip
def test_what_undecided_rules_are_counted_as_is_said(undecided: str, says: str) -> None:
    result = hostile_result(undecided=True)
    spec = result.spec.model_copy(update={"undecided": undecided})
    assert says in verdict_line(GateResult(spec, GateVerdict(undecided), result.checks))


def test_hostile_names_do_nothing_to_the_terminal() -> None:
    text = printed(hostile_result())
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\x1b[31m" in re.sub(r"\s", "", text)


@pytest.mark.parametrize(("rule", "words"), [
    ({"max_loss": 0.02}, "loses at most 0.02 against base"),
    ({"min_gain": 0}, "gains more than 0 over base"),
    ({"at_least": 0.5}, "is at least 0.5"),
    ({"at_most": 1e-3}, "is at most 0.001"),
    ({"max_model_size": "2 GiB"}, "is at most 2 GiB"),
    ({"max_memory": "800 MB"}, "is at most 800 MB"),
    ({"max_seconds_per_item": 0.25}, "takes at most 0.25 s an item"),
])  # fmt: skip
def test_every_rule_in_words(rule: dict[str, Any], words: str) -> None:
    run = outcomes_of({(v, "t"): [1.0] * 20 for v in ("base", "a")})
    spec = GateSpec.model_validate({"rules": [{"variant": "a", **rule}]})
    (check,) = judge_gate(spec, run).checks
    assert plain(rule_words(check)) == words


# ---- JUnit

# What consumers of JUnit XML know: elements, the attributes each must have, and the others that it may have.
JUNIT = {
    "testsuites": ({"tests", "failures", "errors"}, {"name", "time"}, {"testsuite"}),
    "testsuite": ({"name", "tests", "failures", "errors"}, {"time", "skipped"}, {"properties", "testcase"}),
    "properties": (set(), set(), {"property"}),
    "property": ({"name", "value"}, set(), set()),
    "testcase": ({"name", "classname"}, {"time"}, {"failure", "skipped"}),
    "failure": ({"message", "type"}, set(), set()),
    "skipped": ({"message", "type"}, set(), set()),
}


def checked(text: str) -> ET.Element:
    """JUnit XML, read, with its structure and counts held."""
    root = ET.fromstring(text.encode())
    assert root.tag == "testsuites"
    for element in root.iter():
        must, may, children = JUNIT[element.tag]
        assert must <= set(element.attrib) <= must | may
        assert {child.tag for child in element} <= children
        assert sum(child.tag == "properties" for child in element) <= 1
        if element.tag in ("testsuite", "testsuites"):
            assert int(element.attrib["tests"]) == len(list(element.iter("testcase")))
            assert int(element.attrib["failures"]) == len(list(element.iter("failure")))
        if element.tag == "testsuite":
            assert int(element.attrib["skipped"]) == len(list(element.iter("skipped")))
            names = [case.attrib["name"] for case in element.iter("testcase")]
            assert len(names) == len(set(names)) > 0
    return root


def test_junit_has_a_suite_for_each_variant_and_task_and_a_case_for_each_check(run_dir: Path) -> None:
    gated = gate_run(run_dir)
    root = checked(junit_xml(gated.result, gated.name))
    assert [suite.attrib["name"] for suite in root] == [
        "adapter-nf4 / arc_easy", "adapter-nf4 / dialogsum", "adapter-nf4 / wikitext", "merged / dialogsum",
        "merged / arc_easy + dialogsum", "base / dialogsum", "base / all tasks", "base / arc_easy",
    ]  # fmt: skip
    assert root.attrib["tests"] == "9"
    failures = [case.attrib["name"] for case in root.iter("testcase") if case.find("failure") is not None]
    assert failures == [
        "rule 1: adapter-nf4 on wikitext, word_perplexity ↓: loses at most 0.02 against base",
        "rule 2: merged on dialogsum, rouge1 ↑: gains more than 0.5 over base",
        "rule 5: base, model size: is at most 1 GiB",
    ]
    (skipped,) = root.iter("skipped")
    assert "about" in skipped.attrib["message"]


def test_junit_counts_undecided_rules_as_the_gate_does() -> None:
    result = hostile_result(undecided=True)
    strict = GateResult(result.spec.model_copy(update={"undecided": "fail"}), GateVerdict.FAIL, result.checks)
    assert checked(junit_xml(strict, "mine")).attrib["failures"] == str(len(result.checks))
    assert checked(junit_xml(result, "mine")).attrib["failures"] == "0"


def test_junit_holds_hostile_names_as_text() -> None:
    root = checked(junit_xml(hostile_result(), f"{SCRIPT}\ufffe\x00"))
    told = " ".join(value for element in root.iter() for value in element.attrib.values())
    assert SCRIPT in told
    assert "\ufffe" not in told
    assert {element.tag for element in root.iter()} <= set(JUNIT)


# ---- GitHub's annotations


def test_annotations_tell_failures_undecided_rules_and_the_verdict(run_dir: Path) -> None:
    lines = github_annotations(gate_run(run_dir).result)
    assert [line.split(" ")[0] for line in lines] == ["::error"] * 3 + ["::warning"] + ["::error"]
    assert lines[0].startswith(
        "::error title=gate fail%3A adapter-nf4 on wikitext%2C word_perplexity ↓::adapter-nf4 on"
    )
    run = outcomes_of({(v, "t"): [1.0] * 2000 for v in ("base", "a")})
    passed = judge_gate(GateSpec.model_validate({"rules": [{"max_loss": 0.02}]}), run)
    assert github_annotations(passed) == [
        "::notice title=phibench gate::gate passed (1 passed); exit code 0: every rule holds"
    ]


def test_nothing_foreign_ends_an_annotation_or_begins_another() -> None:
    hostile = [
        "100%",
        "x::error title=a::b",
        "a\n::error::b",
        "a%0A::error::b",
        "a\r::set-output name=x::y",
        "a,line=3",
    ]
    run = outcomes_of({(v, t): [float(v == "base")] * 40 for v in ["base", *hostile] for t in hostile})
    lines = github_annotations(judge_gate(GateSpec.model_validate({"rules": [{"max_loss": 0.02}]}), run))
    assert len(lines) == len(hostile) ** 2 + 1
    for line in lines:
        assert "\n" not in line
        assert "\r" not in line
        command, properties, message = re.fullmatch(r"::(\w+) title=([^:,\n]*)::(.*)", line).groups()  # type: ignore[union-attr]
        assert command in ("error", "warning")
        assert not re.search(r"%(?!25|0A|0D|3A|2C)", properties + message)
    # As GitHub decodes it, the name is there again.
    decoded = lines[0].partition("::")[2].replace("%3A", ":").replace("%2C", ",").replace("%25", "%")
    assert "100% on 100%" in decoded


# ---- Markdown


def test_the_comment_is_found_again_by_its_marker(run_dir: Path) -> None:
    gated = gate_run(run_dir)
    text = gate_comment(gated)
    assert text.startswith(f"{marker(gated.name)}\n## ❌ phibench gate: failed\n")
    assert re.fullmatch(r"<!-- phibench-gate: [A-Za-z0-9._+]+ -->", marker(gated.name))
    assert re.fullmatch(r"<!-- phibench-gate: [A-Za-z0-9._+]+ -->", marker("--> <img src=x>\n"))
    assert gate_summary(gated) in text
    assert "**What to do:**" in text
    assert "<summary>5 passed</summary>" in text


def test_nothing_in_a_comment_becomes_markup() -> None:
    for result in (hostile_result(), hostile_result(undecided=True)):
        text = gate_summary(gated_of(result, SCRIPT + IMAGE + HOSTILE[4]))
        blocks = MarkdownIt("commonmark").enable("table").parse(text)
        tokens = [token for block in blocks for token in [block, *(block.children or [])]]
        assert not {token.type for token in tokens} & {"image", "link_open"}
        html = {token.content.strip() for token in tokens if token.type in ("html_inline", "html_block")}
        assert {re.sub(r"\W", "", each) for each in html} <= {"code", "details", "summary"} | {
            re.sub(r"\W", "", each) for each in html if each.startswith("<details>")
        }
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert len(rows) == len(result.checks) + 2
        assert len([token for token in tokens if token.type == "td_open"]) == 6 * len(result.checks)
        read = [token.content for token in tokens if token.type == "text"]
        assert not any("@octocat" in each or "https://" in each for each in read)


def many(count: int, *, right: float) -> Outcomes:
    tasks = [f"task_{i:04d}_{'x' * 130}" for i in range(count)]
    return outcomes_of({(v, t): [1.0 if v == "base" else right] * 30 for v in ("base", "a") for t in tasks})


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_a_comment_is_never_longer_than_github_takes(right: float) -> None:
    spec = GateSpec.model_validate({"rules": [{"max_loss": 0.5}]})
    result = judge_gate(spec, many(350, right=right))
    text = gate_comment(gated_of(result))
    assert len(text) <= LONGEST < 65_536
    assert len(text) > 50_000
    (missing,) = re.findall(r"^([\d,]+) more, left out", text, re.MULTILINE)
    shown = len([line for line in text.splitlines() if line.startswith("| `a`")])
    assert shown + int(missing.replace(",", "")) == 350


def test_the_json_tells_everything_and_describes_itself(run_dir: Path) -> None:
    import json

    gated = gate_run(run_dir)
    told = json.loads(gate_json(gated))
    assert (told["schema_version"], told["verdict"], told["exit_code"], told["run"]) == ("1", "fail", 1, gated.name)
    assert len(told["checks"]) == 9
    first = told["checks"][0]
    assert first["rule"] == {"variant": "adapter-nf4", "max_loss": 0.02}
    assert {"estimate", "low", "high", "method"} == set(first["measured"])
    assert gate_table(gated.result) is not None


@pytest.mark.parametrize(("items", "needed", "says"), [
    (60, 6000, "60 items do not tell, about 6,000 items would decide"),
    (60, 6001, "60 items do not tell, more than 100 times as many would decide"),
    (60, None, "more items do not help"),
])  # fmt: skip
def test_a_number_of_items_that_nobody_has_is_not_told(items: int, needed: int | None, says: str) -> None:
    (check, *_) = hostile_result(undecided=True).checks
    assert says in plain(verdict_words(replace(check, items=items, items_needed=needed, reason=None)))
