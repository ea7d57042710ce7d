"""The endpoint over real HTTP on loopback: answers, trying again, refusals, and where the key may stand."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from phibench.adapters.synthesis.endpoint import DEFAULT_KEY, Endpoint
from phibench.adapters.synthesis.generator import CUT, STOPPED, Reply, Request, Sampling
from phibench.errors import UserError
from support.chat_server import ChatServer, serving
from support.scripted import scripted

KEY = "sk-very-secret-0123456789"
SAMPLING = Sampling(temperature=0.7, top_p=0.9, top_k=None, max_new_tokens=64)


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DEFAULT_KEY, raising=False)


def some(count: int) -> list[Request]:
    return [Request(({"role": "user", "content": f"Who is number {n}?"},), seed=100 + n) for n in range(count)]


def endpoint(server: ChatServer, **options: Any) -> Endpoint:
    return Endpoint(server.url, options.pop("model", "riddler"), **{"pause": 0.01, "timeout": 20.0, **options})


def ask(server: ChatServer, requests: list[Request], **options: Any) -> dict[int, Reply]:
    return dict(endpoint(server, **options).ask(requests, SAMPLING))


def test_answers_come_with_all_that_is_told() -> None:
    with serving(ChatServer(answer=lambda messages, seed: (f"I am {seed}. \ud800", "length"))) as server:
        found = ask(server, some(5))
    assert found == {n: Reply(f"I am {100 + n}. ?", CUT, 11, 7, model="riddler-1") for n in range(5)}
    assert sorted(body["seed"] for body in server.requests) == [100, 101, 102, 103, 104]
    body = next(body for body in server.requests if body["seed"] == 103)
    assert body == {
        "model": "riddler", "messages": [{"role": "user", "content": "Who is number 3?"}],
        "temperature": 0.7, "top_p": 0.9, "max_tokens": 64, "seed": 103,
    }  # fmt: skip


def test_top_k_is_told_only_where_it_is_given() -> None:
    with serving(ChatServer()) as server:
        list(endpoint(server).ask(some(1), Sampling(top_k=7)))
    assert server.requests[0]["top_k"] == 7


def test_many_are_under_way_but_no_more_than_asked() -> None:
    with serving(ChatServer(delay=0.05)) as server:
        ask(server, some(12), concurrency=3)
    assert server.most_together == 3
    assert len(server.requests) == 12


def test_an_answer_comes_before_the_others_are_there() -> None:
    slow = threading.Event()

    def answer(messages: Any, seed: int) -> tuple[str, str]:
        if seed != 100:
            slow.wait(10)
        return "x", STOPPED

    with serving(ChatServer(answer=answer)) as server:
        replies = endpoint(server).ask(some(3), SAMPLING)
        assert next(replies)[0] == 0
        slow.set()
        assert {position for position, _ in replies} == {1, 2}


# ---- trying again


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(status: int) -> None:
    with serving(ChatServer(failures=[(status, {})] * 2)) as server:
        assert ask(server, some(1))[0].finish == STOPPED
    assert server.attempts == 3


def test_it_waits_as_long_as_the_server_says() -> None:
    with serving(ChatServer(failures=[(429, {"Retry-After": "0.4"})])) as server:
        started = time.monotonic()
        ask(server, some(1))
    assert time.monotonic() - started >= 0.4


def test_it_waits_longer_each_time() -> None:
    with serving(ChatServer(failures=[(500, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"})] * 3)) as server:
        started = time.monotonic()
        ask(server, some(1), pause=0.05)
    assert time.monotonic() - started >= 0.05 + 0.1 + 0.2


def test_in_the_end_it_gives_up_and_what_was_answered_is_not_lost() -> None:
    def answer(messages: Any, seed: int) -> tuple[str, str]:
        return scripted(messages, seed)

    with serving(ChatServer(answer=answer)) as server:
        found = []
        with pytest.raises(UserError, match="still answers 503 after 2 attempts: not now") as caught:
            for position, _ in endpoint(server, concurrency=1, attempts=2).ask(some(5), SAMPLING):
                found.append(position)
                if len(found) == 2:
                    server.failures = [(503, {})] * 9
        assert len(set(found)) >= 2
    assert "the same command goes on" in str(caught.value)


def test_a_connection_that_breaks_is_tried_again() -> None:
    with serving(ChatServer(failures=[(200, {"Content-Length": "1000", "Connection": "close"})])) as server:
        assert ask(server, some(1))[0].finish == STOPPED
    assert server.attempts == 2


# ---- what a user can mend


@pytest.mark.parametrize(("options", "asking", "says"), [
    ({"key": KEY}, {}, "answers 401, not authorised (no key was sent): wrong key:"),
    ({}, {"model": "other"}, 'answers 404: no such address, or no model "other": no such model'),
    ({"failures": [(400, {})]}, {}, "answers 400: not now"),
    ({"failures": [(302, {"Location": "http://127.0.0.1:9/v1"})]}, {}, "answers 302: it has moved"),
    ({"body": b"<html>hello</html>"}, {}, "this is no chat completion: <html>hello</html>"),
    ({"body": b'{"choices": []}'}, {}, "this is no chat completion"),
    ({"body": b"[1]"}, {}, "this is no chat completion"),
    ({"delay": 0.5}, {"timeout": 0.1, "attempts": 2}, "no answer within 0.1 s, 2 times"),
])  # fmt: skip
def test_refusals_are_the_users_to_mend(options: dict[str, Any], asking: dict[str, Any], says: str) -> None:
    with serving(ChatServer(**options)) as server, pytest.raises(UserError) as caught:
        ask(server, some(1), **asking)
    assert says in caught.value.what
    assert caught.value.where == f"--endpoint {server.url}"
    assert caught.value.fix
    assert server.attempts == asking.get("attempts", 1)  # what cannot pass is not tried again


def test_nobody_there_is_told_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(UserError, match="nothing answers there"):
        list(Endpoint("http://127.0.0.1:9/v1", "x").ask(some(1), SAMPLING))
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("url", [
    "localhost:8000", "ftp://here/v1", "http://", "http://user:secret@here/v1", "https://here/v1?key=secret",
])  # fmt: skip
def test_addresses_that_cannot_be_used(url: str) -> None:
    with pytest.raises(UserError) as caught:
        Endpoint(url, "x")
    if "secret" in url:
        assert "secret" not in str(caught.value)


def test_a_missing_finish_reason_is_not_taken_for_an_end() -> None:
    body = b'{"choices": [{"message": {"role": "assistant", "content": null}, "finish_reason": null}]}'
    with serving(ChatServer(body=body)) as server:
        assert ask(server, some(1)) == {0: Reply("", "unknown", model="riddler")}


# ---- the key


def test_the_key_goes_to_the_server_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    caplog.set_level(logging.DEBUG)
    with serving(ChatServer(key=KEY)) as server:
        asked = endpoint(server, key_name="MY_KEY")
        found = dict(asked.ask(some(2), SAMPLING))
    assert len(found) == 2
    assert KEY not in repr(found) + repr(asked.identity()) + caplog.text
    assert all(headers["authorization"] == f"Bearer {KEY}" for headers in server.headers)


def test_a_key_that_the_server_repeats_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEFAULT_KEY, KEY)
    with serving(ChatServer(key="another")) as server, pytest.raises(UserError) as caught:
        ask(server, some(1))
    assert "401, not authorised (its key was sent): wrong key: [key]" in str(caught.value)
    assert KEY not in str(caught.value)


def test_without_a_key_no_header_is_sent_and_other_keys_stay_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(ChatServer()) as server:
        ask(server, some(1))
    assert "authorization" not in server.headers[0]


def test_keys_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--api-key-env GONE: this environment variable is not set"):
        Endpoint("http://here/v1", "x", key_name="GONE")
    monkeypatch.setenv(DEFAULT_KEY, "sk-\nnew line")
    with pytest.raises(UserError, match="no header may have") as caught:
        Endpoint("http://here/v1", "x")
    assert "sk-" not in str(caught.value)
    assert DEFAULT_KEY in str(caught.value)


def test_closing_early_leaves_nothing_behind() -> None:
    with serving(ChatServer(delay=0.02)) as server:
        replies = endpoint(server, concurrency=2).ask(some(50), SAMPLING)
        next(replies)
        replies.close()
        asked = server.attempts
        time.sleep(0.2)
        assert server.attempts <= asked + 2 < 50
