"""The steps of action.yml and of the workflows in docs/gate.md, executed by bash as GitHub's runner would."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from phibench.harness.baseline import save_baseline
from support.run_folder import edit_manifest, write_run_folder
from support.tiny import save_tiny_model

ROOT = Path(__file__).resolve().parent.parent
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
DOCS = (ROOT / "docs/gate.md").read_text(encoding="utf-8")
PASSING = '[[rules]]\nvariant = "adapter-nf4"\ntask = "arc_easy"\nmax_loss = 0.02\n'
SUITE = """
name = "tiny"
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
[[gate.rules]]
task = "mini_arc_easy"
at_least = 0
"""


def value_of(text: Any, context: Mapping[str, str]) -> str:
    """A value of a workflow with its `${{ ... }}` filled in; a boolean as YAML has it."""
    text = str(text).lower() if isinstance(text, bool) else str(text)
    return re.sub(r"\$\{\{ *([\w.-]+) *\}\}", lambda found: context.get(found[1], ""), text)


def holds(condition: str | None, context: Mapping[str, str], *, failed: bool) -> bool:
    """Whether a step's `if` is true: comparisons with literals, joined by &&; success() unless it says always()."""
    terms = [] if condition is None else [term.strip() for term in condition.split("&&")]
    if failed and "always()" not in terms:
        return False
    for term in terms:
        if term == "always()":
            continue
        found = re.fullmatch(r"([\w.-]+) (==|!=) '([^']*)'", term)
        assert found is not None, term
        if (context.get(found[1], "") == found[3]) != (found[2] == "=="):
            return False
    return True


def outputs_of(text: str) -> dict[str, str]:
    """A GITHUB_OUTPUT file: `name=value`, or `name<<DELIMITER`, lines, `DELIMITER`."""
    found = {}
    lines = iter(text.splitlines())
    for line in lines:
        name, heredoc, delimiter = line.partition("<<")
        if heredoc and "=" not in name:
            body = []
            for inner in lines:
                if inner == delimiter:
                    break
                body.append(inner)
            found[name] = "\n".join(body)
        else:
            name, _, value = line.partition("=")
            found[name] = value
    return found


@dataclass
class Job:
    """Runs steps in a workspace, as a runner does."""

    workspace: Path
    environment: dict[str, str]
    context: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)  # actions that steps use
    log: str = ""
    code: int = 0

    def run(self, steps: list[dict[str, Any]]) -> Job:
        for number, step in enumerate(steps):
            if not holds(step.get("if"), self.context, failed=self.code != 0):
                continue
            if "uses" in step:
                self.skipped.append(step["uses"])
                continue
            self._run(step, number)
        return self

    def _run(self, step: dict[str, Any], number: int) -> None:
        files = self.workspace.parent / "runner"
        files.mkdir(exist_ok=True)
        script, output = files / f"step{number}.sh", files / f"output{number}"
        script.write_text(value_of(step["run"], self.context), encoding="utf-8")
        output.write_text("")
        environment = self.environment | {
            key: value_of(text, self.context) for key, text in step.get("env", {}).items()
        }
        environment |= {"GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(files / "summary.md")}
        ended = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            cwd=self.workspace, env=environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        self.log += ended.stdout + ended.stderr
        if "id" in step:
            told = outputs_of(output.read_text(encoding="utf-8"))
            self.context |= {f"steps.{step['id']}.outputs.{key}": value for key, value in told.items()}
        self.code = self.code or ended.returncode

    @property
    def summary(self) -> str:
        return (self.workspace.parent / "runner/summary.md").read_text(encoding="utf-8")

    def output(self, name: str) -> str:
        """An output of the action."""
        return value_of(ACTION["outputs"][name]["value"], self.context)


def environment_of(packages: Path) -> dict[str, str]:
    """A runner's, with the tested Python and phibench from `packages`."""
    kept = ("HOME", "PHIBENCH_CACHE", "HF_HOME", "HF_HUB_OFFLINE", "TMPDIR", "CUDA_VISIBLE_DEVICES", "LANG")
    return {name: os.environ[name] for name in kept if name in os.environ} | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(packages),
        "GITHUB_ACTIONS": "true",
        "CI": "true",
        "COLUMNS": "200",
    }


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local clone of this checkout as it stands, changes included; under the package's own name."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("this is no git checkout")
    folder = tmp_path_factory.mktemp("clone") / "phibench"
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def job(checkout: Path, tmp_path: Path, **inputs: str) -> Job:
    """The action with its defaults and these inputs, in an empty workspace; with what is installed."""
    workspace = tmp_path / "workspace"
    workspace.mkdir(exist_ok=True)
    given = {name: about["default"] for name, about in ACTION["inputs"].items()} | {"install": "none"}
    given |= {name.replace("_", "-"): value for name, value in inputs.items()}
    assert set(given) == set(ACTION["inputs"])
    context = {f"inputs.{name}": value for name, value in given.items()}
    context["github.action_path"] = str(checkout)
    return Job(workspace, environment_of(checkout.parent), context)


