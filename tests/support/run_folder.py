"""A run folder made without a model, through the real writers: 3 variants, 3 tasks, hostile strings."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from phibench.harness.records import MetricValue, Record, Response, write_records
from phibench.harness.results import (
    AdapterInfo,
    CellResult,
    Contamination,
    FileHash,
    Manifest,
    MetricInfo,
    Results,
    Score,
    TaskInfo,
    VariantInfo,
    read_manifest,
    read_results,
    write_model,
)

VARIANTS = ("base", "adapter-nf4", "merged")
TASKS = ("arc_easy", "dialogsum", "wikitext")
SCRIPT = "<script>alert(1)</script>"
IMAGE = "![x](http://evil.example/pixel.png)"
HOSTILE = (
    SCRIPT,
    "a | pipe \\| and a `backtick` and ```` four ````",
    IMAGE,
    "two\nlines\r\nthree\n\n# no heading\n</details>",
    "@octocat see #12 and https://evil.example or www.evil.example <img src=http://evil.example/a.png>",
    "\u202eflip\u202c, \u0645\u0631\u062d \u05e9\u05dc\u05d5\u05dd, \U0001f469\u200d\U0001f680\x00\x1b[31m",
    "very long " * 400 + "END",
)
_METRICS = {
    "arc_easy": [("acc", "mean", True), ("acc_norm", "mean", True)],
    "dialogsum": [("rouge1", "mean", True), ("bleu", "bleu", True), ("stopped", "mean", True)],
    "wikitext": [
        ("word_perplexity", "weighted_perplexity", False),
        ("bits_per_byte", "bits_per_byte", False),
    ],
}
_HEADLINES = {"arc_easy": ["acc"], "dialogsum": ["rouge1", "stopped"], "wikitext": ["word_perplexity"]}
_OUTPUT_TYPES = {
    "arc_easy": "multiple_choice",
    "dialogsum": "generate_until",
    "wikitext": "loglikelihood_rolling",
}


def write_run_folder(run_dir: Path, items: int = 60) -> Path:
    """Write manifest, results and records of a finished run.

    On arc_easy the adapter is clearly better than the base and the merged model about the same; on
    wikitext the adapter is clearly worse; dialogsum's texts hold the hostile strings.
    """
    cells = []
    for variant in VARIANTS:
        for task in TASKS:
            records = [_MAKERS[task](variant, item) for item in range(items)]
            path = f"records/{variant}/{task}.parquet"
            write_records(run_dir / path, records)
            cells.append(_cell(variant, task, path, records))
    write_model(run_dir / "results.json", Results(cells=cells))
    write_model(run_dir / "manifest.json", _manifest(items))
    return run_dir


def edit_manifest(run_dir: Path, **changes: Any) -> None:
    """Write the manifest again with some fields changed."""
    write_model(run_dir / "manifest.json", read_manifest(run_dir).model_copy(update=changes))


def overlapping(adapter: AdapterInfo, text: str) -> AdapterInfo:
    """The adapter under the name `text`, with items and training rows of that name that overlap."""
    found = Contamination(
        task=text,
        words=13,
        rows=9,
        items=9,
        items_checked=8,
        overlapping_items=9,
        item_ids=[text, "b"],
        overlapping_rows=2,
        row_names=["a", text],
        longest=13,
        example=text,
    )
    return adapter.model_copy(update={"name": text, "contamination": [found]})


def edit_cell(run_dir: Path, variant: str, task: str, **changes: Any) -> None:
    """Write the results again with some fields of one cell changed."""
    cells = [
        cell.model_copy(update=changes) if (cell.variant, cell.task) == (variant, task) else cell
        for cell in read_results(run_dir).cells
    ]
    write_model(run_dir / "results.json", Results(cells=cells))


def drop_cells(run_dir: Path, keep: Callable[[CellResult], bool]) -> None:
    """Write the results again with only the cells that `keep` accepts."""
    write_model(run_dir / "results.json", Results(cells=[c for c in read_results(run_dir).cells if keep(c)]))


def _record(variant: str, task: str, item: int, **fields: Any) -> Record:
    document = hashlib.sha256(f"{task} {item}".encode()).hexdigest()
    return Record(
        variant=variant,
        task=task,
        item=item,
        item_id=f"{task}-{item}" if item % 2 else None,
        item_hash=document,
        prompt_hash=document[::-1],
        seconds=0.05,
        **fields,
    )


def _chance(*parts: object) -> random.Random:
    return random.Random(":".join(map(str, parts)))


def _arc_easy(variant: str, item: int) -> Record:
    """A choice of four; the first choices carry hostile strings."""
    gold = item % 4
    is_right = _chance("arc", item).random() < 0.45
    if variant == "adapter-nf4":
        is_right = is_right or item % 3 == 0
    if variant == "merged" and item in (1, 2, 4, 5):
        is_right = not is_right
    taken = gold if is_right else (gold + 1) % 4
    choices = [f" the {word} answer" for word in ("first", "second", "third", "fourth")]
    choices[item % 4] += " " + HOSTILE[item % len(HOSTILE)]
    likely = [-9.0 - index for index in range(4)]
    likely[taken] = -2.0 - item / 100
    per_character = [value / len(choice.lstrip()) for value, choice in zip(likely, choices, strict=True)]
    return _record(
        variant,
        "arc_easy",
        item,
        prompt=f"Question: which one is it, {HOSTILE[item % 5]}?\nAnswer:",
        choices=choices,
        target=str(gold),
        responses=[Response(tokens=3, truncated=0, tokens_in=9, loglikelihood=v, is_greedy=False) for v in likely],
        metrics=[
            MetricValue("acc", "none", float(is_right)),
            MetricValue("acc_norm", "none", float(per_character.index(max(per_character)) == gold)),
        ],
    )


def _dialogsum(variant: str, item: int) -> Record:
    """A generation whose text and prompt are hostile strings."""
    lift = {"base": 0.0, "adapter-nf4": 0.06, "merged": 0.055}[variant]
    rouge = round(0.2 + lift + _chance("rouge", variant, item).random() / 4, 4)
    stop = "length" if variant == "base" else "eos"
    text = f"{variant} says of {item}: {HOSTILE[item % len(HOSTILE)]}"
    metrics = [
        MetricValue("rouge1", "none", rouge),
        MetricValue("bleu", "none", None, '["a reference", "a text"]'),
        MetricValue("stopped", "none", float(stop == "eos")),
    ]
    return _record(
        variant,
        "dialogsum",
        item,
        prompt=f"Summarise.\n\n#Person1#: {HOSTILE[(item + 1) % len(HOSTILE)]}\n\nSummary:",
        choices=[],
        target=f"{HOSTILE[5]}: a summary of {HOSTILE[(item + 2) % len(HOSTILE)]}",  # in whichever examples are shown
        responses=[Response(tokens=20, truncated=int(item == 3) * 7, tokens_in=80, text=text, stop=stop)],
        metrics=metrics,
    )


def _wikitext(variant: str, item: int) -> Record:
    words = 50 + item
    worse = {"base": 0.0, "adapter-nf4": 0.2, "merged": 0.0}[variant]
    per_word = 2.5 + worse + _chance("wiki", item).random() + _chance("wiki", variant, item).random() / 10
    loglikelihood = -per_word * words
    return _record(
        variant,
        "wikitext",
        item,
        prompt="",
        choices=[],
        target="",
        responses=[Response(tokens=words, truncated=0, tokens_in=words, loglikelihood=loglikelihood, is_greedy=False)],
        metrics=[
            MetricValue("word_perplexity", "none", None, f"[{loglikelihood}, {words}]"),
            MetricValue("bits_per_byte", "none", None, f"[{loglikelihood}, {words * 5}]"),
        ],
    )


_MAKERS = {"arc_easy": _arc_easy, "dialogsum": _dialogsum, "wikitext": _wikitext}


def _cell(variant: str, task: str, path: str, records: list[Record]) -> CellResult:
    responses = [response for record in records for response in record.responses]
    stops = [response.stop for response in responses if response.stop]
    return CellResult(
        variant=variant,
        task=task,
        status="done",
        cell_hash=hashlib.sha256(path.encode()).hexdigest(),
        records=path,
        items=len(records),
        requests=len(responses),
        tokens_in=sum(response.tokens_in for response in responses),
        tokens_out=sum(response.tokens for response in responses),
        truncated_items=sum(any(response.truncated for response in record.responses) for record in records),
        truncated_tokens=sum(response.truncated for response in responses),
        stops={stop: stops.count(stop) for stop in dict.fromkeys(stops)},
        seconds=sum(record.seconds for record in records),
        peak_memory_bytes=(6 if variant != "adapter-nf4" else 3) * 2**29 - (2**28 if task == "wikitext" else 0),
        scores=[_score(records, *metric) for metric in _METRICS[task]],
    )


def _score(records: list[Record], metric: str, aggregation: str, higher_is_better: bool) -> Score:
    units = [value.unit() for record in records for value in record.metrics if value.name == metric]
    stderr = None
    if aggregation == "mean":
        value = sum(units) / len(units)
        stderr = math.sqrt(sum((unit - value) ** 2 for unit in units) / (len(units) - 1) / len(units))
    elif aggregation == "bleu":
        value = 31.4
    else:
        surprise = -sum(unit[0] for unit in units) / sum(unit[1] for unit in units)
        value = math.exp(surprise) if aggregation == "weighted_perplexity" else surprise / math.log(2)
    return Score(
        metric=metric,
        filter="none",
        value=value,
        stderr=stderr,
        higher_is_better=higher_is_better,
        aggregation=aggregation,
        items=len(units),
    )


def _task(name: str, items: int) -> TaskInfo:
    return TaskInfo(
        name=name,
        output_type=_OUTPUT_TYPES[name],
        version="1.0",
        num_fewshot=0,
        items=items,
        requests=items * (4 if name == "arc_easy" else 1),
        dataset=f"example/{name}",
        config_hash=hashlib.sha256(name.encode()).hexdigest(),
        data_files=[FileHash(path=f"data/{name}|{SCRIPT}.jsonl", sha256=hashlib.sha256(b"data").hexdigest())],
        metrics=[
            MetricInfo(
                name=metric,
                filter="none",
                aggregation=aggregation,
                higher_is_better=higher_is_better,
                share=metric.startswith(("acc", "rouge")),
            )
            for metric, aggregation, higher_is_better in _METRICS[name]
        ],
        headline=_HEADLINES[name],
    )


def _variant(name: str) -> VariantInfo:
    return VariantInfo(
        name=name,
        kind=name,
        adapter=None if name == "base" else "summaries",
        quantization="nf4" if name.endswith("nf4") else None,
        merge="merged" if name == "merged" else "none",
        identity=hashlib.sha256(name.encode()).hexdigest(),
        model_bytes=5_560_000_000 if not name.endswith("nf4") else 1_830_000_000,
        load_seconds={"base": 0.0, "adapter-nf4": 12.3, "merged": 200.4}[name],
    )


def _manifest(items: int) -> Manifest:
    curve = [
        {
            "step": step,
            "loss": 2.5 * math.exp(-step / 200) + 1.0,
            "eval_loss": 1.9 - step / 1000 if step % 100 == 0 else None,
        }
        for step in range(10, 501, 10)
    ]
    return Manifest(
        phibench_version="0.1.0",
        name=f"Summaries adapter {SCRIPT} | {IMAGE}",
        model="owner/small-model",
        description=f"Does the adapter keep what the base knows? {HOSTILE[4]}",
        suite={"name": "summaries", "tasks": list(TASKS), "note": HOSTILE[3]},
        suite_file=FileHash(path="suites/summaries.toml", sha256=hashlib.sha256(b"suite").hexdigest()),
        options={"limit": items},
        baseline="base",
        started="2025-01-02T03:04:05Z",
        finished="2025-01-02T03:20:00Z",
        status="done",
        seeds={"run": 1234, "fewshot": 1234},
        versions={"python": "3.11.9", "torch": "2.7.0"},
        hardware={
            "device": "cuda:0",
            "accelerator": "Example 80 GB",
            "accelerator_memory_bytes": 85_000_000_000,
        },
        variants=[_variant(name) for name in VARIANTS],
        adapters=[
            AdapterInfo(
                name="summaries",
                source="./adapters/summaries",
                method="LORA",
                sha256=hashlib.sha256(b"adapter").hexdigest(),
                parameters=7_864_320,
                training={"learning_rate": 0.0002, "seed": 1234, "dataset": HOSTILE[1], "curve": curve},
            )
        ],
        tasks=[_task(name, items) for name in TASKS],
        chosen=["attention: sdpa, the fastest that this device offers", "batch: 16,384 tokens"],
        warnings=[f"the tokenizer has no pad token {HOSTILE[4]}"],
    )
