"""A gate's result for continuous integration: JUnit XML and GitHub's annotations.

Both carry foreign text, which is written so that neither format can take it for more than text.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from ..harness.gate.check import Check, GateVerdict
from ..harness.gate.judge import GateResult
from . import format as fmt
from .gate import measured_words, rule_words, subject_words, verdict_line, verdict_words
from .gate_terminal import plain

# What XML 1.0 cannot hold, not even escaped; control characters are made visible before.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LEVELS = {GateVerdict.FAIL: "error", GateVerdict.UNDECIDED: "warning"}


def junit_xml(result: GateResult, run_name: str) -> str:
    """JUnit XML: a test suite for each variant and task, a test case for each check.

    A check that fails is a failure; one that is undecided is skipped, with the reason as its message, unless the gate
    counts it as failed: which is for items that do not tell, and not for answers that are missing.
    """
    suites: dict[str, list[Check]] = {}
    for check in result.checks:
        suites.setdefault(_suite_name(check), []).append(check)
    root = ET.Element("testsuites", _counts("phibench gate", list(result.checks), result))
    for title, checks in suites.items():
        suite = ET.SubElement(root, "testsuite", _counts(title, checks, result))
        suite.set("skipped", str(sum(_state(check, result) == "skipped" for check in checks)))
        properties = ET.SubElement(suite, "properties")
        told = {"run": run_name, "against": result.against, "verdict": str(result.verdict)}
        for key, value in told.items():
            if value is not None:
                ET.SubElement(properties, "property", {"name": key, "value": _xml(value)})
        for check in checks:
            case = ET.SubElement(
                suite, "testcase", {"name": _case_name(check), "classname": f"phibench.gate.{title}", "time": "0"}
            )
            if (state := _state(check, result)) != "passed":
                told_line = _message(check)
                found = ET.SubElement(case, state, {"message": told_line, "type": f"gate.{check.rule.condition}"})
                found.text = told_line
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def github_annotations(result: GateResult) -> list[str]:
    """GitHub's workflow commands: an error for each check that failed, a warning for each undecided one, a verdict."""
    lines = [
        _command(_LEVELS[check.verdict], f"gate {check.verdict}: {plain(subject_words(check))}", _told(check))
        for verdict in _LEVELS
        for check in result.checks
        if check.verdict is verdict
    ]
    level = {GateVerdict.PASS: "notice", GateVerdict.FAIL: "error", GateVerdict.UNDECIDED: "warning"}[result.verdict]
    return [*lines, _command(level, "phibench gate", verdict_line(result))]


def _command(level: str, title: str, message: str) -> str:
    """`::error title=...::...`; what would end a property or the line is percent-encoded, as GitHub decodes it."""
    title = _data(fmt.one_line(title)).replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={title}::{_data(fmt.one_line(message, 2000))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _told(check: Check) -> str:
    """A check in one sentence."""
    found = f", measured {measured_words(check)}" if check.measured is not None else ""
    return f"{plain(subject_words(check))}: {plain(rule_words(check))}{found}; {plain(verdict_words(check))}"


def _state(check: Check, result: GateResult) -> str:
    """JUnit's word for what became of a check."""
    if check.verdict is GateVerdict.UNDECIDED:
        if check.missing:
            return "skipped"
        return {"undecided": "skipped", "fail": "failure", "pass": "skipped"}[result.spec.undecided]
    return "failure" if check.verdict is GateVerdict.FAIL else "passed"


def _counts(title: str, checks: list[Check], result: GateResult) -> dict[str, str]:
    failures = sum(_state(check, result) == "failure" for check in checks)
    return {"name": title, "tests": str(len(checks)), "failures": str(failures), "errors": "0", "time": "0"}


def _suite_name(check: Check) -> str:
    return _xml(" / ".join([check.variant or "-", " + ".join(check.tasks) or "all tasks"]))


def _case_name(check: Check) -> str:
    return _xml(f"rule {check.number}: {plain(subject_words(check))}: {plain(rule_words(check))}")


def _message(check: Check) -> str:
    return _xml(_told(check))


def _xml(text: str) -> str:
    """Text on one visible line, without what XML cannot hold."""
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", fmt.one_line(text, 2000))
