"""A stand-in for an OpenAI-compatible server on loopback: real HTTP, and a script of what goes wrong."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from support.scripted import scripted


@dataclass
class ChatServer:
    """What the server does, and what it was asked."""

    key: str | None = None  # wanted in every request
    model: str = "riddler"
    failures: list[tuple[int, dict[str, str]]] = field(default_factory=list)  # (status, headers), before all answers
    answer: Callable[[Sequence[Any], int], tuple[str, str]] = scripted
    body: bytes | None = None  # sent in the place of an answer
    delay: float = 0.0
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)  # bodies that were answered
    headers: list[dict[str, str]] = field(default_factory=list)
    attempts: int = 0
    most_together: int = 0
    _together: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, headers: dict[str, str], body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        """The status, headers and body of one response."""
        with self._lock:
            self.attempts += 1
            self.headers.append(headers)
            self._together += 1
            self.most_together = max(self.most_together, self._together)
            failure = self.failures.pop(0) if self.failures else None
        try:
            time.sleep(self.delay)
            if failure is not None:
                return failure[0], failure[1], json.dumps({"error": {"message": "not now"}}).encode()
            given = headers.get("authorization", "").removeprefix("Bearer ")
            if self.key is not None and given != self.key:
                return 401, {}, json.dumps({"error": {"message": f"wrong key: {given}"}}).encode()
            if body["model"] != self.model:
                return 404, {}, json.dumps({"error": {"message": "no such model"}}).encode()
            if self.body is not None:
                return 200, {}, self.body
            with self._lock:
                self.requests.append(body)
            text, finish = self.answer(body["messages"], body["seed"])
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
            usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
            return 200, {}, json.dumps({"model": "riddler-1", "choices": [choice], "usage": usage}).encode()
        finally:
            with self._lock:
                self._together -= 1


@contextmanager
def serving(server: ChatServer) -> Iterator[ChatServer]:
    """The server at work, at `server.url`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/v1/chat/completions":
                status, headers, content = 404, {}, b"no such place"
            else:
                status, headers, content = server.take({k.lower(): v for k, v in self.headers.items()}, body)
            try:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
            except OSError:  # whoever asked has gone
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    server.url = f"http://127.0.0.1:{listening.server_address[1]}/v1"
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()
