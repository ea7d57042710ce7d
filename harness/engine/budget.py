"""How many tokens one forward may have, from the memory that is free."""

from __future__ import annotations

from typing import Any

import torch

_MOST = {"cuda": 16384, "cpu": 2048}  # beyond this a forward gets no faster
_LEAST = 256
_SPARE = 2**30  # bytes for the head's chunks


def token_budget(model: Any, device: torch.device) -> int:
    """Tokens of one forward: a power of two that fits the free memory by a generous estimate.

    Args:
        model: a causal LM, on its device.
        device: that device.
    """
    budget = _MOST.get(device.type, 2048)
    free = free_bytes(device)
    while free is not None and budget > _LEAST and activation_bytes(model, budget) > free:
        budget //= 2
    return budget


def activation_bytes(model: Any, tokens: int) -> int:
    """Bytes that a forward of so many tokens takes beside the weights, estimated generously."""
    config = model.config.get_text_config()
    widest = max((getattr(m, "out_features", 0) for name, m in model.named_modules() if "head" not in name), default=0)
    each = torch.finfo(model.dtype).bits // 8 * (8 * config.hidden_size + 4 * max(widest, 4 * config.hidden_size))
    return int(tokens * each + _SPARE)


def free_bytes(device: torch.device) -> int | None:
    """Bytes that this process can still take on a CUDA device, under its memory fraction; None elsewhere."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device)
    fraction = torch.cuda.get_per_process_memory_fraction(device)
    unused = reserved - torch.cuda.memory_allocated(device)
    return int(min(free, total * fraction - reserved) + unused)
