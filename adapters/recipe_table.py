"""A recipe as a table: a file over those it extends, and `--set` over them all, with who gave each key. No torch."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from .formats import TEMPLATES

RECIPES = Path(__file__).resolve().parent / "recipes"
_MOST_PARENTS = 8
# Tables that name one thing by several keys: given anew, they replace what the parent had.
_WHOLE = ("train", "eval", "quantization")

Keys = tuple[str, ...]


@dataclass(frozen=True)
class Places:
    """Who gave each key of a recipe: a file, or a `--set`."""

    path: Path  # the recipe's own file
    given: dict[Keys, str] = field(default_factory=dict)

    def where(self, key: str) -> str:
        """How an error names a key, such as `mine.toml: lora.r` or `--set lora.r=0`."""
        if not key:
            settings = list(dict.fromkeys(place for place in self.given.values() if place.startswith("--set ")))
            return f"{self.path} with {', '.join(settings)}" if settings else str(self.path)
        keys = tuple(key.split("."))
        nearest = next((keys[:n] for n in range(len(keys), 0, -1) if keys[:n] in self.given), None)
        place = self.given[nearest] if nearest else str(self.path)
        names_it = place.startswith("--set ") and place.removeprefix("--set ").partition("=")[0].strip() == key
        return place if names_it else f"{place}: {key}"


def find_recipe(name: str) -> Path:
    """The recipe file a suite names: a path, or one of ours by name.

    Raises:
        UserError: when there is neither.
    """
    if name.endswith(".toml"):
        if Path(name).is_file():
            return Path(name)
        raise UserError("there is no such recipe file", where=f"recipe = {name}")
    ours = {path.stem: path for path in sorted(RECIPES.glob("*.toml"))}
    if name in ours:
        return ours[name]
    near = difflib.get_close_matches(name, ours, n=1)
    hint = f'did you mean "{near[0]}"? ' if near else ""
    raise UserError("there is no such recipe", where=f"recipe = {name}", fix=f"{hint}there is: {', '.join(ours)}")


def read_table(path: Path, settings: Sequence[str]) -> tuple[dict[str, Any], Places]:
    """A recipe's table, and who gave what of it.

    Args:
        path: the recipe's file.
        settings: changes, each as `table.key=value` with the value as TOML has it (a bare word is text).

    Raises:
        UserError: for a file that is not TOML, or a setting that is none.
    """
    places = Places(path)
    table = _read(path, places)
    for setting in settings:
        _set(table, setting, places)
    return table, places


def _read(path: Path, places: Places, parents: int = 0) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"this is not TOML: {error}", where=str(path)) from None
    parent = table.pop("extends", None)
    _anchor(table, path.parent)
    _anchor_data(table, path.parent, places.path.parent)
    own = {keys: str(path) for keys in _keys(table)}
    if parent is not None:
        if not isinstance(parent, str) or parents == _MOST_PARENTS:
            raise UserError("extends must name a recipe that does not extend this one", where=f"{path}: extends")
        beside = path.parent / f"{parent.removesuffix('.toml')}.toml"
        table = _laid_over(_read(beside if beside.is_file() else find_recipe(parent), places, parents + 1), table)
    places.given.update(own)
    return table


def _keys(table: Mapping[str, Any], above: Keys = ()) -> Iterator[Keys]:
    for key, value in table.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from _keys(value, (*above, key))


def _anchor(table: dict[str, Any], folder: Path) -> None:
    """Make local paths count from a folder, so that they mean the same wherever the command is given."""

    def anchored(value: str) -> str:
        path = Path(value).expanduser()
        return str(path if path.is_absolute() else folder.resolve() / path)

    def is_here(value: object) -> bool:
        return isinstance(value, str) and (value.startswith((".", "~", "/")) or (folder / value).is_dir())

    base = table.get("base")
    if isinstance(base, dict):
        if is_here(base.get("model")):
            base["model"] = anchored(base["model"])
        if isinstance(template := base.get("chat_template"), str) and template not in TEMPLATES:
            base["chat_template"] = anchored(template)
    start = table.get("start")
    if isinstance(start, str) and start:
        if start.endswith(".toml"):
            is_file = (folder / Path(start).expanduser()).is_file()
            table["start"] = anchored(start) if is_file else start
        elif is_here(start):
            table["start"] = anchored(start)
        elif folder != RECIPES and (beside := folder / f"{start}.toml").is_file():  # ours are found by their names
            table["start"] = str(beside.resolve())


def _anchor_data(table: dict[str, Any], folder: Path, child: Path) -> None:
    """Let the data files of a recipe that is extended from another folder count from its own."""
    data = table.get("data")
    if not isinstance(data, dict) or folder.resolve() == child.resolve():
        return
    for rows in (data.get("train"), data.get("eval")):
        if isinstance(rows, dict) and isinstance(rows.get("file"), str) and (folder / rows["file"]).is_file():
            rows["file"] = os.path.relpath(folder / rows["file"], child)


def _laid_over(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(found.get(key), dict) and key not in _WHOLE
        found[key] = _laid_over(found[key], value) if both else value
    for key in ("start", "lora", "quantization"):
        if found.get(key) in ("", {}):  # given empty, they take away what the parent had
            del found[key]
    if "eval" in over:
        found.pop("eval_fraction", None)
    if "eval_fraction" in over:
        found.pop("eval", None)
    return found


def _set(table: dict[str, Any], setting: str, places: Places) -> None:
    """Change one key; local paths in it count from where the command is given."""
    key, equals, text = setting.partition("=")
    names = [name.strip() for name in key.split(".")]
    if not equals or not all(names):
        raise UserError(f"this is no setting: {setting}", where="--set", fix="give --set training.max_steps=20")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    change: dict[str, Any] = {names[-1]: value}
    for name in reversed(names[:-1]):
        change = {name: change}
    _anchor(change, Path.cwd())
    place = table
    for name in names[:-1]:
        place, change = place.setdefault(name, {}), change[name]
        if not isinstance(place, dict):
            raise UserError(
                f"{name} is no table, so it has no key {names[-1]}",
                where=f"--set {setting}",
                fix="name a key as the recipe has it, such as training.max_steps",
            )
    place[names[-1]] = change[names[-1]]
    for keys in [tuple(names), *_keys(value if isinstance(value, dict) else {}, tuple(names))]:
        places.given[keys] = f"--set {setting}"
