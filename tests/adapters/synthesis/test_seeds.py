"""Seeds: those that come with phibench, and files of the user's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from phibench.adapters.synthesis.clean import RIDDLE_RULES
from phibench.adapters.synthesis.kinds import KINDS, find_kind
from phibench.adapters.synthesis.rules import Tally
from phibench.adapters.synthesis.seeds import Seeds, embedded_seeds, read_seeds, refuse_too_few
from phibench.adapters.synthesis.similarity import KIN, likeness
from phibench.errors import UserError
from phibench.suites.tasks.embedded import read_rows

OURS = embedded_seeds("riddles_seed.jsonl", "riddle")


def test_our_seeds_are_riddles_with_answers_and_none_is_like_another() -> None:
    rows = read_rows("synthesis", "riddles_seed.jsonl")
    assert [set(row) for row in rows] == [{"riddle", "answer"}] * len(rows)
    assert len(OURS.texts) == len(rows) == 42
    for number, (text, row) in enumerate(zip(OURS.texts, rows, strict=True)):
        assert Tally().apply("x", RIDDLE_RULES, text) == text  # our own rules would keep it
        assert text.endswith("?")
        assert row["answer"].strip()
        assert all(likeness(text, other) < KIN for other in OURS.texts[:number])
        told = re.sub(r"^(a|an|the) ", "", row["answer"].lower())
        assert told not in text.lower()


def test_a_call_shows_its_seeds_whatever_else_is_asked() -> None:
    shown = OURS.shown(10, 0, 3)
    assert len(set(shown)) == 10
    assert set(shown) < set(OURS.texts)
    assert shown == OURS.shown(10, 0, 3)
    assert shown != OURS.shown(10, 0, 4) != OURS.shown(10, 1, 4)


def test_seeds_of_the_users(tmp_path: Path) -> None:
    lines = tmp_path / "mine.txt"
    lines.write_bytes("\ufeffWho is up?\r\n\n  Who  is down?\nWho is up?\n".encode())
    assert read_seeds(lines, "riddle").texts == ("Who is up?", "Who is down?")
    rows = tmp_path / "mine.jsonl"
    rows.write_text('{"riddle": "Who is\\nup?", "answer": "x"}\n{"riddle": "a\u2028b"}\n', encoding="utf-8")
    assert read_seeds(rows, "riddle").texts == ("Who is up?", "a b")


@pytest.mark.parametrize(("name", "content", "says"), [
    ("mine.csv", b"a", ".csv"),
    ("gone.txt", None, "No such file"),
    ("mine.jsonl", b'{"riddle": "a"}\nnot json\n', "mine.jsonl:2: this line is not JSON"),
    ("mine.jsonl", b'{"question": "a"}\n', 'no text under "riddle"'),
    ("mine.jsonl", b'["a"]\n', 'no text under "riddle"'),
    ("mine.jsonl", b'{"riddle": " "}\n', 'no text under "riddle"'),
    ("mine.txt", b"\xff\xfe", "not UTF-8"),
])  # fmt: skip
def test_seeds_that_cannot_be_read(name: str, content: bytes | None, says: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(says)):
        read_seeds(tmp_path / name, "riddle")


def test_too_few_seeds() -> None:
    refuse_too_few(Seeds("x", "", ("a", "b", "c")), 2)
    with pytest.raises(UserError, match="a call shows 3 seeds, and there are only 3"):
        refuse_too_few(Seeds("x", "", ("a", "b", "c")), 3)


def test_kinds() -> None:
    assert find_kind("riddles") is KINDS["riddles"]
    with pytest.raises(UserError, match="cannot be synthesised") as caught:
        find_kind("ridles")
    assert 'did you mean "riddles"?' in str(caught.value)
