"""The journal of a synthesis: every request with its answer, on disk as soon as the answer is there.

JSON Lines, only ever appended to: it is what a stopped synthesis goes on from, and afterwards the record of every
prompt, seed and setting.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from ...errors import UserError
from ...files import sha256_json
from .generator import Reply, Request, Sampling

NAME = "requests.jsonl"


def request_key(stage: str, request: Request, sampling: Sampling) -> str:
    """What a request is known by: everything that it asks."""
    return sha256_json([stage, list(request.messages), request.seed, asdict(sampling)])


class Journal:
    """Append-only requests and answers. Use as a context manager.

    Args:
        path: the journal's file; what it holds is found again.

    Raises:
        UserError: when a line in it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.found = _read(path)
        self._out = path.open("a", encoding="utf-8")

    def append(self, stage: str, request: Request, sampling: Sampling, reply: Reply) -> None:
        """Add one answer and hand it to the system."""
        key = request_key(stage, request, sampling)
        row = {
            "key": key,
            "stage": stage,
            "messages": list(request.messages),
            "seed": request.seed,
            "sampling": asdict(sampling),
            "reply": asdict(reply),
        }
        self._out.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._out.flush()
        self.found[key] = reply

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._out.close()


def _read(path: Path) -> dict[str, Reply]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    whole = content.rfind(b"\n") + 1
    if whole < len(content):  # a line that a kill cut short
        with path.open("r+b") as out:
            out.truncate(whole)
    found: dict[str, Reply] = {}
    for number, line in enumerate(content[:whole].split(b"\n")[:-1], 1):
        try:
            row = json.loads(line)
            found[row["key"]] = Reply(**row["reply"])
        except (ValueError, TypeError, KeyError):
            raise UserError(
                "this line of the journal is damaged",
                where=f"{path}:{number}",
                fix="remove the line: its request is asked again",
            ) from None
    return found
