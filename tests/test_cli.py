"""The command line: exit codes, help, refusals before anything is written, and who gets a traceback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from phibench import __version__, cli
from phibench.errors import UserError
from phibench.harness import doctor
from phibench.harness.baseline import save_baseline
from support.command import Command, Ended
from support.run_folder import write_run_folder

SUITE = """name = "mine"
[base]
model = "owner/name"
[[variants]]
name = "base"
[[tasks]]
name = "mini_piqa"
"""
COMMANDS = (
    *("run", "train", "merge", "push", "synthesize", "check", "list", "report", "compare", "gate"),
    "doctor",
)
GROUPS = {"baseline": ("save", "show")}


def suite(text: str = SUITE, name: str = "mine.toml") -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


def is_clean(ended: Ended) -> bool:
    """Whether a user's mistake was told as one: on stderr, with its mark and without a traceback."""
    return ended.code == 2 and "error: " in ended.err and "Traceback" not in ended.all


# ---- help and version


@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_every_option_and_the_exit_codes(command: str, phibench: Command) -> None:
    ended = phibench(command, "--help")
    assert ended.code == 0
    assert "Exit codes: 0 " in ended.out
    assert "2 " in ended.out.split("Exit codes:")[1]
    (info,) = (each for each in cli.app.registered_commands if command in (each.name, each.callback.__name__))
    annotations = info.callback.__annotations__
    for parameter in annotations:
        if parameter == "return":
            continue
        option = {"settings": "set"}.get(parameter, parameter)
        shown = re.search(rf"(?<!\w)(--)?{option.replace('_', '[-_]')}(?!\w).*?(?=│)", ended.out, re.IGNORECASE)
        assert shown, option
    # No option stands there without a word on what it does.
    for line in re.findall(r"│ +(?:\* +)?(--\w+.*?) *│", ended.out):
        assert len(re.findall(r"\w{2,}", line)) > 3, line


@pytest.mark.parametrize(("group", "command"), [(group, one) for group, names in GROUPS.items() for one in names])
def test_help_of_a_group_tells_every_option_and_the_exit_codes(group: str, command: str, phibench: Command) -> None:
    assert re.search(rf"│ {command} ", phibench(group, "--help").out)
    ended = phibench(group, command, "--help")
    assert ended.code == 0
    assert "Exit codes: 0 " in ended.out
    for line in re.findall(r"│ +(?:\* +)?(--\w+.*?) *│", ended.out):
        assert len(re.findall(r"\w{2,}", line)) > 3, line


def test_help_of_run_names_what_the_readme_promises(phibench: Command) -> None:
    shown = phibench("run", "--help").out
    options = ["--out", "--limit", "--only", "--device", "--offline", "--resume", "--fresh", "--yes", "-y", "-v", "-q"]
    assert [option for option in options if option not in shown] == []
    assert "0 done, 1 a gate failed, 2 a mistake to mend, 3 some cells failed" in shown
    assert "130 interrupted" in shown


def test_help_names_every_command(phibench: Command) -> None:
    ended = phibench("--help")
    assert ended.code == 0
    assert [command for command in (*COMMANDS, *GROUPS) if not re.search(rf"│ {command} ", ended.out)] == []
    assert "phibench run quickstart" in ended.out
    assert "130 interrupted" in ended.out


def test_without_a_command_there_is_help_and_a_users_mistake(phibench: Command) -> None:
    ended = phibench()
    assert ended.code == 2
    assert "Usage:" in ended.all


def test_version(phibench: Command) -> None:
    assert phibench("--version") == Ended(0, f"phibench {__version__}\n", "")


@pytest.mark.parametrize("arguments", [
    ["chekc"],
    ["check"],
    ["check", "a.toml", "b.toml"],
    ["run", "quickstart", "--limit", "0"],
    ["run", "quickstart", "--limit", "few"],
    ["run", "quickstart", "--limt", "3"],
    ["list"],
    ["report"],
    ["compare"],
    ["compare", "a", "b", "--examples", "-1"],
    ["--versoin"],
])  # fmt: skip
def test_wrong_usage_is_a_users_mistake(arguments: list[str], phibench: Command) -> None:
    ended = phibench(*arguments)
    assert ended.code == 2
    assert "Usage: " in ended.err
    assert "Traceback" not in ended.all


# ---- check


def test_check_of_a_sound_suite(phibench: Command) -> None:
    ended = phibench("check", suite())
    assert ended == Ended(0, "mine.toml: no fault found; 1 variants x 1 tasks, baseline base\n", "")


