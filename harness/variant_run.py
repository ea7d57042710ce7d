"""Asking one variant all its cells: by which engine, in which order, and in which form of its weights."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

import torch
from torch import nn

from ..adapters.quantize import dequantize_once, dequantized_bytes, put_back
from ..adapters.variants import Variant
from ..errors import UserError
from .cell_run import ask
from .cells import make_records
from .divergence import References
from .early_stopping import EarlyStopping, cannot_be, is_decided
from .engine.attention import Way
from .engine.budget import free_bytes, token_budget
from .engine.plain import PlainEngine
from .engine.requests import Prepared, ScoringRequests
from .engine.response import Response
from .engine.scoring import TreeEngine
from .engine.support import find_way
from .finishing import Finisher
from .memory import PeakMemory
from .progress import RunProgress
from .records import MetricValue, Record
from .results import CellResult, RealForm, VariantInfo
from .run_folder import DiskError, RunFolder
from .suite import Suite
from .tasks import BuiltTask

_log = logging.getLogger(__name__)
_SPARE = 2 * 2**30  # bytes that stay free beside weights that are dequantised


class VariantRun:
    """One variant on the device, with the engine that serves it.

    Args:
        variant: the model.
        waiting: the tasks that have no records yet.
        info: the manifest's entry; how it was scored is filled in.
        suite: for the engine's settings and the seeds.
        device: where the model is.
        prepared: encoded requests, shared by all variants of the tokenizer.
        progress: the terminal.
        references: what divergences are measured from.
        early: which cells may stop before their last item, where the suite's gate says that they may.
    """

    def __init__(
        self,
        variant: Variant,
        waiting: list[BuiltTask],
        info: VariantInfo,
        suite: Suite,
        device: torch.device,
        prepared: Prepared,
        progress: RunProgress,
        references: References,
        early: EarlyStopping | None = None,
    ) -> None:
        self.references = references
        self.early = early
        self.variant = variant
        self.waiting = waiting
        self.info = info
        self.suite = suite
        self.device = device
        self.progress = progress
        way = "the suite says so" if suite.engine.scoring == "plain" else find_way(variant.model)
        self._way = way
        self.engine = (PlainEngine if isinstance(way, str) else TreeEngine)(
            variant.model,
            variant.tokenizer,
            max_length=suite.base.max_length,
            batch_tokens=suite.engine.batch_tokens or token_budget(variant.model, device),
            prepared=prepared,
        )
        if isinstance(self.engine, TreeEngine) and isinstance(way, Way):
            self.engine.way = way
            self.engine.elastic = suite.engine.batch_tokens is None and device.type == "cpu"
        self._once = ""
        if device.type == "cuda":
            self.engine.warm_up(generating=self._generates)

    @cached_property
    def _generates(self) -> bool:
        return any(r.request_type == "generate_until" for built in self.waiting for r in built.requests)

    def run(self, cells: dict[str, CellResult], folder: RunFolder, finisher: Finisher) -> None:
        """Ask every waiting task; what follows the answers is the finisher's.

        Args:
            cells: task name -> its cell.
            folder: for the journals.
            finisher: takes the answers.

        Raises:
            DiskError: when a journal or an earlier cell cannot be written.
        """
        self._dequantize(self.waiting[0])
        for built in self.waiting:
            self._ask(built, cells[built.info.name], folder, finisher)
        self._describe()

    def keep_distributions(self, tasks: list[BuiltTask]) -> None:
        """Take this variant's next-token distributions, from which others' divergences are measured."""
        for built in tasks:
            with self.progress.bar(f"{self.info.name} · {built.info.name}: distributions", None):
                self.references.keep(self.engine, built)

    def _ask(self, built: BuiltTask, cell: CellResult, folder: RunFolder, finisher: Finisher) -> None:
        started = time.perf_counter()
        try:
            if self.early is not None and self.early.may_stop(cell.variant, built):
                finisher.wait()  # its last cell's tasks and records are what the rules are judged by
                built, responses = self._ask_until_decided(self.early, built, cell, folder)
            else:
                responses = self._answers(built, cell, folder)
            more: Mapping[int, list[MetricValue]] = {}
            if built.spec.divergence is not None:
                with self.progress.bar(f"{cell.variant} · {cell.task}: divergence", None):
                    more = self.references.metrics(self.engine, built, cell.variant)
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
            finisher.finish(cell, built, responses, more)
            took = time.perf_counter() - started
            _log.info("%s · %s: asked in %.2f s, %.2f of them answers", cell.variant, cell.task, took, cell.seconds)

    def _answers(self, built: BuiltTask, cell: CellResult, folder: RunFolder) -> list[Response]:
        return ask(
            self.engine,
            built,
            cell,
            journal=folder.journal(cell.variant, cell.task),
            suite=self.suite,
            device=self.device,
            progress=self.progress,
        )

    def _ask_until_decided(
        self, early: EarlyStopping, built: BuiltTask, cell: CellResult, folder: RunFolder
    ) -> tuple[BuiltTask, list[Response]]:
        """Ask items in random order until the gate's rules on the cell are decided; those asked, and their answers."""
        shuffled, records = early.shuffled(built), list[Record]()
        for count in early.looks(len(shuffled.items)):
            asked = replace(shuffled, items=shuffled.items[:count])
            responses = self._answers(asked, cell, folder)
            new = replace(shuffled, items=shuffled.items[len(records) : count])
            answers = responses[len(responses) - len(new.requests) :]
            records += make_records(new, cell.variant, answers, {}, seconds=0.0, keep_prompts=False)
            checks = early.checks(cell, records)
            if cannot_be(checks):  # however many are asked: all of them, then, and judged as any other cell
                return shuffled, self._answers(shuffled, cell, folder)
            if is_decided(checks):
                break
        cell.stopped_early = True  # it was looked at, though all may have been asked
        return asked, responses

    def _dequantize(self, first: BuiltTask) -> None:
        """Go on with dequantised weights, where there is room, if a full forward gives the same bits with them.

        The real form is measured before. Whatever goes wrong here leaves the real form, and goes wrong again, and is
        said, where the cell is asked.
        """
        model, wanted = self.variant.model, self.suite.engine.dequantize_once
        needed, free = dequantized_bytes(model) if wanted else 0, free_bytes(self.device)
        if not needed or free is None or free < needed + _SPARE:
            return
        replaced: dict[str, nn.Module] = {}
        try:
            sample = self._sample(first)
            real, form = self._measured(sample)
            replaced = dequantize_once(model)
            once = dict(self.engine.score_all(sample))
        except Exception as error:
            _log.info("weights stay as they are: %s", error)
            put_back(model, replaced)
            return
        if once == real:
            self.info.real_form = form
            self._once = f", 4-bit weights dequantised once (the same bits for {len(real)} requests)"
        else:
            put_back(model, replaced)
            self._once = ", 4-bit weights as they are (dequantised ones give other bits)"

    def _sample(self, built: BuiltTask) -> ScoringRequests:
        """One full forward of a task's requests."""
        everything = built.requests
        kind = everything[0].request_type
        arguments = [r.args for r in everything if r.request_type == kind]
        if kind == "generate_until":  # the prompts themselves
            kind, arguments = "loglikelihood_rolling", [(args[0],) for args in arguments]
        prepared = self.engine.prepare(kind, arguments)
        plan = prepared.plan
        asked = [prepared.items[plan.members[i][0]] for i in range(plan.end(self.engine.batch_tokens, 0))]
        return ScoringRequests(asked, list(range(len(asked))))

    def _measured(self, sample: ScoringRequests) -> tuple[dict[int, Response], RealForm]:
        """The answers to a sample by the weights as they ship, and what they take; the first time is not counted."""
        answers = dict(self.engine.score_all(sample))
        with PeakMemory(self.device) as memory:
            started = time.perf_counter()
            for _ in self.engine.score_all(sample):
                pass
            seconds = time.perf_counter() - started
        tokens = sum(len(item.inputs) for item in sample.items)
        return answers, RealForm(tokens_in=tokens, seconds=round(seconds, 4), peak_memory_bytes=memory.bytes)

    def _describe(self) -> None:
        """Say in the manifest how log-likelihoods were computed and texts generated."""
        fallback = getattr(self.engine, "fallback", None)
        why = self._way if isinstance(self._way, str) else fallback
        how = f"plain: {why}" if why else "prefix trees"
        if isinstance(self._way, Way) and not self._way.fused:
            how += ", layers as the libraries have them (fewer kernels gave other numbers)"
        self.info.scoring = f"{how}{self._once}, {self.engine.batch_tokens:,} tokens a forward"
        if self._generates:
            ours = isinstance(self.engine, TreeEngine)
            self.info.generation = self.engine.texts_by() if ours else f"plain: {self._way}"
            _log.info("%s: texts %s", self.info.name, self.info.generation)
