"""Recipe files and their data: ours are valid, and every mistake in one is named with its place."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from phibench.adapters.recipe import Recipe, RowsSpec, data_file, read_recipe
from phibench.adapters.recipe_table import RECIPES, find_recipe
from phibench.adapters.rows import read_data, read_rows
from phibench.errors import UserError

WEBGLM = {"question": "why?", "answer": " because [1] ", "references": ["a reason"]}
DIALOGSUM = {"id": "1", "dialogue": "A: hi", "summary": "greeting"}
RECIPE = 'name = "mine"\n[data]\nformat = "webglm_qa"\ntrain.file = "rows.jsonl"\n'
SMALL = "smollm2-135m"


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
    assert recipe.description
    assert recipe.base is not None
    assert recipe.base.model == ("microsoft/phi-2" if "small" not in file.stem and "mini" not in file.stem else SMALL)
    from peft import LoraConfig
    from trl import DPOConfig, SFTConfig

    LoraConfig(**recipe.lora or {})
    fields = (DPOConfig if recipe.method == "dpo" else SFTConfig).__dataclass_fields__
    assert recipe.training.keys() <= fields.keys()
    if recipe.start is not None:
        assert find_recipe(recipe.start)


def test_what_a_recipe_extends_is_laid_under_it(tmp_path: Path) -> None:
    parent = write(tmp_path)
    parent.write_text(RECIPE + "eval_fraction = 0.5\n[lora]\nr = 4\nlora_alpha = 8\n[training]\nmax_steps = 2\n")
    child = tmp_path / "child.toml"
    text = 'extends = "mine"\nname = "child"\n[data]\neval.file = "rows.jsonl"\n[lora]\nr = 16\n'
    child.write_text(text + "[training]\nseed = 3\n")
    recipe = read_recipe(child)
    assert (recipe.name, recipe.lora, recipe.training) == (
        "child", {"r": 16, "lora_alpha": 8}, {"max_steps": 2, "seed": 3},
    )  # fmt: skip
    assert (recipe.data.train.file, recipe.data.eval_fraction) == ("rows.jsonl", None)  # one eval replaces the other
    child.write_text('extends = "dpo-small"\nstart = ""\nreference = "adapters_off"\nlora.r = 4\n')
    recipe = read_recipe(child)
    assert (recipe.start, recipe.reference, recipe.lora) == (None, "adapters_off", {"r": 4})
    # A source is replaced whole: a dataset's split is not a file's.
    child.write_text('extends = "mine"\n[data]\ntrain = { path = "a/b", split = "train" }\n')
    assert read_recipe(child).data.train.file is None


def test_extending_in_a_circle_or_nothing(tmp_path: Path) -> None:
    file = write(tmp_path, 'extends = "mine"\n')
    with pytest.raises(UserError, match="does not extend this one"):
        read_recipe(file)
    with pytest.raises(UserError, match="no such recipe"):
        read_recipe(write(tmp_path, 'extends = "nowhere"\n'))


def test_settings(tmp_path: Path) -> None:
    file = write(tmp_path)
    settings = ["training.max_steps=7", "lora.r = 4", "base.model=tiny", 'lora.target_modules=["a"]', "lora.bias=none"]
    recipe = read_recipe(file, settings)
    assert recipe.training == {"max_steps": 7}
    assert recipe.lora == {"r": 4, "target_modules": ["a"], "bias": "none"}
    assert recipe.base is not None and recipe.base.model == "tiny"
    for bad, message in (("max_steps", "no setting"), ("name.a=1", "no table"), (".a=1", "no setting")):
        with pytest.raises(UserError, match=message):
            read_recipe(file, [bad])
    with pytest.raises(UserError, match="no such key"):
        read_recipe(file, ["data.fil=1"])


def test_settings_are_laid_over_as_a_child_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mine.jsonl").write_text(json.dumps(WEBGLM))
    monkeypatch.chdir(tmp_path / "here")

    def read(*settings: str, name: str = "riddles-chatml-qlora") -> Recipe:
        return read_recipe(find_recipe(name), settings)

    mine = RowsSpec(file=str(tmp_path / "here" / "mine.jsonl"))
    found = read("data.train.file=mine.jsonl").data
    assert (found.train, found.eval_fraction) == (mine, 0.1)
    found = read("data.eval.file=mine.jsonl").data
    assert (found.eval, found.eval_fraction) == (mine, None)
    found = read("data.eval.file=mine.jsonl", "data.eval_fraction=0.2").data
    assert (found.eval, found.eval_fraction) == (None, 0.2)
    small = "riddles-chatml-qlora-small"
    assert read("data.train.file=mine.jsonl", name=small).data.train == mine  # not from the package's folder
    assert read('data.train.path="a/b"', "data.train.split=x", name=small).data.train == RowsSpec(path="a/b", split="x")
    both = read('data.train={file="mine.jsonl",limit=3}').data.train
    assert both == mine.model_copy(update={"limit": 3})
    assert read("data.train.limit=3", name=small).data.train.file == "mini/riddles_train.jsonl"  # one of our own
    assert read("quantization={}").quantization is None
    assert read("lora={}", "quantization={}").lora is None
    assert read("lora={r=3}").lora == {**(read().lora or {}), "r": 3}
    child = tmp_path / "here" / "child.toml"
    child.write_text('extends = "oig-lora-small"\nname = "child"\nlora = {}\nquantization = {}\n')
    assert read_recipe(child).lora is None

    for setting, message, where in (
        ("data.train.path=a/b", "needs its split", "data.train with --set data.train.path=a/b"),
        ("data.train.file=nowhere.jsonl", "no data file nowhere", "--set data.train.file=nowhere.jsonl"),
        ("lora={}", r"needs \[lora\]", "with --set lora={}"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            read(setting, name=small)
        assert str(caught.value.where).endswith(where)
    with pytest.raises(UserError) as caught:
        read("data.train.file=nowhere.jsonl")
    assert caught.value.fix == f"a relative path counts from the working folder, {tmp_path / 'here'}"


def rows_of(file: Path) -> list[Any]:
    return [row for _, row in read_rows(read_recipe(file).data.train, file).rows]


def test_a_line_of_the_file_is_a_row_whatever_characters_are_in_it(tmp_path: Path) -> None:
    """Unicode's other line breaks are ordinary characters of a JSON string."""
    odd = [WEBGLM | {"question": f"one{character}two"} for character in "\u2028\u2029\x85\x1c"]
    rows = rows_of(write(tmp_path, rows=[*odd, WEBGLM]))
    assert len(rows) == 5
    assert rows[0]["question"] == "one\u2028two"


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    assert rows_of(write(tmp_path, rows=b"\xef\xbb\xbf" + json.dumps(WEBGLM).encode())) == [WEBGLM]


