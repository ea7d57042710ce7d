"""A gate's result in Markdown: the summary of a job, and the comment on a pull request that a bot updates."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .. import __version__
from ..harness.gate.check import GateVerdict
from ..harness.gate.run import Gated
from .gate import SAID, counted, gate_note, gate_table
from .markdown import LONGEST, code, inline, pipe_table, text_of
from .view import Table

_ICONS = {GateVerdict.PASS: "✅", GateVerdict.FAIL: "❌", GateVerdict.UNDECIDED: "❔"}
_DO = {
    GateVerdict.FAIL: (
        "**What to do:** the run's report shows by which items. If the change is meant, widen the rule, or make the"
        " baseline again with `phibench baseline save` and commit it."
    ),
    GateVerdict.UNDECIDED: (
        "**What to do:** ask more items (the table says how many), group tasks, or widen the rule's limit."
        " `--undecided pass` or `fail` says what undecided rules are to count as."
    ),
}


def gate_comment(gated: Gated) -> str:
    """The comment: a hidden marker by which a bot finds its own, the verdict, the checks, what to do."""
    return f"{marker(gated.name)}\n{gate_summary(gated)}"


def marker(run_name: str) -> str:
    """The hidden line that a comment on a gate of this name begins with."""
    return f"<!-- phibench-gate: {re.sub(r'[^A-Za-z0-9._+]', '_', run_name)[:80]} -->"


def gate_summary(gated: Gated) -> str:
    """The same without the marker. No longer than GitHub takes; checks that do not fit are counted."""
    result = gated.result
    verdict = result.verdict
    head = [f"## {_ICONS[verdict]} phibench gate: {SAID[verdict]}", f"{code(gated.name)}: {counted(result)}."]
    foot = [_DO[verdict]] if verdict in _DO else []
    foot += [inline(text[:1].upper() + text[1:]) + "." for text in gated.chosen]
    foot += [text_of(gate_note(result)), f"Made by phibench {inline(__version__)}."]
    room = LONGEST - sum(len(part) + 2 for part in (*head, *foot)) - 400
    open_rows = _fitted(gate_table(result, only=(GateVerdict.FAIL, GateVerdict.UNDECIDED)), room)
    room -= sum(map(len, open_rows))
    passed = _fitted(gate_table(result, only=(GateVerdict.PASS,)), room)
    fold = []
    if passed:
        count = result.count(GateVerdict.PASS)
        fold = [f"<details>\n<summary>{count:,} passed</summary>", *passed, "</details>"]
    return "\n\n".join([*head, *open_rows, *fold, *foot]) + "\n"


def _fitted(table: Table | None, room: int) -> Sequence[str]:
    """A table's first rows, as many as there is room for, and how many there are beyond."""
    if table is None:
        return []
    lines = pipe_table(table).splitlines()
    kept, used = 2, sum(len(each) + 1 for each in lines[:2])
    while kept < len(lines) and used + len(lines[kept]) + 1 <= room:
        used += len(lines[kept]) + 1
        kept += 1
    missing = len(lines) - kept
    shown = ["\n".join(lines[:kept])] if kept > 2 else []
    return [*shown, f"{missing:,} more, left out to stay within the length of a comment."] if missing else shown
