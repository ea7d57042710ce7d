"""Baselines: what variants of finished runs came to, in a file that is committed and compared with. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from ..adapters.merge_record import public_name
from ..errors import UserError
from ..files import named_output, write_text
from .alike import differing
from .baseline_file import (
    FORMAT,
    FORMAT_VERSION,
    READABLE,
    BaselineFile,
    CellPart,
    ItemsPart,
    pack_column,
    pack_hashes,
    pack_numbers,
    pack_places,
    unpack_column,
    unpack_hashes,
    unpack_numbers,
    unpack_places,
)
from .measured import split_reference
from .outcomes import Gap, Outcomes, open_run
from .results import CellResult, FileHash, Manifest, Results, TaskInfo, VariantInfo
from .values import CellValues, item_keys

_HEAD = {"format": FORMAT, "format_version": FORMAT_VERSION}
_SHOWN = 200  # characters of a prompt


@dataclass(frozen=True)
class Saved:
    """What was written: how many bytes, and what did not go into the file."""

    size: int
    left_out: tuple[str, ...] = ()


def save_baseline(references: Sequence[str], out: Path, *, prompts: bool = False) -> Saved:
    """Write what some variants of finished runs came to. The same runs give the same file.

    It names no folder of this machine, and holds no text of prompts, answers or targets.

    Args:
        references: each a run folder, or RUN:VARIANT.
        out: the file.
        prompts: keep the beginning of every prompt.

    Raises:
        UserError: there is no such run or variant, it has no finished cell, two runs cannot stand in one file, or the
            file cannot be written.
    """
    chosen: list[tuple[Outcomes, VariantInfo]] = []
    for reference in references:
        run, names = _find(reference)
        chosen += [(run, one) for one in run.manifest.variants if one.name in names]
    builder = _Builder(prompts=prompts)
    for run, variant in chosen:
        builder.add(run, variant)
    file = builder.file(chosen[0][0].manifest)
    text = json.dumps(_HEAD | file.model_dump(mode="json", exclude_defaults=True), indent=1) + "\n"
    with named_output("--out", out):
        write_text(out, text)
    return Saved(out.stat().st_size, tuple(builder.left_out))


def read_baseline(path: Path) -> Outcomes:
    """What a baseline file says, as if it were a run.

    Raises:
        UserError: it cannot be read, is no baseline file, or one of another version.
    """
    told = _read_json(path)
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise UserError(
            "this is not a baseline file", where=str(path), fix="give a file that `phibench baseline save` wrote"
        )
    if told.get("format_version") not in READABLE:
        raise UserError(
            f"this baseline file is of version {told.get('format_version')}; those read here: {', '.join(READABLE)}",
            where=str(path),
            fix="make it again with this phibench, or read it with the version that wrote it",
        )
    try:
        file = BaselineFile.model_validate(told)
        cells = {(one.result.variant, one.result.task): _values(one, file) for one in file.cells}
        if len(cells) < len(file.cells):
            raise ValueError("a variant has several cells of one task")
        if file.manifest.baseline not in {variant.name for variant in file.manifest.variants}:
            raise ValueError(f"its baseline, {file.manifest.baseline}, is none of its variants")
    except ValidationError as error:
        raise _broken(path, f"{error.error_count()} fields differ") from None
    except ValueError as error:
        raise _broken(path, str(error)) from None
    return Outcomes(str(path), file.manifest, Results(cells=[one.result for one in file.cells]), cells={**cells})


def open_against(text: str) -> tuple[Outcomes, str | None]:
    """What a gate compares with: a run folder or a baseline file, with `:VARIANT` behind it or not.

    Returns:
        Its outcomes, and the variant that was named.

    Raises:
        UserError: there is no such thing, or it has no such variant.
    """
    path, name = split_reference(text) or (Path(text).expanduser(), None)
    if not path.exists():
        raise UserError(
            "there is no such run folder or baseline file",
            where=text,
            fix="`phibench baseline save RUN --out FILE` makes one",
        )
    found = open_run(path) if path.is_dir() else read_baseline(path)
    if name is not None:
        _variants(found, name, text)
    return found, name


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"the baseline cannot be read: {error.strerror}", where=str(path)) from None
    except (ValueError, RecursionError):  # not UTF-8, not JSON
        raise UserError(
            "this is not a baseline file", where=str(path), fix="give a file that `phibench baseline save` wrote"
        ) from None


def _broken(path: Path, why: str) -> UserError:
    fix = "make it again: `phibench baseline save RUN --out FILE`"
    return UserError(f"this baseline file is broken: {why}", where=str(path), fix=fix)


def _find(reference: str) -> tuple[Outcomes, list[str]]:
    """A run and the variants of it that a reference stands for."""
    folder, name = split_reference(reference) or (Path(reference).expanduser(), None)
    run = open_run(folder)
    return run, _variants(run, name, reference)


def _variants(run: Outcomes, name: str | None, reference: str) -> list[str]:
    names = [one.name for one in run.manifest.variants]
    if name is None:
        return names
    if name not in names:
        raise UserError(
            "the run has no variant of this name", where=reference, fix=f"it has: {', '.join(names) or 'none'}"
        )
    return [name]


class _Builder:
    """Puts cells together into a file."""

    def __init__(self, *, prompts: bool) -> None:
        self.prompts = prompts
        self.tasks: dict[str, TaskInfo] = {}
        self.variants: dict[str, VariantInfo] = {}
        self.items: list[ItemsPart] = []
        self.cells: list[CellPart] = []
        self.left_out: list[str] = []

    def add(self, run: Outcomes, variant: VariantInfo) -> None:
        """Add a variant with its finished cells."""
        if variant.name in self.variants:
            raise UserError(
                f'two variants are called "{variant.name}"', where=run.label, fix="name one with RUN:VARIANT"
            )
        self.variants[variant.name] = _public_variant(variant)
        for task in run.manifest.tasks:
            if not task.asks(variant.name):
                continue
            values = run.values(variant.name, task.name)
            cell = run.cell(variant.name, task.name)
            if isinstance(values, Gap) or cell is None:
                state = values.state if isinstance(values, Gap) else "not run"
                self.left_out.append(f"{variant.name} on {task.name}: {state}")
                continue
            self._add_cell(run, task, cell, values)

    def _add_cell(self, run: Outcomes, task: TaskInfo, cell: CellResult, values: CellValues) -> None:
        known = self.tasks.setdefault(task.name, _public_task(task))
        if found := differing(task, known):
            raise UserError(
                f'"{task.name}" was not asked alike in all runs: {"; ".join(found)}',
                where=run.label,
                fix="save them in a file each",
            )
        columns = []
        for (metric, filter_name), column in sorted(values.metrics.items()):
            part = pack_column(metric, filter_name, column, len(values))
            if part is None:
                self.left_out.append(f"{metric} of {cell.variant} on {task.name}: its items' values are texts")
            else:
                columns.append(part)
        items = self._place_of(self._items(task, values))
        result = cell.model_copy(update={"records": None, "error": None})
        self.cells.append(CellPart(result=result, items=items, columns=columns))

    def _items(self, task: TaskInfo, values: CellValues) -> ItemsPart:
        texts = None
        if self.prompts and values.path is not None:
            found = pq.read_table(values.path, columns=["prompt"])["prompt"].to_pylist()
            texts = [None if text is None else text[:_SHOWN] for text in found]
        return ItemsPart(
            task=task.name,
            count=len(values),
            keys=pack_hashes([key.partition("#")[0] for key in values.keys]),
            prompts=pack_hashes(list(values.prompts)),
            positions=pack_places(values.items, len(values)),
            sources=None if values.sources is None else pack_numbers(values.sources),
            texts=texts,
        )

    def _place_of(self, part: ItemsPart) -> int:
        if part not in self.items:
            self.items.append(part)
        return self.items.index(part)

    def file(self, first: Manifest) -> BaselineFile:
        """The whole file; what is told of the run is the first one's."""
        if not self.cells:
            raise UserError("none of these variants has a finished cell", fix="run the suite first")
        baseline = first.baseline if first.baseline in self.variants else next(iter(self.variants))
        manifest = Manifest(
            phibench_version=first.phibench_version,
            name=first.name,
            model=public_name(first.model) if first.model else "",
            suite={},
            baseline=baseline,
            started=first.started,
            finished=first.finished,
            status="done",
            seeds=first.seeds,
            versions=first.versions,
            hardware={key: first.hardware[key] for key in ("device", "accelerator") if key in first.hardware},
            variants=list(self.variants.values()),
            tasks=list(self.tasks.values()),
        )
        return BaselineFile(manifest=manifest, items=self.items, cells=self.cells)


