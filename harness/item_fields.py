"""What is known of an item beside its answers: its own short fields, and the lengths of the others.

Kept in the records, so that a comparison can name the kind of items that drives a difference (see :mod:`.slices`) and
treat items made from one source as the one draw that they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from .records import ItemField

PROMPT_LENGTH = "characters of the prompt"
CHOICES = "number of choices"
POSITION = "position of the right choice"
SOURCE = "source"  # the hash of the field that the task's `source` names
LONGEST = 60  # characters of a text that is kept as it is: a topic, a language, an activity


def item_fields(
    doc: Any, prompt: str, choices: int, gold: tuple[int, ...], *, source: str | None, keep_texts: bool
) -> list[ItemField]:
    """The fields of one item.

    Args:
        doc: the document as the task has it. A text of up to 60 characters and a number stay as they are; of a longer
            text there is its length, of a list how many it holds.
        prompt: the first request's context.
        choices: how many choices it has; 0 for other than multiple choice.
        gold: the right ones' positions, from 0.
        source: the name of the field that tells what the item was made from, if any.
        keep_texts: whether texts may stand there as they are; otherwise their hashes do.
    """
    found = [ItemField(PROMPT_LENGTH, number=float(len(prompt)))]
    if choices:
        found.append(ItemField(CHOICES, number=float(choices)))
    if choices and len(gold) == 1:
        found.append(ItemField(POSITION, text=str(gold[0] + 1)))
    if not isinstance(doc, Mapping):
        return found
    if source is not None and source in doc:
        found.append(ItemField(SOURCE, text=_hash(str(doc[source]))))
    return found + [field for key, value in doc.items() for field in _field(str(key), value, keep_texts)]


def _field(name: str, value: Any, keep_texts: bool) -> list[ItemField]:
    if isinstance(value, bool):
        return [ItemField(name, text=str(value).lower())]
    if isinstance(value, int | float):
        return [ItemField(name, number=float(value))]
    if isinstance(value, str):
        if len(value) <= LONGEST:
            return [ItemField(name, text=value if keep_texts else _hash(value))]
        return [ItemField(f"characters of {name}", number=float(len(value)))]
    if isinstance(value, list | tuple):
        return [ItemField(f"number of {name}", number=float(len(value)))]
    return []


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
