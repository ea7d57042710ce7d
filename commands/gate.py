"""`phibench gate`: a finished run, its rules, and an exit code for continuous integration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from .console import OUT, quieten, say


def gate(
    run: Annotated[Path, typer.Argument(help="The folder of a run, finished or not.")],
    against: Annotated[
        str | None,
        typer.Option(
            help="Compare with another run's folder or a baseline file, and there with the variant of the same name, or"
            " the one named: PATH:VARIANT. Default: what the rules say, else the run's own baseline."
        ),
    ] = None,
    rules: Annotated[
        Path | None,
        typer.Option(help="A TOML file of rules. Default: the suite's own gate, else a default that is said."),
    ] = None,
    margin: Annotated[
        float | None, typer.Option(min=0.0, help="What a metric may lose by the default rules; 0.02 if not given.")
    ] = None,
    undecided: Annotated[
        Literal["undecided", "pass", "fail"] | None,
        typer.Option(help="What undecided rules make of the gate. Default: what the rules say, else exit code 4."),
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML to this file.")] = None,
    annotations: Annotated[
        bool | None,
        typer.Option("--annotations/--no-annotations", help="Print GitHub's annotations. Default: in GitHub Actions."),
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option(help="Append a Markdown summary to this file. Default: $GITHUB_STEP_SUMMARY in GitHub Actions."),
    ] = None,
    comment: Annotated[
        Path | None, typer.Option(help="Write a Markdown comment for a pull request to this file.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the whole result as JSON to this file.")] = None,
) -> None:
    """Judge a run by rules: pass, fail or undecided. Needs no model and no GPU.

    A rule passes or fails only where a whole interval lies on one side of its limit; docs/gate.md has every key.

    Example: phibench gate runs/mine-1a2b3c4d --against baseline.json --rules gate.toml
    """
    from ..files import named_output, write_text
    from ..harness.gate.run import exit_code, gate_json, gate_run
    from ..reports.ci import github_annotations, junit_xml
    from ..reports.gate_comment import gate_comment, gate_summary
    from ..reports.gate_terminal import gate_text

    quieten(offline=True)
    in_actions = os.environ.get("GITHUB_ACTIONS") == "true"
    gated = gate_run(run, rules=rules, against=against, margin=margin, undecided=undecided)
    for line in gated.chosen:
        say(line)
    OUT.print(gate_text(gated.result))
    for option, path, text in (
        ("--junit", junit, junit_xml(gated.result, gated.name)),
        ("--comment", comment, gate_comment(gated)),
        ("--json", json, gate_json(gated)),
    ):
        if path is not None:
            with named_output(option, path):
                write_text(path, text)
    whence = "--summary"
    if summary is None and in_actions and (named := os.environ.get("GITHUB_STEP_SUMMARY")):
        summary, whence = Path(named), "$GITHUB_STEP_SUMMARY"
    if summary is not None:
        with named_output(whence, summary), summary.open("a", encoding="utf-8") as stream:
            stream.write(gate_summary(gated))
    if in_actions if annotations is None else annotations:
        for each in github_annotations(gated.result):
            say(each)
    raise typer.Exit(exit_code(gated.result))
