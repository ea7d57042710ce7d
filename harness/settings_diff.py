"""What variants differ in that may explain how they came out: the settings in their runs' manifests. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .results import TaskInfo
from .sides import Side

# Of a training's record: what came out and how long it took, not what was set.
_OUTCOMES = {"curve", "files", "notes", "seconds", "resumed_at", "parts"}
# Of a suite: what is told apart below, what only names things, and how results are looked at.
_TOLD = {"base", "quantizations", "adapters", "variants", "matrix", "tasks", "generation", "engine", "seeds"}
_TOLD |= {"name", "description", "baseline", "output", "claims", "gate", "statistics"}
# Where a side has nothing of these at all, one row says so, and not each of their keys.
_WHOLE = ("adapter", "training", "quantization", "identity")


@dataclass(frozen=True)
class Setting:
    """A key, dotted, and its value on each side (JSON's types; None where a side has none)."""

    key: str
    values: tuple[Any, ...]


def differing_settings(sides: Sequence[Side]) -> tuple[list[Setting], int]:
    """The settings in which sides differ, in the order of a model's making.

    Returns:
        (settings, how many others are the same on all sides).
    """
    shared = set.intersection(*({task.name for task in side.run.manifest.tasks} for side in sides))
    found = [dict(_flat("", _settings(side, shared))) for side in sides]
    sections = [{key.partition(".")[0] for key in settings} for settings in found]
    differing, same = [], 0
    keys = dict.fromkeys(key for settings in found for key in settings)
    places = {section: place for place, section in enumerate(_settings(sides[0], shared))}
    for key in sorted(keys, key=lambda key: places[key.partition(".")[0]]):  # a section's keys of all sides together
        section = key.partition(".")[0]
        values = tuple(settings.get(key) for settings in found)
        told = [
            value for value, there in zip(values, sections, strict=True) if section not in _WHOLE or section in there
        ]
        if all(value == told[0] and type(value) is type(told[0]) for value in told):
            same += 1
        else:
            differing.append(Setting(key, values))
    return differing, same


def _settings(side: Side, tasks: set[str]) -> dict[str, Any]:
    """A side's settings as nested tables."""
    manifest, variant, adapter = side.run.manifest, side.variant, side.adapter
    suite = manifest.suite
    quantizations = _table(suite.get("quantizations"))
    training = {} if adapter is None else adapter.training or {}
    entries = [_table(entry) for entry in suite.get("tasks") or []]
    asked = {str(entry.get("name")): entry for entry in entries}
    return {
        "base": {"model": manifest.model, **_table(suite.get("base"))},
        "variant": {
            "kind": variant.kind,
            "adapter": variant.adapter or "none",
            "quantization": variant.quantization or "none",
            "merge": variant.merge,
            "scoring": variant.scoring,
            "generation": variant.generation,
        },
        "quantization": _table(quantizations.get(variant.quantization or "")),
        "adapter": {} if adapter is None else adapter.model_dump(include={"source", "method", "sha256", "parameters"}),
        "training": {key: value for key, value in training.items() if key not in _OUTCOMES},
        "identity": {
            "sha256": variant.identity,
            **{key: value for key, value in variant.parts.items() if not key.startswith("version:") and key != "merge"},
        },
        "tasks": {
            info.name: {**asked.get(info.name, {}), **_task(info), **_stopped(side, info.name), "name": None}
            for info in manifest.tasks
            if info.name in tasks
        },
        "generation": _table(suite.get("generation")),
        "suite": {key: value for key, value in suite.items() if key not in _TOLD},
        "options": manifest.options,
        "seeds": manifest.seeds,
        "engine": _table(suite.get("engine")),
        "versions": {"phibench": manifest.phibench_version, **manifest.versions},
        "hardware": manifest.hardware,
    }


def _task(info: TaskInfo) -> dict[str, Any]:
    """A task as it was asked; its items as their files."""
    told = info.model_dump(include={"version", "num_fewshot", "items", "dataset", "config_hash", "source"})
    return {**told, "data_files": sorted(file.sha256 for file in info.data_files)}


def _stopped(side: Side, task: str) -> dict[str, Any]:
    """Whether its items were asked until the rules of a gate were decided."""
    cell = side.run.cell(side.variant.name, task)
    return {"items asked until decided": "yes"} if cell is not None and cell.stopped_early else {}


def _table(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of nested tables; a list of one value is that value; nothing for what is not set."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), inner)
    elif isinstance(value, list) and len(value) == 1 and not isinstance(value[0], Mapping | list):
        yield prefix, value[0]
    elif value is not None and value != []:
        yield prefix, value
