"""Time and memory of what reads a finished run, at a million records: `report`, `gate` and `compare`.

    python tests/benchmarks/million_records.py --records 1000000

Writes a run folder of random answers (four variants, five tasks: four of multiple choice and one of texts), then runs
each command in a process of its own. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from phibench.harness.records import ROWS_TOGETHER, SCHEMA
from phibench.harness.results import (
    CellResult,
    Manifest,
    MetricInfo,
    Results,
    Score,
    TaskInfo,
    VariantInfo,
    write_model,
)

VARIANTS = ("base", "adapter-nf4", "merged", "merged-requantized")
TASKS = ("arc_challenge", "arc_easy", "hellaswag", "piqa", "dialogsum")
PROMPT = "Passage: " + "The old stone bridge in the north is still in use. " * 8 + "\nQuestion: why, item {}?\nAnswer:"
TOPICS = ("travel", "work", "health", "food", "school", "weather")


def write_run(folder: Path, items: int) -> None:
    """A run folder with this many items a task."""
    metrics = {task: _metrics(task) for task in TASKS}
    cells = []
    for t, task in enumerate(TASKS):
        shared = np.random.default_rng([t, 0]).random(items)
        for v, variant in enumerate(VARIANTS):
            path = folder / "records" / variant / f"{task}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            table, values = _records(variant, task, shared, np.random.default_rng([t, v, 1]), metrics[task])
            pq.write_table(table, path, compression="zstd", row_group_size=ROWS_TOGETHER)
            scores = [
                Score(
                    metric=metric.name,
                    filter="none",
                    value=float(values[metric.name].mean()),
                    stderr=float(values[metric.name].std() / np.sqrt(items)),
                    higher_is_better=True,
                    aggregation="mean",
                    items=items,
                )
                for metric in metrics[task]
            ]
            cells.append(
                CellResult(
                    variant=variant,
                    task=task,
                    status="done",
                    records=str(path.relative_to(folder)),
                    items=items,
                    requests=items * (1 if task == "dialogsum" else 4),
                    seconds=60.0,
                    peak_memory_bytes=2**31,
                    scores=scores,
                )
            )
    tasks = [
        TaskInfo(
            name=task,
            output_type="generate_until" if task == "dialogsum" else "multiple_choice",
            version="1",
            num_fewshot=0,
            items=items,
            requests=items,
            dataset="random",
            config_hash=task,
            metrics=metrics[task],
            headline=[metrics[task][0].name],
        )
        for task in TASKS
    ]
    variants = [
        VariantInfo(
            name=name,
            kind=name,
            adapter=None if name == "base" else "a",
            quantization="nf4" if "nf4" in name or "requantized" in name else None,
            merge={"merged": "base", "merged-requantized": "requantized"}.get(name, "none"),
            identity=name,
            model_bytes=2**30,
        )
        for name in VARIANTS
    ]
    told: dict[str, Any] = {"phibench_version": "0", "name": "million", "suite": {}, "started": "now", "status": "done"}
    write_model(folder / "manifest.json", Manifest(baseline="base", variants=variants, tasks=tasks, **told))
    write_model(folder / "results.json", Results(cells=cells))


def _metrics(task: str) -> list[MetricInfo]:
    names = ["rougeL", "rouge1"] if task == "dialogsum" else ["acc_norm", "acc", "loglikelihood_margin"]
    return [MetricInfo(name=name, filter="none", aggregation="mean", higher_is_better=True) for name in names]


def _records(
    variant: str, task: str, shared: Any, generator: np.random.Generator, metrics: list[MetricInfo]
) -> tuple[pa.Table, dict[str, Any]]:
    n = len(shared)
    noise = generator.random(n)
    values = {
        "acc_norm": (0.8 * shared + 0.2 * noise > 0.4).astype(float),
        "acc": (0.7 * shared + 0.3 * noise > 0.5).astype(float),
        "loglikelihood_margin": 10 * (shared - 0.4) + noise,
        "rougeL": 0.5 * shared + 0.1 * noise,
        "rouge1": 0.4 * shared + 0.2 * noise,
    }
    hashes = [f"{i:064x}" for i in range(n)]
    texts = task == "dialogsum"
    k = 1 if texts else 4
    responses = pa.StructArray.from_arrays(
        [
            pa.nulls(n * k, pa.float64()) if texts else pa.array(-20 * generator.random(n * k)),
            pa.array(np.zeros(n * k, bool)),
            pa.array([f"A summary of item {i}, said by {variant}." for i in range(n)])
            if texts
            else pa.nulls(n * k, pa.string()),
            pa.array(["eos"] * n) if texts else pa.nulls(n * k, pa.string()),
            *(pa.array(np.full(n * k, value, np.int32)) for value in (12, 0, 100)),
        ],
        fields=list(SCHEMA.field("responses").type.value_type),
    )
    found = pa.StructArray.from_arrays(
        [
            pa.array([metric.name for metric in metrics] * n),
            pa.array(["none"] * (n * len(metrics))),
            pa.array(np.stack([values[metric.name] for metric in metrics], axis=1).ravel()),
            pa.nulls(n * len(metrics), pa.string()),
        ],
        fields=list(SCHEMA.field("metrics").type.value_type),
    )
    lengths = generator.integers(100, 2000, n)
    fields = pa.StructArray.from_arrays(
        [
            pa.array(["characters of the prompt", "topic"] * n),
            pa.array([text for i in range(n) for text in (None, TOPICS[i % len(TOPICS)])]),
            pa.array([number for length in lengths.tolist() for number in (float(length), None)]),
        ],
        fields=list(SCHEMA.field("fields").type.value_type),
    )
    columns = {
        "variant": pa.array([variant] * n),
        "task": pa.array([task] * n),
        "item": pa.array(np.arange(n)),
        "item_id": pa.array([str(i) for i in range(n)]),
        "item_hash": pa.array(hashes),
        "prompt_hash": pa.array(hashes),
        "prompt": pa.array([PROMPT.format(i) for i in range(n)]),
        "choices": _lists(pa.array([" yes", " no", " maybe", " never"] * (0 if texts else n)), 0 if texts else 4, n),
        "target": pa.array(["0"] * n),
        "responses": _lists(responses, k, n),
        "metrics": _lists(found, len(metrics), n),
        "fields": _lists(fields, 2, n),
        "seconds": pa.array(np.full(n, 0.01)),
    }
    return pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA), values


def _lists(values: pa.Array, each: int, count: int) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(np.arange(count + 1, dtype=np.int32) * each), values)


def measured(arguments: list[str]) -> dict[str, Any]:
    """Run phibench in a process of its own: seconds, and its peak resident memory in GiB."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "phibench", *arguments], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode not in (0, 1, 4):
        sys.exit(done.stdout[-2000:] + done.stderr[-4000:])
    # The most of all children so far: commands come in the order in which they take more.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return {"command": arguments[0], "seconds": round(seconds, 1), "peak_gib_so_far": round(peak, 2)}


def main() -> None:
    """Write the run, time the commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--commands", nargs="+", default=["gate", "compare", "report"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        write_run(run, options.records // (len(VARIANTS) * len(TASKS)))
        arguments = {
            "gate": ["gate", str(run)],
            "compare": ["compare", f"{run}:adapter-nf4", f"{run}:merged", "--md", str(Path(folder) / "c.md")],
            "report": ["report", str(run)],
        }
        found = []
        for command in options.commands:
            found.append(measured(arguments[command]))
            print(found[-1], flush=True)
    print(json.dumps({"records": options.records, "commands": found}))


if __name__ == "__main__":
    main()
