"""Reading a suite file: TOML to :class:`Suite`, every fault at once, with its key and line."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ..errors import SuiteFaults, UserError
from ..files import sha256_file
from .suite import Suite
from .toml_lines import key_lines, line_of

SUITES = Path(__file__).resolve().parent.parent / "suites"


@dataclass(frozen=True)
class SuiteFile:
    """A suite as read, with what is needed to point at its keys."""

    path: Path
    suite: Suite
    sha256: str
    lines: dict[tuple[str | int, ...], int]

    def where(self, *keys: str | int) -> str:
        """`file:line: key` of a key of this suite."""
        return _where(self.path, self.lines, keys)


def find_suite(name: str) -> Path:
    """The file a suite argument stands for: a path, or the name of a suite that comes with phibench.

    Raises:
        UserError: when there is neither.
    """
    path = Path(name)
    if path.is_dir():
        raise UserError("this is a folder, not a suite file", where=name, fix="give the path of a .toml file")
    if path.exists():
        return path
    ours = {file.stem: file for file in sorted(SUITES.glob("*.toml"))}
    for key in (name, Path(name).stem if Path(name).parent.name in ("", "suites") else ""):
        if key in ours:
            return ours[key]
    near = difflib.get_close_matches(Path(name).stem, ours, n=1)
    hint = f'did you mean "{near[0]}"? ' if near else ""
    raise UserError(
        "there is no such suite file", where=name, fix=f"{hint}`phibench list suites` shows those that come with phibench"
    )


def read_suite(path: Path) -> SuiteFile:
    """Read and validate a suite file; relative paths in it count from the file's own folder.

    Raises:
        UserError: when the file cannot be read.
        SuiteFaults: with every fault found, in the order of the lines.
    """
    try:
        text = path.read_text(encoding="utf-8")
        raw = tomllib.loads(text)
    except OSError as error:
        raise UserError(f"the suite cannot be read: {error.strerror}", where=str(path)) from None
    except UnicodeDecodeError:
        raise UserError("the suite is not UTF-8 text", where=str(path), fix="save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise SuiteFaults([UserError(f"this is not TOML: {error}", where=str(path))]) from None
    lines = key_lines(text)
    try:
        suite = Suite.model_validate(raw)
    except ValidationError as error:
        raise SuiteFaults(_faults(path, lines, error)) from None
    return SuiteFile(path, _anchored(suite, path.resolve().parent), sha256_file(path), lines)


def _anchored(suite: Suite, folder: Path) -> Suite:
    """The suite with relative local paths made absolute, so that it means the same from any working folder."""

    def anchor(value: str) -> str:
        path = Path(value).expanduser()
        return str(path if path.is_absolute() else folder / path)

    base = suite.base
    updates: dict[str, Any] = {}
    if base.model.startswith((".", "~", "/")) or (folder / base.model).is_dir():
        updates["model"] = anchor(base.model)
    if isinstance(base.chat_template, str):
        updates["chat_template"] = anchor(base.chat_template)
    adapters = {
        name: spec.model_copy(
            update={
                key: anchor(value)
                for key in ("path", "recipe")
                if (value := getattr(spec, key)) is not None and (key == "path" or value.endswith(".toml"))
            }
        )
        for name, spec in suite.adapters.items()
    }
    data = {name: _map_source(source, anchor) for name, source in suite.data.items()}
    include = [anchor(path) for path in suite.include]
    return suite.model_copy(
        update={"base": base.model_copy(update=updates), "adapters": adapters, "data": data, "include": include}
    )


def _map_source(source: Any, change: Any) -> Any:
    if isinstance(source, str):
        return change(source)
    if isinstance(source, list):
        return [change(path) for path in source]
    return {split: _map_source(files, change) for split, files in source.items()}


def _where(path: Path, lines: dict[tuple[str | int, ...], int], keys: tuple[str | int, ...]) -> str:
    line = line_of(lines, keys)
    dotted = ""
    for key in keys:
        dotted += f"[{key}]" if isinstance(key, int) else f".{key}" if dotted else str(key)
    place = f"{path}:{line}" if line else str(path)
    return f"{place}: {dotted}" if dotted else place


def _faults(path: Path, lines: dict[tuple[str | int, ...], int], error: ValidationError) -> list[UserError]:
    found: dict[str, tuple[int, UserError]] = {}
    for detail in error.errors(include_url=False):
        keys = _real_keys(detail["loc"])
        fault = _fault(path, lines, detail, keys)
        found.setdefault(str(fault.where), (line_of(lines, keys) or 0, fault))
    return [fault for _, fault in sorted(found.values(), key=lambda pair: pair[0])]


def _real_keys(location: tuple[int | str, ...]) -> tuple[str | int, ...]:
    """A fault's keys without the branch names that pydantic adds for unions."""
    branches = {"bool", "str", "[key]"}
    return tuple(
        key
        for position, key in enumerate(location)
        if not (
            position > 0
            and isinstance(key, str)
            and (key in branches or key.startswith(("list[", "dict[", "constrained-", "function-")))
        )
    )


def _fault(
    path: Path, lines: dict[tuple[str | int, ...], int], detail: ErrorDetails, keys: tuple[str | int, ...]
) -> UserError:
    where = _where(path, lines, keys)
    kind = detail["type"]
    if kind == "extra_forbidden":
        key = str(keys[-1])
        known = _known_keys(keys[:-1])
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        fix = f'did you mean "{near[0]}"?' if near else f"the keys here are: {', '.join(known)}"
        return UserError(f'unknown key "{key}"', where=where, fix=fix)
    if kind == "missing":
        return UserError(f'the key "{keys[-1]}" is missing', where=where, fix="add it")
    got = detail.get("input")
    shown = f" (it is {got!r})" if isinstance(got, str | int | float | bool) else ""
    message = detail["msg"].removeprefix("Value error, ")
    if kind == "literal_error" and isinstance(got, str):
        options = [option.strip(" '") for option in str(detail["ctx"]["expected"]).replace(" or ", ", ").split(",")]
        near = difflib.get_close_matches(got, options, n=1)
        fix = f'did you mean "{near[0]}"?' if near else None
        return UserError(f"must be one of {', '.join(options)}{shown}", where=where, fix=fix)
    if kind == "string_pattern_mismatch":
        message = "names are letters, digits, and . _ + - (they become names of files)"
    return UserError(f"{message[:1].lower()}{message[1:]}{shown}", where=where)


def _known_keys(keys: tuple[str | int, ...]) -> list[str]:
    """The keys that the table at `keys` may have."""
    model: Any = Suite
    for key in keys:
        if isinstance(model, type) and issubclass(model, BaseModel):
            field = model.model_fields.get(str(key))
            model = field.annotation if field else None
        else:
            inner = [arg for arg in get_args(model) if arg is not type(None)]
            model = inner[-1] if inner else None
        while model is not None and not (isinstance(model, type) and issubclass(model, BaseModel)):
            models = [a for a in get_args(model) if isinstance(a, type) and issubclass(a, BaseModel)]
            if not models or _is_container(model):
                break
            model = models[0]
    if isinstance(model, type) and issubclass(model, BaseModel):
        return list(model.model_fields)
    return []


def _is_container(model: Any) -> bool:
    return getattr(model, "__origin__", None) in (list, dict)
