"""Stopping a training by Ctrl-C or a polite kill: after the step under way, with a checkpoint that is gone on from."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from transformers import TrainerCallback

_log = logging.getLogger(__name__)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop(TrainerCallback):
    """Ends a training at the first signal after the step under way, and saves a checkpoint there; a second one stops
    at once.

    What the step would have done anyway is done: an evaluation that is due draws from chance, and may find the best
    checkpoint. None is done besides, so that the training that goes on is the one that was not stopped.
    """

    def __init__(self) -> None:
        self.asked = False  # by a first signal
        self._under_way = False  # there are steps to lose
        self._process = os.getpid()
        self._stops = False  # at this step, before the last

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the first SIGINT or SIGTERM since the first step for a wish; when the context ends it is an interrupt.

        Before the first step it is one at once. Elsewhere than in the main thread nothing changes, and a signal that
        was ignored stays so.

        Raises:
            KeyboardInterrupt: when a signal came.
        """
        before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            before = {one: signal.getsignal(one) for one in _SIGNALS}
        mine = {one: old for one, old in before.items() if old not in (signal.SIG_IGN, None)}
        try:
            for one in mine:
                signal.signal(one, self._hear)
            yield
        finally:
            for one, old in mine.items():
                signal.signal(one, old)
        self.interrupt()

    def interrupt(self) -> None:
        """Be the interrupt that was asked for.

        Raises:
            KeyboardInterrupt: when a signal came.
        """
        if self.asked:
            raise KeyboardInterrupt

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process and number == signal.SIGINT:
            return  # a worker that reads rows, which Ctrl-C reaches too: it is ended by who started it
        if self.asked or not self._under_way:
            raise KeyboardInterrupt
        self.asked = True
        with suppress(RuntimeError):  # it may have come while something else was being written
            _log.warning("stopping after this step; once more to stop at once")

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """From here on there is something to lose."""
        self._under_way = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for a checkpoint and the end. After the last step of all there is nothing to ask for."""
        if not self.asked or control.should_training_stop:
            return
        if args.load_best_model_at_end and control.should_evaluate and not control.should_save:
            return  # one more step: a checkpoint here would be the best one's where otherwise there is none
        self._stops = control.should_training_stop = control.should_log = True
        control.should_save = not _epoch_ends(state)  # else then, after what is done there

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """An epoch that was only left does not end: nothing that is due at its end is done."""
        if self._stops:
            control.should_save = _epoch_ends(state)
            control.should_evaluate = control.should_evaluate and _epoch_ends(state)


def _epoch_ends(state: Any) -> bool:
    """Whether the step that was just done is its epoch's last."""
    return float(state.epoch).is_integer()
