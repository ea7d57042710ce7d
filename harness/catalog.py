"""Which lm-eval tasks, groups and tags exist, and a task manager for just those a suite names.

lm-eval parses about 14,000 YAML files to build its index, which takes 14 s. Here their names are read with one regular
expression (about 1 s); when every name wanted is a plain task, only the folders that hold them are indexed.
Imports no torch.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

OURS = Path(__file__).resolve().parent.parent / "suites" / "tasks"

_READERS = 16  # files under way at once

_NAME = re.compile(
    r"""^["']?(task|group|tag|class)["']?:[ \t]*(?:\r?\n((?:[ \t]*-[^\n]*\n?)+)|([^\n#]+))""", re.MULTILINE
)


@dataclass(frozen=True)
class Catalog:
    """Names that a suite may use, and the YAML files that define them."""

    tasks: dict[str, tuple[Path, ...]]
    groups: dict[str, tuple[Path, ...]]
    tags: dict[str, tuple[Path, ...]]

    def __contains__(self, name: str) -> bool:
        return name in self.tasks or name in self.groups or name in self.tags

    def files(self, name: str) -> list[str]:
        """The files that define a name."""
        return [str(path) for kind in (self.tasks, self.groups, self.tags) for path in kind.get(name, ())]

    def near(self, name: str) -> str | None:
        """The name most like `name`, ours first, or None."""
        folded = name.replace("-", "_").lower()
        names = [*self.tasks, *self.groups, *self.tags]
        if folded in self:
            return folded
        near = difflib.get_close_matches(folded, names, n=1, cutoff=0.6)
        return near[0] if near else None


def lm_eval_tasks() -> Path:
    """The folder of lm-eval's own task YAML."""
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise UserError("lm-eval is not installed", fix="pip install 'lm-eval>=0.4.13'")
    return Path(spec.origin).parent / "tasks"


@functools.cache
def catalog(include: tuple[Path, ...] = ()) -> Catalog:
    """Read the names of all tasks, groups and tags: lm-eval's, ours and those under `include`."""
    kinds: dict[str, dict[str, list[Path]]] = {"task": {}, "group": {}, "tag": {}}
    for root in (OURS, *include, lm_eval_tasks()):
        for kind, name, path in _named_under(root):
            kinds[kind].setdefault(name, []).append(path)
    return Catalog(*({name: tuple(paths) for name, paths in kinds[kind].items()} for kind in ("task", "group", "tag")))


@functools.cache
def _named_under(root: Path) -> tuple[tuple[str, str, Path], ...]:
    """(kind, name, file) of everything that the YAML files under `root` name."""
    named = []
    paths = sorted(path for path in root.rglob("*") if path.suffix in ("", ".yaml", ".yml") and path.is_file())
    with ThreadPoolExecutor(_READERS) as readers:  # thousands of small files: what takes time on a cold disk is waiting
        texts = readers.map(lambda path: path.read_text(encoding="utf-8", errors="replace"), paths)
    for path, text in zip(paths, texts, strict=True):
        found = {m.group(1): m.group(2) or m.group(3) for m in _NAME.finditer(text)}
        if path.suffix != ".yaml":
            found = {"tag": found["tag"]} if "tag" in found else {}  # a file to include: its tags are those of others
        elif "class" in found:
            found.pop("group", None)  # a task written in Python
        elif "group" in found:
            found.pop("task", None)  # a group's list of members
        named += [(kind, name, path) for kind, value in found.items() if kind != "class" for name in _names(value)]
    return tuple(named)


def _names(value: str) -> list[str]:
    """The names in a YAML scalar, flow list or block list."""
    return [name for part in re.split(r"[\n,\[\]]", value) if (name := part.strip().lstrip("-").strip(" \"'\r"))]


def manager_for(names: Sequence[str], include: Iterable[Path] = ()) -> TaskManager:
    """lm-eval's task manager, indexing no more folders than `names` need.

    Raises:
        UserError: when lm-eval is missing, a name is unknown, or its file cannot be read.
    """
    from lm_eval.tasks import TaskManager

    extra = tuple(include)
    known = catalog(extra)
    for name in names:
        if name not in known:
            raise unknown_task(name, known)
    roots = [OURS, *extra]
    plain = all(name in known.tasks and name not in known.groups and name not in known.tags for name in names)
    if plain:
        folders = {path.parent for name in names for path in known.tasks[name]}
        outside = sorted(folder for folder in folders if not any(folder.is_relative_to(root) for root in roots))
        manager = TaskManager(include_path=[str(folder) for folder in (*outside, *roots)], include_defaults=False)
    else:  # groups and tags may reach anywhere: index everything
        manager = TaskManager(include_path=[str(root) for root in roots], include_defaults=True)
    for name in names:
        if name not in manager.task_index:  # lm-eval passes over what it cannot read
            raise UserError(f'lm-eval cannot read the file of the task "{name}"', where=", ".join(known.files(name)))
    return manager


def unknown_task(name: str, known: Catalog, where: str | None = None) -> UserError:
    """The error for a task name that nothing defines."""
    near = known.near(name)
    hint = f'did you mean "{near}"? ' if near else ""
    return UserError(
        f'no task, group or tag is called "{name}"',
        where=where,
        fix=f"{hint}`phibench list tasks PART` searches the names",
    )
