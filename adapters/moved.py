"""Whether a training moved anything: the values that it started from against those that were saved, in one precision.

Hashes of files do not tell: a start in float32 and the same values saved in bfloat16 are other bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch


def values_hash(tensors: Iterable[torch.Tensor]) -> str:
    """The SHA-256 of tensors' shapes and values as float32, whatever they are called and in whatever order."""
    digests = []
    for tensor in tensors:
        values = tensor.detach().cpu().float().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest = hashlib.sha256(f"{tuple(tensor.shape)}\n".encode())
        digest.update(values.data)
        digests.append(digest.hexdigest())
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def start_hash(model: Any) -> str:
    """Of what is trained, before the first step: with the rounding that the precision of training brings."""
    return values_hash(parameter for parameter in model.parameters() if parameter.requires_grad)


def saved_hash(folder: Path) -> str:
    """Of the weights in a result's files."""
    from safetensors import safe_open

    def saved() -> Iterable[torch.Tensor]:
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118
                    yield tensors.get_tensor(name)

    return values_hash(saved())
