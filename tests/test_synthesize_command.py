"""`phibench synthesize` from the command line: whole data sets, stops, refusals, and no key in any file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.chat_server import ChatServer, serving
from support.command import Command
from support.models import CHATML, save_base, tiny_tokenizer

KEY = "sk-very-secret-0123456789"
FILES = ["eval.jsonl", "log.txt", "manifest.json", "report.md", "requests.jsonl", "results.json", "train.jsonl"]
Synthesize = Callable[..., tuple[int, str]]


@pytest.fixture
def synthesize(phibench: Command, monkeypatch: pytest.MonkeyPatch) -> Iterator[Synthesize]:
    """Runs the command in this process, in an empty folder: (exit code, what it printed)."""
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.delenv("PHIBENCH_API_KEY", raising=False)

    def call(*arguments: object) -> tuple[int, str]:
        ended = phibench("synthesize", *arguments)
        return ended.code, ended.all

    yield call
    signal.signal(signal.SIGTERM, handler)


def served(server: ChatServer, *more: object) -> list[object]:
    return ["riddles", "--endpoint", server.url, "--model", "riddler", "--calls", 3, "--out", "data", *more]


def test_a_data_set_from_a_server(synthesize: Synthesize, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHIBENCH_API_KEY", KEY)
    with serving(ChatServer(key=KEY)) as server:
        code, said = synthesize(*served(server))
    assert code == 0, said
    assert "riddles answered" in said
    assert "data/report.md" in said
    folder = Path("data")
    assert sorted(path.name for path in folder.iterdir() if path.name != ".lock") == FILES
    for path in folder.iterdir():  # the key stands nowhere
        assert KEY not in path.read_text(encoding="utf-8"), path
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert manifest["identity"] == {"endpoint": server.url, "model": "riddler"}
    assert manifest["versions"]["python"]
    assert manifest["prompts"]["expand"].startswith("Here are {count} riddles")
    train = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(train) == results["train"] > 5
    assert results["answered_by"] == {"riddler-1": len(server.requests)}
    assert (folder / "report.md").read_text(encoding="utf-8").startswith("## Synthesised riddles")


def test_the_same_command_again_asks_nothing_and_changes_nothing(synthesize: Synthesize) -> None:
    with serving(ChatServer()) as server:
        synthesize(*served(server))
        asked = len(server.requests)
        before = {name: Path("data", name).read_bytes() for name in FILES}
        code, _ = synthesize(*served(server))
        assert (code, len(server.requests)) == (0, asked)
    assert before == {name: Path("data", name).read_bytes() for name in before}


def test_what_broke_off_goes_on(synthesize: Synthesize) -> None:
    with serving(ChatServer()) as server:
        code, _ = synthesize(*served(server, "--out", "whole"))
        whole = len(server.requests)
        assert code == 0
        server.body = b"no more"
        code, said = synthesize(*served(server, "--concurrency", 1))
        assert code == 2
        assert "this is no chat completion: no more" in said
        assert "Traceback" not in said
        server.body = None
        code, _ = synthesize(*served(server))
        assert code == 0
    # One more where a request was under way when the first failure came: it may reach the server when that works again.
    assert len(server.requests) - 2 * whole in (0, 1)
    assert Path("data/train.jsonl").read_bytes() == Path("whole/train.jsonl").read_bytes()
    assert Path("data/eval.jsonl").read_bytes() == Path("whole/eval.jsonl").read_bytes()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_process_that_is_stopped_loses_nothing(number: signal.Signals, code: int, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with serving(ChatServer(delay=0.03)) as server:
        command = [sys.executable, "-m", "phibench", "synthesize", *map(str, served(server, "--concurrency", 2))]
        started = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
        journal = tmp_path / "data/requests.jsonl"
        deadline = time.monotonic() + 30
        while (not journal.exists() or journal.read_bytes().count(b"\n") < 6) and time.monotonic() < deadline:
            time.sleep(0.01)
        started.send_signal(number)
        said = started.communicate(timeout=30)[1]
        assert started.returncode == code, said
        assert "Traceback" not in said
        assert not (tmp_path / "data/train.jsonl").exists()
        found = journal.read_bytes().count(b"\n")
        assert found >= 6
        asked = len(server.requests)
        server.delay = 0.0
        ended = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
    # Only what was under way at the stop, two at most, is asked again.
    bodies = [json.dumps(body, sort_keys=True) for body in server.requests]
    assert len(bodies) - len(set(bodies)) <= 2
    assert len(set(bodies[:asked])) - found <= 2
    assert (tmp_path / "data/train.jsonl").read_text(encoding="utf-8")


def test_a_data_set_from_a_local_model(synthesize: Synthesize, tmp_path: Path) -> None:
    model = save_base(tmp_path / "model", tokenizer=tiny_tokenizer(chat_template=CHATML), max_position_embeddings=4096)
    arguments = ["riddles", "--model", model, "--calls", 2, "--max-new-tokens", 6, "--device", "cpu", "--offline"]
    code, said = synthesize(*arguments, "--out", "data")
    assert code == 2  # a random model makes no riddles: that is said, and the report says why
    assert "no conversation came through all the rules" in said
    assert "Traceback" not in said
    rows = [json.loads(line) for line in Path("data/requests.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["stage"] for row in rows] == ["expand"] * 2
    assert rows[0]["sampling"] == {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "max_new_tokens": 6}
    assert "last line of a cut call" in Path("data/report.md").read_text(encoding="utf-8")
    manifest = json.loads(Path("data/manifest.json").read_text(encoding="utf-8"))
    assert {"base", "tokenizer", "chat_template", "version:torch"} <= manifest["identity"].keys()
    code, said = synthesize(*arguments, "--seed", 1, "--out", "data")
    assert code == 2
    assert "data: this folder holds a data set made otherwise (seed: 0 there, 1 here)" in said


@pytest.mark.parametrize(("arguments", "says"), [
    (["ridles"], 'did you mean "riddles"?'),
    (["riddles", "--seeds", "gone.txt"], "the seeds cannot be read"),
    (["riddles", "--per-call", "42"], "every call would be alike"),
    (["riddles", "--endpoint", "http://127.0.0.1:9/v1"], "give --model as well"),
    (["riddles", "--endpoint", "here", "--model", "x"], "this is no web address"),
    (["riddles", "--endpoint", "http://127.0.0.1:9/v1", "--model", "x"], "nothing answers there"),
    (["riddles", "--endpoint", "http://127.0.0.1:9/v1", "--model", "x", "--device", "cpu", "--offline"],
     "--device and --offline would do nothing"),
    (["riddles", "--concurrency", "2"], "--concurrency would do nothing"),
    (["riddles", "--out", "thesis"], "not an empty folder, nor a synthesis's"),
    (["riddles", "--calls", "0"], "Usage: "),
    (["riddles", "--model", "./gone"], "this folder holds no transformers model"),
    (["riddles", "--dtype", "float3"], "there is no such precision"),
])  # fmt: skip
def test_mistakes_to_mend(arguments: list[str], says: str, synthesize: Synthesize) -> None:
    Path("thesis").mkdir()
    Path("thesis/chapter.txt").write_text("years of work", encoding="utf-8")
    code, said = synthesize(*arguments)
    assert code == 2
    assert says in said
    assert "Traceback" not in said
    assert [path.name for path in Path("thesis").iterdir()] == ["chapter.txt"]


def test_a_runs_folder_is_left_alone(synthesize: Synthesize) -> None:
    Path("run").mkdir()
    Path("run/manifest.json").write_text('{"schema_version": "1"}', encoding="utf-8")
    with serving(ChatServer()) as server:
        code, said = synthesize(*served(server, "--out", "run"))
    assert code == 2
    assert "is not a synthesis's" in said
    assert Path("run/manifest.json").read_text(encoding="utf-8") == '{"schema_version": "1"}'
    assert not server.requests


def test_a_server_needs_no_torch(tmp_path: Path) -> None:
    with serving(ChatServer()) as server:
        arguments = ["phibench", "synthesize", *map(str, served(server, "--quiet"))]
        code = (
            f"import sys, phibench.cli; sys.argv = {arguments!r}\n"
            "try:\n    phibench.cli.main()\nexcept SystemExit as end:\n    code = end.code\n"
            "print(code, sorted({'torch', 'transformers', 'lm_eval'} & set(sys.modules)))"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        ended = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
    assert ended.stdout == "0 []\n", ended.stderr
