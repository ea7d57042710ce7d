"""Running one cell: asking a variant every request of a task that its journal does not hold yet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..adapters.variants import Variant
from .cells import make_records
from .engine.base import Engine
from .engine.plain import PlainEngine
from .engine.response import Response
from .journal import Journal
from .memory import PeakMemory
from .plan import request_seeds
from .progress import RunProgress
from .records import Record
from .results import CellResult
from .run_folder import disk_errors
from .suite import Suite
from .tasks import BuiltTask


def run_cell(
    variant: Variant,
    built: BuiltTask,
    cell: CellResult,
    *,
    journal: Path,
    suite: Suite,
    batch_tokens: int,
    device: torch.device,
    progress: RunProgress,
) -> list[Record]:
    """Answer a task with a variant.

    Args:
        variant: the model.
        built: the task with its requests.
        cell: its seconds and peak memory are filled in.
        journal: where responses are kept until the records are written.
        suite: for seeds, context length and what is kept.
        batch_tokens: tokens of one forward.
        device: for the memory count.
        progress: the terminal.

    Returns:
        One record per item, in the task's order.

    Raises:
        UserError: when the disk is full or cannot be written.
    """
    engine = PlainEngine(variant.model, variant.tokenizer, max_length=suite.base.max_length, batch_tokens=batch_tokens)
    if device.type == "cuda":
        engine.warm_up()
    requests = built.requests
    seeds = request_seeds(built, suite.seeds.generation)
    label = f"{variant.spec.name} · {built.info.name}"
    with disk_errors(journal), Journal(journal, str(cell.cell_hash)) as kept, PeakMemory(device) as memory:
        missing = [i for i in range(len(requests)) if i not in kept.found]
        with progress.bar(label, len(requests)) as bar:
            bar.advance(len(requests) - len(missing))
            started = time.perf_counter()
            for position, response in _answers(engine, requests, seeds, missing):
                kept.append(position, response)
                bar.advance()
            cell.seconds = round(time.perf_counter() - started, 4)
        responses = [kept.found[i] for i in range(len(requests))]
    cell.peak_memory_bytes = memory.bytes
    return make_records(built, variant.spec.name, responses, seconds=cell.seconds, keep_prompts=suite.output.prompts)


def _answers(
    engine: Engine, requests: list[Any], seeds: list[int], missing: list[int]
) -> Iterator[tuple[int, Response]]:
    """Ask the missing requests, one type at a time; positions are those of `requests`."""
    by_type: dict[str, list[int]] = {}
    for i in missing:
        by_type.setdefault(requests[i].request_type, []).append(i)
    for members in by_type.values():
        found = engine.answers([requests[i] for i in members], [seeds[i] for i in members])
        for position, response in found:
            yield members[position], response
