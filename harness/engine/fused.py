"""Activations that transformers writes out operation by operation, as torch's one kernel for each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import activations

# The tanh form of GELU, spelt out: eight kernels, and in half precision a rounding after each.
_TANH_GELU = tuple(
    getattr(activations, name) for name in ("NewGELUActivation", "FastGELUActivation") if hasattr(activations, name)
)


@contextmanager
def fused_activations(model: Any) -> Iterator[None]:
    """Replace spelt-out GELUs by `torch.nn.functional.gelu(approximate="tanh")`, which rounds once; put them back."""
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, _TANH_GELU)
    ]
    fused = nn.GELU(approximate="tanh")
    for parent, name, _ in places:
        setattr(parent, name, fused)
    try:
        yield
    finally:
        for parent, name, child in places:
            setattr(parent, name, child)
