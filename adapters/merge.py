"""Merging an adapter into the weights it is attached to, by peft's own `merge_and_unload`."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from ..errors import UserError
from .adapter_files import AdapterFiles


def merge(peft_model: Any, adapter: AdapterFiles) -> PreTrainedModel:
    """Merge the attached adapter and return the plain model. The weights under the adapter must not be quantised.

    Raises:
        UserError: when the method has no weights to merge into (prompt and prefix methods), or merging gives weights
            that are not finite.
    """
    where = adapter.where
    if peft_model.active_peft_config.is_prompt_learning or not hasattr(peft_model.base_model, "merge_and_unload"):
        raise UserError(
            f"a {adapter.method} adapter cannot be merged: it adds virtual tokens, not a change of weights",
            where=where,
            fix="drop the merged variants of this adapter from the suite",
        )
    try:
        # Not `safe_merge`: in half precision that rounds the change before adding it, so its weights are not those
        # that people ship. What it checks for, weights that are not finite, is checked below for every weight.
        merged = peft_model.merge_and_unload()
    except torch.OutOfMemoryError:
        raise
    except (ValueError, NotImplementedError, AttributeError, RuntimeError) as error:
        raise UserError(f"a {adapter.method} adapter could not be merged: {error}", where=where) from error
    broken = [name for name, weight in merged.named_parameters() if not bool(torch.isfinite(weight).all())]
    if broken:
        raise UserError(
            f"merging gives weights that are not finite (NaN or infinity): {len(broken)}, such as {broken[0]}",
            where=where,
            fix="the adapter's training went wrong, or its change is too large for the base's precision",
        )
    merged.requires_grad_(False)
    return merged.eval()
