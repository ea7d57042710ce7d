"""What a run's cells came to, read when they are asked for; for the comparison, the gate and baselines. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from .results import CellResult, Manifest, MetricInfo, Results, TaskInfo, read_manifest, read_results
from .values import CellValues, read_values

_LONGEST_REASON = 300  # characters of an error


@dataclass(frozen=True)
class Gap:
    """A cell without records to compare: `not run`, `failed`, `not made` (its variant) or `unreadable`."""

    variant: str
    task: str
    state: str
    reason: str | None = None


@dataclass
class Outcomes:
    """Cells by variant and task, wherever they are kept.

    Attributes:
        label: where they come from, as the user named it.
        manifest: what was run.
        results: scores and costs.
        cells: what was read so far, or given.
    """

    label: str
    manifest: Manifest
    results: Results
    run_dir: Path | None = None
    cells: dict[tuple[str, str], CellValues | Gap] = field(default_factory=dict)

    def task(self, name: str) -> TaskInfo | None:
        """A task as it was asked, or None."""
        return next((task for task in self.manifest.tasks if task.name == name), None)

    def cell(self, variant: str, task: str) -> CellResult | None:
        """A cell's state, scores and costs, or None."""
        return self.results.cell(variant, task)

    def values(self, variant: str, task: str) -> CellValues | Gap:
        """A cell's items, read once; or why there are none."""
        if (variant, task) not in self.cells:
            self.cells[variant, task] = self._read(variant, task)
        return self.cells[variant, task]

    def gap_words(self, gap: Gap) -> str:
        """What a cell without records is, with the error that it or its variant ended in, on one line."""
        made = next((one for one in self.manifest.variants if one.name == gap.variant), None)
        why = gap.reason or (made.error if made is not None else None)
        said = f"{gap.variant} on {gap.task}: {gap.state}"
        return said if why is None else f"{said}: {' '.join(why.split())[:_LONGEST_REASON]}"

    def metrics(self, info: TaskInfo) -> list[tuple[MetricInfo, bool]]:
        """The task's metrics (its own, then those that only scores name), and whether each is a headline.

        Headline metrics come first, in the order of `headline` (a name stands for all its filters); where that
        names none of the metrics, the first one is the headline.
        """
        found = {metric.key: metric for metric in info.metrics}
        for cell in self.results.cells:
            for score in cell.scores if cell.task == info.name else ():
                metric = MetricInfo(
                    name=score.metric,
                    filter=score.filter,
                    aggregation=score.aggregation,
                    higher_is_better=score.higher_is_better,
                )
                found.setdefault((score.metric, score.filter), metric)
        metrics = list(found.values())
        first = [metric for name in info.headline for metric in metrics if metric.name == name] or metrics[:1]
        rest = [metric for metric in metrics if metric not in first]
        return [(metric, True) for metric in first] + [(metric, False) for metric in rest]

    def metric(self, info: TaskInfo, name: str | None) -> MetricInfo | None:
        """A metric of a task by its name, or its name and filter ("acc,none"); by default the leading one."""
        return next((one for one, _ in self.metrics(info) if one.is_named(name)), None)

    def _read(self, variant: str, task: str) -> CellValues | Gap:
        cell = self.cell(variant, task)
        if cell is None or cell.status == "pending":
            made = next((one for one in self.manifest.variants if one.name == variant), None)
            return Gap(variant, task, "not made" if made is not None and made.error is not None else "not run")
        if cell.status == "failed":
            return Gap(variant, task, "failed", cell.error)
        if cell.records is None or self.run_dir is None:
            return Gap(variant, task, "unreadable", "the cell names no records")
        try:
            return replace(read_values(self.run_dir / cell.records), early=cell.stopped_early)
        except (OSError, pa.ArrowException, ValueError, KeyError) as error:
            return Gap(variant, task, "unreadable", f"{cell.records}: {error}")


def open_run(run_dir: Path) -> Outcomes:
    """The outcomes of a run folder, finished or not.

    Raises:
        UserError: when the folder holds no run, or one of another schema.
    """
    return Outcomes(str(run_dir), read_manifest(run_dir), read_results(run_dir), run_dir)
