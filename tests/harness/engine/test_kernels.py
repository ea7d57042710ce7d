"""The Triton kernels against plain torch, in Triton's interpreter: no GPU is needed, but triton is."""

from __future__ import annotations

import random

import pytest
import torch
from transformers.models.phi.modeling_phi import apply_rotary_pos_emb

from phibench.harness.engine.shape import Scores, TreeShape
from phibench.harness.engine.tree import Plan, Scored

# tests/conftest.py has set TRITON_INTERPRET, which triton reads when it is imported.
kernels = pytest.importorskip("phibench.harness.engine.kernels", reason="triton is not installed")


def shape() -> TreeShape:
    """Two questions of two stages, over three tiles; the second starts inside a tile."""
    draw = random.Random(0)
    requests = []
    for _ in range(2):
        question = [draw.randint(0, 999) for _ in range(35)]
        for _ in range(2):
            start = [*question, *(draw.randint(0, 999) for _ in range(6))]
            requests += [Scored([*start, *(draw.randint(0, 999) for _ in range(9))], [1]) for _ in range(2)]
    plan = Plan(requests)
    return TreeShape(plan.forward(0, len(plan)), torch.device("cpu"), kernels=True)


@pytest.mark.filterwarnings("ignore:invalid value")  # rows past the last token, which nothing reads
@pytest.mark.parametrize(("heads", "key_heads", "width"), [(4, 4, 80), (2, 1, 64), (2, 1, 24)])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (20, None), (None, 5.0), (20, 5.0)])
def test_attention(heads: int, key_heads: int, width: int, window: int | None, softcap: float | None) -> None:
    trees = shape()
    tokens = trees.tokens
    draw = torch.Generator().manual_seed(0)
    # As models have it: heads first in memory for queries and keys, tokens first for values.
    q = torch.randn(heads, tokens, width, generator=draw).half().transpose(0, 1)
    k = torch.randn(key_heads, tokens, width, generator=draw).half().transpose(0, 1)
    v = torch.randn(tokens, key_heads, width, generator=draw).half()
    scores = Scores(width**-0.5, window, softcap)
    found = kernels.attend(q, k, v, trees.tiles, scores)
    expected = trees._masked(q.float(), k.float(), v.float(), scores)
    torch.testing.assert_close(found.float(), expected, atol=3e-3, rtol=3e-3)


@pytest.mark.parametrize("width", [8, 12, 32])
def test_rotary_positions(width: int) -> None:
    draw = torch.Generator().manual_seed(0)
    heads = torch.randn(1, 3, 50, width + 6, generator=draw)
    cos, sin = (torch.randn(1, 50, width, generator=draw) for _ in range(2))
    part = heads[..., :width]
    expected, _ = apply_rotary_pos_emb(part, part, cos, sin)
    torch.testing.assert_close(kernels.rotate(part, cos, sin), expected)
    rest = heads[..., width:].clone()
    kernels.rotate(part, cos, sin, out=part)
    torch.testing.assert_close(part, expected)
    assert torch.equal(heads[..., width:], rest)


def test_widths_are_split_where_that_saves_more_than_a_quarter() -> None:
    assert [kernels.parts(width) for width in (16, 24, 64, 80, 96, 112, 128, 256)] == [
        (16, 0), (32, 0), (64, 0), (64, 16), (64, 32), (128, 0), (128, 0), (256, 0),
    ]  # fmt: skip
