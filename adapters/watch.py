"""Watching a training: every logged step is told, speed and memory are measured, and what is not finite is counted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler

from ..errors import UserError
from .checkpoints import counted, mark_whole
from .order import ByLength
from .stop import Stop

# What the curve keeps of a log entry; other numbers of it are the libraries' own.
_KEPT = (
    "loss", "eval_loss", "eval_accuracy", "eval_margin", "grad_norm", "learning_rate", "tokens_per_second",
    "memory_bytes", "tokens_per_row",
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One logged step of training."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float | None = None
    memory_bytes: int | None = None


class Measured:
    """A trainer whose log entries say how fast it is and what memory it takes. Mix in before the trainer's class."""

    _since: tuple[float, int | None] | None = None
    _row_step = 0  # the step up to which rows were counted
    held_in: dict[str, torch.dtype]  # the precision of each weight that is trained
    rows_at_once: int | None = None  # of a batch that the device had no room for; None: all of them
    stop: Stop | None = None  # what a signal asks for
    control: Any  # the library's

    def hold(self) -> None:
        """Remember the precision of what is trained: peft reads checkpoints in float32, whatever was written."""
        named = self.model.named_parameters()  # type: ignore[attr-defined]
        self.held_in = {name: parameter.dtype for name, parameter in named if parameter.requires_grad}

    def _load_from_checkpoint(self, *args: Any, **options: Any) -> None:
        super()._load_from_checkpoint(*args, **options)  # type: ignore[misc]
        self._put_back()

    def _load_best_model(self) -> None:
        if self.stop is not None and self.stop.asked and not self._is_done():
            return  # nothing is saved of it but the checkpoint
        super()._load_best_model()  # type: ignore[misc]
        self._put_back()

    def _run_epoch(self, *args: Any, **options: Any) -> None:
        if self._is_done():  # gone on from the checkpoint of its last step, within an epoch
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **options)  # type: ignore[misc]

    def _get_train_sampler(self, *args: Any, **options: Any) -> Any:
        sampler = super()._get_train_sampler(*args, **options)  # type: ignore[misc]
        by_length = isinstance(sampler, LengthGroupedSampler)
        return ByLength(sampler, self.args.seed) if by_length else sampler  # type: ignore[attr-defined]

    def _is_done(self) -> bool:
        return bool(self.state.global_step >= self.state.max_steps)  # type: ignore[attr-defined]

    def _put_back(self) -> None:
        for name, parameter in self.model.named_parameters():  # type: ignore[attr-defined]
            if name in self.held_in:
                parameter.data = parameter.data.to(self.held_in[name])

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what was done since the last entry, and the memory: CUDA's peak so far, or the process's size now.

        Tokens count with their padding; where rows are grouped by length, the loss follows their number in a row.
        """
        if "loss" in logs:
            seen = int(self.state.num_input_tokens_seen)  # type: ignore[attr-defined]
            now = time.perf_counter()
            if self._since is not None:
                then, before = self._since
                before = int(self._initial_num_input_tokens_seen) if before is None else before  # type: ignore[attr-defined]
                logs["tokens_per_second"] = round((seen - before) / max(now - then, 1e-9), 1)
                logs["tokens_per_row"] = round((seen - before) / max(self._rows_since(), 1), 1)
            self._since = (now, seen)
            cuda = self.args.device.type == "cuda"  # type: ignore[attr-defined]
            logs["memory_bytes"] = torch.cuda.max_memory_allocated() if cuda else psutil.Process().memory_info().rss
        super().log(logs, start_time)  # type: ignore[misc]

    def _rows_since(self) -> int:
        step = int(self.state.global_step)  # type: ignore[attr-defined]
        first, self._row_step = self._row_step, step
        return int((step - first) * self.args.train_batch_size * self.args.gradient_accumulation_steps)  # type: ignore[attr-defined]

    def told(self, metrics: dict[str, float]) -> dict[str, float]:
        """Log what an evaluation found, and let the callbacks know of it."""
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)  # type: ignore[attr-defined]
        return metrics

    def start_clock(self, step: int = 0) -> None:
        """Let the first entry count from now, and from a step that was reached before."""
        self._since, self._row_step = (time.perf_counter(), None), step


class Watch(TrainerCallback):
    """Hands every logged loss on, marks whole checkpoints, and counts losses and gradients that are not finite.

    Args:
        where: how an error names the recipe.
        on_step: called after every logged step.
        allow_nonfinite: whether training goes on after them.
    """

    def __init__(self, where: str, on_step: Callable[[Step], None], *, allow_nonfinite: bool) -> None:
        self._where = where
        self._on_step = on_step
        self._allowed = allow_nonfinite
        self.nonfinite_losses = 0
        self.nonfinite_gradients = 0
        self.trainer: Any = None  # what is watched, once it is there
        self.spent: Callable[[], float] = lambda: 0.0  # seconds, with those before a stop

    def go_on_from(self, checkpoint: Path) -> None:
        """Count on from what was counted when a checkpoint was written, with batches as small as they were then."""
        before = counted(checkpoint)
        self.nonfinite_losses, self.nonfinite_gradients = before["nonfinite_losses"], before["nonfinite_gradients"]
        self.trainer.rows_at_once = before.get("rows_at_once")

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Look at the gradients before they are used."""
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        if gradients and not math.isfinite(float(torch.stack(torch._foreach_norm(gradients)).sum())):
            self.nonfinite_gradients += 1
            # With float16 the scaler meets them now and then, leaves the step out and goes on with a smaller scale.
            if not args.fp16:
                self._refuse("a gradient is not finite", state.global_step + 1)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Hand a logged loss on."""
        if logs is None:
            return
        for key in ("loss", "eval_loss"):
            if key in logs and not math.isfinite(logs[key]):
                self.nonfinite_losses += 1
                self._refuse(f"the {'loss' if key == 'loss' else 'evaluation loss'} is {logs[key]}", state.global_step)
        if "loss" in logs:
            self._on_step(
                Step(
                    state.global_step,
                    state.max_steps,
                    float(logs["loss"]),
                    logs.get("tokens_per_second"),
                    logs.get("memory_bytes"),
                )
            )

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the checkpoint that was just written as whole."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if folder.is_dir():
            mark_whole(
                folder,
                nonfinite_losses=self.nonfinite_losses,
                nonfinite_gradients=self.nonfinite_gradients,
                rows_at_once=self.trainer.rows_at_once,
                seconds=self.spent(),
            )

    def _refuse(self, what: str, step: int) -> None:
        if self._allowed:
            return
        raise UserError(
            f"{what} at step {step}",
            where=self._where,
            fix="lower learning_rate, train in bfloat16 or float32 rather than float16, or set allow_nonfinite = true",
        )


def nothing_held_out(what: str) -> UserError:
    """The error of an evaluation without anything to measure, which would be told as a loss of nothing."""
    return UserError(what, where="data.eval", fix="hold out other rows, or raise training.max_length")


def curve_of(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A trainer's log, one point a step: `step`, `loss` and `eval_loss` (None: not measured), and what else it has."""
    points: dict[int, dict[str, Any]] = {}
    for entry in history:
        kept = {key: entry[key] for key in _KEPT if key in entry}
        if "loss" in kept or "eval_loss" in kept:
            points.setdefault(int(entry["step"]), {"step": int(entry["step"]), "loss": None, "eval_loss": None}).update(
                kept
            )
    return [points[step] for step in sorted(points)]
