"""Asking one variant all its cells: by which engine, in which order, and in which form of its weights."""

from __future__ import annotations

import time

import torch

from ..adapters.quantize import dequantize_once, dequantized_bytes
from ..adapters.variants import Variant
from ..errors import UserError
from .cell_run import ask
from .engine.budget import free_bytes, token_budget
from .engine.plain import PlainEngine
from .engine.requests import Prepared, ScoringRequests
from .engine.scoring import TreeEngine
from .engine.support import why_not_trees
from .finishing import Finisher
from .memory import PeakMemory
from .progress import RunProgress
from .results import CellResult, RealForm, VariantInfo
from .run_folder import DiskError, RunFolder
from .suite import Suite
from .tasks import BuiltTask

_SPARE = 2 * 2**30  # bytes that stay free beside weights that are dequantised


class VariantRun:
    """One variant on the device, with the engine that serves it.

    Args:
        variant: the model.
        info: the manifest's entry; how it was scored is filled in.
        suite: for the engine's settings and the seeds.
        device: where the model is.
        prepared: encoded requests, shared by all variants of the tokenizer.
        progress: the terminal.
    """

    def __init__(
        self,
        variant: Variant,
        info: VariantInfo,
        suite: Suite,
        device: torch.device,
        prepared: Prepared,
        progress: RunProgress,
    ) -> None:
        self.variant = variant
        self.info = info
        self.suite = suite
        self.device = device
        self.progress = progress
        why = "the suite says so" if suite.engine.scoring == "plain" else why_not_trees(variant.model)
        self.engine = (PlainEngine if why else TreeEngine)(
            variant.model,
            variant.tokenizer,
            max_length=suite.base.max_length,
            batch_tokens=suite.engine.batch_tokens or token_budget(variant.model, device),
            prepared=prepared,
        )
        self._why_plain = why
        if device.type == "cuda":
            self.engine.warm_up()

    def run(
        self, waiting: list[BuiltTask], cells: dict[str, CellResult], folder: RunFolder, finisher: Finisher
    ) -> None:
        """Ask every waiting task; what follows the answers is the finisher's.

        Args:
            waiting: the tasks that have no records yet.
            cells: task name -> its cell.
            folder: for the journals.
            finisher: takes the answers.

        Raises:
            DiskError: when a journal or an earlier cell cannot be written.
        """
        # Generation runs on the weights as they ship; scoring may go on to their dequantised form.
        generating, scoring = _split(waiting)
        for built in generating:
            self._ask(built, cells[built.info.name], folder, finisher)
        if scoring:
            self._dequantize(scoring[0])
        for built in scoring:
            self._ask(built, cells[built.info.name], folder, finisher)
        self._describe()

    def _ask(self, built: BuiltTask, cell: CellResult, folder: RunFolder, finisher: Finisher) -> None:
        try:
            responses = ask(
                self.engine,
                built,
                cell,
                journal=folder.journal(cell.variant, cell.task),
                suite=self.suite,
                device=self.device,
                progress=self.progress,
            )
        except DiskError:
            raise
        except UserError as error:
            finisher.failed(cell, str(error))
        except torch.OutOfMemoryError:
            what = "the device ran out of memory even for one item; lower base.max_length or use a smaller model"
            finisher.failed(cell, what)
        except Exception as error:
            finisher.failed(cell, finisher.bug(f"{cell.variant} · {cell.task}", error))
        else:
            finisher.finish(cell, built, responses)

    def _dequantize(self, first: BuiltTask) -> None:
        """Go on with dequantised weights, where that is faster and there is room, after measuring the real ones."""
        needed = dequantized_bytes(self.variant.model)
        free = free_bytes(self.device)
        if not self.suite.engine.dequantize_once or not needed or free is None or free < needed + _SPARE:
            return
        self.info.real_form = self._measured(first)
        dequantize_once(self.variant.model)

    def _measured(self, built: BuiltTask) -> RealForm:
        """Time and memory of one full forward of scoring, with the weights as they ship."""
        everything = built.requests
        kind = everything[0].request_type
        prepared = self.engine.prepare(kind, [r.args for r in everything if r.request_type == kind])
        plan = prepared.plan
        asked = [prepared.items[plan.members[i][0]] for i in range(plan.end(self.engine.batch_tokens, 0))]
        sample = ScoringRequests(asked, list(range(len(asked))))
        _ = sample.plan
        with PeakMemory(self.device) as memory:
            started = time.perf_counter()
            for _ in self.engine.score_all(sample):
                pass
            seconds = time.perf_counter() - started
        tokens = sum(len(item.inputs) for item in asked)
        return RealForm(tokens_in=tokens, seconds=round(seconds, 4), peak_memory_bytes=memory.bytes)

    def _describe(self) -> None:
        """Say in the manifest how log-likelihoods were computed."""
        why = self._why_plain or getattr(self.engine, "fallback", None)
        how = f"plain: {why}" if why else "prefix trees"
        if self.info.real_form is not None:
            how += ", 4-bit weights dequantised once"
        self.info.scoring = f"{how}, {self.engine.batch_tokens:,} tokens a forward"


def _split(tasks: list[BuiltTask]) -> tuple[list[BuiltTask], list[BuiltTask]]:
    """Tasks that generate, and tasks that only score."""
    generating = [t for t in tasks if any(r.request_type == "generate_until" for r in t.requests)]
    return generating, [task for task in tasks if task not in generating]
