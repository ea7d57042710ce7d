"""What `pip install .` takes along: every package, and the files that are read at run time."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SETUPTOOLS: Any = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
FLOORS = ("commands", "adapters", "harness", "reports", "suites")


def test_every_package_is_installed() -> None:
    found = {"phibench"}
    for floor in FLOORS:
        for file in (ROOT / floor).rglob("__init__.py"):
            found.add("phibench." + ".".join(file.parent.relative_to(ROOT).parts))
    # The mini tasks' folder is found by its files; it has nothing to import from elsewhere.
    assert found | {"phibench.suites.tasks.mini"} == set(SETUPTOOLS["packages"])


@pytest.mark.parametrize("suffix", ["toml", "yaml", "jsonl", "j2", "css"])
def test_every_file_that_is_read_is_installed(suffix: str) -> None:
    patterns = []
    for package, globs in SETUPTOOLS["package-data"].items():
        folder = Path(*package.split(".")[1:])
        patterns += [str(folder / glob).replace("**/", "*") for glob in globs]
    files = [file.relative_to(ROOT) for floor in FLOORS for file in (ROOT / floor).rglob(f"*.{suffix}")]
    assert files
    assert [str(file) for file in files if not any(fnmatch(str(file), pattern) for pattern in patterns)] == []
