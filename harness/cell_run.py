"""Asking one cell: every request of a task that its journal does not hold yet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from .engine.base import Engine
from .engine.response import Response
from .journal import Journal
from .memory import PeakMemory
from .plan import request_seeds
from .progress import RunProgress
from .results import CellResult
from .run_folder import disk_errors
from .suite import Suite
from .tasks import BuiltTask


def ask(
    engine: Engine,
    built: BuiltTask,
    cell: CellResult,
    *,
    journal: Path,
    suite: Suite,
    device: torch.device,
    progress: RunProgress,
) -> list[Response]:
    """Answer every request of a task with an engine.

    Args:
        engine: around the variant's model.
        built: the task with its requests.
        cell: its seconds are added to, and its peak memory is filled in; encoding and planning do not count.
        journal: where responses are kept until the records are written.
        suite: for the seeds.
        device: for the memory count.
        progress: the terminal.

    Returns:
        One response per request, in the task's order.

    Raises:
        UserError: when the disk is full or cannot be written.
    """
    requests = built.requests
    seeds = request_seeds(built, suite.seeds.generation)
    with disk_errors(journal), Journal(journal, str(cell.cell_hash)) as kept, PeakMemory(device) as memory:
        missing = [i for i in range(len(requests)) if i not in kept.found]
        groups = _by_type(requests, missing)
        for members in groups:
            engine.plan_ahead([requests[i] for i in members])
        with progress.bar(f"{cell.variant} · {cell.task}", len(requests)) as bar:
            bar.advance(len(requests) - len(missing))
            started = time.perf_counter()
            for position, response in _answers(engine, requests, seeds, groups):
                kept.append(position, response)
                bar.advance()
            cell.seconds = round(cell.seconds + time.perf_counter() - started, 4)
    cell.peak_memory_bytes = max(memory.bytes or 0, cell.peak_memory_bytes or 0) or None
    return [kept.found[i] for i in range(len(requests))]


def _by_type(requests: list[Any], missing: list[int]) -> list[list[int]]:
    """Positions of the missing requests, one list for each request type."""
    by_type: dict[str, list[int]] = {}
    for i in missing:
        by_type.setdefault(requests[i].request_type, []).append(i)
    return list(by_type.values())


def _answers(
    engine: Engine, requests: list[Any], seeds: list[int], groups: list[list[int]]
) -> Iterator[tuple[int, Response]]:
    """Ask the missing requests, one type at a time; positions are those of `requests`."""
    for members in groups:
        found = engine.answers([requests[i] for i in members], [seeds[i] for i in members])
        for position, response in found:
            yield members[position], response
