"""The part of a report that tells how the run was made: what it takes to trust it, or to make it again."""

from __future__ import annotations

import json
from statistics import correlation
from typing import Any

from ..harness.comparison import RunComparison
from ..harness.results import AdapterInfo, CellResult, Manifest, VariantInfo
from . import format as fmt
from .contamination import contamination_block
from .figures import curve
from .view import Block, Cell, Column, Line, Table, line, name, prose

_SUITE_SHOWN = 6000  # characters


def how_it_was_run(run: RunComparison) -> tuple[Block, ...]:
    """Blocks on choices, warnings, variants, adapters, contamination, data, cells, versions, hardware and the suite."""
    manifest = run.manifest
    blocks = [
        _lines_block("Chosen for you", manifest.chosen),
        _lines_block("Warnings", manifest.warnings),
        _variants(manifest.variants),
        *(_adapter(adapter) for adapter in manifest.adapters),
        contamination_block(manifest),
        _data(manifest),
        _cells(run.results.cells),
        _facts(manifest),
        _suite(manifest),
    ]
    return tuple(block for block in blocks if block is not None)


def _cell(text: str) -> Cell:
    return Cell(line(text))


def _named(text: str | None) -> Cell:
    return _cell(fmt.NOTHING) if text is None else Cell(line(name(text)))


def _columns(*headings: str, numeric: tuple[str, ...] = (), wide: tuple[str, ...] = ()) -> tuple[Column, ...]:
    return tuple(Column(line(one), numeric=one in numeric, wide=one in wide) for one in headings)


def _lines_block(title: str, lines: list[str]) -> Block | None:
    return Block(line(title), lines=tuple(line(prose(text)) for text in lines)) if lines else None


def _variants(variants: list[VariantInfo]) -> Block | None:
    rows = [
        (
            _named(one.name),
            _named(one.kind),
            _named(one.adapter),
            _named(one.quantization),
            _named(one.merge),
            _named(one.identity and fmt.short_hash(one.identity)),
            Cell(line(prose(one.scoring or fmt.NOTHING))),
            Cell(line(prose(one.generation or fmt.NOTHING))),
        )
        for one in variants
    ]
    how = ("Log-likelihoods by", "Texts by")
    columns = _columns("Variant", "Kind", "Adapter", "Quantisation", "Merge", "Identity", *how, wide=how)
    return Block(line("Variants"), table=Table("Variants", columns, tuple(rows))) if rows else None


def _adapter(adapter: AdapterInfo) -> Block:
    about = line(
        name(adapter.method),
        f" with {adapter.parameters:,} parameters, from ",
        name(adapter.source),
        ", SHA-256 ",
        name(fmt.short_hash(adapter.sha256)),
    )
    training = {key: value for key, value in (adapter.training or {}).items() if key != "curve"}
    rows = tuple((_named(key), _named(value)) for key, value in settings_of(training))
    return Block(
        line("Adapter ", name(adapter.name)),
        lines=(about, *_grouped(adapter.training or {})),
        table=Table("Training", _columns("Setting", "Value", wide=("Value",)), rows) if rows else None,
        curve=curve((adapter.training or {}).get("curve")),
    )


def settings_of(record: Any, prefix: str = "") -> list[tuple[str, str]]:
    """A training's record as dotted names and texts; what is empty or not set is left out."""
    if isinstance(record, dict):
        pairs = [(f"{prefix}.{key}" if prefix else str(key), value) for key, value in record.items()]
        return [pair for key, value in pairs for pair in settings_of(value, key)]
    return [] if record in (None, "", []) else [(prefix, _value(record))]