def test_limit_and_hash(tmp_path: Path) -> None:
    file = write(tmp_path, RECIPE + "train.limit = 2\n", rows=[WEBGLM] * 3)
    found = read_rows(read_recipe(file).data.train, file)
    assert [name for name, _ in found.rows] == ["line 1", "line 2"]
    assert found.sha256 == hashlib.sha256((tmp_path / "rows.jsonl").read_bytes()).hexdigest()


def test_a_share_is_held_out_by_the_seed(tmp_path: Path) -> None:
    file = write(tmp_path, RECIPE + "eval_fraction = 0.25\n", rows=[WEBGLM | {"question": str(n)} for n in range(40)])

    def split(seed: int) -> tuple[list[str], list[str]]:
        train, held = read_data(read_recipe(file), file, seed=seed)
        assert held is not None
        return [name for name, _ in train.rows], [name for name, _ in held.rows]

    train, held = split(0)
    assert (len(train), len(held)) == (30, 10)
    assert set(train) | set(held) == {f"line {n}" for n in range(1, 41)}
    assert split(0) == (train, held) != split(1)
    file = write(tmp_path, RECIPE + "eval_fraction = 0.25\n", rows=[WEBGLM])
    with pytest.raises(UserError, match="leaves one side empty"):
        split(0)


def test_data_beside_the_recipe_comes_before_our_own(tmp_path: Path) -> None:
    (tmp_path / "mini").mkdir()
    own = tmp_path / "mini" / "webglm_train.jsonl"
    own.write_text(json.dumps(WEBGLM))
    file = write(tmp_path, RECIPE.replace("rows.jsonl", "mini/webglm_train.jsonl"))
    assert data_file("mini/webglm_train.jsonl", file) == own
    own.unlink()
    assert data_file("mini/webglm_train.jsonl", file).parent.parent.name == "data"


# ---- what paths count from


def test_paths_count_from_the_recipes_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("mine", "mine/models/tiny", "mine/first", "elsewhere", "elsewhere/models/tiny", "elsewhere/first"):
        (tmp_path / folder).mkdir(parents=True)
    mine = (tmp_path / "mine").resolve()
    text = 'start = "{start}"\n[base]\nmodel = "{model}"\n' + RECIPE.replace('name = "mine"\n', "")
    monkeypatch.chdir(tmp_path / "elsewhere")

    def read(start: str, model: str, *settings: str) -> tuple[str | None, str]:
        file = write(tmp_path / "mine", 'name = "mine"\n' + text.format(start=start, model=model))
        recipe = read_recipe(Path("../mine") / file.name, settings)
        assert recipe.base is not None
        return recipe.start, recipe.base.model

    assert read("first", "models/tiny") == (str(mine / "first"), str(mine / "models/tiny"))
    assert read("./first", "./models/tiny") == (str(mine / "first"), str(mine / "models/tiny"))
    assert read("/a/first", "/a/tiny") == ("/a/first", "/a/tiny")
    # What names no folder there is a name: of a recipe of ours, or on the hub.
    assert read("oig-lora", "owner/tiny") == ("oig-lora", "owner/tiny")
    (mine / "before.toml").write_text(RECIPE)
    assert read("before", SMALL) == (str(mine / "before.toml"), SMALL)
    assert read("before.toml", SMALL) == (str(mine / "before.toml"), SMALL)
    # The command line's count from where it is given.
    here = (tmp_path / "elsewhere").resolve()
    settings = ("start=first", "base.model=models/tiny")
    assert read("before", SMALL, *settings) == (str(here / "first"), str(here / "models/tiny"))


