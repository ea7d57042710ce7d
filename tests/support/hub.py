"""A loopback stand-in for the hub's HTTP API: what huggingface_hub asks of it to make a repository and commit to it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "Loopback" * 4


@dataclass
class Repo:
    """A repository: its files, and what was asked for when it was made and written."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Hub:
    """The stand-in's state.

    Attributes:
        refuse: what a path contains -> the status and message to answer it with.
    """

    address: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, authorization
    blobs: dict[str, bytes] = field(default_factory=dict)
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)

    def asked(self, method: str, part: str) -> int:
        """How many requests were of a method to a path with this part."""
        return sum(one == method and part in path for one, path, _ in self.requests)


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub on a free port of this machine, for as long as the context."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def _answer(self) -> None:
            body = self._body()
            hub.requests.append((self.command, self.path, self.headers.get("Authorization")))
            for part, (status, message) in hub.refuse.items():
                if part in self.path:
                    self._send(status, {"error": message})
                    return
            if not self.path.startswith("/blobs/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._send(401, {"error": "Invalid username or password."})
                return
            self._send(*_answer(hub, self.command, self.path, body))

        do_GET = do_POST = do_PUT = _answer  # noqa: N815 - the names are http.server's

        def _body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _send(self, status: int, value: dict[str, Any]) -> None:
            text = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    return Handler


def _answer(hub: Hub, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
    where, _, query = path.partition("?")
    if (method, where) == ("POST", "/api/repos/create"):
        return _create(hub, json.loads(body))
    if (method, where) == ("POST", "/api/validate-yaml"):
        return 200, {"warnings": [], "errors": []}
    if found := re.fullmatch(r"/blobs/([0-9a-f]{64})", where):
        if hashlib.sha256(body).hexdigest() != found[1]:
            return 400, {"error": "other bytes than the hash says"}
        hub.blobs[found[1]] = body
        return 200, {}
    if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", where):
        objects = [
            {**one, "actions": {"upload": {"href": f"{hub.address}/blobs/{one['oid']}"}}}
            for one in json.loads(body)["objects"]
        ]
        return 200, {"transfer": "basic", "objects": objects}
    if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(preupload|commit)/(.+))?", where):
        name, action, revision = found.groups()
        if name not in hub.repos:
            return 404, {"error": "Repository not found"}
        repo = hub.repos[name]
        if action == "preupload":
            return 200, {"files": [_mode(file["path"]) for file in json.loads(body)["files"]]}
        if action == "commit":
            return _commit(hub, name, repo, revision, query, body)
        return 200, {"id": name, "modelId": name, "private": repo.private, "sha": "0" * 40, "siblings": [], "tags": []}
    return 404, {"error": f"the stand-in has no {method} {path}"}


def _create(hub: Hub, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    name = f"{asked['organization']}/{asked['name']}"
    if name in hub.repos:
        return 409, {"error": "You already created this model repo", "url": f"{hub.address}/{name}"}
    hub.repos[name] = Repo(private=asked.get("visibility") == "private" or bool(asked.get("private")))
    return 200, {"url": f"{hub.address}/{name}", "name": name, "id": "1"}


def _mode(path: str) -> dict[str, Any]:
    mode = "lfs" if path.endswith(".safetensors") else "regular"
    return {"path": path, "uploadMode": mode, "shouldIgnore": False}


def _commit(hub: Hub, name: str, repo: Repo, revision: str, query: str, body: bytes) -> tuple[int, dict[str, Any]]:
    lines = [json.loads(line) for line in body.splitlines()]
    for line in lines:
        value = line["value"]
        if line["key"] == "file":
            repo.files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            repo.files[value["path"]] = hub.blobs[value["oid"]]
    (header,) = (line["value"] for line in lines if line["key"] == "header")
    repo.commits.append({**header, "revision": revision, "query": query})
    answer = {"success": True, "commitOid": "1" * 40, "commitUrl": f"{hub.address}/{name}/commit/{'1' * 40}"}
    if "create_pr=1" in query:
        answer["pullRequestUrl"] = f"{hub.address}/{name}/discussions/1"
    return 200, answer
