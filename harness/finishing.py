"""What follows a cell's last answer: records, metrics, scores; in a thread of its own, while the device goes on."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from ..errors import UserError
from .cells import fill_costs, make_records, make_scores
from .engine.response import Response
from .progress import RunProgress
from .records import MetricValue, read_records, write_records
from .results import CellResult
from .run_folder import DiskError, RunFolder, disk_errors
from .run_state import RunState
from .tasks import BuiltTask

_log = logging.getLogger(__name__)


class Finisher:
    """Finishes cells one after the other. Use as a context manager: leaving it waits for what was handed in.

    Args:
        state: where finished cells are put.
        folder: where records are written.
        progress: the terminal.
        keep_prompts: whether records keep prompts and choices.

    Raises:
        DiskError: from the next call or on leaving, when a cell could not be written.
    """

    def __init__(self, state: RunState, folder: RunFolder, progress: RunProgress, *, keep_prompts: bool) -> None:
        self._state = state
        self._folder = folder
        self._progress = progress
        self._keep_prompts = keep_prompts
        # One thread: tasks are lm-eval objects that hold the answers they are given.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="finish")
        self._handed_in: list[Future[None]] = []

    def finish(
        self,
        cell: CellResult,
        built: BuiltTask,
        responses: Sequence[Response],
        more: Mapping[int, list[MetricValue]],
    ) -> None:
        """Hand in a cell with all its answers, and what was measured of its items (by their index) beside them."""
        self._check()
        self._handed_in.append(self._thread.submit(self._finish, cell, built, responses, more))

    def wait(self) -> None:
        """Wait until what was handed in is finished: tasks then hold no answers but the caller's."""
        for one in self._handed_in:
            one.result()
        self._handed_in.clear()

    def failed(self, cell: CellResult, error: str) -> None:
        """Put down a cell that could not be answered."""
        self._check()
        self._handed_in.append(self._thread.submit(self._fail, cell, error))

    def bug(self, what: str, error: Exception) -> str:
        """A bug keeps its traceback, on the terminal and in the log; the other cells go on."""
        trace = "".join(traceback.format_exception(error))
        _log.error("%s failed\n%s", what, trace)
        self._progress.say(trace.rstrip(), style="red")
        return f"{type(error).__name__}: {error}"

    def __enter__(self) -> Finisher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True)
        if kind is None:
            self._check()

    def _check(self) -> None:
        """Raise what a finished cell raised: a full disk stops the run."""
        while self._handed_in and self._handed_in[0].done():
            self._handed_in.pop(0).result()

    def _finish(
        self,
        cell: CellResult,
        built: BuiltTask,
        responses: Sequence[Response],
        more: Mapping[int, list[MetricValue]],
    ) -> None:
        path = self._folder.records(cell.variant, cell.task)
        started = time.perf_counter()
        try:
            records = make_records(
                built, cell.variant, responses, more, seconds=cell.seconds, keep_prompts=self._keep_prompts
            )
            with disk_errors(self._folder.path):
                write_records(path, records)
            # Scores come from what was written: what a report reads is what was scored.
            cell.scores = make_scores(built, read_records(path))
            cell.records = self._folder.relative(path)
            fill_costs(cell, records)
            cell.status = "done"
            self._state.put(cell)
            self._state.write()
            self._folder.journal(cell.variant, cell.task).unlink(missing_ok=True)
            self._progress.finished(cell, built.info.headline)
            _log.info("%s · %s: records and scores in %.2f s", cell.variant, cell.task, time.perf_counter() - started)
        except DiskError:
            raise
        except UserError as error:
            self._fail(cell, str(error))
        except Exception as error:
            self._fail(cell, self.bug(f"{cell.variant} · {cell.task}", error))

    def _fail(self, cell: CellResult, error: str) -> None:
        failed = CellResult(variant=cell.variant, task=cell.task, status="failed", error=error)
        self._state.put(failed)
        self._state.write()
        self._progress.finished(failed, [])
