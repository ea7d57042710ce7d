"""Attention over packed prefix trees, as an attention function of transformers' registry.

A model whose attention goes through the registry uses it for as long as :func:`tree_attention` lasts. The shape of the
forward is handed over beside the model, which knows nothing of trees: it sees one long sequence with position ids.
Three ways, chosen layer by layer:

- cascade (CUDA from Ampere on, half precision): torch's variable-length flash attention, a pass for every level of the
  tree, joined by the softmax's normalisers (Dao et al. 2022, FlashAttention, section 3.1); no key is copied.
- gathered: the same kernels over the keys of each node's ancestors and its own, copied together; for layers whose
  window is shorter than a sequence, and with flash-attn installed for those that cap their scores.
- masked (everywhere else): padded blocks through torch's scaled dot product attention, or by hand where scores are
  capped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from .shape import Block, Pass, TreeShape

try:
    from torch.nn.attention import varlen
except ImportError:  # pragma: no cover - before torch 2.10
    varlen = None  # type: ignore[assignment]
try:
    from flash_attn import flash_attn_varlen_func
except ImportError:
    flash_attn_varlen_func = None

NAME = "phibench_tree"
_OTHER = ("s_aux", "position_bias", "attention_bias", "alibi", "block_table")  # what trees do not serve

_shape: TreeShape | None = None


class TreeUnsupportedError(Exception):
    """The model asks something of attention that trees do not serve; the message says what."""


@contextmanager
def tree_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let a model's attention go through trees; afterwards it has its own again."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def over(shape: TreeShape) -> Iterator[None]:
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
    unnamed = {size for size in shape.local_sizes - shape.windows if size < shape.forward.longest}
    if unnamed:
        raise TreeUnsupportedError(f"its attention is cut to {min(unnamed)} tokens in a way that trees do not know")


def kernels_for(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch's variable-length flash attention runs there."""
    if varlen is None or device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return False
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


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
    if query.shape[0] != 1 or query.shape[2] != len(shape.forward.tokens) or key.shape[2] != query.shape[2]:
        raise TreeUnsupportedError("its attention does not see the tokens as they were packed")
    shape.calls += 1
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    if sliding_window is not None:
        shape.windows.add(sliding_window)
        if sliding_window >= shape.forward.longest:
            sliding_window = None
    # [T, H, D]: views, no copies.
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    if shape.kernels and softcap is None and sliding_window is None and q.shape[-1] <= 256:
        out = _cascade(shape.cascade, q, k, v, scale)
    elif shape.kernels and flash_attn_varlen_func is not None:
        out = _gathered(shape, q, k, v, scale, sliding_window, softcap)
    else:
        out = _masked(shape, q, k, v, scale, sliding_window, softcap)
    return out[None], None


def _cascade(passes: list[Pass], q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    out, normaliser = _flash(passes[0], q, k, v, scale, causal=True)
    for level in passes[1:]:
        below, other = _flash(level, q, k, v, scale, causal=False)
        # The share of the softmax that lies in this pass's keys; none where it has no keys.
        share = torch.sigmoid(other - normaliser)
        share = torch.where(level.has_keys, share, 0.0) if level.has_keys is not None else share
        out = torch.lerp(out, below, share.t()[..., None].to(out.dtype))
        if level is not passes[-1]:
            joined = torch.logaddexp(normaliser, other)
            normaliser = torch.where(level.has_keys, joined, normaliser) if level.has_keys is not None else joined
    return out


def _flash(
    level: Pass, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, *, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """([T, H, D], log-sum-exp of the scaled scores [H, T]) of one pass."""
    found = varlen.varlen_attn(
        q,
        k,
        v,
        level.query_start,
        level.key_start,
        level.longest_query,
        level.longest_key,
        return_aux=varlen.AuxRequest(lse=True),
        scale=scale,
        window_size=(-1, 0) if causal else (-1, -1),
        enable_gqa=q.shape[1] != k.shape[1],
        seqused_k=level.key_length,
    )
    return found[0], found[1]


def _gathered(
    shape: TreeShape,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    segments, source = shape.gathered
    return flash_attn_varlen_func(
        q,
        k.index_select(0, source),
        v.index_select(0, source),
        segments.query_start,
        segments.key_start,
        segments.longest_query,
        segments.longest_key,
        softmax_scale=scale,
        causal=True,
        window_size=(-1, -1) if window is None else (window - 1, 0),
        softcap=softcap or 0.0,
    )


def _masked(
    shape: TreeShape,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    groups = q.shape[1] // k.shape[1]
    rows = []
    for block in shape.blocks(window):
        # [n, H, Q, D] and [n, H, K, D]
        queries = q[block.queries].transpose(1, 2)
        keys, values = (states[block.keys].transpose(1, 2) for states in (k, v))
        if groups > 1:
            keys, values = (states.repeat_interleave(groups, dim=1) for states in (keys, values))
        found = _scaled(queries, keys, values, block, scale, softcap)
        rows.append(found.transpose(1, 2).reshape(-1, q.shape[1], v.shape[-1]))
    return torch.cat(rows)[shape.unpadded]


def _scaled(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, block: Block, scale: float, softcap: float | None
) -> torch.Tensor:
    if softcap is None:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=block.allowed, scale=scale)
    scores = torch.tanh(q @ k.transpose(-1, -2) * scale / softcap) * softcap
    scores = scores.masked_fill(~block.allowed, float("-inf"))
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype) @ v


def _mask(*args: Any, local_size: int | None = None, **kwargs: Any) -> None:
    """No mask: the shape says who looks at whom. A local one is noted, to be told from one that layers know of."""
    if _shape is not None and local_size is not None:
        _shape.local_sizes.add(local_size)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)