def test_check_of_the_quickstart_by_name(phibench: Command) -> None:
    ended = phibench("check", "quickstart")
    assert ended.code == 0
    assert "6 variants x 7 tasks, baseline base" in ended.out


def test_check_warns_of_a_limit_in_per_cent(phibench: Command) -> None:
    rules = '[[gate.rules]]\nmetric = "acc"\nat_least = 40\n[[gate.rules]]\nmetric = "acc"\nat_least = 0.4\n'
    ended = phibench("check", suite(SUITE + rules))
    assert ended.code == 0
    (warning,) = (line for line in ended.out.splitlines() if line.startswith("warning: "))
    assert "gate.rules[0].at_least: 40 can never pass: acc lies between 0 and 1; give a share, not per cent" in warning


def test_check_tells_every_fault_on_one_line_each_with_what_to_do(
    phibench: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")  # messages are not broken: they are for editors and logs, too
    ended = phibench("check", suite(SUITE.replace("mini_piqa", "mini_pika") + 'limt = 3\n"[red]x" = 1\n'))
    assert ended == Ended(2, "", ended.err)
    assert ended.err.splitlines() == [
        'error: mine.toml:7: tasks[0].name: no task, group or tag is called "mini_pika"',
        '  -> did you mean "mini_piqa"? `phibench list tasks PART` searches the names',
        'error: mine.toml:8: tasks[0].limt: unknown key "limt"',
        '  -> did you mean "limit"?',
        'error: mine.toml:9: tasks[0]."[red]x": unknown key "[red]x"',
        "  -> the keys here are: name, variants, num_fewshot, limit, metrics, override, metric_options, divergence,"
        " source",
        "3 faults found",
    ]


@pytest.mark.parametrize(("text", "says"), [
    ("name = ", "this is not TOML"),
    (b"name = '\xff'", "not UTF-8"),
    (None, "no such suite file"),
])  # fmt: skip
def test_check_of_what_is_no_suite(text: str | bytes | None, says: str, phibench: Command) -> None:
    if text is not None:
        Path("mine.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    ended = phibench("check", "mine.toml")
    assert is_clean(ended)
    assert "mine.toml" in ended.err
    assert says in ended.err


def test_check_of_a_folder(phibench: Command) -> None:
    ended = phibench("check", ".")
    assert is_clean(ended)
    assert "this is a folder, not a suite file" in ended.err


# ---- list


def test_list_tasks_finds_ours_first_and_lm_evals(phibench: Command) -> None:
    ended = phibench("list", "tasks", "ARC_easy")
    assert ended.code == 0
    lines = ended.out.splitlines()
    assert lines[0].split() == ["name", "kind", "what", "it", "is"]
    assert lines[1].split() == ["mini_arc_easy", "task", "phibench:", "mini"]
    assert ["arc_easy", "task", "lm-eval:", "arc"] in [line.split() for line in lines]
    assert all("arc_easy" in line.split()[0].lower() for line in lines[1:])


def test_list_tasks_shows_groups_and_tags_too(phibench: Command) -> None:
    listed = phibench("list", "tasks", "mini").out + phibench("list", "tasks", "leaderboard").out
    kinds = {line.split()[0]: line.split()[1] for line in listed.splitlines()}
    assert (kinds["leaderboard"], kinds["phibench_mini"], kinds["mini_piqa"]) == ("group", "tag", "task")


def test_a_list_in_a_pipe_keeps_each_name_whole(phibench: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    names = [line.split()[0] for line in phibench("list", "tasks", "leaderboard_math").out.splitlines()]
    assert "leaderboard_math_intermediate_algebra_hard" in names


@pytest.mark.parametrize(("what", "name"), [("suites", "quickstart"), ("recipes", "webglm-mini")])
def test_list_suites_and_recipes_with_what_they_are(what: str, name: str, phibench: Command) -> None:
    ended = phibench("list", what)
    assert ended.code == 0
    (line,) = (line for line in ended.out.splitlines() if line.split()[0] == name)
    assert len(line.split()) > 5


def test_list_of_nothing_and_of_an_unknown_kind(phibench: Command) -> None:
    assert phibench("list", "tasks", "qzxwvk") == Ended(0, 'nothing here has "qzxwvk" in its name\n', "")
    ended = phibench("list", "taks")
    assert is_clean(ended)
    assert 'cannot list "taks"' in ended.err
    assert 'did you mean "tasks"?' in ended.err
    assert "one of tasks, suites, recipes" in phibench("list", "qzxwvk").err


# ---- report


def test_report_of_a_run_folder(phibench: Command) -> None:
    run = write_run_folder(Path("run"), items=8)
    ended = phibench("report", run)
    assert ended == Ended(0, "run/report.md\nrun/report.html\n", "")
    assert (run / "report.md").stat().st_size > 1000


@pytest.mark.parametrize(("make", "says"), [
    (lambda path: None, "this is not a run folder"),
    (lambda path: path.mkdir(), "this is not a run folder"),
    (lambda path: path.write_text("x"), ""),
    (lambda path: (path.mkdir(), (path / "manifest.json").write_text("{")), "manifest.json"),
    (lambda path: (path.mkdir(), (path / "manifest.json").write_text('{"schema_version": "99"}')), "manifest.json"),
])  # fmt: skip
def test_report_of_what_is_no_run(make: Callable[[Path], object], says: str, phibench: Command) -> None:
    make(Path("run"))
    ended = phibench("report", "run")
    assert is_clean(ended)
    assert "run" in ended.err
    assert says in ended.err


# ---- doctor


def test_doctor_examines_this_machine(phibench: Command) -> None:
    ended = phibench("doctor")
    assert ended.code == 0  # what is needed is here, or the tests would not run
    for what in ("python", "torch", "lm-eval", "memory", "attention: sdpa", "quantization: nf4", "smollm2-135m"):
        assert re.search(rf"[✓-] +{what} ", ended.out), what


def test_doctor_ends_in_2_where_something_needed_is_missing(phibench: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = doctor.Finding("missing", "peft", "not installed", "pip install peft")
    monkeypatch.setattr(doctor, "examine", lambda: [missing])
    ended = phibench("doctor")
    assert ended.code == 2
    assert "pip install peft" in ended.out


@pytest.mark.parametrize("error", [RuntimeError(""), RuntimeError("no kernel\nlong story"), ImportError("no kernel")])
def test_doctor_takes_whatever_a_backend_raises(error: Exception) -> None:
    def attempt() -> str:
        raise error

    found = doctor._tried("attention: x", attempt, "update torch")
    assert found.state == "optional"
    assert found.found == f"does not work here: {'no kernel' if str(error) else 'RuntimeError'}"
    assert found.fix == "update torch"


# ---- run: what is refused before anything is written or loaded


def test_run_refuses_a_faulty_suite_and_writes_nothing(phibench: Command) -> None:
    ended = phibench("run", suite(SUITE + "limt = 3\n"), "--out", "run")
    assert is_clean(ended)
    assert 'did you mean "limit"?' in ended.err
    assert not Path("run").exists()


@pytest.mark.parametrize(("name", "near"), [
    ("bsae", 'did you mean "base"?'),
    ("mini_pika", 'did you mean "mini_piqa"?'),
    ("qzxwvk", "it has: base, mini_piqa"),
])  # fmt: skip
def test_only_with_an_unknown_name(name: str, near: str, phibench: Command) -> None:
    ended = phibench("run", suite(), "--only", "base", "--only", name, "--out", "run")
    assert is_clean(ended)
    assert f"--only {name}: the suite has no variant or task of this name" in ended.err
    assert near in ended.err
    assert not Path("run").exists()


@pytest.mark.parametrize("flags", [[], ["--resume"], ["--fresh"], ["--fresh", "--yes"]])
def test_run_leaves_a_folder_of_other_things_alone(flags: list[str], phibench: Command) -> None:
    Path("thesis").mkdir()
    Path("thesis/chapter.txt").write_text("years of work")
    ended = phibench("run", suite(), "--out", "thesis", *flags)
    assert is_clean(ended)
    assert "thesis: this is not an empty folder, nor a run's" in ended.err
    assert [path.name for path in Path("thesis").iterdir()] == ["chapter.txt"]


def test_run_does_not_mix_two_suites_in_one_folder(phibench: Command) -> None:
    run = write_run_folder(Path("run"), items=4)
    before = (run / "manifest.json").read_text()
    ended = phibench("run", suite(), "--out", "run")
    assert is_clean(ended)
    assert "holds a run of another suite or another --limit" in ended.err
    assert "--fresh to start over" in ended.err
    assert (run / "manifest.json").read_text() == before


def test_fresh_removes_nothing_where_nobody_says_yes(phibench: Command) -> None:
    run = write_run_folder(Path("run"), items=4)
    before = sorted(run.rglob("*"))
    ended = phibench("run", suite(), "--out", "run", "--fresh")
    assert is_clean(ended)
    assert "nothing was removed" in ended.err
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize("out", ["/proc/phibench", "file", "file/run", "file/below/run", "x" * 300])
def test_run_into_a_place_that_cannot_be_written(out: str, phibench: Command) -> None:
    if out.startswith("/proc") and not Path("/proc").is_dir():
        pytest.skip("no such place on this system")
    Path("file").write_text("x")
    ended = phibench("run", suite(), "--out", out)
    assert is_clean(ended)
    assert "give another folder with --out" in ended.err
    assert Path("file").read_text() == "x"


# ---- who gets a traceback


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("phibench.harness.suite_file.find_suite", fail)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError(5, "a bug")])
def test_a_bug_keeps_its_traceback_and_does_not_end_as_a_failed_gate(
    error: Exception, phibench: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(error, monkeypatch)
    ended = phibench("check", "quickstart")
    assert ended.code == 70
    assert "Traceback" in ended.err
    assert "a bug" in ended.err


def test_a_reader_that_goes_away_is_no_failed_gate(phibench: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(BrokenPipeError(32, "Broken pipe"), monkeypatch)
    monkeypatch.setattr(sys, "stderr", sys.stderr)  # click puts wrappers in their place
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    assert phibench("check", "quickstart").code == 2


def test_a_users_mistake_deep_inside_is_told_in_its_own_words(
    phibench: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(UserError("[bold]what[/bold]", where="[there]", fix="[do] it"), monkeypatch)
    ended = phibench("check", "quickstart")
    assert ended == Ended(2, "", "error: [there]: [bold]what[/bold]\n  -> [do] it\n")


def test_an_interruption_ends_in_130(phibench: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(KeyboardInterrupt(), monkeypatch)
    ended = phibench("check", "quickstart")
    assert ended.code == 130
    assert "Traceback" not in ended.all


# ---- as a process


def process(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["check", "gone.toml"], 2), (["chekc"], 2)])
def test_the_module_runs_with_the_same_exit_codes(arguments: list[str], code: int, tmp_path: Path) -> None:
    ended = process("-m", "phibench", *arguments, cwd=tmp_path)
    assert ended.returncode == code
    assert "Traceback" not in ended.stderr


COMPARE = "compare run:base run:merged --html c.html --md c.md --json c.json"


@pytest.mark.parametrize(
    "command",
    [
        "check quickstart",
        "check mine.toml",
        "list tasks arc",
        "list recipes",
        "report run",
        COMPARE,
        "gate run --rules gate.toml --undecided pass --junit j.xml --comment c.md --json g.json --annotations",
        "gate run --against run:base --rules gate.toml --undecided pass",
        "baseline save run --out b.json",
        "baseline show b.json",
    ],
)
def test_light_commands_import_no_torch(command: str, tmp_path: Path) -> None:
    run = write_run_folder(tmp_path / "run", items=4)
    save_baseline([str(run)], tmp_path / "b.json")
    data = '[data]\n"baber/piqa" = "rows.jsonl"\n'
    (tmp_path / "mine.toml").write_text(SUITE.replace("mini_piqa", "piqa") + data, encoding="utf-8")
    (tmp_path / "gate.toml").write_text('[[rules]]\nmetric = "acc"\nmax_loss = 1.0\n', encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text("{}\n", encoding="utf-8")
    code = (
        "import sys, phibench.cli\n"
        "try:\n    phibench.cli.main()\nexcept SystemExit as end:\n    code = end.code\n"
        "heavy = {'torch', 'transformers', 'peft', 'bitsandbytes', 'trl'} & set(sys.modules)\n"
        "print('ENDED', code, sorted(heavy))"
    )
    ended = process("-c", code, *command.split(), cwd=tmp_path)
    assert ended.stdout.splitlines()[-1] == "ENDED 0 []", ended.stderr


def test_importing_the_front_door_is_light(tmp_path: Path) -> None:
    heavy = {"torch", "lm_eval", "datasets", "pandas", "numpy"}
    code = f"import sys, phibench.cli; print(sorted({heavy} & set(sys.modules)))"
    assert process("-c", code, cwd=tmp_path).stdout == "[]\n"
