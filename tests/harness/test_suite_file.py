"""Reading suite files: finding them, anchoring their paths, the short form, and the quickstart as documentation."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import PydanticUndefined

from phibench.errors import SuiteFaults, UserError
from phibench.harness.gate.spec import RuleSpec
from phibench.harness.suite import MatrixSpec, Suite
from phibench.harness.suite_file import SUITES, TABLES, find_suite, read_suite

MINIMAL = """name = "mine"
[base]
model = "owner/name"
[[variants]]
name = "base"
[[tasks]]
name = "arc_easy"
"""


def write(folder: Path, text: str, name: str = "suite.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# ---- finding a suite


@pytest.mark.parametrize("name", ["quickstart", "quickstart.toml", "suites/quickstart.toml"])
def test_our_suites_are_found_by_name_from_anywhere(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_suite(name) == SUITES / "quickstart.toml"


def test_a_file_here_goes_before_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, MINIMAL, "quickstart.toml")
    assert find_suite("quickstart.toml") == Path("quickstart.toml")
    assert read_suite(find_suite("quickstart.toml")).suite.name == "mine"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("quikstart", ["no such suite file", 'did you mean "quickstart"?', "phibench list suites"]),
        ("mysuit.toml", ["no such suite file", 'did you mean "mysuite.toml"?']),
        ("other/quickstart.toml", ["no such suite file", 'did you mean "quickstart"?']),
        ("nothing-like-it", ["no such suite file", "phibench list suites"]),
        (".", ["this is a folder, not a suite file", ".toml"]),
    ],
)
def test_a_suite_that_is_not_there(name: str, says: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, MINIMAL, "mysuite.toml")
    with pytest.raises(UserError) as caught:
        find_suite(name)
    message = str(caught.value)
    assert [part for part in [name, *says] if part not in message] == []


# ---- reading it


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ('name = "x"\nbase = \n', ":2", "Invalid value, in column 8"),
        ('name = "x\n', ":1", "Illegal character"),
        ("a = 1\na = 2\n", ":2", "Cannot overwrite a value"),
        ("[seeds]\n[seeds]\n", ":2", "Cannot declare seeds twice"),
        ("[a.b]\n[a.b]\n", ":2", "Cannot declare a.b twice"),
        ("tasks = [", "", "and the file ends"),
        ('path = "C:\\models"\n', ":1", "Unescaped '\\' in a string"),
    ],
)
def test_what_is_not_toml_is_told_with_its_line(text: str, place: str, says: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SuiteFaults) as caught:
        read_suite(path)
    (fault,) = caught.value.faults
    assert fault.where == f"{path}{place}"
    assert fault.what.startswith("this is not TOML: ")
    assert says in fault.what


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "suite.toml"
    path.write_bytes('name = "é"\n'.encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8 text") as caught:
        read_suite(path)
    assert caught.value.where == str(path)


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_suite(tmp_path / "gone.toml")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_suite(tmp_path)


def test_a_byte_order_mark_and_crlf_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "suite.toml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
    file = read_suite(path)
    assert file.suite.name == "mine"
    assert file.where("tasks", 0, "name") == f"{path}:7: tasks[0].name"


def test_the_hash_is_of_the_bytes(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    assert read_suite(path).sha256 == hashlib.sha256(MINIMAL.encode()).hexdigest()


def test_places_are_written_as_toml_writes_keys(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + '[data]\n"allenai/ai2_arc:ARC-Easy" = ["a.jsonl",\n"b.jsonl"]\n')
    file = read_suite(path)
    assert file.where("data", "allenai/ai2_arc:ARC-Easy", 1) == f'{path}:10: data."allenai/ai2_arc:ARC-Easy"[1]'
    assert file.where("tasks", 0, "limit") == f"{path}:6: tasks[0].limit"
    assert file.where("output", "dir") == f"{path}: output.dir"


# ---- relative paths


PATHS = """name = "mine"
include = ["more", "/abs/more", "~/more"]
[base]
model = "{model}"
chat_template = "chat.jinja"
[adapters.folder]
path = "out/adapter"
[adapters.home]
path = "~/adapter"
[adapters.hub]
hub = "owner/name"
[adapters.ours]
recipe = "webglm-mini"
[adapters.own]
recipe = "my.toml"
[matrix]
adapter = ["folder", "home", "hub", "ours", "own"]
[[tasks]]
name = "arc_easy"
[data]
one = "a.jsonl"
many = ["a.jsonl", "/abs/b.jsonl"]
splits = {{ test = "a.jsonl", train = ["b.jsonl", "c.jsonl"] }}
[output]
dir = "runs"
"""


def test_relative_paths_count_from_the_files_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "suites"
    (folder / "models" / "mine").mkdir(parents=True)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(tmp_path)
    write(folder, PATHS.format(model="models/mine"))
    suite = read_suite(Path("suites/suite.toml")).suite
    assert suite.base.model == str(folder / "models/mine")
    assert suite.base.chat_template == str(folder / "chat.jinja")
    named = write(folder, PATHS.format(model="models/mine").replace("chat.jinja", "chatml"))
    assert read_suite(named).suite.base.chat_template == "chatml"  # the name of one of ours
    assert suite.include == [str(folder / "more"), "/abs/more", "/home/me/more"]
    assert suite.adapters["folder"].path == str(folder / "out/adapter")
    assert suite.adapters["home"].path == "/home/me/adapter"
    assert suite.adapters["hub"].hub == "owner/name"
    assert suite.adapters["ours"].recipe == "webglm-mini"
    assert suite.adapters["own"].recipe == str(folder / "my.toml")
    a, b, c = (str(folder / name) for name in ("a.jsonl", "b.jsonl", "c.jsonl"))
    assert suite.data == {"one": a, "many": [a, "/abs/b.jsonl"], "splits": {"test": a, "train": [b, c]}}
    assert suite.output.dir == "runs"  # a run's folder counts from where phibench is started


@pytest.mark.parametrize(
    ("model", "becomes"),
    [
        ("owner/name", "owner/name"),
        ("smollm2-135m", "smollm2-135m"),
        ("./mine", "{folder}/mine"),
        ("../mine", "{folder}/../mine"),
        ("/abs/mine", "/abs/mine"),
        ("~/mine", "/home/me/mine"),
    ],
)
def test_hub_ids_stay_and_folders_are_anchored(
    model: str, becomes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    suite = read_suite(write(tmp_path, PATHS.format(model=model))).suite
    assert suite.base.model == becomes.format(folder=tmp_path)


# ---- the short form

SEVEN = [
    # name, kind, adapter, quantization, merge
    ("base", "base", None, None, "none"),
    ("base-nf4", "base-nf4", None, "nf4", "none"),
    ("adapter", "adapter", "a", None, "none"),
    ("adapter-nf4", "adapter-nf4", "a", "nf4", "none"),
    ("merged", "merged", "a", None, "base"),
    ("merged-dequantized", "merged-dequantized", "a", "nf4", "dequantized"),
    ("merged-requantized", "merged-requantized", "a", "nf4", "requantized"),
]


def shown(matrix: MatrixSpec) -> list[tuple[str, str, str | None, str | None, str]]:
    return [(v.name, v.kind, v.adapter, v.quantization, v.merge) for v in matrix.variants()]


def names(**fields: Any) -> list[str]:
    return [variant.name for variant in MatrixSpec(**fields).variants()]


def test_one_adapter_and_one_quantisation_make_the_seven_kinds() -> None:
    assert shown(MatrixSpec(adapter="a", quantization="nf4")) == SEVEN
    assert shown(MatrixSpec(adapter=["a"], quantization="nf4")) == SEVEN


def test_without_a_quantisation_there_are_three() -> None:
    assert shown(MatrixSpec(adapter="a")) == [SEVEN[0], SEVEN[2], SEVEN[4]]


def test_the_quantisations_own_name_stands_in_the_names() -> None:
    assert names(adapter="a", quantization="int8")[:4] == ["base", "base-int8", "adapter", "adapter-int8"]
    # A name with a dash is no other kind.
    assert names(adapter="a", quantization="nf4-double", kinds=["base-q", "adapter-q"]) == [
        "base-nf4-double",
        "adapter-nf4-double",
    ]
    assert names(adapter="a", quantization="q", kinds=["base"]) == ["base"]


def test_several_adapters_share_the_bases() -> None:
    assert names(adapter=["a", "b"], quantization="nf4") == [
        "base", "base-nf4", "a.adapter", "a.adapter-nf4", "a.merged", "a.merged-dequantized", "a.merged-requantized",
        "b.adapter", "b.adapter-nf4", "b.merged", "b.merged-dequantized", "b.merged-requantized",
    ]  # fmt: skip
    assert [(v.kind, v.adapter) for v in MatrixSpec(adapter=["a", "b"]).variants()] == [
        ("base", None), ("adapter", "a"), ("merged", "a"), ("adapter", "b"), ("merged", "b"),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", range(7))
def test_each_kind_can_be_asked_for_alone(kind: int) -> None:
    words = ["base", "base-q", "adapter", "adapter-q", "merged", "merged-dequantized", "merged-requantized"]
    asked: Any = [words[kind]]
    assert shown(MatrixSpec(adapter="a", quantization="nf4", kinds=asked)) == [SEVEN[kind]]


def test_the_order_is_the_designs_whatever_the_order_asked() -> None:
    assert names(adapter="a", quantization="nf4", kinds=["merged", "base-q", "base"]) == ["base", "base-nf4", "merged"]


def test_the_matrix_goes_before_the_variants_spelt_out_and_the_first_is_the_baseline(tmp_path: Path) -> None:
    text = MINIMAL.replace('"base"\n', '"own"\n') + '[adapters.a]\npath = "x"\n[matrix]\nadapter = "a"\n'
    suite = read_suite(write(tmp_path, text)).suite
    assert [variant.name for variant in suite.all_variants()] == ["base", "adapter", "merged", "own"]
    assert suite.baseline_name() == "base"
    suite = read_suite(write(tmp_path, f'baseline = "own"\n{text}')).suite
    assert suite.baseline_name() == "own"


# ---- the quickstart is the documentation that people copy

QUICKSTART = (SUITES / "quickstart.toml").read_text(encoding="utf-8")


# The tables that the quickstart shows, with those inside another table that have a heading of their own.
SHOWN = {name: model for name, (_, model) in TABLES.items()} | {"gate.rules": RuleSpec}


def documented() -> dict[str, dict[str, list[str]]]:
    """For every table of the quickstart ("" at the top) the keys it shows, set or commented out, and their values."""
    found: dict[str, dict[str, list[str]]] = {"": {}}
    table = ""
    for line in QUICKSTART.splitlines():
        if header := re.match(r"(?:# )?\[\[?((\w+)(?:\.\w+)?)\]\]?", line):
            table = header[1] if header[1] in SHOWN else header[2]
            found.setdefault(table, {})
        elif key := re.match(r'(?:# ?)?("[^"]+"|\w+) = (.*)', line):
            found[table].setdefault(key[1], []).append(key[2])
            for other, value in re.findall(r"# or (\w+) = (\S+)", key[2]):
                found[table].setdefault(other, []).append(value)
    return found


def test_every_key_that_a_suite_may_have_is_shown() -> None:
    shown_keys = documented()
    missing = [f"[{name}]" for name in SHOWN if name not in shown_keys]
    missing += [f"{name}.{key}" for name, model in SHOWN.items() for key in model.model_fields
                if key not in shown_keys.get(name, {}) and f"{name}.{key}" not in SHOWN]  # fmt: skip
    missing += [key for key in Suite.model_fields if key not in shown_keys[""] and key not in shown_keys]
    assert missing == []


def test_no_key_is_shown_that_a_suite_may_not_have() -> None:
    unknown = [
        f"{name}.{key}"
        for name, keys in documented().items()
        for key in keys
        if name != "data" and key not in (SHOWN[name] if name else Suite).model_fields
    ]
    assert unknown == []


def test_keys_that_are_commented_out_show_their_default_where_they_have_one() -> None:
    other = []
    for name, keys in documented().items():
        fields = (SHOWN[name] if name else Suite).model_fields if name != "data" else {}
        for key, values in keys.items():
            default = fields[key].default if key in fields else None
            is_set = re.search(rf"^{key} = ", QUICKSTART, re.MULTILINE)
            if key != "load_in_8bit" and not is_set and default not in (None, PydanticUndefined):
                other += [
                    f"{name}.{key}" for value in values if tomllib.loads(f"x = {value}")["x"] not in (default, True)
                ]
    assert other == []


def uncommented() -> Iterator[tuple[str, str]]:
    """The quickstart with one line put in effect that was commented out, or one table that was; with that line."""
    lines = QUICKSTART.splitlines()
    is_out = False  # whether the table that the line stands in is commented out itself
    for i, line in enumerate(lines):
        if header := re.match(r"(# )?\[", line):
            is_out = header[1] is not None
            last = i
            while is_out and last < len(lines) and lines[last].startswith("# "):
                last += 1
            if is_out:
                block = [re.sub(r'^# (?=\[|"|\w+ = )', "", each) for each in lines[i:last]]
                yield line, "\n".join([*lines[:i], *block, *lines[last:]])
        elif not is_out and re.match(r"# \w+ = ", line):
            yield line, "\n".join([*lines[:i], line.removeprefix("# "), *lines[i + 1 :]])


@pytest.mark.parametrize(("line", "text"), [pytest.param(*each, id=each[0][:40]) for each in uncommented()])
def test_what_is_commented_out_may_be_put_in_effect(line: str, text: str, tmp_path: Path) -> None:
    """Sources of an adapter exclude each other; all else is sound as it is shown."""
    assert text != QUICKSTART
    try:
        read_suite(write(tmp_path, text))
    except SuiteFaults as error:
        (fault,) = error.faults
        assert str(fault.where).endswith(": adapters.cited")
        assert line.split()[1] in ("path", "hub", "revision")


def test_the_quickstart_compares_six_forms_on_seven_tasks() -> None:
    suite = read_suite(SUITES / "quickstart.toml").suite
    assert [variant.kind for variant in suite.all_variants()] == [
        "base", "base-nf4", "adapter-nf4", "merged", "merged-dequantized", "merged-requantized",
    ]  # fmt: skip
    assert suite.baseline_name() == "base"
    assert len(suite.tasks) == 7
