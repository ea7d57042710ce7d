"""How far a variant's weights are from those that an adapter has on the quantised base: does a merge drown it?

QLoRA trains an adapter beside a quantised base, so the weights that it learned to work with are W_t = Q(W) + scaling *
B A, where Q(W) is the base's weight quantised and dequantised again. A variant computes with others: with W + scaling *
B A on the base in its own precision, with that rounded or quantised again once it is merged. The norm of the difference
in units of the norm of scaling * B A says how large the error is beside what was learned: 0 is the trained form itself,
and from 1 on more was lost or added than the adapter ever changed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from .adapter_files import AdapterFiles, training_record
from .lora import lora_pairs, not_plain_lora
from .quantize import dense_weight
from .spec import QuantizationSpec
from .variants import Variant, VariantFactory

_DIGITS = 6  # of a number that is kept


@dataclass(frozen=True)
class LayerError:
    """One layer's error, as Frobenius norms."""

    module: str  # as the base calls it
    relative_to_update: float  # of what the adapter adds
    relative_to_weight: float  # of the trained form's weight


@torch.no_grad()
def layer_errors(factory: VariantFactory, variant: Variant) -> list[LayerError] | str:
    """The error of every linear layer that an adapter changes, in float32, one layer after the other on the device.

    Layers that the adapter leaves alone (its B is zero) and embeddings are left out.

    Args:
        factory: what made the variant.
        variant: as it was made, before anything ran on it.

    Returns:
        The errors in the order of the layers' names; or why there are none.

    Raises:
        Exception: whatever the libraries raise over layers that are not what the adapter's names say.
    """
    spec = variant.spec
    if spec.adapter is None:
        return "it has no adapter"
    adapter = factory.adapters[spec.adapter]
    names = [spec.quantization] if spec.quantization else list(factory.quantizations)
    if len(names) != 1:
        return f"the suite has {len(names)} quantisations, and the variant names none"
    if (why := _not_comparable(adapter, factory.quantizations[names[0]])) is not None:
        return why
    attached = spec.merge == "none"
    model: Any = variant.model
    layers = model.get_base_model() if attached else model
    # The trained form itself is what the others are held against; there is nothing to quantise again.
    trained = None if attached and spec.quantization else factory.layer_quantizer(names[0])
    errors = []
    for pair in lora_pairs(adapter):
        update = pair.update(factory.device)
        if not (size := _norm(update)):
            continue
        off, weight = 0.0, 1.0
        if trained is not None:
            layer = layers.get_submodule(pair.module)
            there = dense_weight(layer.get_base_layer()).float() + update if attached else dense_weight(layer).float()
            wanted = trained.dense(pair.module).float() + update
            if there.shape != wanted.shape:
                raise ValueError(f"{pair.module} is {tuple(there.shape)}, and the base's {tuple(wanted.shape)}")
            off, weight = _norm(there - wanted), _norm(wanted)
        errors.append(LayerError(pair.module, _rounded(off / size), _rounded(off / weight)))
    return errors


def _not_comparable(adapter: AdapterFiles, quantization: QuantizationSpec) -> str | None:
    """Why an adapter on a quantised base is no form that its variants could be held against; None where it is."""
    recipe = (training_record(adapter.folder) or {}).get("recipe")
    if isinstance(recipe, dict) and recipe.get("quantization") is None:
        return "its adapter was trained on a base that is not quantised"
    if quantization.llm_int8_has_fp16_weight:
        return "its 8-bit layers are quantised anew at each forward"
    return not_plain_lora(adapter.config)


def _norm(tensor: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor))


def _rounded(number: float) -> float:
    if not math.isfinite(number):
        raise ValueError("its weights are not finite")
    return float(f"{number:.{_DIGITS}g}")
