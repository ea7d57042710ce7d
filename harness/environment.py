"""What a run stands on: versions, hardware, the device; for the manifest and `phibench doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    import torch

_DEVICE = re.compile(r"(cpu|cuda|mps)(:\d{1,3})?")
PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "accelerate",
    "trl",
    "lm-eval",
    "datasets",
    "tokenizers",
    "safetensors",
    "rouge-score",
    "pandas",
    "pyarrow",
    "scipy",
    "flash-attn",
)


def versions() -> dict[str, str]:
    """Versions of Python and of every package that can move a number; packages that are absent are left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """The processor's own name, where the system tells it."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def hardware(device: torch.device) -> dict[str, Any]:
    """What the run ran on: system, processor, cores, memory, and the accelerator if it was used."""
    import psutil

    found: dict[str, Any] = {
        "system": platform.platform(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "device": str(device),
    }
    if device.type == "cuda":
        import torch

        card = torch.cuda.get_device_properties(device)
        found |= {
            "accelerator": card.name,
            "accelerator_memory_bytes": card.total_memory,
            "cuda": torch.version.cuda,
        }
    return found


def choose_device(asked: str) -> torch.device:
    """The torch device for a suite's `engine.device`.

    Raises:
        UserError: when what is asked for is not there.
    """
    import torch

    if asked == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")
    if not _DEVICE.fullmatch(asked):
        raise UserError(
            "this device cannot be used: there is none of that name",
            where=f"device = {asked}",
            fix="give auto, cpu, cuda, cuda:0 (or another number) or mps; `phibench doctor` shows what is there",
        )
    try:
        device = torch.device(asked)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        text = str(error).strip().splitlines()[0]
        raise UserError(
            f"this device cannot be used: {text}",
            where=f"device = {asked}",
            fix='use "auto" or "cpu"; `phibench doctor` shows what is there',
        ) from None
    return device


def python_is_supported() -> bool:
    """Whether this Python is one phibench is tested on."""
    return sys.version_info[:2] in ((3, 11), (3, 12))
