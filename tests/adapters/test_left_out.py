"""Rows that are not trained on: counted, named in the record, and no part of what an adapter was trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phibench.adapters.adapter_files import LEFT_OUT
from phibench.adapters.base import LoadedBase
from phibench.adapters.encode import NAMED, encode_rows, nothing_to_learn
from phibench.adapters.rows import Rows
from phibench.errors import UserError
from support.models import EOS, tiny_tokenizer
from support.recipes import RECIPE, ROWS, trained, write

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
        assert made.texts[0][1] == "\n".join([ROWS[0]["dialogue"], ROWS[0]["summary"]])  # and no column beside
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


WEBGLM = {"question": "why?", "answer": "because [1]", "references": ["a reason"]}
EMPTY: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "webglm_qa": (WEBGLM, WEBGLM | {"answer": " \n"}, "empty"),
    "webglm_qa-unsourced": (WEBGLM, WEBGLM | {"references": [], "answer": "just so"}, "unsourced"),
    "dialogsum": (ROWS[0], ROWS[0] | {"summary": ""}, "empty"),
    "riddles": ({"messages": ["What?", "That."]}, {"messages": ["What?", "That.", "Why?", " "]}, "empty"),
}


@pytest.mark.parametrize("name", EMPTY)
def test_rows_that_teach_to_say_nothing_are_counted_by_why(name: str) -> None:
    sound, bad, why = EMPTY[name]
    rows = Rows("rows.jsonl", "0", [("line 1", sound), ("line 2", bad)])
    found = encode_rows(rows, name.partition("-")[0], tiny_tokenizer(), max_length=1024, learn_prompts=False)
    assert len(found.rows) == 1
    assert {key: names for key, names in found.left_out().items() if names} == {why: ["line 2"]}
    assert nothing_to_learn(rows, name.partition("-")[0]) == ["line 2"]


def test_a_record_of_empty_answers_and_another_result_than_before(base: LoadedBase, tmp_path: Path) -> None:
    path = write(tmp_path)
    plain = trained(path, base, "training.max_steps=1")
    with_rows(tmp_path, "rows.jsonl", ROWS[4] | {"summary": ""})
    made = trained(path, base, "training.max_steps=1")
    assert (made.record["rows"], made.record["rows_empty"], made.record["rows_empty_names"]) == (5, 1, ["line 5"])
    assert made.record["parts"]["empty_rows"] == "left out"
    assert "empty_rows" not in plain.record["parts"]
    assert [name for name, _ in made.texts] == [f"rows.jsonl line {number}" for number in (1, 2, 3, 4)]


PAIR = {"goal": "Open it", "sol1": "Turn.", "sol2": "Turn.", "label": 0}
NONE_LEFT: dict[str, tuple[str, list[dict[str, Any]], str]] = {
    "no-pair": ("piqa_pairs", [PAIR, PAIR], "no row makes a pair"),
    "unsourced": ("webglm_qa", [WEBGLM | {"references": []}] * 2, "no row has references"),
    "empty": ("dialogsum", [ROWS[0] | {"summary": ""}], "the answer of every row is empty"),
    "several": (
        "dialogsum",
        [LONG, ROWS[0] | {"summary": ""}, ROWS[1] | {"summary": " "}],
        "no row is left of 3: 2 left out: their answer is empty, 1 left out: too long",
    ),
}


@pytest.mark.parametrize("name", NONE_LEFT)
def test_what_is_said_where_no_row_is_left(name: str, base: LoadedBase, tmp_path: Path) -> None:
    """The reason is that of most rows: to raise max_length helps against one of them alone."""
    form, rows, says = NONE_LEFT[name]
    method = 'method = "dpo"\nreference = "adapters_off"\n' if form == "piqa_pairs" else ""
    path = write(tmp_path, method + RECIPE.replace('"dialogsum"', f'"{form}"').replace('eval.file = "held.jsonl"', ""))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError) as caught:
        trained(path, base, "training.max_steps=1")
    assert caught.value.what == says
    assert caught.value.where == "rows.jsonl"
