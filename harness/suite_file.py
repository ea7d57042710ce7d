"""Reading a suite file: TOML to :class:`Suite`, every fault at once, with its key and line."""

from __future__ import annotations

import copy
import difflib
import itertools
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ..adapters.bundled import NAME as BUNDLED
from ..adapters.formats import TEMPLATES
from ..adapters.spec import broken_rule, choices_of, is_wrong_type
from ..errors import SuiteFaults, UserError
from ..files import sha256_file
from .suite import Suite
from .toml_lines import Path as KeyPath
from .toml_lines import key_lines, line_of

SUITES = Path(__file__).resolve().parent.parent / "suites"


@dataclass(frozen=True)
class SuiteFile:
    """A suite as read, with what is needed to point at its keys."""

    path: Path
    suite: Suite
    sha256: str
    lines: dict[KeyPath, int]
    # Of a file with faults of form: the top-level keys they are in, with the entries that `suite` does without.
    left_out: Mapping[str, frozenset[str | int]] = field(default_factory=dict)

    def where(self, *keys: str | int) -> str:
        """`file:line: key` of a key of this suite."""
        top, *rest = keys
        if rest and isinstance(rest[0], int):
            kept = (i for i in itertools.count() if i not in self.left_out.get(str(top), ()))
            rest[0] = next(itertools.islice(kept, rest[0], None))
        return _where(self.path, self.lines, (top, *rest))


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
    beside = {str(file): file for file in sorted(path.parent.glob("*.toml"))}
    near = difflib.get_close_matches(name, beside, n=1) or difflib.get_close_matches(path.stem, ours, n=1)
    hint = f'did you mean "{near[0]}"? ' if near else ""
    raise UserError(
        "there is no such suite file",
        where=name,
        fix=f"{hint}`phibench list suites` shows those that come with phibench",
    )


def read_suite(path: Path) -> SuiteFile:
    """Read and validate a suite file; relative paths in it count from the file's own folder.

    Raises:
        UserError: when the file cannot be read.
        SuiteFaults: with every fault found, in the order of the lines.
    """
    file, faults = read_sound_part(path)
    if faults:
        raise SuiteFaults(faults)
    return file


def read_sound_part(path: Path) -> tuple[SuiteFile, list[UserError]]:
    """Read a suite file without those of its entries that are not as they must be, so that the rest can be checked.

    Returns:
        The file, and the faults of form in it, in the order of the lines.

    Raises:
        UserError: when the file cannot be read.
        SuiteFaults: when it is not TOML.
    """
    raw, lines = read_toml(path)
    anchor = path.resolve().parent
    digest = sha256_file(path)
    try:
        return SuiteFile(path, _anchored(Suite.model_validate(raw), anchor), digest, lines), []
    except ValidationError as error:
        found, faults = form_faults(path, lines, raw, error)
    sound, left_out = _without(raw, found)
    try:
        suite = Suite.model_validate(sound)
    except ValidationError:
        raise SuiteFaults(faults) from None
    return SuiteFile(path, _anchored(suite, anchor), digest, lines, left_out), faults


