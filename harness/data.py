"""Local files in the place of hub datasets: the suite's `[data]` table. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..files import sha256_file
from .results import FileHash
from .suite import DataSource

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

SUFFIXES = (".jsonl", ".json", ".parquet")


@dataclass(frozen=True)
class Replacement:
    """The local data that stands for one dataset."""

    key: str  # as the suite names it: "allenai/ai2_arc" or "allenai/ai2_arc:ARC-Easy"
    source: DataSource

    def files(self) -> list[Path]:
        """Every file of it, in order."""
        return [file for path in _paths(self.source) for file in _expand(path)]

    def hashes(self) -> list[FileHash]:
        """The files with the SHA-256 of their bytes."""
        return [FileHash(path=str(path), sha256=sha256_file(path)) for path in self.files()]

    def load(self, evaluated: str, needed: list[str]) -> DatasetDict:
        """Load the data as the splits a task needs.

        Args:
            evaluated: the split whose items are evaluated: what a single file stands for.
            needed: every split the task names; those without data are empty.

        Raises:
            UserError: for files that are missing, broken or empty.
        """
        from datasets import DatasetDict

        splits: dict[str, Dataset]
        if isinstance(self.source, dict):
            splits = {split: self._read(source) for split, source in self.source.items()}
        else:
            loaded = self._read_any(self.source)
            splits = dict(loaded) if isinstance(loaded, DatasetDict) else {evaluated: loaded}
        where = f'data."{self.key}"'
        if evaluated not in splits:
            raise UserError(
                f'the split "{evaluated}", which is evaluated, is missing (there is: {", ".join(splits)})',
                where=where,
                fix=f'give it a file: "{self.key}" = {{ {evaluated} = "..." }}',
            )
        if len(splits[evaluated]) == 0:
            raise UserError("the dataset is empty", where=where, fix="give a file with at least one row")
        for split in needed:
            splits.setdefault(split, splits[evaluated].select([]))
        return DatasetDict(splits)

    def _read(self, source: Any) -> Dataset:
        from datasets import DatasetDict

        loaded = self._read_any(source)
        if isinstance(loaded, DatasetDict):
            raise UserError(
                "this folder holds several splits", where=f'data."{self.key}"', fix="name the folder itself"
            )
        return loaded

    def _read_any(self, source: Any) -> Any:
        from datasets import Dataset, concatenate_datasets, load_from_disk

        paths = [source] if isinstance(source, str) else list(source)
        where = f'data."{self.key}"'
        try:
            if len(paths) == 1 and Path(paths[0]).is_dir():
                return load_from_disk(paths[0])
            parts = [
                Dataset.from_parquet(path) if path.endswith(".parquet") else Dataset.from_dict(_columns(Path(path)))
                for path in paths
            ]
            return parts[0] if len(parts) == 1 else concatenate_datasets(parts)
        except UserError:
            raise
        except IndexError:  # of a split without rows, datasets writes no file that it could read back
            raise UserError("the folder, or a split in it, is empty", where=f"{where} = {paths[0]}") from None
        except Exception as error:  # pyarrow and datasets raise many kinds for one thing: the file is not what it says
            text = " ".join(str(error).split())[:200]
            raise UserError(f"the data cannot be read: {text}", where=f"{where} = {paths[0]}") from error


def replacement_for(data: Mapping[str, DataSource], dataset: str | None, config: str | None) -> Replacement | None:
    """The suite's replacement for a dataset and configuration, the more exact key first."""
    for key in ([f"{dataset}:{config}"] if config else []) + ([dataset] if dataset else []):
        if key in data:
            return Replacement(key, data[key])
    return None


def data_faults(data: Mapping[str, DataSource], where: Callable[..., str]) -> list[UserError]:
    """What is wrong with the files of `[data]`, without reading them whole."""
    faults = []
    for key, source in data.items():
        for files in source.values() if isinstance(source, dict) else [source]:
            paths = _paths(files)
            faults += [_file_fault(text, where("data", key), alone=len(paths) == 1) for text in paths]
    return [fault for fault in faults if fault is not None]


def _file_fault(text: str, where: str, *, alone: bool) -> UserError | None:
    path = Path(text)
    if not path.exists():
        return UserError(f"there is no file or folder {text}", where=where)
    if path.is_dir():
        if not ((path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists()):
            what = f"{text} is not a folder written by datasets' save_to_disk"
            return UserError(what, where=where, fix="name JSONL or Parquet files instead")
        if not alone:
            what = f"{text} is a folder, which cannot be read together with other files"
            return UserError(what, where=where, fix="name it alone, or name only files")
        return None
    if path.suffix not in SUFFIXES:
        what = f'cannot read "{path.suffix or path.name}" files: {text}'
        fix = f"use one of {', '.join(SUFFIXES)}, or a folder written by datasets' save_to_disk"
        return UserError(what, where=where, fix=fix)
    if path.stat().st_size == 0:
        return UserError(f"{text} is empty", where=where)
    return None


def _paths(source: DataSource) -> list[str]:
    if isinstance(source, str):
        return [source]
    if isinstance(source, list):
        return source
    return [path for part in source.values() for path in _paths(part)]


def _expand(path: str) -> list[Path]:
    folder = Path(path)
    return sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else [folder]


def _columns(path: Path) -> dict[str, list[Any]]:
    """The rows of a file as columns: all that any row has, in the order in which they come up."""
    rows = list(_rows(path))
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSON Lines file, or of a JSON file that holds one list."""
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".json" and text.lstrip().startswith("["):
        try:
            rows = json.loads(text)
        except ValueError as error:
            raise UserError(f"this is not JSON: {error}", where=str(path)) from None
        if not all(isinstance(row, dict) for row in rows):
            raise UserError("each entry of the list must be a JSON object", where=str(path))
        yield from rows
        return
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines(): strings may hold U+2028 and the like
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"this line is not JSON: {error}", where=f"{path}:{number}") from None
        if not isinstance(row, dict):
            raise UserError("each line must be a JSON object", where=f"{path}:{number}")
        yield row
