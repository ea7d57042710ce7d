"""A recipe as a table: a file over those it extends, and `--set` over them all, with who gave each key. No torch.

All are laid over each other by the same rules: what names one thing by several keys takes the place of what named it.
"""

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
# Tables that name one thing by several keys: given anew, they replace what was there.
_WHOLE = ("train", "eval", "quantization")
_TAKEN_AWAY = ("start", "lora", "quantization")  # given empty, they take away what was there
# A key -> those that say the same in another way, and that it drops: rows are a file's or a dataset's.
_IN_THE_PLACE_OF = {"eval": ("eval_fraction",), "eval_fraction": ("eval",)}
_SOURCES = {
    "file": ("path", "name", "split", "revision"),
    **dict.fromkeys(("path", "name", "split", "revision"), ("file",)),
}

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
        below = dict.fromkeys(one for of, one in self.given.items() if of[: len(keys)] == keys and one != place)
        told = [one for one in below if one.startswith("--set ")]
        if told and not place.startswith("--set "):  # a table of the file, and what was changed in it
            return f"{place}: {key} with {', '.join(told)}"
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
        table = _set(table, setting, places)
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


def _laid_over(under: Mapping[str, Any], over: Mapping[str, Any], way: Sequence[str] = ()) -> dict[str, Any]:
    """A table over another.

    Args:
        under: what was there.
        over: what is given anew.
        way: of a `--set`, the names that lead to what it changes: a table on the way is not given anew.
    """
    found = dict(under)
    for key, value in over.items():
        if key in _TAKEN_AWAY and value in ("", {}):
            found.pop(key, None)
            continue
        further = way[1:] if way[:1] == (key,) else ()
        both = isinstance(value, dict) and isinstance(found.get(key), dict) and (key not in _WHOLE or bool(further))
        found[key] = _laid_over(found[key], value, further) if both else value
    for given, others in _IN_THE_PLACE_OF.items():
        if given in over:
            for other in others:
                found.pop(other, None)
    return found


def _set(table: dict[str, Any], setting: str, places: Places) -> dict[str, Any]:
    """The table with one key changed; local paths in it count from where the command is given."""
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
    _anchor_files(change)
    place: Any = table
    for name in names[:-1]:
        place = place.get(name, {})
        if not isinstance(place, dict):
            raise UserError(
                f"{name} is no table, so it has no key {names[-1]}",
                where=f"--set {setting}",
                fix="name a key as the recipe has it, such as training.max_steps",
            )
    for keys in [tuple(names), *_keys(value if isinstance(value, dict) else {}, tuple(names))]:
        places.given[keys] = f"--set {setting}"
    table = _laid_over(table, change, tuple(names))
    if names[0] == "data" and len(names) == 3:
        rows = table["data"][names[1]]
        table["data"][names[1]] = {k: v for k, v in rows.items() if k not in _SOURCES.get(names[2], ())}
    return table


def _anchor_files(table: dict[str, Any]) -> None:
    """Let data files that are here count from here; others are looked for beside the recipe and among phibench's."""
    data = table.get("data")
    for rows in (data.get("train"), data.get("eval")) if isinstance(data, dict) else ():
        if isinstance(rows, dict) and isinstance(name := rows.get("file"), str):
            file = Path(name).expanduser()
            rows["file"] = str(file.resolve()) if file.is_file() else name
