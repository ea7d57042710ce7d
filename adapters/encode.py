"""Examples to tokens and labels: the prompt exactly as evaluation encodes it, one end-of-text token that is learned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .formats import FORMATS, PAIRS, Example
from .rows import Rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # transformers' label of a token that is not learned
NAMED = 50  # rows that a record names


@dataclass
class Encoded:
    """Rows as a trainer takes them, and what had to be done to some of them."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    shortened: list[str] = field(default_factory=list)  # names of rows that a shorter form stands for
    dropped: list[str] = field(default_factory=list)  # names of rows that no form fits

    def left_out(self) -> dict[str, list[str]]:
        """The names of the rows that are not among these, by why."""
        return {"dropped": self.dropped}

    def told(self, prefix: str = "") -> dict[str, Any]:
        """How many rows were left out or shortened, and the first of their names, for a record."""
        found: dict[str, Any] = {}
        for what, names in {**self.left_out(), "shortened": self.shortened}.items():
            found |= {f"{prefix}rows_{what}": len(names), f"{prefix}rows_{what}_names": names[:NAMED]}
        return found


def encode_rows(
    rows: Rows, format_name: str, tokenizer: PreTrainedTokenizerBase, *, max_length: int | None, learn_prompts: bool
) -> Encoded:
    """Rows as `input_ids` and `labels`.

    Args:
        rows: the source's rows.
        format_name: a key of :data:`FORMATS`.
        tokenizer: the model's.
        max_length: tokens at most; a row is shortened by its format, or dropped, and never cut.
        learn_prompts: whether all text is learned, and not the answers alone.

    Raises:
        UserError: for a row that lacks a column.
    """
    found = Encoded()
    for name, forms in _read(rows, FORMATS[format_name]):
        for number, form in enumerate(forms):
            row = encode(form, tokenizer, learn_prompts=learn_prompts)
            if max_length is None or len(row["input_ids"]) <= max_length:
                found.rows.append(row)
                if number:
                    found.shortened.append(name)
                break
        else:
            found.dropped.append(name)
    return found


def encode(example: Example, tokenizer: PreTrainedTokenizerBase, *, learn_prompts: bool = False) -> dict[str, Any]:
    """One example: `input_ids` and `labels`, lists of the same length.

    Parts are encoded one by one, so that a prompt has the same tokens as when a model is asked with it.
    """
    tokens: list[int] = []
    labels: list[int] = []
    for number, part in enumerate(example):
        own = prompt_tokens(part.text, tokenizer) if number == 0 else _plain(part.text, tokenizer)
        if part.ends:
            own.append(_eos(tokenizer))
        tokens += own
        labels += own if part.learned or learn_prompts else [IGNORED] * len(own)
    return {"input_ids": tokens, "labels": labels}


def encode_pairs(
    rows: Rows, format_name: str, *, max_length: int | None, tokenizer: PreTrainedTokenizerBase
) -> Encoded:
    """Rows as `prompt`, `chosen` and `rejected`, texts; those that do not fit are dropped.

    Raises:
        UserError: for a row that lacks a column.
    """
    found = Encoded()
    for name, pair in _read(rows, PAIRS[format_name]):
        prompt = len(prompt_tokens(pair.prompt, tokenizer))
        longest = max(len(_plain(text, tokenizer)) for text in (pair.chosen, pair.rejected)) + 1
        if max_length is not None and prompt + longest > max_length:
            found.dropped.append(name)
        else:
            found.rows.append({"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected})
    return found


def prompt_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens of a text that starts a sequence: with BOS where the tokenizer adds one, never with EOS at its end."""
    tokens = list(tokenizer(text)["input_ids"])
    if len(tokens) > 1 and tokens[-1] == tokenizer.eos_token_id and not text.endswith(str(tokenizer.eos_token)):
        tokens.pop()
    return tokens


def _plain(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _eos(tokenizer: PreTrainedTokenizerBase) -> int:
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no end-of-text token, so a model cannot learn to stop", where="tokenizer")
    return int(tokenizer.eos_token_id)


def _read(rows: Rows, form: Any) -> Iterator[tuple[str, Any]]:
    for name, row in rows.rows:
        try:
            found = form(row, name)
            yield name, list(found) if isinstance(found, Iterator) else found
        except ValueError as error:
            raise UserError(str(error), where=rows.source) from None
