"""What `phibench list` shows: the names a suite may use. Imports no torch."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path

from ..adapters.recipe import RECIPES
from ..errors import UserError
from .catalog import OURS, catalog, lm_eval_tasks
from .suite_file import SUITES


def listing(what: str, part: str = "") -> list[tuple[str, str, str]]:
    """(name, kind, description) of every task, suite or recipe whose name contains `part`.

    Raises:
        UserError: for anything but tasks, suites and recipes.
    """
    kinds = {"tasks": _tasks, "suites": _suites, "recipes": _recipes}
    if what not in kinds:
        near = difflib.get_close_matches(what, kinds, n=1)
        fix = f'did you mean "{near[0]}"?' if near else f"one of {', '.join(kinds)}"
        raise UserError(f'cannot list "{what}"', fix=fix)
    return [row for row in kinds[what]() if part.lower() in row[0].lower()]


def _tasks() -> list[tuple[str, str, str]]:
    known = catalog()
    rows = []
    for kind, names in (("task", known.tasks), ("group", known.groups), ("tag", known.tags)):
        rows += [(name, kind, _origin(paths[0])) for name, paths in names.items()]
    return sorted(rows, key=lambda row: (not row[2].startswith("phibench"), row[0]))


def _origin(path: Path) -> str:
    if path.is_relative_to(OURS):
        return f"phibench: {path.relative_to(OURS).parent}"
    return f"lm-eval: {path.relative_to(lm_eval_tasks()).parent}"


def _suites() -> list[tuple[str, str, str]]:
    return [_described(path, "suite") for path in sorted(SUITES.glob("*.toml"))]


def _recipes() -> list[tuple[str, str, str]]:
    return [_described(path, "recipe") for path in sorted(RECIPES.glob("*.toml"))]


def _described(path: Path, kind: str) -> tuple[str, str, str]:
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    return path.stem, kind, str(content.get("description", ""))
