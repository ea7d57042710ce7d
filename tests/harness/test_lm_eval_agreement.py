"""`phibench run` against stock lm-eval on the five usual tasks, with the real small model, item by item.

`PHIBENCH_TEST_LIMIT` sets the items a task (few by default); docs/correctness.md has the figures for more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from phibench.harness.records import read_records
from phibench.harness.results import MARGIN
from support.real import benchmark_cache, bundled_model

TASKS = ["arc_easy", "arc_challenge", "hellaswag", "piqa", "winogrande"]
TOLERANCE = 2e-3  # nats, of one choice's log-likelihood in float32

_STOCK = """
import json, sys
import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager, get_task_dict
model, limit, shots, out, *tasks = sys.argv[1:]
stock = HFLM(pretrained=model, dtype="float32", batch_size=1, device="cpu", logits_cache=False)
objects = get_task_dict(tasks, TaskManager())
for name, task in objects.items():
    task.set_config(key="num_fewshot", value=json.loads(shots)[name])
found = lm_eval.simple_evaluate(model=stock, tasks=list(objects.values()), limit=int(limit), bootstrap_iters=0)
rows = {t: [[[float(r[0][0]), bool(r[0][1])] for r in s["resps"]] for s in found["samples"][t]] for t in tasks}
docs = {t: [s["doc"] for s in found["samples"][t]] for t in tasks}
scores = {t: {k: v for k, v in found["results"][t].items() if isinstance(v, float)} for t in tasks}
json.dump({"rows": rows, "docs": docs, "scores": scores}, open(out, "w"))
"""


def right_choice(task: str, doc: dict[str, Any]) -> int:
    """The position of the answer, read from the published row."""
    if task.startswith("arc"):
        return list(doc["choices"]["label"]).index(doc["answerKey"])
    return int(doc["answer"]) - 1 if task == "winogrande" else int(doc["label"])


def mean_margin(task: str, docs: list[dict[str, Any]], rows: list[list[list[float]]]) -> float:
    """By how many nats the right choice beats the likeliest wrong one, from lm-eval's own log-likelihoods."""
    margins = []
    for doc, row in zip(docs, rows, strict=True):
        values = [value for value, _ in row]
        right = values.pop(right_choice(task, doc))
        margins.append(right - max(values))
    return sum(margins) / len(margins)


@pytest.mark.hf
@pytest.mark.model
@pytest.mark.parametrize(("shots", "items"), [(0, 8), (5, 2)])
def test_five_tasks_item_by_item(shots: int, items: int, tmp_path: Path) -> None:
    model = bundled_model()
    limit = os.environ.get("PHIBENCH_TEST_LIMIT", str(items))
    env = os.environ | {
        "HF_HOME": str(benchmark_cache(tmp_path)),
        "TQDM_DISABLE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    suite = tmp_path / "suite.toml"
    # lm-eval draws one example more than it shows, and some caches hold five rows of HellaSwag to draw from.
    examples = {task: min(shots, 4) if task == "hellaswag" else shots for task in TASKS}
    tasks = "".join(f'[[tasks]]\nname = "{task}"\nnum_fewshot = {examples[task]}\n' for task in TASKS)
    base = f'name = "agreement"\n[base]\nmodel = "{model}"\ndtype = "float32"\n[[variants]]\nname = "base"\n'
    suite.write_text(base + tasks, encoding="utf-8")
    ours = [sys.executable, "-m", "phibench", "run", str(suite), "--out", str(tmp_path / "out"), "--limit", limit]
    subprocess.run([*ours, "--offline", "-q"], env=env, check=True)
    stock_file = tmp_path / "stock.json"
    stock_call = [sys.executable, "-c", _STOCK, str(model), limit, json.dumps(examples), str(stock_file), *TASKS]
    subprocess.run(stock_call, env=env, check=True, capture_output=True)
    stock = json.loads(stock_file.read_text(encoding="utf-8"))
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["variants"][0]["scoring"].startswith("prefix trees")
    largest, changed, requests = 0.0, 0, 0
    for task in TASKS:
        records = read_records(tmp_path / "out" / "records" / "base" / f"{task}.parquet")
        for record, expected in zip(records, stock["rows"][task], strict=True):
            found = [response.loglikelihood for response in record.responses]
            gaps = [abs(float(a or 0) - b[0]) for a, b in zip(found, expected, strict=True)]
            largest, requests = max(largest, *gaps), requests + len(gaps)
            changed += max(range(len(found)), key=found.__getitem__) != max(  # type: ignore[arg-type]
                range(len(expected)), key=[b[0] for b in expected].__getitem__
            )
        cell = next(cell for cell in results["cells"] if cell["task"] == task)
        expected_scores = {metric: (value, 1e-9) for metric, value in stock["scores"][task].items()}
        expected_scores[f"{MARGIN},none"] = mean_margin(task, stock["docs"][task], stock["rows"][task]), 2 * TOLERANCE
        found_scores = {f"{score['metric']},{score['filter']}": score["value"] for score in cell["scores"]}
        assert found_scores.keys() == {name for name in expected_scores if "_stderr" not in name}
        for name, value in found_scores.items():
            assert value == pytest.approx(expected_scores[name][0], abs=expected_scores[name][1])
    print(f"{shots}-shot, {requests} requests: largest difference {largest:.2e} nats, {changed} answers changed")
    assert largest < TOLERANCE
    assert changed == 0
