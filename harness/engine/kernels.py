"""Triton kernels for CUDA, half precision: attention over packed prefix trees and to cached tokens, rotary positions.

Attention is flash attention's online softmax (Dao et al. 2022, algorithm 1) over a list of key blocks for each tile of
queries. Which key a query sees takes two comparisons, since tokens stand depth first: it comes no later, and the query
is still in its subtree. Import this only where triton is installed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .blocks import KEYS, QUERIES
from .shape import Scores, Tiles


@triton.jit
def _attend(
    q_ptr, k_ptr, v_ptr, out_ptr, end_ptr, position_ptr, first_ptr, block_ptr,
    q_token, q_head, k_token, k_head, v_token, v_head, out_token, out_head,
    tokens, scale, softcap, window,
    GROUPS: tl.constexpr, WIDTH: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr, HAS_WINDOW: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    # A head's width is a power of two (MAIN) and what is left, padded to one (REST, 0 where nothing is): 80 = 64 + 16.
    tile, head = tl.program_id(0), tl.program_id(1)
    rows, columns = tile * M + tl.arange(0, M), tl.arange(0, MAIN)
    real_rows, real_columns = rows < tokens, columns < WIDTH
    q_rows = q_ptr + rows[:, None].to(tl.int64) * q_token + head * q_head
    q = tl.load(q_rows + columns[None, :], mask=real_rows[:, None] & real_columns[None, :], other=0.0)
    summed = tl.zeros([M, MAIN], tl.float32)
    if REST:
        others = MAIN + tl.arange(0, REST)
        real_others = others < WIDTH
        q_rest = tl.load(q_rows + others[None, :], mask=real_rows[:, None] & real_others[None, :], other=0.0)
        summed_rest = tl.zeros([M, REST], tl.float32)
    if HAS_WINDOW:
        row_position = tl.load(position_ptr + rows, mask=real_rows, other=0)
    highest = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    for place in range(tl.load(first_ptr + tile), tl.load(first_ptr + tile + 1)):
        keys = tl.load(block_ptr + place) * N + tl.arange(0, N)
        real_keys = keys < tokens
        k_rows = k_ptr + keys[None, :].to(tl.int64) * k_token + (head // GROUPS) * k_head
        k = tl.load(k_rows + columns[:, None], mask=real_keys[None, :] & real_columns[:, None], other=0.0)
        scores = tl.dot(q, k)
        if REST:
            k_rest = tl.load(k_rows + others[:, None], mask=real_keys[None, :] & real_others[:, None], other=0.0)
            scores = tl.dot(q_rest, k_rest, scores)
        scores *= scale
        if HAS_SOFTCAP:  # softcap * tanh(scores / softcap)
            scores = softcap * (2.0 * tl.sigmoid(2.0 * scores / softcap) - 1.0)
        end = tl.load(end_ptr + keys, mask=real_keys, other=0)
        seen = (keys[None, :] <= rows[:, None]) & (rows[:, None] < end[None, :])
        if HAS_WINDOW:
            position = tl.load(position_ptr + keys, mask=real_keys, other=0)
            seen &= row_position[:, None] - position[None, :] < window
        scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp(scores - base[:, None])
        shrink = tl.exp(highest - base)
        total = total * shrink + tl.sum(weights, 1)
        v_rows = v_ptr + keys[:, None].to(tl.int64) * v_token + (head // GROUPS) * v_head
        v = tl.load(v_rows + columns[None, :], mask=real_keys[:, None] & real_columns[None, :], other=0.0)
        weights = weights.to(v.dtype)
        summed = tl.dot(weights, v, summed * shrink[:, None])
        if REST:
            v_rest = tl.load(v_rows + others[None, :], mask=real_keys[:, None] & real_others[None, :], other=0.0)
            summed_rest = tl.dot(weights, v_rest, summed_rest * shrink[:, None])
        highest = higher
    out_rows = out_ptr + rows[:, None].to(tl.int64) * out_token + head * out_head
    kind = out_ptr.dtype.element_ty
    found = (summed / total[:, None]).to(kind)
    tl.store(out_rows + columns[None, :], found, mask=real_rows[:, None] & real_columns[None, :])
    if REST:
        found_rest = (summed_rest / total[:, None]).to(kind)
        tl.store(out_rows + others[None, :], found_rest, mask=real_rows[:, None] & real_others[None, :])


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tiles: Tiles, scores: Scores) -> torch.Tensor:
    """Attention over packed trees.

    Args:
        q: [T, H, D], half precision; any strides, but the last is 1.
        k: [T, K, D], K dividing H.
        v: [T, K, D].
        tiles: which keys each tile of queries looks at.
        scores: their scale, window and soft-capping.

    Returns:
        [T, H, D].
    """
    tokens, heads, width = q.shape
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    main, rest = parts(width)
    _attend[(triton.cdiv(tokens, QUERIES), heads)](
        q, k, v, out, tiles.end, tiles.positions, tiles.first, tiles.blocks,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1), out.stride(0), out.stride(1),
        tokens, scores.scale, scores.softcap or 0.0, scores.window or 0,
        GROUPS=heads // k.shape[1], WIDTH=width, MAIN=main, REST=rest,
        HAS_SOFTCAP=scores.softcap is not None, HAS_WINDOW=scores.window is not None, M=QUERIES, N=KEYS,
        num_warps=4, num_stages=2,
    )  # fmt: skip
    return out


@triton.jit
def _attend_cached(
    q_ptr, k_ptr, v_ptr, out_ptr, start_ptr, position_ptr,
    q_row, q_head, k_token, k_head, v_token, v_head, out_row, out_head,
    scale, softcap, window,
    GROUPS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr, HAS_WINDOW: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    # One query of one head: what takes the time is reading keys and values, so there is no matrix product to fill.
    head, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    columns = tl.arange(0, PADDED)
    real = columns < WIDTH
    q = tl.load(q_ptr + row * q_row + head * q_head + columns, mask=real, other=0.0).to(tl.float32) * scale
    start, position = tl.load(start_ptr + row), tl.load(position_ptr + row).to(tl.int32)
    k_rows = k_ptr + start * k_token + (head // GROUPS) * k_head
    v_rows = v_ptr + start * v_token + (head // GROUPS) * v_head
    first = 0
    if HAS_WINDOW:
        first = tl.maximum(position + 1 - window, 0)
    summed = tl.zeros([PADDED], tl.float32)
    highest = tl.full([1], float("-inf"), tl.float32)
    total = tl.zeros([1], tl.float32)
    for place in range(first, position + 1, N):
        keys = place + tl.arange(0, N)
        seen = keys <= position
        tile = seen[:, None] & real[None, :]
        offset = keys[:, None].to(tl.int64)
        k = tl.load(k_rows + offset * k_token + columns[None, :], mask=tile, other=0.0).to(tl.float32)
        v = tl.load(v_rows + offset * v_token + columns[None, :], mask=tile, other=0.0).to(tl.float32)
        scores = tl.sum(q[None, :] * k, 1)
        if HAS_SOFTCAP:  # softcap * tanh(scores / softcap)
            scores = softcap * (2.0 * tl.sigmoid(2.0 * scores / softcap) - 1.0)
        scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 0))
        weights = tl.exp(scores - higher)
        shrink = tl.exp(highest - higher)
        total = total * shrink + tl.sum(weights, 0)
        summed = summed * shrink + tl.sum(weights[:, None] * v, 0)
        highest = higher
    out = out_ptr + row * out_row + head * out_head + columns
    tl.store(out, (summed / total).to(out_ptr.dtype.element_ty), mask=real)


def attend_cached(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    starts: torch.Tensor,
    positions: torch.Tensor,
    scores: Scores,
) -> torch.Tensor:
    """Attention of one new token of each sequence to all of its cached ones, itself included.

    Args:
        q: [B, H, D]; any strides, but the last is 1.
        keys: [places, K, D], K dividing H.
        values: [places, K, D].
        starts: [B], int64: the place of each sequence's first token; the others follow.
        positions: [B], int64: the new token's place in its sequence.
        scores: their scale, window and soft-capping.

    Returns:
        [B, H, D].
    """
    rows, heads, width = q.shape
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    _attend_cached[(heads, rows)](
        q, keys, values, out, starts, positions,
        q.stride(0), q.stride(1), keys.stride(0), keys.stride(1), values.stride(0), values.stride(1),
        out.stride(0), out.stride(1), scores.scale, scores.softcap or 0.0, scores.window or 0,
        GROUPS=heads // keys.shape[1], WIDTH=width, PADDED=triton.next_power_of_2(width),
        HAS_SOFTCAP=scores.softcap is not None, HAS_WINDOW=scores.window is not None, N=64, num_warps=4,
    )  # fmt: skip
    return out


def parts(width: int) -> tuple[int, int]:
    """A head's width as a power of two and the rest, padded to one; 16 at least, as a matrix product needs."""
    whole = triton.next_power_of_2(max(width, 16))
    if whole == width or whole <= 32 or width > 3 * whole // 4:  # two parts would save no more than a quarter
        return whole, 0
    return whole // 2, max(16, triton.next_power_of_2(width - whole // 2))


