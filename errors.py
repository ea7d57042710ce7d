"""Errors a user can mend, and the exit codes of the command line; for every room.

Anything that is not a :class:`UserError` is a bug and keeps its traceback.
"""

from __future__ import annotations

import enum


class Exit(enum.IntEnum):
    """Exit codes of `phibench`; documented in the README."""

    DONE = 0
    GATE_FAILED = 1
    USER_MISTAKE = 2
    SOME_CELLS_FAILED = 3
    GATE_UNDECIDED = 4
    BUG = 70  # as sysexits.h has it: never to be taken for a gate that failed
    INTERRUPTED = 130


class UserError(Exception):
    """A mistake the user can mend: what was wrong, where, and what to do.

    Args:
        what: what was wrong, and the rule that it broke.
        where: the file, key or folder at fault.
        fix: what to do about it.
    """

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  -> {self.fix}" if self.fix else text


class SuiteFaults(UserError):
    """Every fault found in one suite file, in the order of its lines."""

    def __init__(self, faults: list[UserError]) -> None:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__(f"{count} found")
        self.faults = faults

    def __str__(self) -> str:
        return "\n".join([*(str(fault) for fault in self.faults), self.what])
