"""Examples to tokens and labels: the prompt exactly as evaluation encodes it, one end-of-text token that is learned."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .formats import FORMATS, PAIRS, Example, LeftOut
from .rows import Rows, strings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # transformers' label of a token that is not learned
NAMED = 50  # rows that a record names
# Why rows are left out: the names of the lists of :class:`Encoded`, and what a person is told.
WHY = {
    "dropped": "too long",
    "special": "they spell special tokens",
    "unpaired": "they make no pair",
    "empty": "their answer is empty",
    "unsourced": "they have no references",
}


@dataclass
class Encoded:
    """Rows as a trainer takes them, and what had to be done to some of them."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    shortened: list[str] = field(default_factory=list)  # names of rows that a shorter form stands for
    dropped: list[str] = field(default_factory=list)  # names of rows that no form fits
    special: list[str] = field(default_factory=list)  # names of rows that spell a special token
    unpaired: list[str] = field(default_factory=list)  # names of rows that make no pair of answers
    empty: list[str] = field(default_factory=list)  # names of rows whose answer is empty
    unsourced: list[str] = field(default_factory=list)  # names of rows without references to answer from

    def left_out(self) -> dict[str, list[str]]:
        """The names of the rows that are not among these, by why: one reason each."""
        return {why: getattr(self, why) for why in WHY}

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
        max_length: tokens at most; a row is shortened by its format, or dropped, and never cut. Rows that spell a
            special token are left out.
        learn_prompts: whether all text is learned, and not the answers alone.

    Raises:
        UserError: for a row that lacks a column.
    """
    found, special = Encoded(), special_tokens(tokenizer)
    for name, texts, forms in _read(rows, FORMATS[format_name]):
        if any(map(special.search, texts)):
            found.special.append(name)
            continue
        if isinstance(forms, LeftOut):
            getattr(found, forms.why).append(name)
            continue
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


def nothing_to_learn(rows: Rows, format_name: str) -> list[str]:
    """The names of the rows that a format makes nothing of: their answer is empty, or they have no references.

    Raises:
        UserError: for a row that lacks a column.
    """
    read = _read(rows, FORMATS[format_name]) if format_name in FORMATS else ()
    return [name for name, _, forms in read if isinstance(forms, LeftOut)]


def texts_read(rows: Rows, format_name: str) -> Iterator[tuple[str, list[str]]]:
    """The name of each row, and the texts in the columns that its format reads.

    Raises:
        UserError: for a row that lacks a column.
    """
    for name, texts, _ in _read(rows, FORMATS.get(format_name) or PAIRS[format_name]):
        yield name, texts


def encode(example: Example, tokenizer: PreTrainedTokenizerBase, *, learn_prompts: bool = False) -> dict[str, Any]:
    """One example: `input_ids` and `labels`, lists of the same length.

    Parts are encoded one by one, so that a prompt has the same tokens as when a model is asked with it.

    Raises:
        UserError: where the tokenizer puts a space before every text, and the parts are not the whole.
    """
    spaced = puts_space_first(tokenizer)
    tokens: list[int] = []
    labels: list[int] = []
    written: list[int] = []  # what stands in the text itself
    for number, part in enumerate(example):
        own = prompt_tokens(part.text, tokenizer) if number == 0 else _following(part.text, tokenizer, spaced=spaced)
        written += own
        if part.ends:
            own = [*own, _eos(tokenizer)]
        tokens += own
        labels += own if part.learned or learn_prompts else [IGNORED] * len(own)
    if spaced and written != prompt_tokens("".join(part.text for part in example), tokenizer):
        raise UserError(
            "it puts a space before every text, and the parts of an example encode otherwise than the whole",
            where="tokenizer",
            fix="train on a base whose tokenizer does not, such as Phi's or SmolLM's; or in a format without turns",
        )
    return {"input_ids": tokens, "labels": labels}


def encode_pairs(
    rows: Rows, format_name: str, *, max_length: int | None, tokenizer: PreTrainedTokenizerBase
) -> Encoded:
    """Rows as `prompt`, `chosen` and `rejected`, texts.

    Those that make no pair, do not fit, or spell a special token are left out.

    Raises:
        UserError: for a row that lacks a column.
    """
    found, special, spaced = Encoded(), special_tokens(tokenizer), puts_space_first(tokenizer)
    for name, texts, pair in _read(rows, PAIRS[format_name]):
        if any(map(special.search, texts)):
            found.special.append(name)
            continue
        if pair is None:
            found.unpaired.append(name)
            continue
        prompt = len(prompt_tokens(pair.prompt, tokenizer))
        longest = max(len(_following(text, tokenizer, spaced=spaced)) for text in (pair.chosen, pair.rejected)) + 1
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


def puts_space_first(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer puts a space before every text that it is given (SentencePiece's dummy prefix)."""
    first = tokenizer.convert_ids_to_tokens(_plain("x", tokenizer)[:1])
    return bool(first) and str(first[0]).startswith(("▁", "Ġ"))


def _following(text: str, tokenizer: PreTrainedTokenizerBase, *, spaced: bool) -> list[int]:
    """The tokens of a text that follows another: without the space that the tokenizer may put before it."""
    if not spaced:
        return _plain(text, tokenizer)
    before = _plain("\n", tokenizer)
    both = _plain(f"\n{text}", tokenizer)
    return both[len(before) :] if both[: len(before)] == before else _plain(text, tokenizer)


def _plain(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _eos(tokenizer: PreTrainedTokenizerBase) -> int:
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no end-of-text token, so a model cannot learn to stop", where="tokenizer")
    return int(tokenizer.eos_token_id)


def special_tokens(tokenizer: PreTrainedTokenizerBase, *others: str) -> re.Pattern[str]:
    """Finds the texts that a tokenizer takes for special tokens, wherever they stand.

    Evaluation encodes prompts so, and training must do as it does: in a row's own text they would end or begin a turn.

    Args:
        tokenizer: the model's.
        others: tokens that a recipe adds to it.
    """
    added = tokenizer.added_tokens_decoder.values()
    names = {str(token) for token in added if token.special} | set(tokenizer.all_special_tokens) | set(others)
    return re.compile("|".join(re.escape(name) for name in sorted(names, key=len, reverse=True) if name) or r"(?!)")


class _Columns(Mapping[str, Any]):
    """A row that knows which of its columns were read."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self._row = row
        self.read: set[str] = set()

    def __getitem__(self, column: str) -> Any:
        found = self._row[column]
        self.read.add(column)
        return found

    def __contains__(self, column: object) -> bool:
        return column in self._row

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __len__(self) -> int:
        return len(self._row)


def _read(rows: Rows, form: Any) -> Iterator[tuple[str, list[str], Any]]:
    """The name of each row, the texts in the columns that its format reads, and what the format makes of it.

    That is a :class:`LeftOut` where nothing can be learned from the row.
    """
    for name, row in rows.rows:
        columns = _Columns(row)
        try:
            found = form(columns, name)
            found = list(found) if isinstance(found, Iterator) else found
        except LeftOut as reason:
            found = reason
        except ValueError as error:
            raise UserError(str(error), where=rows.source) from None
        yield name, list(strings({column: text for column, text in row.items() if column in columns.read})), found