@triton.jit
def _rotate(
    x_ptr, out_ptr, cos_ptr, sin_ptr, x_token, x_head, out_token, out_head, angle_token, tokens, heads,
    HALF: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, PADDED)
    token, head = (rows // heads).to(tl.int64), rows % heads
    real = (token < tokens)[:, None] & (columns < HALF)[None, :]
    x = x_ptr + token[:, None] * x_token + head[:, None] * x_head + columns[None, :]
    out = out_ptr + token[:, None] * out_token + head[:, None] * out_head + columns[None, :]
    angle = token[:, None] * angle_token + columns[None, :]
    low, high = tl.load(x, mask=real).to(tl.float32), tl.load(x + HALF, mask=real).to(tl.float32)
    cos_low, cos_high = tl.load(cos_ptr + angle, mask=real), tl.load(cos_ptr + angle + HALF, mask=real)
    sin_low, sin_high = tl.load(sin_ptr + angle, mask=real), tl.load(sin_ptr + angle + HALF, mask=real)
    kind = out_ptr.dtype.element_ty
    tl.store(out, (low * cos_low.to(tl.float32) - high * sin_low.to(tl.float32)).to(kind), mask=real)
    tl.store(out + HALF, (high * cos_high.to(tl.float32) + low * sin_high.to(tl.float32)).to(kind), mask=real)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """Rotary positions of one sequence, halves rotated (Su et al. 2021, as Llama and GPT-NeoX lay them out).

    Args:
        x: [1, H, T, D]; any strides, but the last is 1.
        cos: [1, T, D].
        sin: [1, T, D].
        out: where to write; may be `x` itself.

    Returns:
        [1, H, T, D]; a new one has a token's heads side by side in memory.
    """
    _, heads, tokens, width = x.shape
    if out is None:
        out = torch.empty(1, tokens, heads, width, dtype=x.dtype, device=x.device).transpose(1, 2)
    half = width // 2
    rows = max(1, 2048 // triton.next_power_of_2(half))
    _rotate[(triton.cdiv(tokens * heads, rows),)](
        x, out, cos, sin, x.stride(2), x.stride(1), out.stride(2), out.stride(1), cos.stride(1), tokens, heads,
        HALF=half, PADDED=triton.next_power_of_2(half), ROWS=rows,
    )  # fmt: skip
    return out