def with_run(tmp_path: Path, rules: str = PASSING) -> None:
    write_run_folder(tmp_path / "workspace/run")
    (tmp_path / "workspace/gate.toml").write_text(rules, encoding="utf-8")


# ---- the form of the action


def test_inputs_reach_the_shell_as_variables_only() -> None:
    runs = [step for step in STEPS if "run" in step]
    assert len(runs) == 4
    assert [step["uses"].partition("@")[0] for step in STEPS if "uses" in step] == [
        "actions/setup-python", "actions/upload-artifact",
    ]  # fmt: skip
    for step in runs:
        assert step["shell"] == "bash"
        assert "${{" not in step["run"]
    used = set(re.findall(r"inputs\.([\w-]+)", json.dumps(STEPS)))
    assert used == set(ACTION["inputs"])
    assert all(about["description"] for part in ("inputs", "outputs") for about in ACTION[part].values())


def test_no_registry_is_named_and_no_secret_is_touched() -> None:
    for step in STEPS:
        text = step.get("run", "")
        assert "://" not in text
        assert not re.search(r"index-url|secret|token", text, re.IGNORECASE)


# ---- its steps


@pytest.mark.parametrize(("rules", "code", "verdict"), [
    (PASSING, 0, "pass"),
    (PASSING.replace("max_loss = 0.02", "min_gain = 0.5"), 1, "fail"),
    (PASSING.replace("adapter-nf4", "merged"), 4, "undecided"),
])  # fmt: skip
def test_a_finished_run_is_judged(rules: str, code: int, verdict: str, checkout: Path, tmp_path: Path) -> None:
    with_run(tmp_path, rules)
    done = job(checkout, tmp_path, run="run", rules="gate.toml").run(STEPS)
    assert (done.code, done.output("verdict"), done.output("exit-code")) == (code, verdict, str(code)), done.log
    assert done.skipped == ["actions/setup-python@v5", "actions/upload-artifact@v4"]
    comment = done.workspace / done.output("comment-file")
    assert done.output("comment") == comment.read_text(encoding="utf-8").rstrip("\n")
    assert done.output("comment").startswith("<!-- phibench-gate: ")
    assert done.summary.startswith("## ")
    assert "::" in done.log  # annotations
    assert {path.name for path in (done.workspace / "run-gate").iterdir()} == {"comment.md", "gate.json", "junit.xml"}


def test_it_compares_with_a_committed_baseline(checkout: Path, tmp_path: Path) -> None:
    with_run(tmp_path)
    save_baseline([str(tmp_path / "workspace/run")], tmp_path / "workspace/baseline.json")
    done = job(checkout, tmp_path, run="run", against="baseline.json").run(STEPS)
    assert (done.code, done.output("verdict")) == (0, "pass"), done.log
    assert "Compared with `baseline.json`" in done.output("comment")


