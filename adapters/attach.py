"""Attaching an adapter to a base, and refusing one that does not fit."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from ..errors import UserError
from .adapter_files import AdapterFiles


def attach(model: PreTrainedModel, adapter: AdapterFiles) -> Any:
    """Attach `adapter` to `model` (changed in place) and return the `PeftModel`, in evaluation mode.

    Raises:
        UserError: when the adapter was made for another base: other target modules, shapes or layers.
    """
    from peft import PeftModel
    from peft.utils.save_and_load import get_peft_model_state_dict

    where = f"adapters.{adapter.name} = {adapter.source}"
    fix = f"this adapter says it was made for {adapter.config.get('base_model_name_or_path')!r}; use that base"
    saved = adapter.shapes()
    _resize_embeddings(model, saved)
    try:
        peft_model = PeftModel.from_pretrained(model, str(adapter.folder))
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"the adapter does not fit this base: {text[:300]}", where=where, fix=fix) from error
    expected = get_peft_model_state_dict(peft_model, save_embedding_layers=False)
    missing = sorted(set(expected) - set(saved))
    strange = sorted(name for name in set(saved) - set(expected) if not _is_embedding(name))
    if missing or strange:
        what = f"{len(missing)} weights it needs are not in the adapter" if missing else ""
        extra = f"{len(strange)} weights of the adapter have no place in this base" if strange else ""
        example = (missing or strange)[0]
        text = "; ".join(part for part in (what, extra) if part)
        raise UserError(f"the adapter does not fit this base: {text} (such as {example})", where=where, fix=fix)
    return peft_model.eval()


def _is_embedding(name: str) -> bool:
    return name.endswith((".embed_tokens.weight", ".lm_head.weight", ".wte.weight", ".embed_in.weight", ".embed_out.weight"))


def _resize_embeddings(model: PreTrainedModel, saved: dict[str, tuple[int, ...]]) -> None:
    """Give the base as many embedding rows as the adapter's own full embedding matrices have, if it carries any."""
    rows = {shape[0] for name, shape in saved.items() if _is_embedding(name) and len(shape) == 2}
    if len(rows) != 1 or (wanted := rows.pop()) == model.get_input_embeddings().weight.shape[0]:
        return
    # Rows beyond the base's come from the adapter; what is drawn here is overwritten, but must not move the seeds.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.resize_token_embeddings(wanted, mean_resizing=False)
