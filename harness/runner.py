"""The runner: from a suite to a run folder, cell by cell; nothing finished is lost."""

from __future__ import annotations

import contextlib
import copy
import gc
import importlib
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from .. import __version__
from ..adapters.adapter_files import AdapterFiles
from ..adapters.base import LoadedBase, load_base, pin_ahead
from ..adapters.identity import base_parts, tokenizer_hash
from ..adapters.spec import VariantSpec
from ..adapters.variants import VariantFactory
from ..errors import UserError
from ..files import sha256_json
from .built_tasks import BuiltTasks
from .cell_hashes import cell_hashes
from .claims import refuse_unmeasured
from .contract import folder_breaches, suite_breaches, token_names
from .divergence import References
from .early_stopping import EarlyStopping
from .engine.base import context_length
from .engine.requests import Encoder, Prepared
from .environment import choose_device, hardware, versions
from .finishing import Finisher
from .gate.limits import limit_notes
from .gate.names import refuse_unmeasured as refuse_unmeasured_rules
from .gate.run import opened
from .plan import RunOptions, select, suite_hash
from .progress import RunProgress
from .prompt_pairs import other_prompts
from .results import CellResult, FileHash, Manifest, TaskInfo, VariantInfo
from .run_adapters import RunAdapters
from .run_folder import RunFolder
from .run_state import RunState, now
from .slice_fields import refuse_unknown_slices
from .suite_file import SuiteFile
from .tasks import BuiltTask, load_tasks
from .variant_run import VariantRun
from .weight_error import weight_error

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a run ended: counts of cells."""

    done: int
    failed: int
    pending: int  # not asked for by this invocation, or not reached


class Runner:
    """Runs one suite into one folder.

    Args:
        file: the suite as read.
        options: what the command line says beside it.
        folder: where the run goes; the caller holds its lock.
        progress: the terminal.
        weights: the hash of the base's files, where it is being made already.
    """

    def __init__(
        self,
        file: SuiteFile,
        options: RunOptions,
        folder: RunFolder,
        progress: RunProgress,
        weights: Future[str | None] | None = None,
    ) -> None:
        self._weights = weights
        self.suite = file.suite
        self.options = options
        self.folder = folder
        self.progress = progress
        self.selection = select(file.suite, options.only)
        self.device = choose_device(options.device or file.suite.engine.device)
        self.state = RunState(folder, self._manifest(file))
        self._prepared: defaultdict[str, Prepared] = defaultdict(Prepared)  # encoded requests, by tokenizer
        self._references = References()
        self._early: EarlyStopping | None = None
        self._adapters = RunAdapters(progress, self.device, seed=file.suite.seeds.training, offline=options.offline)

    def run(self) -> Outcome:
        """Run every selected cell that is not there yet.

        Raises:
            UserError: for anything about the suite that keeps the whole run from working.
            KeyboardInterrupt: handed on, after what is finished was written.
        """
        try:
            self._warn(suite_breaches(self.suite))
            with self._said("reading tasks and data"):
                loaded = load_tasks(self.suite, self.selection.tasks)
            self._tasks = BuiltTasks(self.suite, loaded, self.options.limit, self._said)
            with self._said(f"loading {self.suite.base.model}"):
                base = load_base(self.suite.base, offline=self.options.offline, weights=self._weights)
            pinned = pin_ahead(base.model) if self.device.type == "cuda" else None
            self._choose(base)
            tasks = self._tasks.all(base.tokenizer)
            refuse_unmeasured(self.suite.claims, [built.info for built in tasks])
            measured = {built.info.name: built.info.metrics for built in tasks}
            refuse_unmeasured_rules(self.suite.gate, measured, whole=not self.options.only)
            self._warn(limit_notes(self.suite.gate, [built.info for built in tasks]))
            if not self.options.only:  # the others may have them
                refuse_unknown_slices(self.suite.statistics.slices, tasks)
            self._work_ahead(base, tasks)
            adapters = self._find_adapters(base)
            weights = base_parts(base)["base"] if adapters else None
            with self._said("preparing the base"):
                factory = VariantFactory(base, self.suite.quantizations, adapters, self.device)
            for files in adapters.values():
                self._warn(self._breaches(factory, files, weights))
            self._announce(factory)
            with self._said("page-locking the base"):
                if pinned:
                    pinned.result()
            # What stands by now stays to the end: the collector need not look through it again and again.
            gc.collect()
            gc.freeze()
            keep_prompts = self.suite.output.prompts
            with Finisher(self.state, self.folder, self.progress, keep_prompts=keep_prompts) as finisher:
                early, order = self._early, self.selection.order
                if early is not None:
                    order = sorted(order, key=lambda spec: not early.is_needed(spec.name))
                for spec in order:
                    self._run_variant(factory, spec, finisher)
        except KeyboardInterrupt:
            self.state.manifest.status = "interrupted"
            raise
        finally:
            gc.unfreeze()
            self.state.finish()
        return Outcome(self.state.count("done"), self.state.count("failed"), self.state.count("pending"))

    # ---- before the first cell

    def _manifest(self, file: SuiteFile) -> Manifest:
        suite = self.suite
        return Manifest(
            phibench_version=__version__,
            name=suite.name,
            description=suite.description,
            model=suite.base.model,
            suite=suite.model_dump(mode="json"),
            suite_file=FileHash(path=str(file.path), sha256=file.sha256),
            digest=suite_hash(suite, self.options.limit),
            options={"limit": self.options.limit, "offline": self.options.offline},
            baseline=suite.baseline_name(),
            started=now(),
            seeds=suite.seeds.model_dump(),
            versions=versions(),
            hardware=hardware(self.device),
        )

    def _choose(self, base: LoadedBase) -> None:
        """Say what was chosen for the user."""
        suite = self.suite
        chosen = self.state.manifest.chosen
        if (self.options.device or suite.engine.device) == "auto":
            chosen.append(f"device: {self.device}")
        if suite.base.dtype == "auto":
            chosen.append(f"dtype: {str(base.dtype).removeprefix('torch.')}, the base's own")
        chosen.append(f"attention: {base.model.config._attn_implementation}")
        for name, quantization in suite.quantizations.items():
            if quantization.load_in_4bit and quantization.bnb_4bit_compute_dtype is None:
                chosen.append(f"quantizations.{name}: bnb_4bit_compute_dtype is the base's dtype")

    def _work_ahead(self, base: LoadedBase, tasks: list[BuiltTask]) -> None:
        """Beside what comes first (hashing, training, copying to the device): encode and plan what will be scored."""
        # A copy: a fast tokenizer that two threads use at once fails ("Already borrowed").
        encoder, prepared = Encoder(copy.deepcopy(base.tokenizer)), self._prepared[tokenizer_hash(base.tokenizer)]
        length = self.suite.base.max_length or context_length(base.model.config, base.tokenizer)

        def work() -> None:
            with contextlib.suppress(Exception):  # it goes wrong again where it is asked for, and is said there
                for built in tasks:
                    requests = built.requests
                    kinds = {request.request_type for request in requests}
                    if len(kinds) == 1 and (kind := kinds.pop()).startswith("loglikelihood"):
                        prepared.get(encoder, kind, [request.args for request in requests], length)
                if any(variant.adapter for variant in self.selection.order):
                    importlib.import_module("peft")  # takes seconds, and the first variants may have no adapter

        threading.Thread(target=work, name="ahead", daemon=True).start()

    def _find_adapters(self, base: LoadedBase) -> dict[str, AdapterFiles]:
        """Find, train or draw the adapters that the selected variants need."""
        used = {variant.adapter for variant in self.selection.order if variant.adapter}
        used |= {self.suite.adapters[name].null_of or name for name in used}
        wanted = {name: spec for name, spec in self.suite.adapters.items() if name in used}
        self._adapters.find(wanted, base, self._tasks.all(base.tokenizer))
        self.state.manifest.adapters += self._adapters.infos
        return self._adapters.found

    def _breaches(self, factory: VariantFactory, files: AdapterFiles, weights: str | None) -> list[str]:
        """Where the suite asks an adapter otherwise than it was trained, now that base and tokenizer are there."""
        base, tokenizer = factory.base, factory.tokenizer(VariantSpec(name="adapter", adapter=files.name))
        wraps = bool(self.suite.base.chat_template and tokenizer.chat_template)
        return folder_breaches(
            self.suite,
            files.name,
            files.folder,
            weights,
            tokens=None if files.has_tokenizer else token_names(base.tokenizer),
            modules={module.rpartition(".")[2] for module, _ in base.model.named_modules()},
            template=sha256_json(tokenizer.chat_template) if wraps else None,
            context=context_length(base.model.config, tokenizer),
        )

    def _warn(self, notes: list[str]) -> None:
        """Say what a suite's author should know of it, and keep it for the report; once."""
        for note in notes:
            if note not in self.state.warnings:
                self.state.warnings.append(note)
                self.progress.say(f"warning: {note}", style="yellow")

    def _announce(self, factory: VariantFactory) -> None:
        """List every variant and task, and find out which cells are already there."""
        selected = {spec.name for spec in self.selection.variants}
        made = {spec.name for spec in self.selection.order}
        infos = []
        asked: list[tuple[VariantSpec, BuiltTask]] = []
        for spec in self.suite.all_variants():
            info = VariantInfo(
                name=spec.name, kind=spec.kind, adapter=spec.adapter, quantization=spec.quantization, merge=spec.merge
            )
            if spec.name in made and spec.adapter not in self._adapters.untrained:
                info.parts = factory.parts(spec)
                info.identity = sha256_json(info.parts)
            if spec.name in selected and spec.adapter not in self._adapters.untrained:
                asked += [(spec, built) for built in self._tasks.asked(factory.tokenizer(spec), spec.name)]
            infos.append(info)
        first = next((spec for spec in self.selection.variants if spec.adapter not in self._adapters.untrained), None)
        tokenizer = factory.base.tokenizer if first is None else factory.tokenizer(first)
        tasks = [built.info for built in self._tasks.all(tokenizer)]
        self._warn_of_prompts(factory, asked)
        self._early = self._early_stopping(infos, tasks)
        if self._early is not None:
            self._warn(self._early.notes([(spec.name, built) for spec, built in asked]))
        self._hashes = cell_hashes(
            self.suite,
            factory,
            asked,
            early=self._early,
            untrained=self._adapters.untrained,
            device=self.device.type,
        )
        self.state.announce(infos, tasks, self._hashes)

    def _warn_of_prompts(self, factory: VariantFactory, asked: list[tuple[VariantSpec, BuiltTask]]) -> None:
        """Say where variants that are compared item by item are not asked the same."""
        name = self.suite.baseline_name()
        baseline = next(spec for spec in self.suite.all_variants() if spec.name == name)
        if baseline.adapter is not None and baseline.adapter not in self._adapters.found:
            return
        base = self._tasks.all(factory.tokenizer(baseline))
        for spec in self.selection.variants:
            self._warn(other_prompts(spec.name, [built for one, built in asked if one.name == spec.name], name, base))

    def _early_stopping(self, variants: list[VariantInfo], tasks: list[TaskInfo]) -> EarlyStopping | None:
        gate = self.suite.gate
        if gate is None or not gate.early_stopping:
            return None
        self.state.manifest.variants, self.state.manifest.tasks = variants, tasks
        against, rules = opened(gate)
        return EarlyStopping(rules, self.state, against, seed=self.suite.seeds.generation)

    def _is_reference(self, spec: VariantSpec, built: BuiltTask) -> bool:
        """Whether a variant is what the divergence of other variants' unfinished cells of a task is measured from."""
        return (
            built.spec.divergence is not None
            and built.spec.divergence.reference == spec.name
            and any(
                built.info.asks(one.name) and not self.state.is_done(one.name, built.info.name)
                for one in self.selection.variants
            )
        )

    # ---- cells

    def _run_variant(self, factory: VariantFactory, spec: VariantSpec, finisher: Finisher) -> None:
        if spec.adapter in self._adapters.untrained:
            self._unmade(factory, spec, finisher)
            return
        tokenizer = factory.tokenizer(spec)
        asked = self._tasks.asked(tokenizer, spec.name) if spec in self.selection.variants else []
        waiting = [built for built in asked if not self.state.is_done(spec.name, built.info.name)]
        measured_from = [b for b in self._tasks.all(tokenizer) if self._is_reference(spec, b) and b not in waiting]
        if not waiting and not measured_from:
            self.progress.say(f"✓ {spec.name}: every cell is already here")
            return
        info = self.state.variant(spec.name)
        cells = {
            built.info.name: CellResult(
                variant=spec.name, task=built.info.name, cell_hash=self._hashes[spec.name, built.info.name]
            )
            for built in waiting
        }
        try:
            with self._said(f"making {spec.name}"):
                variant = factory.make(spec)
            info.model_bytes = variant.model_bytes
            info.load_seconds = round(variant.load_seconds, 3)
            if spec.adapter is not None and self.suite.quantizations:
                with self._said(f"comparing the weights of {spec.name}"):
                    info.weight_error = weight_error(factory, variant)
            prepared = self._prepared[info.parts["tokenizer"]]
            with self._said(f"warming up {spec.name}"):
                run = VariantRun(
                    variant,
                    waiting,
                    info,
                    self.suite,
                    self.device,
                    prepared,
                    self.progress,
                    self._references,
                    self._early,
                )
            run.keep_distributions(measured_from)
        except Exception as error:
            if isinstance(error, UserError | torch.OutOfMemoryError):
                info.error = str(error) if isinstance(error, UserError) else "the device has no room for this variant"
            else:
                info.error = finisher.bug(f"making {spec.name}", error)
            for cell in cells.values():
                finisher.failed(cell, info.error)
            return
        info.error = None
        if waiting:
            run.run(cells, self.folder, finisher)
        del variant, run
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _unmade(self, factory: VariantFactory, spec: VariantSpec, finisher: Finisher) -> None:
        """Put down every cell of a variant whose adapter is not there."""
        error = self._adapters.untrained[str(spec.adapter)]
        self.state.variant(spec.name).error = error
        for built in self._tasks.asked(factory.base.tokenizer, spec.name) if spec in self.selection.variants else []:
            finisher.failed(CellResult(variant=spec.name, task=built.info.name), error)

    @contextmanager
    def _said(self, what: str) -> Iterator[None]:
        """Show what is under way; the log keeps how long it took."""
        started = time.perf_counter()
        with self.progress.bar(what, None):
            yield
        _log.info("%s: %.2f s", what, time.perf_counter() - started)
