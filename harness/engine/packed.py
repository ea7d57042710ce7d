"""A transformers model taking packed tokens instead of padded batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from .attention import Way, over, tree_attention
from .fused import fused_layers
from .shape import TreeShape, to_device


def causal_of(model: Any) -> Any:
    """The transformers model in a `PeftModel`, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def packed(causal: Any, way: Way) -> Iterator[None]:
    """Let a model's attention go by each forward's shape, its layers in fewer kernels; its own again afterwards."""
    with tree_attention(causal), fused_layers(causal) if way.fused else nullcontext():
        yield


def hidden_states(causal: Any, shape: TreeShape) -> tuple[Any, torch.Tensor]:
    """One forward of trees through the decoder: (what it returned, the last hidden states [T, width])."""
    forward = shape.forward
    tokens, positions = (to_device(a, shape.device)[None] for a in (forward.tokens, forward.positions))
    with over(shape):
        output = causal.get_decoder()(input_ids=tokens, position_ids=positions, use_cache=False)
    return output, output.last_hidden_state[0]