def _public_variant(variant: VariantInfo) -> VariantInfo:
    """A variant without what may name a folder of this machine."""
    parts = {
        key: public_name(value) if "/" in value or "\\" in value else value for key, value in variant.parts.items()
    }
    return variant.model_copy(update={"parts": parts, "error": None, "scoring": None, "generation": None})


def _public_task(task: TaskInfo) -> TaskInfo:
    dataset, colon, part = task.dataset.partition(":")
    files = [FileHash(path="", sha256=file.sha256) for file in task.data_files]
    return task.model_copy(update={"dataset": _public(dataset) + colon + part, "data_files": files})


def _public(value: str) -> str:
    return public_name(value) if "/" in value or "\\" in value else value


def _values(cell: CellPart, file: BaselineFile) -> CellValues:
    if cell.items >= len(file.items):
        raise ValueError("a cell names a list of items that is not there")
    part = file.items[cell.items]
    if part.task != cell.result.task:
        raise ValueError(f"the items of {part.task} are not those of {cell.result.task}")
    columns = {(one.metric, one.filter): unpack_column(one, part.count) for one in cell.columns}
    return CellValues(
        path=None,
        keys=item_keys(pa.array(unpack_hashes(part.keys, part.count))),
        items=unpack_places(part.positions, part.count),
        prompts=pd.Index(unpack_hashes(part.prompts, part.count)),
        metrics=columns,
        early=cell.result.stopped_early,
        kept_sources=None if part.sources is None else unpack_numbers(part.sources, part.count),
    )
