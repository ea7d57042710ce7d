"""What libraries write out operation by operation, in fewer kernels: for as long as a scoring pass lasts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import activations
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .attention import kernels_for

Place = tuple[Any, str, Any]  # an object, the name of one of its attributes, and what stands there meanwhile

# The tanh form of GELU, spelt out: eight kernels, and in half precision a rounding after each.
_TANH_GELU = tuple(
    getattr(activations, name) for name in ("NewGELUActivation", "FastGELUActivation") if hasattr(activations, name)
)


@contextmanager
def fused_layers(model: nn.Module) -> Iterator[None]:
    """Let a model in evaluation mode run with fewer kernels; afterwards it is as it was.

    - A tanh GELU that is spelt out is `torch.nn.functional.gelu(approximate="tanh")`: it rounds once.
    - A plain LoRA layer adds its change inside one matrix product (`addmm`), in the precision of the layer's output.
      peft converts the input to the adapter's precision, by default float32, and the sum back again.
    - Rotary positions are one kernel for queries and one for keys, where the Triton kernels run; Phi's, which turn only
      a part of each head, are turned in place.
    """
    places = [*_activations(model), *_lora_layers(model)]
    weight = next(model.parameters())
    if kernels_for(weight.device, weight.dtype):
        places += [*_rotary_functions(model, weight), *_phi_layers(model)]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    for owner, name, new in places:
        setattr(owner, name, new)
    try:
        yield
    finally:
        for owner, name, own in before:
            if name == "forward":
                delattr(owner, name)  # the class's own shows again
            else:
                setattr(owner, name, own)


def _activations(model: nn.Module) -> Iterator[Place]:
    """Torch's GELU in the place of spelt-out ones."""
    fused = nn.GELU(approximate="tanh")
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, _TANH_GELU):
                yield parent, name, fused


def _lora_layers(model: nn.Module) -> Iterator[Place]:
    """A forward of one product more than the layer's own two, for plain LoRA layers."""
    if not any(type(module).__module__.startswith("peft.") for module in model.modules()):
        return  # importing peft takes seconds
    from peft.tuners.lora.layer import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer) and (forward := _lora_forward(module)) is not None:
            yield module, "forward", forward


def _rotary_functions(model: nn.Module, like: torch.Tensor) -> Iterator[Place]:
    """Our kernel in the place of `apply_rotary_pos_emb` in the model's own modules, where it gives the same."""
    name = "apply_rotary_pos_emb"
    for source in sorted({type(module).__module__ for module in model.modules()}):
        own = getattr(sys.modules[source], name, None)
        if own is not None and _rotates_halves(own, like):
            yield sys.modules[source], name, _rotary(own)


def _phi_layers(model: nn.Module) -> Iterator[Place]:
    """Phi's attention turning the rotary part of its heads in place: transformers copies both parts together again."""
    from transformers.models.phi.modeling_phi import PhiAttention

    for module in model.modules():
        if isinstance(module, PhiAttention) and not module.qk_layernorm:
            yield module, "forward", _phi_forward(module)


def _phi_forward(layer: Any) -> Callable[..., Any]:
    from .kernels import rotate

    def forward(hidden_states: torch.Tensor, position_embeddings: Any, *args: Any, **kwargs: Any) -> Any:
        shape = (*hidden_states.shape[:-1], -1, layer.head_dim)
        projections = (layer.q_proj, layer.k_proj, layer.v_proj)
        q, k, v = (project(hidden_states).view(shape).transpose(1, 2) for project in projections)
        for states in (q, k):
            part = states[..., : layer.rotary_ndims]
            rotate(part, *position_embeddings, out=part)
        attend = ALL_ATTENTION_FUNCTIONS[layer.config._attn_implementation]
        out, _ = attend(layer, q, k, v, None, scaling=layer.scaling)
        return layer.dense(out.reshape(*hidden_states.shape[:-1], -1)), None

    return forward


def _rotary(own: Callable[..., Any]) -> Callable[..., Any]:
    from .kernels import rotate

    def rotary(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *args: Any, **more: Any) -> Any:
        usual = q.ndim == 4 and q.shape[0] == 1 and cos.shape == (1, q.shape[2], q.shape[3])
        if not usual or args or more or k.shape[2:] != q.shape[2:] or q.stride(3) != 1 or k.stride(3) != 1:
            return own(q, k, cos, sin, *args, **more)
        return rotate(q, cos, sin), rotate(k, cos, sin)

    return rotary


def _rotates_halves(own: Callable[..., Any], like: torch.Tensor) -> bool:
    """Whether a model's function turns halves against each other, as most do, and takes what most take."""
    from .kernels import rotate

    draw = torch.Generator(device=like.device).manual_seed(0)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw, device=like.device).to(like.dtype)

    q, k, cos, sin = some(1, 3, 5, 16), some(1, 1, 5, 16), some(1, 5, 16), some(1, 5, 16)
    try:
        found = own(q, k, cos, sin)
        return all(
            torch.allclose(theirs, rotate(ours, cos, sin), rtol=0.05, atol=0.05)
            for theirs, ours in zip(found, (q, k), strict=True)
        )
    except Exception:  # another signature: it keeps its own
        return False


def _lora_forward(layer: Any) -> Callable[..., torch.Tensor] | None:
    """The layer's forward in fewer kernels; None where it does more than add B A x."""
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if layer.merged or layer.disable_adapters or len(names) != 1 or names[0] in layer.lora_variant:
        return None
    name, base = names[0], layer.get_base_layer()
    down, up = layer.lora_A[name], layer.lora_B[name]
    dropout = layer.lora_dropout[name]
    plain = all(type(part) is nn.Linear and part.bias is None for part in (down, up))
    if not plain or not hasattr(base, "in_features") or (dropout.training and not isinstance(dropout, nn.Identity)):
        return None
    scaling = float(layer.scaling[name])
    quantized = getattr(base.weight, "quant_state", None)
    dtype = base.weight.dtype if quantized is None else quantized.dtype
    if not dtype.is_floating_point:
        return None
    first, second = (part.weight.detach().to(dtype).t() for part in (down, up))

    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        result = base(x, *args, **kwargs)
        small = x.reshape(-1, x.shape[-1]) @ first
        result.view(-1, result.shape[-1]).addmm_(small, second, alpha=scaling)
        return result

    return forward