def read_toml(path: Path, what: str = "suite") -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """A TOML file's tables, and the lines that their keys stand on.

    Args:
        path: the file.
        what: what it is called where it cannot be read.

    Raises:
        UserError: when the file cannot be read.
        SuiteFaults: when it is not TOML.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        return tomllib.loads(text), key_lines(text)
    except OSError as error:
        raise UserError(f"the {what} cannot be read: {error.strerror}", where=str(path)) from None
    except UnicodeDecodeError:
        raise UserError(f"the {what} is not UTF-8 text", where=str(path), fix="save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise SuiteFaults([_not_toml(path, str(error))]) from None


def form_faults(
    path: Path,
    lines: dict[KeyPath, int],
    raw: dict[str, Any],
    error: ValidationError,
    *,
    within: KeyPath = (),
    shown: bool = True,
) -> tuple[list[KeyPath], list[UserError]]:
    """What is wrong with the form of a suite's table, in the order of the lines.

    Args:
        path: the file.
        lines: its keys' lines.
        raw: the table.
        error: pydantic's.
        within: the keys of the table in a suite; none for the whole suite.
        shown: whether the file has them.

    Returns:
        The keys at fault as a suite has them, in no order, and the faults.
    """
    placed = []
    for keys, details in _located(raw, error).items():
        here = (*within, *keys) if shown else keys
        fault = _fault(_where(path, lines, here), (*within, *keys), details)
        placed.append((line_of(lines, here) or 0, (*within, *keys), fault))
    faults = [fault for _, _, fault in sorted(placed, key=lambda entry: entry[0])]
    return [keys for _, keys, _ in placed], faults


def _not_toml(path: Path, message: str) -> UserError:
    place = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    if place is None:
        return UserError(f"this is not TOML: {message}", where=str(path))
    line, column = place.groups()
    said = re.sub(r"\('([^()]*?)',?\)", lambda keys: keys[1].replace("', '", "."), message[: place.start()])
    told = f"{said}, in column {column}" if line else f"{said}, and the file ends"
    return UserError(f"this is not TOML: {told}", where=f"{path}:{line}" if line else str(path))


def _without(raw: dict[str, Any], faulty: Iterable[KeyPath]) -> tuple[dict[str, Any], dict[str, frozenset[str | int]]]:
    """The suite without faulty keys and entries, and which entries of which keys were left out."""
    sound = copy.deepcopy(raw)
    left_out: dict[str, frozenset[str | int]] = {}
    for keys in faulty:
        top = str(keys[0])
        if top == "tasks" and len(keys) > 2 and keys[2] != "name":
            sound["tasks"][keys[1]].pop(keys[2], None)  # the task can be judged without this key
            continue
        left_out[top] = left_out.get(top, frozenset()) | set(keys[1:2])
        if len(keys) == 1 or top not in _ENTRIES:
            sound.pop(top, None)
    for top, gone in left_out.items():
        value = sound.get(top)
        if isinstance(value, list):
            sound[top] = [entry for i, entry in enumerate(value) if i not in gone]
        elif isinstance(value, dict):
            sound[top] = {name: entry for name, entry in value.items() if name not in gone}
    base = {"model": BUNDLED, **sound.get("base", {})}
    if "chat_template" in left_out.get("base", ()):
        base.pop("fewshot_as_multiturn", None)  # needs it
    stand_in = {"name": "unnamed", **sound, "base": base, "tasks": sound.get("tasks") or [{"name": "arc_easy"}]}
    return stand_in, left_out


def _anchored(suite: Suite, folder: Path) -> Suite:
    """The suite with relative local paths made absolute, so that it means the same from any working folder."""

    def anchor(value: str) -> str:
        return anchored_path(value, folder)

    base = suite.base
    updates: dict[str, Any] = {}
    if base.model.startswith((".", "~", "/")) or (folder / base.model).is_dir():
        updates["model"] = anchor(base.model)
    if isinstance(base.chat_template, str) and base.chat_template not in TEMPLATES:  # else a name, and no file
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
    gate = suite.gate
    if gate is not None and gate.against is not None:
        gate = gate.model_copy(update={"against": anchor(gate.against)})
    base = base.model_copy(update=updates)
    return suite.model_copy(update={"base": base, "adapters": adapters, "data": data, "include": include, "gate": gate})


def anchored_path(value: str, folder: Path) -> str:
    """A path that counts from a folder, unless it is absolute or from a home."""
    path = Path(value).expanduser()
    return str(path if path.is_absolute() else folder / path)


def _map_source(source: Any, change: Any) -> Any:
    if isinstance(source, str):
        return change(source)
    if isinstance(source, list):
        return [change(path) for path in source]
    return {split: _map_source(files, change) for split, files in source.items()}


def _where(path: Path, lines: dict[KeyPath, int], keys: KeyPath) -> str:
    line = line_of(lines, keys)
    dotted = ""
    for key in keys:
        if isinstance(key, int):
            dotted += f"[{key}]"
        else:
            shown = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)
            dotted += f".{shown}" if dotted else shown
    place = f"{path}:{line}" if line else str(path)
    return f"{place}: {dotted}" if dotted else place


def _located(raw: dict[str, Any], error: ValidationError) -> dict[KeyPath, list[ErrorDetails]]:
    """pydantic's faults by the key they are about; several of one key are the forms that its value may take."""
    found: dict[KeyPath, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        found.setdefault(_real_keys(raw, detail), []).append(detail)
    return {
        keys: details
        for keys, details in found.items()
        # Where something inside a value is at fault, the forms that the value does not have are beside the point.
        if not (
            all(is_wrong_type(detail) for detail in details)
            and any(len(other) > len(keys) and other[: len(keys)] == keys for other in found)
        )
    }


def _real_keys(raw: Any, detail: ErrorDetails) -> KeyPath:
    """A fault's keys as the file has them, without the names of branches that pydantic adds for unions."""
    keys: KeyPath = ()
    for position, key in enumerate(detail["loc"]):
        is_there = key in raw if isinstance(raw, dict) else isinstance(raw, list) and key in range(len(raw))
        if is_there:
            raw = raw[key]
            keys = (*keys, key)
        elif detail["type"] == "missing" and position == len(detail["loc"]) - 1:
            keys = (*keys, key)
    return keys


def _fault(where: str, keys: KeyPath, details: list[ErrorDetails]) -> UserError:
    detail = details[0]
    if detail["type"] == "extra_forbidden":
        return UserError(f'unknown key "{keys[-1]}"', where=where, fix=_fix_unknown(keys))
    if detail["type"] == "missing":
        heading = TABLES[str(keys[0])][0] if len(keys) == 1 and keys[0] in TABLES else None
        fix = f"add a table {heading}" if heading else "add it"
        return UserError(f'the key "{keys[-1]}" is missing', where=where, fix=fix)
    if detail["type"] == "literal_error" and isinstance(detail["input"], str):
        near = difflib.get_close_matches(detail["input"], choices_of(detail), n=1)
        return UserError(broken_rule(details), where=where, fix=f'did you mean "{near[0]}"?' if near else None)
    return UserError(broken_rule(details), where=where, fix=_fix_shape(keys, detail))


def _fix_unknown(keys: KeyPath) -> str:
    """What to do about a key that its table does not have."""
    key = str(keys[-1])
    known = list(_table_at(keys[:-1]).model_fields)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    homes = [heading for heading, model in TABLES.values() if key in model.model_fields]
    if near and (not homes or difflib.SequenceMatcher(None, key, near[0]).ratio() > 0.8):
        return f'did you mean "{near[0]}"?'
    if len(keys) > 1 and key in TABLES:
        return f"it is a table of its own: write {TABLES[key][0]}, and its keys below"
    if len(keys) > 1 and key in Suite.model_fields:
        return f'"{key}" stands at the top of the file, above the first [table]'
    here = f"the keys here are: {', '.join(known)}"
    home = f'"{key}" is a key of {" and ".join(homes)}'
    return f"{home}; {here}" if homes and len(keys) > 1 else home if homes else here


def _fix_shape(keys: KeyPath, detail: ErrorDetails) -> str | None:
    """How to write what was given in a form that TOML reads as something else."""
    kind, got, top = detail["type"], detail.get("input"), str(keys[0])
    heading = TABLES[top][0] if top in TABLES else f"[{top}]"
    if kind == "model_type" and isinstance(keys[-1], int):
        return f'write {heading} with name = "{got}"' if isinstance(got, str) else f"write {heading}"
    if kind == "model_type" or (len(keys) == 1 and (kind == "dict_type" or top in TABLES)):
        return f"write {heading}, and its keys below"
    if kind == "list_type" and isinstance(got, str):
        return f'write ["{got}"]'
    return None


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The table that a key's value is, or holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner))), None)


def _table_at(keys: KeyPath) -> type[BaseModel]:
    """What may stand in the table of these keys; names and positions of entries lead no further."""
    table: type[BaseModel] = Suite
    for key in keys:
        about = table.model_fields.get(str(key))
        table = (about and _model_in(about.annotation)) or table
    return table


def _headings() -> dict[str, tuple[str, type[BaseModel]]]:
    """The heading that a suite gives each kind of table, and what may stand in it."""
    tables = {}
    for name, about in Suite.model_fields.items():
        if (model := _model_in(about.annotation)) is not None:
            headings: dict[Any, str] = {list: f"[[{name}]]", dict: f"[{name}.NAME]"}
            tables[name] = (headings.get(get_origin(about.annotation), f"[{name}]"), model)
    return tables


TABLES = _headings()
_ENTRIES = ("base", "tasks", "variants", "include", "adapters", "quantizations", "data")
