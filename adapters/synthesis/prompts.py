"""Every prompt of the synthesis of riddles, in one place.

The method is that of a published recipe (docs/synthesis.md); the words are ours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .generator import Message

EXPAND = (
    "Here are {count} riddles:\n\n{riddles}\n\n"
    "Invent {count} new riddles of your own. Write each riddle on one line, and write nothing but the riddles:"
    " no numbers, no answers, no introduction."
)
ANSWER = (
    "{riddle}\n\n"
    "Work it out step by step, in simple words, and do your best. If you cannot give one answer because something is"
    " missing, end with a single short question to me."
)
FOLLOW_UP = (
    "Here is a conversation between a user and an assistant.\n\n"
    "user: {riddle}\nassistant: {answer}\n\n"
    "Write what the user says next: one very short question, such as a curious ten-year-old would ask. Write only the"
    " question."
)
TEMPLATES = {"expand": EXPAND, "answer": ANSWER, "follow_up": FOLLOW_UP}


def expand(riddles: Sequence[str]) -> tuple[Message, ...]:
    """Ask for as many new riddles as are shown."""
    return (_user(_filled(EXPAND, count=str(len(riddles)), riddles="\n\n".join(riddles))),)


def answer(riddle: str) -> tuple[Message, ...]:
    """Ask for the answer to a riddle."""
    return (_user(_filled(ANSWER, riddle=riddle)),)


def follow_up(riddle: str, first: str) -> tuple[Message, ...]:
    """Ask what a curious child would ask next."""
    return (_user(_filled(FOLLOW_UP, riddle=riddle, answer=first)),)


def final(riddle: str, first: str, question: str) -> tuple[Message, ...]:
    """Go on with the conversation itself: no instruction stands beside it."""
    return (_user(riddle), Message(role="assistant", content=first), _user(question))


def instructions(template: str) -> list[str]:
    """What a template tells the model to do, without the places that are filled."""
    return re.split(r"\{\w+\}", template)


def _user(text: str) -> Message:
    return Message(role="user", content=text)


def _filled(template: str, **texts: str) -> str:
    """The template with its places filled; braces in a text of a model's are nothing special."""
    return template.format(**texts)
