"""Local files in the place of hub datasets: formats, splits, faults, hashes and which key wins."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from phibench.errors import UserError
from phibench.harness.data import Replacement, data_faults, replacement_for
from phibench.harness.suite import DataSource

ROWS = [{"q": "one", "n": 1, "deep": {"label": ["a", "b"]}}, {"q": "zwei – 二", "n": 2, "deep": {"label": []}}]
MORE = [{"q": "three", "n": 3, "deep": {"label": ["c"]}}]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same rows in every form; `datasets` keeps its own copies of Parquet files in here too."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for name, rows in [("rows", ROWS), ("more", MORE)]:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        (tmp_path / f"{name}.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
        Dataset.from_list(rows).to_parquet(tmp_path / f"{name}.parquet")
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    DatasetDict({"test": Dataset.from_list(ROWS), "train": Dataset.from_list(MORE)}).save_to_disk(tmp_path / "splits")
    return tmp_path


def source(folder: Path, form: Any) -> DataSource:
    """A source with its files in `folder`."""
    if isinstance(form, str):
        return str(folder / form)
    if isinstance(form, list):
        return [str(folder / name) for name in form]
    return {split: source(folder, files) for split, files in form.items()}  # type: ignore[misc]


def load(folder: Path, form: Any, evaluated: str = "test", needed: tuple[str, ...] = ("test",)) -> dict[str, list[Any]]:
    loaded = Replacement("owner/mine", source(folder, form)).load(evaluated, list(needed))
    assert isinstance(loaded, DatasetDict)
    return {name: split.to_list() for name, split in loaded.items()}


def write(folder: Path, name: str, content: str | bytes) -> str:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return name


@pytest.mark.parametrize("form", ["rows.jsonl", "rows.json", "rows.parquet", "saved", ["saved"], ["rows.jsonl"]])
def test_one_source_stands_for_the_split_that_is_evaluated(form: Any, folder: Path) -> None:
    assert load(folder, form) == {"test": ROWS}
    assert load(folder, form, "validation", ("train", "validation")) == {"validation": ROWS, "train": []}


@pytest.mark.parametrize("form", [
    ["rows.jsonl", "more.jsonl"], ["rows.parquet", "more.jsonl"], ["rows.json", "more.parquet"],
])  # fmt: skip
def test_several_files_are_read_one_after_another(form: Any, folder: Path) -> None:
    assert load(folder, form) == {"test": ROWS + MORE}


@pytest.mark.parametrize("form", [
    {"test": "rows.jsonl", "train": "more.parquet"},
    {"test": ["rows.jsonl"], "train": ["more.json"]},
    {"test": "saved", "train": "more.jsonl"},
    "splits",
])  # fmt: skip
def test_splits_by_name(form: Any, folder: Path) -> None:
    assert load(folder, form) == {"test": ROWS, "train": MORE}
    assert load(folder, form, needed=("test", "train")) == {"test": ROWS, "train": MORE}
    assert load(folder, form, "train", ("train",))["train"] == MORE


def test_a_split_that_the_task_names_but_nobody_evaluates_is_empty_with_the_same_columns(folder: Path) -> None:
    loaded = Replacement("owner/mine", str(folder / "rows.jsonl")).load("test", ["train", "test"])
    assert loaded["train"].num_rows == 0
    assert loaded["train"].column_names == loaded["test"].column_names == ["q", "n", "deep"]


# ---- JSON as people have it


def test_columns_that_come_up_late_are_kept(folder: Path) -> None:
    name = write(folder, "late.jsonl", '{"a": 1}\n{"a": 2, "b": "x"}\n')
    assert load(folder, name) == {"test": [{"a": 1, "b": None}, {"a": 2, "b": "x"}]}


@pytest.mark.parametrize("content", [
    '\ufeff{"a": "x"}\n{"a": "y"}',
    '{"a": "x"}\r\n\r\n{"a": "y"}\r\n',
    '\n{"a": "x"}\n   \n{"a": "y"}\n\n',
])  # fmt: skip
def test_marks_blank_lines_and_line_ends_do_not_matter(content: str, folder: Path) -> None:
    assert load(folder, write(folder, "x.jsonl", content)) == {"test": [{"a": "x"}, {"a": "y"}]}


def test_line_separators_inside_a_string_end_no_line(folder: Path) -> None:
    rows = [{"a": "one\u2028two\u2029three\x85four\x0bfive"}, {"a": "six"}]
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    assert load(folder, write(folder, "x.jsonl", text)) == {"test": rows}


def test_a_json_file_may_hold_lines(folder: Path) -> None:
    assert load(folder, write(folder, "x.json", '{"a": 1}\n{"a": 2}\n')) == {"test": [{"a": 1}, {"a": 2}]}


# ---- what is wrong


@pytest.mark.parametrize(("name", "content", "place", "says"), [
    ("x.jsonl", '{"a": 1}\n\n{"a": \n', "x.jsonl:3", "this line is not JSON"),
    ("x.jsonl", '{"a": 1}\n[1]\n', "x.jsonl:2", "each line must be a JSON object"),
    ("x.jsonl", '"text"\n', "x.jsonl:1", "each line must be a JSON object"),
    ("x.json", '[{"a": 1},\n', "x.json", "this is not JSON"),
    ("x.json", '[{"a": 1}, 2]', "x.json", "each entry of the list must be a JSON object"),
    ("x.jsonl", b'{"a": "\xff"}\n', 'data."owner/mine" = {folder}/x.jsonl', "the data cannot be read"),
    ("x.jsonl", '{"a": 1}\n{"a": "x"}\n', 'data."owner/mine" = {folder}/x.jsonl', "the data cannot be read"),
    ("x.parquet", "PAR1", 'data."owner/mine" = {folder}/x.parquet', "the data cannot be read"),
    ("x.jsonl", "\n", 'data."owner/mine"', "the dataset is empty"),
    ("x.json", "[]", 'data."owner/mine"', "the dataset is empty"),
])  # fmt: skip
def test_broken_files(name: str, content: str | bytes, place: str, says: str, folder: Path) -> None:
    write(folder, name, content)
    with pytest.raises(UserError, match=says) as caught:
        load(folder, name)
    assert str(caught.value.where).endswith(place.format(folder=folder))
    assert "Traceback" not in str(caught.value)


def test_a_broken_line_of_one_of_several_files_is_told_with_that_file(folder: Path) -> None:
    write(folder, "x.jsonl", '{"q": 1}\n{')
    with pytest.raises(UserError) as caught:
        load(folder, {"test": ["rows.jsonl", "x.jsonl"]})
    assert caught.value.where == f"{folder / 'x.jsonl'}:2"


@pytest.mark.parametrize(("form", "says"), [
    ({"train": "rows.jsonl", "dev": "more.jsonl"}, 'the split "test", which is evaluated, is missing'),
    ({"train": "rows.jsonl", "dev": "more.jsonl"}, "(there is: train, dev)"),
    ({"test": "splits"}, "this folder holds several splits"),
])  # fmt: skip
def test_splits_that_do_not_fit(form: Any, says: str, folder: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(folder, form)
    assert says in caught.value.what
    assert caught.value.where == 'data."owner/mine"'
    assert caught.value.fix


def test_a_saved_folder_without_the_evaluated_split(folder: Path) -> None:
    with pytest.raises(
        UserError, match=r'"validation", which is evaluated, is missing \(there is: test, train\)'
    ) as caught:
        load(folder, "splits", "validation", ("validation",))
    assert 'validation = "..."' in str(caught.value.fix)


def test_an_empty_split_in_a_saved_folder(folder: Path) -> None:
    """datasets writes no file for it, and cannot read the folder afterwards: what it says then helps nobody."""
    DatasetDict({"test": Dataset.from_list([]), "train": Dataset.from_list(ROWS)}).save_to_disk(folder / "hollow")
    with pytest.raises(UserError, match="the folder, or a split in it, is empty") as caught:
        load(folder, "hollow")
    assert caught.value.where == f'data."owner/mine" = {folder / "hollow"}'


def where(*keys: object) -> str:
    return "suite.toml: " + ".".join(map(str, keys))


@pytest.mark.parametrize(("form", "says"), [
    ("rows.jsonl", None),
    ("saved", None),
    ("splits", None),
    (["saved"], None),
    ({"test": "saved", "train": ["rows.jsonl", "more.parquet"]}, None),
    ("gone.jsonl", "there is no file or folder {folder}/gone.jsonl"),
    ("plain", "{folder}/plain is not a folder written by datasets' save_to_disk"),
    ("rows.csv", 'cannot read ".csv" files: {folder}/rows.csv'),
    ("README", 'cannot read "README" files: {folder}/README'),
    ("empty.jsonl", "{folder}/empty.jsonl is empty"),
    ({"test": "rows.jsonl", "train": "gone.jsonl"}, "there is no file or folder {folder}/gone.jsonl"),
    (["rows.jsonl", "saved"], "{folder}/saved is a folder, which cannot be read together with other files"),
])  # fmt: skip
def test_what_the_check_sees_without_reading(form: Any, says: str | None, folder: Path) -> None:
    (folder / "plain").mkdir()
    for name, content in [("rows.csv", "a"), ("README", "a"), ("empty.jsonl", "")]:
        write(folder, name, content)
    faults = data_faults({"owner/mine": source(folder, form)}, where)
    assert [fault.what for fault in faults] == ([] if says is None else [says.format(folder=folder)])
    assert all(fault.where == "suite.toml: data.owner/mine" for fault in faults)


# ---- hashes, and which key wins


def test_every_file_is_hashed(folder: Path) -> None:
    found = Replacement("x", source(folder, {"test": ["rows.jsonl", "more.jsonl"], "train": "rows.parquet"})).hashes()
    files = [folder / name for name in ("rows.jsonl", "more.jsonl", "rows.parquet")]
    assert [(each.path, each.sha256) for each in found] == [
        (str(path), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files
    ]


def test_of_a_saved_folder_every_file_is_hashed_in_a_fixed_order(folder: Path) -> None:
    paths = [Path(each.path) for each in Replacement("x", str(folder / "splits")).hashes()]
    assert paths == sorted(path for path in (folder / "splits").rglob("*") if path.is_file())
    assert {"dataset_dict.json", "state.json"} <= {path.name for path in paths}
    assert any(path.suffix == ".arrow" for path in paths)


@pytest.mark.parametrize(("dataset", "config", "key"), [
    ("allenai/ai2_arc", "ARC-Easy", "allenai/ai2_arc:ARC-Easy"),
    ("allenai/ai2_arc", "ARC-Challenge", "allenai/ai2_arc"),
    ("allenai/ai2_arc", None, "allenai/ai2_arc"),
    ("other", "ARC-Easy", None),
    ("owner/only", "part", "owner/only:part"),
    ("owner/only", "other", None),
    ("owner/only", None, None),
    (None, None, None),
])  # fmt: skip
def test_the_more_exact_key_wins(dataset: str | None, config: str | None, key: str | None) -> None:
    data: dict[str, DataSource] = {
        "allenai/ai2_arc": "all.jsonl",
        "allenai/ai2_arc:ARC-Easy": "easy.jsonl",
        "owner/only:part": "part.jsonl",
    }
    found = replacement_for(data, dataset, config)
    assert (found.key if found else None) == key
    assert found is None or found.source == data[found.key]
