"""The journal of a cell: every response is on disk as soon as it is there, so a killed run loses none.

JSON Lines; the first line names the cell by its hash, each further line is `[position, response]`. It lives only until
the cell's records are written.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType

from .engine.response import Response


class Journal:
    """Append-only responses of one cell. Use as a context manager.

    Args:
        path: the journal file.
        cell_hash: a journal of any other cell is thrown away.
    """

    def __init__(self, path: Path, cell_hash: str) -> None:
        self._path = path
        self.found = _read(path, cell_hash)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written anew, so that a line cut short by a kill is gone.
        with path.open("w", encoding="utf-8") as out:
            out.write(json.dumps({"cell": cell_hash}) + "\n")
            for position, response in self.found.items():
                out.write(_line(position, response))
        self._out = path.open("a", encoding="utf-8")

    def append(self, position: int, response: Response) -> None:
        """Add one response and hand it to the system."""
        self._out.write(_line(position, response))
        self._out.flush()
        self.found[position] = response

    def remove(self) -> None:
        """Delete the journal: the cell's records are written."""
        self._out.close()
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._out.close()


def _line(position: int, response: Response) -> str:
    return json.dumps([position, vars(response)], ensure_ascii=False) + "\n"


def _read(path: Path, cell_hash: str) -> dict[int, Response]:
    found: dict[int, Response] = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return found
    try:
        if json.loads(lines[0]) != {"cell": cell_hash}:
            return found
        for line in lines[1:]:
            if line:
                position, fields = json.loads(line)
                found[int(position)] = Response(**fields)
    except (ValueError, TypeError):
        pass  # the last line was cut short; what stands before it is good
    return found