def test_what_is_extended_from_another_folder_keeps_its_own(tmp_path: Path) -> None:
    (tmp_path / "parents" / "models").mkdir(parents=True)
    write(tmp_path / "parents", RECIPE + '[base]\nmodel = "models"\n')
    child = tmp_path / "child.toml"
    child.write_text('extends = "parents/mine"\nname = "child"\n')
    recipe = read_recipe(child)
    assert recipe.base is not None
    assert recipe.base.model == str((tmp_path / "parents" / "models").resolve())
    assert len(read_rows(recipe.data.train, child).rows) == 1


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
    "twice": (RECIPE + 'format = "again"\n', "not TOML", ""),
    "unknown-key": ("epochs = 3\n" + RECIPE, "no such key", "epochs"),
    "unknown-key-below": (
        RECIPE + "[quantization]\nload_in_4bits = true\n",
        "no such key",
        "quantization.load_in_4bits",
    ),
    "no-name": (RECIPE.replace('name = "mine"', ""), "this key is missing", "name"),
    "bad-name": (RECIPE.replace('"mine"', '"../mine"'), "letters, digits", "name"),
    "number-for-data": (RECIPE.replace('"rows.jsonl"', "3"), "must be a string", "data.train.file"),
    "text-for-a-table": ('lora = "r=8"\n' + RECIPE, "must be a table", "lora"),
    "two-widths": (
        RECIPE + "[quantization]\nload_in_4bit = true\nload_in_8bit = true\n",
        "exactly one of load_in_4bit",
        "quantization",
    ),
    "unknown-format": (RECIPE.replace("webglm_qa", "webglm"), "must be one of webglm_qa, dialogsum", "data.format"),
    "no-data": (RECIPE.replace("rows.jsonl", "nowhere.jsonl"), "no data file nowhere.jsonl", "data.train.file"),
    "two-sources": (RECIPE + 'train.path = "a/b"\n', "exactly one source", "data.train"),
    "no-split": (RECIPE.replace("train.file", "train.path"), "needs its split", "data.train"),
    "two-evals": (RECIPE + 'eval_fraction = 0.5\neval.file = "rows.jsonl"\n', "not both", "data"),
    "pairs-for-sft": (RECIPE.replace("webglm_qa", "piqa_pairs"), 'method = "sft" needs', ""),
    "rows-for-dpo": ('method = "dpo"\n' + RECIPE, 'method = "dpo" needs', ""),
    "reference-for-sft": ('reference = "model"\n' + RECIPE, "belongs to method", ""),
    "frozen-nothing": (
        'method = "dpo"\nreference = "frozen_adapter"\n' + RECIPE.replace("webglm_qa", "piqa_pairs"),
        "needs start",
        "",
    ),
    "adapters-off-and-a-start": (
        'method = "dpo"\nreference = "adapters_off"\nstart = "x"\n' + RECIPE.replace("webglm_qa", "piqa_pairs"),
        "is the base alone",
        "",
    ),
    "a-new-adapter-and-a-start": ('start = "x"\nlora.r = 4\n' + RECIPE, "only one of them", ""),
    "quantised-and-whole": (RECIPE + "[quantization]\nload_in_4bit = true\n", r"needs \[lora\]", ""),
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


BAD_LINES: dict[str, tuple[Any, str, str]] = {
    "not-json": ("{\n", "Expecting property name", ":1"),
    "second-line": (json.dumps(WEBGLM) + "\n{]\n", "Expecting property name", ":2"),
    "a-number": ([3], "must be a JSON object", ":1"),
    "a-list": ([["question"]], "must be a JSON object", ":1"),
    "null": ([None], "must be a JSON object", ":1"),
    "not-text": (b'{"question": "\xff"}\n', "not UTF-8", ""),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_lines(name: str, tmp_path: Path) -> None:
    rows, message, place = BAD_LINES[name]
    file = write(tmp_path, rows=rows)
    with pytest.raises(UserError, match=message) as caught:
        rows_of(file)
    assert caught.value.where == f"{tmp_path / 'rows.jsonl'}{place}"


def test_no_rows(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="empty"):
        rows_of(write(tmp_path, rows=""))


def test_a_dataset_that_is_not_there() -> None:
    spec = RowsSpec(path="nobody/nothing-at-all", split="train")
    with pytest.raises(UserError, match="the dataset cannot be read") as caught:
        read_rows(spec, Path("mine.toml"), offline=True)
    assert caught.value.where == "nobody/nothing-at-all[train]"


def test_a_dataset_from_the_hubs_cache_or_any_that_datasets_reads(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text("".join(json.dumps({"n": n}) + "\n" for n in range(9)))
    found = read_rows(RowsSpec(path=str(tmp_path / "set"), split="train[2:5]"), Path("mine.toml"))
    assert found.rows == [(f"train[2:5] row {n - 1}", {"n": n}) for n in (2, 3, 4)]
    again = read_rows(RowsSpec(path=str(tmp_path / "set"), split="train[2:6]"), Path("mine.toml"))
    assert again.sha256 != found.sha256
