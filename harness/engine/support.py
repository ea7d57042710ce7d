"""Whether prefix trees serve a model: found out by trying, before the first request."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .attention import Way, kernels_for
from .base import virtual_tokens
from .decoding import Decoder
from .head import Head
from .packed import causal_of, hidden_states, packed
from .shape import TreeShape
from .tree import Forward, Plan, Scored

# Relative distance of hidden states. In bfloat16 a model is off from itself by 0.03 when the shape of a batch changes.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3, torch.float16: 4e-2, torch.bfloat16: 0.15}


def find_way(model: Any) -> Way | str:
    """How trees go through a model; where they do not, why it has to be scored the plain way.

    A small tree goes through the model packed, and some of its sequences by themselves in the model's own way. Trees
    serve it if the hidden states agree; how far they would be off if tokens saw what they should not is measured beside
    it, so that a model which hardly looks at its context is not taken for one that agrees. What is fastest is tried
    first.

    Args:
        model: a causal LM, or a `PeftModel` around one, in evaluation mode, on its device.
    """
    config = getattr(model, "active_peft_config", None)
    if virtual_tokens(model):
        return "its adapter puts virtual tokens before the input"
    if getattr(config, "alora_invocation_tokens", None):
        return "its adapter starts at tokens that are looked for in each input"
    causal = causal_of(model)
    decoder = causal.get_decoder()
    if decoder is None or decoder is causal:
        return "its decoder does not stand apart from its head"
    if not getattr(causal, "_supports_attention_backend", False) and not causal._can_set_attn_implementation():
        return "its attention does not go through transformers' registry"
    ways = [Way(kernels=False, fused=True), Way(kernels=False, fused=False)]
    if kernels_for(next(causal.parameters()).device, causal.dtype):
        ways = [Way(kernels=True, fused=True), Way(kernels=True, fused=False), Way(kernels=False, fused=False)]
    why = ""
    for way in ways:
        found = _why_not(causal, way)
        if found is None:
            return way
        why = why or found
    return why


@torch.inference_mode()
def _why_not(causal: Any, way: Way) -> str | None:
    plan = _small_tree(causal)
    forward = plan.forward(0, len(plan))
    shape = TreeShape(forward, next(causal.parameters()).device, kernels=way.kernels)
    try:
        with packed(causal, way):
            output, hidden = hidden_states(causal, shape)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a model does that was not made for this
        return f"trees do not go through it: {' '.join(str(error).split())[:200] or type(error).__name__}"
    if not shape.calls:
        return "its attention does not go through transformers' registry"
    return _compare(causal, forward, hidden, output)


@torch.inference_mode()
def why_not_decode(model: Any, way: Way) -> str | None:
    """Why a model cannot generate over a cache of ours, as text; None where it can.

    Three prompts that share their start are read, and two tokens more of each; logits have to be those of whole
    sequences in the model's own way. How far off they would be if a step saw nothing before it is measured beside it.

    Args:
        model: a causal LM, or a `PeftModel` around one, in evaluation mode, on its device.
        way: how trees go through it.
    """
    causal = causal_of(model)
    draw = np.random.default_rng(1)
    texts = draw.integers(0, causal.get_input_embeddings().weight.shape[0], (3, 12))
    texts[:, :6] = texts[0, :6]
    plan = Plan([Scored(text[:10].tolist(), [number]) for number, text in enumerate(texts)])
    order = [int(plan.forward(0, 3).targets[n]) for n in range(3)]
    decoder = Decoder(model, way)
    try:
        with decoder.ready():
            cache = decoder.open(decoder.layers(), 36, 12)
            starts = [cache.take(12) or 0 for _ in range(3)]
            found = [decoder.prefill(plan.forward(0, 3), starts)]
            for place in (10, 11):
                tokens = _row(texts[order, place], found[0])[0]
                at = torch.full_like(tokens, place)
                logits = decoder.step(tokens, at, torch.tensor(starts, device=at.device))
                found.append(logits.clone())  # recorded steps all answer in one place
    except Exception as error:  # whatever a model does that was not made for this
        return f"cached steps do not go through it: {' '.join(str(error).split())[:200] or type(error).__name__}"
    off, wrong = 0.0, 0.0
    for row, number in enumerate(order):
        expected = causal(input_ids=_row(texts[number], found[0]), use_cache=False).logits[0]
        alone = causal(input_ids=_row(texts[number, -1:], found[0]), use_cache=False).logits[0, -1]
        steps = torch.stack([logits[row] for logits in found])
        off = float(np.maximum(off, _distance(steps, expected[9:])))  # unlike max, keeps a NaN
        wrong = max(wrong, _distance(alone[None], expected[-1:]))
    if not (off <= _TOLERANCE.get(causal.dtype, 1e-3) and off <= 0.2 * wrong):
        return f"its logits over a cache are off by {off:.1%} (by {wrong:.1%} if a step saw nothing before it)"
    return None


def _small_tree(causal: Any) -> Plan:
    """Two questions of three choices each, tokens drawn from the whole vocabulary."""
    draw = np.random.default_rng(0)
    rows = causal.get_input_embeddings().weight.shape[0]

    def some(count: int) -> list[int]:
        return [int(token) for token in draw.integers(0, rows, count)]

    requests = []
    for _ in range(2):
        question = some(10)
        for _ in range(2):
            start = [*question, *some(4)]
            requests += [Scored([*start, *some(5)], some(5)) for _ in range(2)]
        requests.append(Scored(question, some(1)))
    return Plan(requests)


def _compare(causal: Any, forward: Forward, hidden: torch.Tensor, output: Any) -> str | None:
    off, wrong, head_off = 0.0, 0.0, 0.0
    # What the model says when it reads the packed tokens as one text: every token sees all before it.
    one_text, _ = _alone(causal, _row(forward.tokens, hidden))
    # The first question by itself, and the last branch of each: all that trees do differently.
    for number in (0, len(forward.owners) // 2 - 1, len(forward.owners) - 1):
        places = forward.path(number)
        alone, logits = _alone(causal, _row(forward.tokens[places], hidden))
        with Head(causal).fed(output) as logits_of:
            head_off = float(np.maximum(head_off, _distance(logits_of(alone), logits)))  # unlike max, keeps a NaN
        off = float(np.maximum(off, _distance(hidden[places], alone)))
        wrong = max(wrong, _distance(one_text[places], alone))
    tolerance = _TOLERANCE.get(hidden.dtype, 1e-3)
    if not (off <= tolerance and off <= 0.2 * wrong):  # a NaN is not below anything
        return f"its hidden states over trees are off by {off:.1%} (by {wrong:.1%} if every token saw all before it)"
    if not head_off <= tolerance:
        return f"its head over chosen positions is off by {head_off:.1%}"
    return None


def _alone(causal: Any, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(last hidden states, logits) of one sequence in the model's own way."""
    seen: list[Any] = []
    hook = causal.get_decoder().register_forward_hook(lambda module, args, output: seen.append(output))
    try:
        logits = causal(input_ids=tokens, use_cache=False).logits[0]
    finally:
        hook.remove()
    return seen[0].last_hidden_state[0], logits


def _distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest relative distance of two rows of vectors."""
    apart = (found - expected).float().norm(dim=-1) / expected.float().norm(dim=-1).clamp_min(1e-6)
    return float(apart.max())


def _row(tokens: Any, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(tokens)).to(like.device)[None]
