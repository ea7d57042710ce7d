"""The ids that a model's own settings have for the begin, end and filling of a text: those of the tokenizer it is with.

`generate` stops at the ids of generation_config.json, and servers read those of config.json. Both are the base's, and
an adapter that learned to stop at another token runs on under them for ever, attached or merged.
"""

from __future__ import annotations

from typing import Any

_KINDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def set_ends(model: Any, tokenizer: Any, base_tokenizer: Any) -> None:
    """Let a model stop at its tokenizer's end of text, and begin and fill with its other tokens.

    Args:
        model: a transformers model, or peft's around one; its settings are changed, not its weights.
        tokenizer: what the adapter carries.
        base_tokenizer: the base's. What both have alike stays as the base's settings say.
    """
    bare = model.get_base_model() if hasattr(model, "peft_config") else model
    for settings in (bare.config, bare.generation_config):
        if settings is None:
            continue
        for kind in _KINDS:
            token = getattr(tokenizer, kind)
            if token is None:
                continue
            if kind == "eos_token_id":
                settings.eos_token_id = _ends(settings.eos_token_id, token)
            elif token != getattr(base_tokenizer, kind):
                setattr(settings, kind, token)


def ends_of(model: Any) -> dict[str, Any]:
    """The ids in a model's settings, by file and name."""
    named = {"config": model.config, "generation_config": model.generation_config}
    return {f"{file}.{kind}": getattr(settings, kind, None) for file, settings in named.items() for kind in _KINDS}


def _ends(known: int | list[int] | None, token: int) -> int | list[int]:
    """The ends of text with a tokenizer's among them: in the place of a single one, before several."""
    if isinstance(known, list):
        return known if token in known else [token, *known]
    return token
