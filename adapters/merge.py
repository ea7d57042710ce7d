"""Merging an adapter into the weights it is attached to, by peft's own `merge_and_unload`."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from ..errors import UserError
from .adapter_files import AdapterFiles


def merge(peft_model: Any, adapter: AdapterFiles) -> PreTrainedModel:
    """Merge the attached adapter and return the plain model. The weights under the adapter must not be quantised.

    Raises:
        UserError: when the method has no weights to merge into (prompt and prefix methods), or merging gives NaN.
    """
    where = f"adapters.{adapter.name} = {adapter.source}"
    if peft_model.active_peft_config.is_prompt_learning or not hasattr(peft_model.base_model, "merge_and_unload"):
        raise UserError(
            f"a {adapter.method} adapter cannot be merged: it adds virtual tokens, not a change of weights",
            where=where,
            fix="drop the merged variants of this adapter from the suite",
        )
    try:
        merged = peft_model.merge_and_unload(safe_merge=True)
    except (ValueError, NotImplementedError, AttributeError) as error:
        raise UserError(f"a {adapter.method} adapter could not be merged: {error}", where=where) from error
    merged.requires_grad_(False)
    return merged.eval()
