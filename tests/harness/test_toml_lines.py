"""Line numbers of TOML keys: golden documents, and random ones held against tomllib."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

from phibench.harness.toml_lines import Path, key_lines, line_of

# Each document and the line of every table, key and entry in it.
DOCUMENTS: dict[str, tuple[str, dict[Path, int]]] = {
    "tables and keys": (
        'a = 1\n\n[t]\nb = "x"  # t.b\n  c = 2\n',
        {("a",): 1, ("t",): 3, ("t", "b"): 4, ("t", "c"): 5},
    ),
    "nested tables": (
        "[a.b]\nc = 1\n[a]\nd = 2\n[a.b.e]\n",
        {("a",): 3, ("a", "b"): 1, ("a", "b", "c"): 2, ("a", "d"): 4, ("a", "b", "e"): 5},
    ),
    "arrays of tables": (
        "[[v]]\nn = 1\n\n[[v]]\nn = 2\n[v.deep]\nm = 3\n",
        {
            ("v",): 1,
            ("v", 0): 1,
            ("v", 0, "n"): 2,
            ("v", 1): 4,
            ("v", 1, "n"): 5,
            ("v", 1, "deep"): 6,
            ("v", 1, "deep", "m"): 7,
        },
    ),
    "arrays of tables in arrays of tables": (
        "[[a]]\n[[a.b]]\nx = 1\n[[a.b]]\n[[a]]\n[[a.b]]\nx = 2\n",
        {
            ("a",): 1,
            ("a", 0): 1,
            ("a", 0, "b"): 2,
            ("a", 0, "b", 0): 2,
            ("a", 0, "b", 0, "x"): 3,
            ("a", 0, "b", 1): 4,
            ("a", 1): 5,
            ("a", 1, "b"): 6,
            ("a", 1, "b", 0): 6,
            ("a", 1, "b", 0, "x"): 7,
        },
    ),
    "dotted keys": (
        'a.b.c = 1\na . d = 2\n"e.f".g = 3\n',
        {("a",): 1, ("a", "b"): 1, ("a", "b", "c"): 1, ("a", "d"): 2, ("e.f",): 3, ("e.f", "g"): 3},
    ),
    "quoted keys": (
        '"a b" = 1\n\'c"d\' = 2\n"e\\"]f" = 3\n"\\u00e9" = 4\n["x # y"]\n"=" = 5\n"" = 6\n',
        {
            ("a b",): 1,
            ('c"d',): 2,
            ('e"]f',): 3,
            ("é",): 4,
            ("x # y",): 5,
            ("x # y", "="): 6,
            ("x # y", ""): 7,
        },
    ),
    "data sets by name": (
        '[data]\n"allenai/ai2_arc:ARC-Easy" = { test = "a", train = [\n"b",\n"c"] }\n"x/y" = "d"\n',
        {
            ("data",): 1,
            ("data", "allenai/ai2_arc:ARC-Easy"): 2,
            ("data", "allenai/ai2_arc:ARC-Easy", "test"): 2,
            ("data", "allenai/ai2_arc:ARC-Easy", "train"): 2,
            ("data", "allenai/ai2_arc:ARC-Easy", "train", 0): 3,
            ("data", "allenai/ai2_arc:ARC-Easy", "train", 1): 4,
            ("data", "x/y"): 5,
        },
    ),
    "inline tables in an array": (
        "t = [\n  { n = 1 },\n  # nothing ] here {\n  { n = 2, m.k = 3 },\n]\nz = 1\n",
        {
            ("t",): 1,
            ("t", 0): 2,
            ("t", 0, "n"): 2,
            ("t", 1): 4,
            ("t", 1, "n"): 4,
            ("t", 1, "m"): 4,
            ("t", 1, "m", "k"): 4,
            ("z",): 6,
        },
    ),
    "multi-line strings": (
        'a = """\n[t]\nb = 1 \\""" still\n"""\nc = \'\'\'\nd = 1\n\'\'\'\ne = """x"""""\nf = ["""\n]\n""", 1]\ng = 1\n',
        {("a",): 1, ("c",): 5, ("e",): 8, ("f",): 9, ("f", 0): 9, ("f", 1): 11, ("g",): 12},
    ),
    "quotes, brackets and signs where they mean nothing": (
        'a = 1 # """ [ {\nb = "# no = comment [" # it\'s one\n'
        'c = \'"""\'\nd = [ # it\'s [\n"]", 2]\ne = 1979-05-27 07:32:00\n',
        {("a",): 1, ("b",): 2, ("c",): 3, ("d",): 4, ("d", 0): 5, ("d", 1): 5, ("e",): 6},
    ),
    "CRLF": ("a = 1\r\n[t]\r\n# c\r\nb = [\r\n1,\r\n]\r\n", {("a",): 1, ("t",): 2, ("t", "b"): 4, ("t", "b", 0): 5}),
    "line separators that TOML does not know": ('a = "x\u2028\x85y"\nb = 1\n', {("a",): 1, ("b",): 2}),
    "nothing": ("", {}),
    "only a comment": ("# a = 1", {}),
    "no line end at the end": ("[a]\nb = 1", {("a",): 1, ("a", "b"): 2}),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_key_has_its_line(name: str) -> None:
    text, expected = DOCUMENTS[name]
    assert key_lines(text) == expected
    assert set(expected) == set(paths(tomllib.loads(text)))


