"""Outcomes made of plain lists, for tests of claims and gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from phibench.harness.outcomes import Gap, Outcomes
from phibench.harness.results import CellResult, Manifest, MetricInfo, Results, TaskInfo, VariantInfo
from phibench.harness.values import CellValues, MetricColumn

ACCURACY = MetricInfo(name="acc", filter="none", aggregation="mean", higher_is_better=True, share=True)


def cell_values(values: Sequence[Any], metric: MetricInfo, task: str) -> CellValues:
    """A cell's items, known by their task and numbers."""
    numbers = all(isinstance(value, int | float) for value in values)
    keys = pd.Index([f"{task} item {i}" for i in range(len(values))])
    column = MetricColumn(np.arange(len(values)), np.array(values, dtype=np.float64) if numbers else list(values))
    return CellValues(None, keys, np.arange(len(values)), keys, {(metric.name, metric.filter): column})


def task_info(name: str, metric: MetricInfo = ACCURACY, **more: Any) -> TaskInfo:
    """A task that measures one metric."""
    told = {"output_type": "multiple_choice", "version": "1", "num_fewshot": 0, "items": 0, "requests": 0}
    told |= {"dataset": "d", "config_hash": name, "metrics": [metric], "headline": [metric.name]}
    return TaskInfo.model_validate({"name": name, **told, **more})


def outcomes_of(
    values: Mapping[tuple[str, str], Sequence[Any]],
    metric: MetricInfo = ACCURACY,
    *,
    label: str = "run",
    baseline: str | None = None,
    costs: Mapping[str, Mapping[str, Any]] | None = None,
    **manifest: Any,
) -> Outcomes:
    """Outcomes of (variant, task) -> items' values.

    Args:
        values: what each cell came to.
        metric: the one that every task measures.
        label: where they come from.
        baseline: by default the first variant.
        costs: variant -> fields of its `VariantInfo`.
        manifest: more fields of it.
    """
    variants = list(dict.fromkeys(variant for variant, _ in values))
    tasks = list(dict.fromkeys(task for _, task in values))
    told = {"phibench_version": "0", "name": "n", "suite": {}, "started": "now", "status": "done", **manifest}
    return Outcomes(
        label,
        Manifest(
            baseline=baseline or variants[0],
            variants=[VariantInfo(name=one, kind=one, **(costs or {}).get(one, {})) for one in variants],
            tasks=[task_info(task, metric) for task in tasks],
            **told,
        ),
        Results(cells=[CellResult(variant=v, task=t, status="done", items=len(x)) for (v, t), x in values.items()]),
        cells={
            (variant, task): cell_values(values[variant, task], metric, task)
            if (variant, task) in values
            else Gap(variant, task, "not run")
            for variant in variants
            for task in tasks
        },
    )
