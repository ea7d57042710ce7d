"""Peak memory of a stretch of work: the accelerator's own count, or the process's resident set sampled on the CPU."""

from __future__ import annotations

import ctypes
import gc
import threading
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_INTERVAL = 0.05  # seconds between samples of the resident set


class PeakMemory:
    """Context manager; afterwards :attr:`bytes` is the peak between enter and exit."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.bytes = 0

    def __enter__(self) -> PeakMemory:
        import torch

        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            _give_back()
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        import torch

        if self._thread is None:
            self.bytes = torch.cuda.max_memory_allocated(self._device)
        else:
            self._stop.set()
            self._thread.join()

    def _sample(self) -> None:
        import psutil

        process = psutil.Process()
        while True:
            self.bytes = max(self.bytes, process.memory_info().rss)
            if self._stop.wait(_INTERVAL):
                break


def _give_back() -> None:
    """Return freed memory to the system, where the C library can: what an earlier variant took is not this one's."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
