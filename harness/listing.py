"""What `phibench list` shows: the names a suite may use. Imports no torch."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path

from ..adapters.recipe_table import RECIPES
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
    return kinds[what](part.lower())


def _tasks(part: str) -> list[tuple[str, str, str]]:
    known = catalog()
    root = lm_eval_tasks()
    rows = []
    for kind, names in (("task", known.tasks), ("group", known.groups), ("tag", known.tags)):
        rows += [(name, kind, _origin(paths[0], root)) for name, paths in names.items() if part in name.lower()]
    return sorted(rows, key=lambda row: (not row[2].startswith("phibench"), row[0]))


def _origin(path: Path, root: Path) -> str:
    if path.is_relative_to(OURS):
        return f"phibench: {path.relative_to(OURS).parent}"
    return f"lm-eval: {path.relative_to(root).parent}"


def _suites(part: str) -> list[tuple[str, str, str]]:
    return [_described(path, "suite") for path in sorted(SUITES.glob("*.toml")) if part in path.stem.lower()]


def _recipes(part: str) -> list[tuple[str, str, str]]:
    return [_described(path, "recipe") for path in sorted(RECIPES.glob("*.toml")) if part in path.stem.lower()]


def _described(path: Path, kind: str) -> tuple[str, str, str]:
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    return path.stem, kind, str(content.get("description", ""))
