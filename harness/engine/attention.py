"""Attention over packed prefix trees, as an attention function of transformers' registry.

A model whose attention goes through the registry uses it for as long as :func:`tree_attention` lasts. The shape of the
forward is handed over beside the model, which knows nothing of trees: it sees one long sequence with position ids.
How a forward's tokens look at each other is its shape's (see shape.py for trees, cache.py for steps of decoding).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from .shape import Scores, Shape

NAME = "phibench_tree"
_OTHER = ("s_aux", "position_bias", "attention_bias", "alibi", "block_table")  # what trees do not serve

_shape: Shape | None = None


@dataclass(frozen=True)
class Way:
    """How trees go through a model."""

    kernels: bool  # by the Triton kernels, or by masked attention
    fused: bool  # with layers in fewer kernels (see fused.py), or as the libraries have them


class TreeUnsupportedError(Exception):
    """The model asks something of attention that trees do not serve; the message says what."""


@contextmanager
def tree_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let a model's attention go through trees; afterwards it has its own again."""
    refuse_overlap(model)
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def refuse_overlap(model: PreTrainedModel) -> None:
    """Two passes cannot share a model.

    Raises:
        RuntimeError: when one is under way, or was left without being closed.
    """
    if model.config._attn_implementation == NAME:
        raise RuntimeError("the model is in a pass already: finish or close that one first")


@contextmanager
def over(shape: Shape) -> Iterator[None]:
    """Say which forward is under way.

    Raises:
        TreeUnsupportedError: afterwards, when a mask had a window that no layer named: only the mask had it.
    """
    global _shape  # noqa: PLW0603 - one forward at a time, and models have no way to hand it through
    _shape = shape
    try:
        yield
    finally:
        _shape = None
    unnamed = {size for size in shape.local_sizes - shape.windows if size < shape.longest}
    if unnamed:
        raise TreeUnsupportedError(f"its attention is cut to {min(unnamed)} tokens in a way that trees do not know")


def kernels_for(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the Triton kernels run there."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return False
    if torch.version.hip is not None or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    return importlib.util.find_spec("triton") is not None


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Registry entry: query [1, H, T, D], key and value [1, K, T, D] -> ([1, T, H, D], None)."""
    shape = _shape
    if shape is None:
        raise TreeUnsupportedError("its attention runs outside of the scoring pass")
    other = [name for name in _OTHER if kwargs.get(name) is not None]
    if other:
        raise TreeUnsupportedError(f"its attention takes {other[0]}")
    if query.shape[0] != 1 or query.shape[2] != shape.tokens or key.shape[2] != query.shape[2]:
        raise TreeUnsupportedError("its attention does not see the tokens as they were packed")
    layer, shape.calls = shape.calls, shape.calls + 1
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    if sliding_window is not None:
        shape.windows.add(sliding_window)
        if sliding_window >= shape.longest:
            sliding_window = None
    # [T, H, D]: views, no copies.
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    return shape.attend(layer, q, k, v, Scores(scale, sliding_window, softcap))[None], None


def _mask(*args: Any, local_size: int | None = None, **kwargs: Any) -> None:
    """No mask: the shape says who looks at whom. A local one is noted, to be told from one that layers know of."""
    if _shape is not None and local_size is not None:
        _shape.local_sizes.add(local_size)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)
