"""What stands of a run: its manifest and cells, kept in step with the run folder."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq

from .results import CellResult, Manifest, Results, TaskInfo, VariantInfo, read_manifest, read_results, write_model
from .run_folder import RunFolder, disk_errors


class RunState:
    """The manifest and the cells of a run under way.

    Args:
        folder: the run's folder; what an earlier invocation left there is taken over.
        manifest: of this invocation.
    """

    def __init__(self, folder: RunFolder, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.results = Results()
        self.warnings: list[str] = []  # what a reader must know of how the suite was asked
        self._lock = threading.Lock()  # cells are finished beside the one that is asked
        self._earlier = read_manifest(folder.path) if folder.manifest.exists() else None
        self._earlier_results = read_results(folder.path)

    def announce(
        self, variants: list[VariantInfo], tasks: list[TaskInfo], hashes: Mapping[tuple[str, str], str]
    ) -> None:
        """Say what the run is made of, and take over the cells that are already there.

        Args:
            variants: every variant of the suite; those without an identity are not worked on this time.
            tasks: the tasks that are worked on this time.
            hashes: (variant, task) -> cell hash of every cell worked on: an earlier one counts only if it is the same.
        """
        manifest, earlier = self.manifest, self._earlier
        known = {info.name: info for info in earlier.variants} if earlier else {}
        manifest.variants = [_taken_over(info, known.get(info.name)) for info in variants]
        named = {task.name for task in tasks}
        manifest.tasks = [*tasks]
        if earlier is not None and earlier.digest == manifest.digest:
            manifest.tasks += [task for task in earlier.tasks if task.name not in named]
            places = [task.name for task in earlier.tasks]
            manifest.tasks.sort(key=lambda task: places.index(task.name) if task.name in places else len(places))
            used = {adapter.name for adapter in manifest.adapters}
            manifest.adapters += [adapter for adapter in earlier.adapters if adapter.name not in used]
        self.results.cells = [
            self._kept(variant.name, task.name, hashes.get((variant.name, task.name)))
            for variant in manifest.variants
            for task in manifest.tasks
            if task.asks(variant.name)
        ]
        self.write()

    def _kept(self, variant: str, task: str, wanted: str | None) -> CellResult:
        """The earlier cell, if it still stands; else a pending one."""
        found = self._earlier_results.cell(variant, task)
        same_suite = self._earlier is not None and self._earlier.digest == self.manifest.digest
        stands = (
            found is not None
            and (found.status == "done" or wanted is None)
            and (found.cell_hash == wanted if wanted is not None else same_suite)
            and (found.records is None or self._is_whole(found))
        )
        return found if found is not None and stands else CellResult(variant=variant, task=task)

    def _is_whole(self, cell: CellResult) -> bool:
        """Whether a cell's records can be read, with a row for each item."""
        try:
            return pq.read_metadata(self.folder.path / str(cell.records)).num_rows == cell.items
        except (OSError, pa.ArrowException):
            return False

    def variant(self, name: str) -> VariantInfo:
        """The manifest's entry of a variant."""
        return next(info for info in self.manifest.variants if info.name == name)

    def is_done(self, variant: str, task: str) -> bool:
        """Whether a cell has its records."""
        cell = self.results.cell(variant, task)
        return cell is not None and cell.status == "done"

    def put(self, cell: CellResult) -> None:
        """Put a cell in the place of the one of its variant and task."""
        cells = self.results.cells
        position = next(i for i, c in enumerate(cells) if (c.variant, c.task) == (cell.variant, cell.task))
        cells[position] = cell

    def count(self, status: str) -> int:
        """How many cells have this status."""
        return sum(cell.status == status for cell in self.results.cells)

    def write(self) -> None:
        """Write manifest and results.

        Raises:
            UserError: when the disk is full or cannot be written.
        """
        with self._lock:
            self._write()

    def _write(self) -> None:
        self.manifest.warnings = self.warnings + [
            f"{cell.variant} · {cell.task}: {cell.truncated_items} of {cell.items} prompts were longer than the"
            f" context; {cell.truncated_tokens} tokens were cut from their left"
            for cell in self.results.cells
            if cell.truncated_items
        ]
        with disk_errors(self.folder.path):
            write_model(self.folder.manifest, self.manifest)
            write_model(self.folder.results, self.results)

    def finish(self) -> None:
        """Say when and how the run ended. A run that never announced its cells leaves the folder as it was."""
        manifest = self.manifest
        manifest.finished = now()
        if manifest.status == "running":
            manifest.status = "done" if self.count("done") == len(self.results.cells) else "incomplete"
        if self.results.cells:
            self.write()
            self.folder.drop_journals()


def _taken_over(info: VariantInfo, earlier: VariantInfo | None) -> VariantInfo:
    """A variant with what an earlier invocation measured of it, where it is still the same one."""
    if earlier is None:
        return info
    if info.identity is None:
        return earlier
    if info.identity == earlier.identity:
        measured = ("model_bytes", "load_seconds", "scoring", "generation", "real_form", "weight_error")
        return info.model_copy(update={name: getattr(earlier, name) for name in measured})
    return info


def now() -> str:
    """The time, ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
