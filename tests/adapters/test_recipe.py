"""Recipe files and their data: ours are valid, and every mistake in one is named with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phibench.adapters.recipe import EXAMPLES, RECIPES, data_file, find_recipe, read_examples, read_recipe
from phibench.errors import UserError

WEBGLM = {"question": "why?", "answer": " because [1] ", "references": ["a reason"]}
DIALOGSUM = {"id": "1", "dialogue": "A: hi", "summary": "greeting"}
RECIPE = 'name = "mine"\ntask = "webglm_qa"\ndata = "rows.jsonl"\n'


def write(folder: Path, text: str = RECIPE, rows: list[Any] | str | bytes = "default") -> Path:
    """A recipe and its data; `rows` are values, or the file's text or bytes as it is."""
    if rows == "default":
        rows = [WEBGLM]
    data = folder / "rows.jsonl"
    if isinstance(rows, bytes):
        data.write_bytes(rows)
    elif isinstance(rows, str):
        data.write_text(rows, encoding="utf-8")
    else:
        data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    file = folder / "mine.toml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.toml")), ids=lambda file: file.stem)
def test_our_own_recipes_work(file: Path) -> None:
    assert find_recipe(file.stem) == file
    recipe = read_recipe(file)
    assert recipe.name == file.stem
    rows = read_examples(recipe, data_file(recipe, file))
    assert len(rows) >= 50
    assert all(row.keys() == {"prompt", "completion"} and row["completion"] for row in rows)
    from peft import LoraConfig
    from trl import SFTConfig

    LoraConfig(**recipe.lora)
    fields = SFTConfig.__dataclass_fields__
    assert recipe.training.keys() <= fields.keys()


def test_rows_become_the_prompts_that_evaluation_uses(tmp_path: Path) -> None:
    file = write(tmp_path)
    recipe = read_recipe(file)
    [row] = read_examples(recipe, data_file(recipe, file))
    assert row["completion"] == "because [1]"
    assert row["prompt"].endswith("###References:\n[1] a reason\n###Question:\nwhy?\n###Answer:\n")
    file = write(tmp_path, RECIPE.replace("webglm_qa", "dialogsum"), [DIALOGSUM])
    [row] = read_examples(read_recipe(file), tmp_path / "rows.jsonl")
    assert row == {
        "prompt": "Instruct: Summarize the following conversation.\nA: hi\nOutput:\n",
        "completion": "greeting",
    }
    assert EXAMPLES.keys() == {"webglm_qa", "dialogsum"}


def test_a_line_of_the_file_is_a_row_whatever_characters_are_in_it(tmp_path: Path) -> None:
    """Unicode's other line breaks are ordinary characters of a JSON string."""
    odd = [WEBGLM | {"question": f"one{character}two"} for character in "\u2028\u2029\x85\x1c"]
    file = write(tmp_path, rows=[*odd, WEBGLM])
    rows = read_examples(read_recipe(file), tmp_path / "rows.jsonl")
    assert len(rows) == 5
    assert "one\u2028two" in rows[0]["prompt"]


def test_data_beside_the_recipe_comes_before_our_own(tmp_path: Path) -> None:
    (tmp_path / "mini").mkdir()
    own = tmp_path / "mini" / "webglm_train.jsonl"
    own.write_text(json.dumps(WEBGLM))
    file = write(tmp_path, RECIPE.replace("rows.jsonl", "mini/webglm_train.jsonl"))
    assert data_file(read_recipe(file), file) == own
    own.unlink()
    assert data_file(read_recipe(file), file).parent.parent.name == "data"


# ---- mistakes


def test_unknown_name() -> None:
    with pytest.raises(UserError, match="no such recipe") as caught:
        find_recipe("webglm-mimi")
    assert 'did you mean "webglm-mini"' in str(caught.value.fix)
    with pytest.raises(UserError, match="no such recipe") as caught:
        find_recipe("zzz")
    assert "webglm-mini" in str(caught.value.fix)


def test_unknown_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such recipe file"):
        find_recipe(str(tmp_path / "nowhere.toml"))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(UserError, match="no such recipe file"):
        find_recipe(str(tmp_path / "folder.toml"))


BAD_RECIPES = {
    "not-toml": ("name = ", "not TOML", ""),
    "twice": (RECIPE + 'name = "again"\n', "not TOML", ""),
    "unknown-key": (RECIPE + "epochs = 3\n", "no such key", "epochs"),
    "unknown-key-below": (
        RECIPE + "[quantization]\nload_in_4bits = true\n",
        "no such key",
        "quantization.load_in_4bits",
    ),
    "no-name": (RECIPE.replace('name = "mine"', ""), "this key is missing", "name"),
    "bad-name": (RECIPE.replace('"mine"', '"../mine"'), "letters, digits", "name"),
    "number-for-data": (RECIPE.replace('"rows.jsonl"', "3"), "must be a string", "data"),
    "text-for-a-table": (RECIPE + 'lora = "r=8"\n', "must be a table", "lora"),
    "two-widths": (
        RECIPE + "[quantization]\nload_in_4bit = true\nload_in_8bit = true\n",
        "exactly one of load_in_4bit",
        "quantization",
    ),
    "unknown-task": (RECIPE.replace("webglm_qa", "webglm"), 'unknown task "webglm"', "task"),
    "no-data": (RECIPE.replace("rows.jsonl", "nowhere.jsonl"), "no data file nowhere.jsonl", "data"),
}


@pytest.mark.parametrize("name", BAD_RECIPES)
def test_bad_recipes(name: str, tmp_path: Path) -> None:
    text, message, key = BAD_RECIPES[name]
    file = write(tmp_path, text)
    with pytest.raises(UserError, match=message) as caught:
        read_recipe(file)
    assert caught.value.where == (f"{file}: {key}" if key else str(file))


def test_a_recipe_that_is_not_text(tmp_path: Path) -> None:
    file = write(tmp_path)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not TOML"):
        read_recipe(file)


BAD_ROWS: dict[str, tuple[Any, str, str]] = {
    "not-json": ("{\n", "Expecting property name", ":1"),
    "second-line": (json.dumps(WEBGLM) + "\n{]\n", "Expecting property name", ":2"),
    "missing-column": ([WEBGLM, {"question": "why?"}], "has no column 'answer'", ":2"),
    "wrong-type": ([WEBGLM | {"answer": 3}], "answer must be a string", ":1"),
    "references-as-text": ([WEBGLM | {"references": "one"}], "must be a list of strings", ":1"),
    "a-number": ([3], "must be a JSON object", ":1"),
    "a-list": ([["question"]], "must be a JSON object", ":1"),
    "null": ([None], "must be a JSON object", ":1"),
    "not-text": (b'{"question": "\xff"}\n', "not UTF-8", ""),
    "nothing": ("", "empty", ""),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_rows(name: str, tmp_path: Path) -> None:
    rows, message, place = BAD_ROWS[name]
    recipe = read_recipe(write(tmp_path, rows=rows))
    with pytest.raises(UserError, match=message) as caught:
        read_examples(recipe, tmp_path / "rows.jsonl")
    assert caught.value.where == f"{tmp_path / 'rows.jsonl'}{place}"
