"""Writing the data set: conversations split and as JSON Lines, and the results that the report is made from."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from ...files import sha256_file, write_text
from .overlap import overlap
from .pipeline import Conversation, Synthesis
from .results import EVAL, TRAIN, Lengths, Results, RuleOutcome
from .settings import Settings
from .similarity import KIN, groups, words
from .split import held_out

_MESSAGES = {"riddle": "riddle", "answer": "answer", "follow_up": "follow-up", "final": "final answer"}


def write_dataset(
    folder: Path, settings: Settings, synthesis: Synthesis, conversations: Sequence[Conversation], seconds: float
) -> Results:
    """Split the conversations, write both files, and look at what came out.

    Args:
        folder: where the files go.
        settings: of the synthesis.
        synthesis: for its counts.
        conversations: all that came through.
        seconds: that the command took so far.
    """
    riddles = [each.riddle for each in conversations]
    kin = groups(riddles, KIN)
    out = held_out(kin, settings.eval_share, settings.seed)
    train = [each for number, each in enumerate(conversations) if number not in out]
    held = [each for number, each in enumerate(conversations) if number in out]
    for name, rows in ((TRAIN, train), (EVAL, held)):
        lines = [json.dumps({"id": each.id, "messages": list(each.messages)}, ensure_ascii=False) for each in rows]
        write_text(folder / name, "".join(line + "\n" for line in lines))
    return Results(
        seconds=round(seconds, 2),
        stages=synthesis.stages,
        rules=[RuleOutcome(**vars(count)) for count in synthesis.tally.counts],
        lines=synthesis.lines,
        kept=synthesis.kept,
        train=len(train),
        eval=len(held),
        groups=len(kin),
        largest_group=max(map(len, kin), default=0),
        lengths=[_lengths(name, [getattr(each, name) for each in conversations]) for name in _MESSAGES],
        overlaps=[
            overlap("riddles with the seeds", riddles, settings.seeds.texts),
            overlap("riddles of eval with those of train", [e.riddle for e in held], [e.riddle for e in train]),
            overlap("conversations of eval with those of train", [*map(_whole, held)], [*map(_whole, train)]),
        ],
        generated=synthesis.how(),
        answered_by=dict(sorted(synthesis.answered_by.items())),
        sha256={name: sha256_file(folder / name) for name in (TRAIN, EVAL)},
    )


def _whole(conversation: Conversation) -> str:
    return "\n".join(message["content"] for message in conversation.messages)


def _lengths(message: str, texts: Sequence[str]) -> Lengths:
    counts = [len(words(text)) for text in texts] or [0]
    return Lengths(
        message=_MESSAGES[message],
        least=min(counts),
        median=statistics.median(counts),
        most=max(counts),
        mean=round(statistics.mean(counts), 1),
    )
