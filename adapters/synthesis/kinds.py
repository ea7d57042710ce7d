"""What can be synthesised, by name: the seeds that come with phibench, and what the seeds' column is called."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from ...errors import UserError


@dataclass(frozen=True)
class Kind:
    """A kind of data set."""

    name: str
    seeds: str  # the embedded file
    column: str  # of the seeds


KINDS = {"riddles": Kind("riddles", "riddles_seed.jsonl", "riddle")}


def find_kind(name: str) -> Kind:
    """The kind of a name.

    Raises:
        UserError: when there is none.
    """
    if name in KINDS:
        return KINDS[name]
    near = difflib.get_close_matches(name, KINDS, n=1)
    hint = f'did you mean "{near[0]}"? ' if near else ""
    raise UserError("this cannot be synthesised", where=name, fix=f"{hint}there is: {', '.join(KINDS)}")