def _grouped(training: dict[str, Any]) -> list[Line]:
    """Why the training loss goes up and down, where rows were grouped by length."""
    recipe = training.get("recipe")
    settings = recipe.get("training") if isinstance(recipe, dict) else None
    if not isinstance(settings, dict) or settings.get("train_sampling_strategy") != "group_by_length":
        return []
    points = [point for point in training.get("curve") or [] if isinstance(point, dict)]
    pairs = [
        (point["tokens_per_row"], point["loss"]) for point in points if point.get("tokens_per_row") and point["loss"]
    ]
    said = (
        "Rows were grouped by length, long ones first in each group of fifty steps: a zigzag of the training loss is"
        " theirs, and no instability; the held-out loss has none of it."
    )
    if len(pairs) >= 5 and len({length for length, _ in pairs}) > 1 and len({loss for _, loss in pairs}) > 1:
        lengths, losses = zip(*pairs, strict=True)
        by = fmt.number(correlation(lengths, losses), 2, signed=True)
        said += f" The loss and the tokens in a row correlate by {by}."
    return [line(said)]


def _fact(key: str, value: Any) -> Cell:
    """A setting's value; what its name says are bytes reads as a size."""
    return _cell(fmt.size(value)) if key.endswith("_bytes") and isinstance(value, int) else _named(_value(value))


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _data(manifest: Manifest) -> Block | None:
    files = "Data files, SHA-256"
    rows = [
        (
            _named(task.name),
            _named(task.version),
            _named(fmt.short_hash(task.config_hash)),
            _named(task.dataset),
            Cell(_files(task.data_files)),
        )
        for task in manifest.tasks
    ]
    columns = _columns("Task", "Version", "Configuration", "Dataset", files, wide=("Dataset", files))
    return Block(line("Tasks and data"), table=Table("Tasks and data", columns, tuple(rows))) if rows else None


def _files(files: list[Any]) -> Line:
    pieces = line(fmt.NOTHING) if not files else ()
    for number, file in enumerate(files):
        pieces += line("; " if number else "", name(file.path), " ", name(fmt.short_hash(file.sha256)))
    return pieces


def _cells(cells: list[CellResult]) -> Block | None:
    rows = [
        (
            _named(one.variant),
            _named(one.task),
            _cell(one.status),
            _cell(f"{one.items:,}"),
            _cell(f"{one.requests:,}"),
            _cell(f"{one.tokens_in:,}"),
            _cell(f"{one.tokens_out:,}"),
            _cell(f"{one.truncated_items:,}"),
            Cell(line(prose(", ".join(f"{stop} {count:,}" for stop, count in one.stops.items()) or fmt.NOTHING))),
            _cell(fmt.duration(one.seconds)),
        )
        for one in cells
    ]
    counted = ("Items", "Requests", "Tokens in", "Tokens out", "Cut prompts")
    columns = _columns("Variant", "Task", "State", *counted, "Ends", "Time", numeric=(*counted, "Time"))
    return Block(line("Cells"), table=Table("Cells", columns, tuple(rows))) if rows else None


def _facts(manifest: Manifest) -> Block:
    """Versions, hardware, seeds, options and times, as one table of settings."""
    groups: list[tuple[str, dict[str, Any]]] = [
        ("Time", {"started": manifest.started, "finished": manifest.finished or "not yet"}),
        ("Version", {"phibench": manifest.phibench_version, **manifest.versions}),
        ("Hardware", manifest.hardware),
        ("Seed", manifest.seeds),
        ("Option", manifest.options),
    ]
    rows = tuple(
        (_cell(group), _named(key), _fact(key, value)) for group, facts in groups for key, value in facts.items()
    )
    return Block(
        line("Machine and settings"),
        table=Table("Machine and settings", _columns("What", "Name", "Value", wide=("Value",)), rows),
    )


def _suite(manifest: Manifest) -> Block:
    lines: tuple[Line, ...] = ()
    if manifest.suite_file is not None:
        file = manifest.suite_file
        lines = (line(name(file.path), ", SHA-256 ", name(fmt.short_hash(file.sha256))),)
    text = json.dumps(manifest.suite, indent=2, ensure_ascii=False, default=str)
    return Block(line("The suite as run"), lines=lines, literal=fmt.clip_end(fmt.visible(text), _SUITE_SHOWN))
