"""Rows that are not trained on: counted, named in the record, and no part of what an adapter was trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phibench.adapters.adapter_files import LEFT_OUT
from phibench.adapters.base import LoadedBase
from phibench.adapters.encode import NAMED
from phibench.errors import UserError
from support.models import EOS
from support.recipes import ROWS, trained, write

pytestmark = pytest.mark.usefixtures("cache")
LONG = {"id": "9", "dialogue": "A: " + "very " * 60, "summary": "Long."}


def with_rows(folder: Path, name: str, *rows: dict[str, Any]) -> None:
    with (folder / name).open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def test_rows_that_are_too_long_are_named_and_not_trained_on(base: LoadedBase, tmp_path: Path) -> None:
    path = write(tmp_path)
    with_rows(tmp_path, "rows.jsonl", LONG, ROWS[4], LONG)
    with_rows(tmp_path, "held.jsonl", LONG)
    first = trained(path, base, "training.max_steps=1")
    again = trained(path, base, "training.max_steps=1")
    assert not again.is_new
    for made in (first, again):
        record = made.record
        assert (record["rows"], record["rows_dropped"], record["rows_shortened"]) == (7, 2, 0)
        assert record["rows_dropped_names"] == ["line 5", "line 7"]
        assert (record["eval_rows"], record["eval_rows_dropped"]) == (3, 1)
        assert record["eval_rows_dropped_names"] == ["line 4"]
        assert [name for name, _ in made.texts] == [f"rows.jsonl line {number}" for number in (1, 2, 3, 4, 6)]
        assert not any("very very" in text for _, text in made.texts)


def test_a_record_names_the_first_of_many(base: LoadedBase, tmp_path: Path) -> None:
    path = write(tmp_path)
    with_rows(tmp_path, "rows.jsonl", *[LONG] * (NAMED + 10))
    made = trained(path, base, "training.max_steps=1")
    assert made.record["rows_dropped"] == NAMED + 10
    assert made.record["rows_dropped_names"] == [f"line {number}" for number in range(5, 5 + NAMED)]
    assert len(json.loads((made.folder / LEFT_OUT).read_text())["dropped"]) == NAMED + 10
    assert len(made.texts) == 4


def test_rows_that_spell_a_special_token_are_named_and_not_trained_on(
    base: LoadedBase, cache: Path, tmp_path: Path
) -> None:
    path = write(tmp_path)
    plain = trained(path, base, "training.max_steps=1")
    with_rows(tmp_path, "rows.jsonl", ROWS[4] | {"dialogue": f"A: bye {EOS} B: bye"}, ROWS[5] | {"summary": f"{EOS}."})
    made = trained(path, base, "training.max_steps=1")
    record = made.record
    assert (record["rows"], record["rows_special"], record["rows_dropped"]) == (6, 2, 0)
    assert record["rows_special_names"] == ["line 5", "line 6"]
    assert [name for name, _ in made.texts] == [f"rows.jsonl line {number}" for number in (1, 2, 3, 4)]
    assert [point["loss"] for point in record["curve"]] == [point["loss"] for point in plain.record["curve"]]
    assert record["parts"]["special_tokens"] == "left out"  # what was trained on such rows before is not found
    assert "special_tokens" not in plain.record["parts"]


def test_nothing_is_left_to_train_on(base: LoadedBase, tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS[0] | {"summary": f"Yes.{EOS}"}))
    with pytest.raises(UserError, match="every row spells a special token") as caught:
        trained(path, base)
    assert caught.value.where == "rows.jsonl"