def test_a_key_without_a_line_takes_that_of_the_nearest_key_above() -> None:
    lines = key_lines("[t]\na = 1\n[[v]]\n")
    assert line_of(lines, ("t", "missing")) == 1
    assert line_of(lines, ("v", 0, "name")) == 3
    assert line_of(lines, ("nowhere", "at all")) is None
    assert line_of(lines, ()) is None


@pytest.mark.parametrize("seed", range(150))
def test_random_documents(seed: int) -> None:
    """The writer knows on which line it put each key; tomllib says which keys there are."""
    text, expected = Writer(random.Random(seed)).document()
    found = key_lines(text)
    missing = {path for path in paths(tomllib.loads(text)) if path not in found}
    assert not missing, text
    wrong = {path: (found.get(path), line) for path, line in expected.items() if found.get(path) != line}
    assert not wrong, text
    assert key_lines(text.replace("\n", "\r\n")) == found


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """The path of every table, key and entry that tomllib read."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield (*path, key)
        yield from paths(inner, (*path, key))


class Writer:
    """Writes random TOML and notes on which line each key begins."""

    STRINGS = ('"]"', "'{'", '"a # b = [c]"', r'"q\"q"', "''", '"""one"""', "'''it's'''", '"\u2028"')
    SCALARS = ("1", "-2.5", "true", "1979-05-27", "1979-05-27 07:32:00Z", "inf", "0x1F", *STRINGS)
    BLOCKS = ('"""\n[no]\nkey = 1\n"""', "'''\n]\n}\n'''", '"""a\\\n  b"""', '"""\\"""\n#"""')
    COMMENTS = ("", "", " # plain", ' # """ [ {', " # it's ] = }", "  \t")

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.text = ""
        self.lines: dict[Path, int] = {}
        self.made = 0

    def document(self) -> tuple[str, dict[Path, int]]:
        self.pairs(())
        arrays: dict[Path, int] = {}
        for _ in range(self.chance.randrange(6)):
            self.write(self.chance.choice(["", "\n", "# a [comment]\n", "\t"]))
            if arrays and self.chance.random() < 0.3:
                above = self.chance.choice(list(arrays))
                path = (*above, arrays[above] - 1, self.name())
                self.table(path, above)
            elif arrays and self.chance.random() < 0.4:
                path = self.chance.choice(list(arrays))
                self.entry(path, arrays)
            elif self.chance.random() < 0.5:
                self.entry((self.name(),), arrays)
            else:
                self.table((self.name(), self.name())[: self.chance.randint(1, 2)], None)
        return self.text, self.lines

    def table(self, path: Path, above: Path | None) -> None:
        header = path if above is None else (*above, path[-1])
        self.lines[path] = self.here()
        self.write(f"[{self.written(header)}]{self.comment()}\n")
        self.pairs(path)

    def entry(self, path: Path, arrays: dict[Path, int]) -> None:
        index = arrays.get(path, 0)
        arrays[path] = index + 1
        self.lines.setdefault(path, self.here())
        self.lines[*path, index] = self.here()
        self.write(f"[[{self.written(path)}]]{self.comment()}\n")
        self.pairs((*path, index))

    def pairs(self, table: Path) -> None:
        for _ in range(self.chance.randrange(4)):
            self.pair(table, depth=0, may_break=True)
            self.write(f"{self.comment()}\n")

    def pair(self, table: Path, *, depth: int, may_break: bool) -> None:
        keys = tuple(self.name() for _ in range(self.chance.choice([1, 1, 1, 2])))
        path = (*table, *keys)
        self.lines[path] = self.here()
        self.write(f"{self.written(keys)} = ")
        self.value(path, depth=depth, may_break=may_break)

    def value(self, path: Path, *, depth: int, may_break: bool) -> None:
        kind = self.chance.random()
        if depth < 3 and kind < 0.2:
            self.array(path, depth)
        elif depth < 3 and kind < 0.4:
            self.write("{ ")
            for i in range(self.chance.randrange(3)):
                self.write(", " if i else "")
                self.pair(path, depth=depth + 1, may_break=False)
            self.write(" }")
        else:
            self.write(self.chance.choice(self.BLOCKS if may_break and kind > 0.85 else self.SCALARS))

    def array(self, path: Path, depth: int) -> None:
        self.write("[")
        for i in range(self.chance.randrange(4)):
            self.write(("," if i else "") + self.chance.choice(["", " ", "\n", " # c ]\n", "\n\n  "]))
            self.lines[*path, i] = self.here()
            self.value((*path, i), depth=depth + 1, may_break=True)
        self.write(self.chance.choice(["", "\n", " # [\n"]) + "]")

    def name(self) -> str:
        self.made += 1
        return self.chance.choice(["k{}", "k-{}", "k.{}", "k {}", 'k"{}', "k]{}", "é{}", "{}"]).format(self.made)

    def written(self, keys: Path) -> str:
        parts = []
        for key in keys:
            if isinstance(key, str):
                bare = key.isascii() and key.replace("-", "").isalnum()
                escaped = key.replace('"', '\\"')
                parts.append(key if bare else f'"{escaped}"')
        return self.chance.choice([".", " . "]).join(parts)

    def comment(self) -> str:
        return self.chance.choice(self.COMMENTS)

    def here(self) -> int:
        return self.text.count("\n") + 1

    def write(self, text: str) -> None:
        self.text += text
