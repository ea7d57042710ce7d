"""The tokenizer that a recipe trains with, and that is saved with what it makes."""

from __future__ import annotations

import copy
from typing import Any

from ..errors import UserError
from .adapter_files import AdapterFiles
from .base import LoadedBase
from .formats import CHAT_TEMPLATES, ENDS
from .recipe import Recipe


def tokenizer_of(recipe: Recipe, base: LoadedBase, start: AdapterFiles | None) -> Any:
    """The tokenizer that a recipe trains with: a copy of the base's, or of its start's own, with the recipe's changes.

    Args:
        recipe: what it says.
        base: the base; its model has the rows for tokens.
        start: the adapter that training goes on from.

    Raises:
        UserError: for a token that is none, more tokens than rows, or a format whose text ends otherwise.
    """
    spec, form, where = recipe.tokenizer, recipe.data.format, recipe.where
    tokenizer = copy.deepcopy(base.tokenizer)
    if start is not None and start.has_tokenizer:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(start.folder)
    known = set(tokenizer.get_vocab()) | set(spec.add_tokens)
    for key in ("eos_token", "pad_token"):
        token = getattr(spec, key)
        if token is not None and token not in known:
            raise UserError(
                f"{token} is no token", where=where(f"tokenizer.{key}"), fix="name it in tokenizer.add_tokens too"
            )
    tokenizer.add_tokens(spec.add_tokens, special_tokens=True)
    for key in ("eos_token", "pad_token"):
        if getattr(spec, key) is not None:
            setattr(tokenizer, key, getattr(spec, key))
    if spec.chat_template:
        if form not in CHAT_TEMPLATES:
            raise UserError(
                f"{form} has no chat template",
                where=where("tokenizer.chat_template"),
                fix=f"drop it, or take a format that has one: {', '.join(CHAT_TEMPLATES)}",
            )
        tokenizer.chat_template = CHAT_TEMPLATES[form]
    if form in ENDS and tokenizer.eos_token != ENDS[form]:
        end = ENDS[form]
        raise UserError(
            f"rows of {form} end in {end}, and the tokenizer's end of text is {tokenizer.eos_token}:"
            " none that stops a text would be learned",
            where=where("tokenizer.eos_token"),
            fix=f'eos_token = "{end}"' + ("" if end in known else f', and add_tokens = ["<|im_start|>", "{end}"]'),
        )
    rows = base.model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise UserError(
            f"with its added tokens the tokenizer has {len(tokenizer)} tokens, and the model rows for {rows}",
            where=where("tokenizer.add_tokens"),
            fix="add fewer, or take tokens that are there",
        )
    return tokenizer