def test_undecided_can_be_let_pass_and_more_arguments_be_given(checkout: Path, tmp_path: Path) -> None:
    with_run(tmp_path, PASSING.replace("adapter-nf4", "merged"))
    given = {"run": "run", "rules": "gate.toml", "undecided": "pass", "gate_args": "--no-annotations\n--summary\ns.md"}
    done = job(checkout, tmp_path, **given).run(STEPS)
    assert (done.code, done.output("verdict")) == (0, "pass"), done.log
    assert (done.workspace / "s.md").exists()
    assert "::warning" not in done.log


def test_a_mistake_ends_it_with_2_and_nothing_is_uploaded(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "workspace").mkdir()
    done = job(checkout, tmp_path, run="gone").run(STEPS)
    assert done.code == 2
    assert done.output("verdict") == ""
    assert done.skipped == ["actions/setup-python@v5"]
    assert "this is not a run folder" in done.log


ATTACKS = ['"; touch pwned; "', "$(touch pwned)", "`touch pwned`", "a\ntouch pwned\n", "';touch pwned;'", "--help"]


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_in_an_input_is_executed(attack: str, checkout: Path, tmp_path: Path) -> None:
    with_run(tmp_path)
    names = [name.replace("-", "_") for name in ACTION["inputs"] if name not in ("install", "python-version")]
    job(checkout, tmp_path, **dict.fromkeys(names, attack)).run(STEPS)
    for name in ("run", "against", "rules", "undecided", "gate_args"):
        job(checkout, tmp_path, **({"run": "run"} | {name: attack})).run(STEPS)
    assert not list(tmp_path.rglob("pwned"))


def test_a_hostile_run_writes_no_output_of_its_own(checkout: Path, tmp_path: Path) -> None:
    with_run(tmp_path)
    edit_manifest(tmp_path / "workspace/run", name="x\nend\ncode=0\nverdict=pass\n")
    (tmp_path / "workspace/gate.toml").write_text(PASSING.replace("max_loss = 0.02", "min_gain = 0.5"))
    done = job(checkout, tmp_path, run="run", rules="gate.toml").run(STEPS)
    assert (done.code, done.output("verdict")) == (1, "fail")


@pytest.fixture(scope="module")
def tiny_suite(tmp_path_factory: pytest.TempPathFactory) -> str:
    return SUITE.format(base=save_tiny_model(tmp_path_factory.mktemp("models") / "base"))


