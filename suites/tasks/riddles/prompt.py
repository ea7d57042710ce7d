"""The one template of conversations in ChatML: training, evaluation and chat all take it from here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

START, END = "<|im_start|>", "<|im_end|>"
ROLES = ("system", "user", "assistant")

# The same as a Jinja template, for `tokenizer.chat_template`; `tests/suites` holds the two to each other.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


def header(role: str) -> str:
    """What stands before a turn's text; a model's answer is written after the assistant's."""
    return f"{START}{role}\n"


def body(content: str) -> str:
    """A turn's text with the token that ends it: what a model learns to write."""
    return f"{content.strip()}{END}"


def read_row(row: Mapping[str, object], name: str) -> list[Message]:
    """The messages of a row, checked.

    Args:
        row: a row whose column `messages` holds role and content of each turn; `role` may be left out, as a list of
            texts that start with the user's.
        name: how an error names the row, such as "line 3".

    Raises:
        ValueError: the column is missing or of another form, or no answer is in it.
    """
    turns = row.get("messages")
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"riddles: {name} has no column 'messages' with a list of turns; it has {', '.join(row)}")
    found = []
    for number, said in enumerate(turns):
        turn = {"role": ROLES[1 + number % 2], "content": said} if isinstance(said, str) else said
        if not isinstance(turn, Mapping) or not isinstance(turn.get("content"), str) or turn.get("role") not in ROLES:
            raise ValueError(f"riddles: {name}: turn {number + 1} needs a role ({', '.join(ROLES)}) and a content")
        found.append(Message(str(turn["role"]), str(turn["content"])))
    if not any(message.role == "assistant" for message in found):
        raise ValueError(f"riddles: {name} has no answer: no turn is the assistant's")
    return found