def test_it_installs_itself_runs_a_suite_and_judges_it(checkout: Path, tmp_path: Path, tiny_suite: str) -> None:
    pytest.importorskip("setuptools", "77")
    (tmp_path / "workspace").mkdir()
    (tmp_path / "workspace/suite.toml").write_text(tiny_suite, encoding="utf-8")
    packages = tmp_path / "packages"
    done = job(checkout, tmp_path, suite="suite.toml", install="", args="--limit\n4\n--offline")
    done.environment |= environment_of(packages) | {
        "PIP_TARGET": str(packages),
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it the other way round
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    done.run(STEPS)
    assert (done.code, done.output("verdict")) == (0, "pass"), done.log
    assert (packages / "phibench/harness/gate/run.py").is_file()
    assert (done.workspace / "phibench-run/report.html").is_file()
    assert json.loads((done.workspace / "phibench-run/gate.json").read_text())["verdict"] == "pass"


def test_cells_that_failed_end_it_with_3(checkout: Path, tmp_path: Path, tiny_suite: str) -> None:
    (tmp_path / "workspace").mkdir()
    broken = tiny_suite.replace(
        'name = "mini_arc_easy"', 'name = "mini_arc_easy"\n[[tasks]]\nname = "mini_dialogsum"', 1
    )
    broken += "[generation]\nmax_gen_toks = 100000\n"  # leaves no room for a prompt
    (tmp_path / "workspace/suite.toml").write_text(broken, encoding="utf-8")
    done = job(checkout, tmp_path, suite="suite.toml", args="--limit\n2\n--offline").run(STEPS)
    assert (done.code, done.output("verdict"), done.output("exit-code")) == (3, "pass", "3"), done.log


# ---- the workflows of the documentation


def workflows() -> list[dict[str, Any]]:
    """The workflows in docs/gate.md."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)
    return [workflow for block in blocks if "jobs" in (workflow := yaml.safe_load(block))]


def steps_of(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    ((_, content),) = workflow["jobs"].items()
    return [dict(step) for step in content["steps"]]


def action_step(steps: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = (step for step in steps if "phibench" in step.get("uses", ""))
    return found


def test_the_workflows_give_the_action_inputs_that_it_has() -> None:
    assert len(workflows()) == 2
    for workflow in workflows():
        step = action_step(steps_of(workflow))
        assert set(step["with"]) <= set(ACTION["inputs"])
        for other in steps_of(workflow):
            assert "${{" not in other.get("run", "")
    assert not re.search(r"\.(?:org|io|com)/simple", DOCS)


GH = """#!/usr/bin/env bash
# Stands in for GitHub's client: keeps what it is asked, and knows the comments in the file `comments`.
printf '%s\\n' "$*" >> "$GH_LOG"
case "$*" in *--paginate*) cat comments ;; esac
"""


@pytest.mark.parametrize("comments", ["", "77\n"])
def test_the_documented_workflow_comments_on_the_pull_request_and_updates_its_comment(
    comments: str, checkout: Path, tmp_path: Path
) -> None:
    (workflow,) = (one for one in workflows() if "pull_request" in one[True])  # YAML reads "on" as true
    steps = steps_of(workflow)
    with_run(tmp_path)
    save_baseline([str(tmp_path / "workspace/run")], tmp_path / "workspace/baseline.json")
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "gh").write_text(GH, encoding="utf-8")
    (bin_ / "gh").chmod(0o755)
    given = {key.replace("-", "_"): str(text) for key, text in action_step(steps)["with"].items() if key != "suite"}
    judging = job(checkout, tmp_path, **given, run="run").run(STEPS)
    assert judging.code == 0, judging.log
    (judging.workspace / "comments").write_text(comments)
    outer = Job(judging.workspace, judging.environment | {"GH_LOG": str(tmp_path / "gh.log")})
    outer.environment["PATH"] = f"{bin_}{os.pathsep}{outer.environment['PATH']}"
    outer.context = {f"steps.gate.outputs.{name}": judging.output(name) for name in ACTION["outputs"]}
    outer.context |= {"github.repository": "o/r", "github.event.pull_request.number": "5", "github.token": "t0ken"}
    outer.run(steps)
    assert outer.code == 0, outer.log
    assert "t0ken" not in outer.log
    asked = (tmp_path / "gh.log").read_text().splitlines()
    assert "repos/o/r/issues/5/comments" in asked[0]
    assert "<!-- phibench-gate: " in asked[0]
    last = "repos/o/r/issues/comments/77" if comments else "repos/o/r/issues/5/comments"
    assert last in asked[1]
    assert "body=@run-gate/comment.md" in asked[1]
    assert "actions/checkout@v4" in outer.skipped


def test_the_documented_workflow_makes_a_baseline(checkout: Path, tmp_path: Path) -> None:
    (workflow,) = (one for one in workflows() if "workflow_dispatch" in one[True])
    steps = steps_of(workflow)
    with_run(tmp_path)
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "phibench").write_text('#!/usr/bin/env bash\nexec python -m phibench "$@"\n', encoding="utf-8")
    (bin_ / "phibench").chmod(0o755)
    outer = job(checkout, tmp_path)
    outer.environment["PATH"] = f"{bin_}{os.pathsep}{outer.environment['PATH']}"
    outer.context["steps.gate.outputs.run"] = "run"
    outer.run(steps)
    assert outer.code == 0, outer.log
    told = json.loads((outer.workspace / "baseline.json").read_text())
    assert told["format"] == "phibench baseline"
