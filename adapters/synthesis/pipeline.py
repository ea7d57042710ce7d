"""The way of a riddle: expanded from seeds, cleaned, compared, answered, asked about, answered again, split.

Each stage is complete before the next begins, and every answer is in the journal as it comes: the same command goes on
from there, and asks nothing twice.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from . import clean, prompts
from .generator import CUT, STOPPED, Message, Reply, Request, TextGenerator
from .journal import Journal, request_key
from .results import StageCount
from .rules import Rule, Tally
from .settings import Settings
from .similarity import DUPLICATE, Index, likeness, normalized, runs, words

EXPAND, ANSWER, FOLLOW_UP, FINAL = STAGES = ("expand", "answer", "follow-up", "final answer")
COMPARE = "compare"
_ECHO = 0.9  # so like a message before it that it says nothing else
_FEW = 5  # words in which order says much
_PARROT = 6  # words in a row
_TOLD = {
    EXPAND: prompts.instructions(prompts.EXPAND),
    ANSWER: prompts.instructions(prompts.ANSWER),
    FOLLOW_UP: prompts.instructions(prompts.FOLLOW_UP),
}
_WHOLE_TEXT = (clean.PROMPT_CUT, clean.CUT, clean.UNFINISHED)


class Bar(Protocol):
    """A bar on the terminal."""

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """Move on."""


class Progress(Protocol):
    """The terminal."""

    def bar(self, label: str, total: int | None) -> AbstractContextManager[Bar]:
        """A bar for one stage."""
        ...


@dataclass
class Conversation:
    """Four messages on their way; those that are not there yet are empty."""

    riddle: str
    answer: str = ""
    follow_up: str = ""
    final: str = ""

    @property
    def id(self) -> str:
        """The same for the same riddle, whatever stands around it."""
        return "riddle-" + hashlib.sha256(normalized(self.riddle).encode()).hexdigest()[:12]

    @property
    def messages(self) -> tuple[Message, ...]:
        """All four."""
        return (
            *prompts.final(self.riddle, self.answer, self.follow_up),
            Message(role="assistant", content=self.final),
        )


class Synthesis:
    """One data set in the making.

    Args:
        settings: what is asked for.
        generator: whoever answers.
        journal: where answers are found, and kept.
        progress: the terminal.
    """

    def __init__(self, settings: Settings, generator: TextGenerator, journal: Journal, progress: Progress) -> None:
        self._settings = settings
        self._generator = generator
        self._journal = journal
        self._progress = progress
        self.tally = Tally()
        self.stages: list[StageCount] = []
        self.answered_by: Counter[str] = Counter()
        self.asked = 0  # requests that the journal did not answer
        self.lines = 0
        self.kept = 0

    def run(self) -> list[Conversation]:
        """Every stage; the conversations that came through all of them, in the order of their riddles.

        Raises:
            UserError: where the user can mend what keeps answers from coming.
        """
        found = [Conversation(riddle) for riddle in self._compare(self._expand())]
        self.kept = len(found)
        found = self._answer(found)
        found = self._ask_back(found)
        return self._conclude(found)

    def how(self) -> str:
        """How texts came about, in words."""
        return self._generator.how()

    # ---- the stages

    def _expand(self) -> list[str]:
        """New riddles, cleaned one by one."""
        self.tally.expect(
            EXPAND, (clean.PROMPT_CUT, clean.JOINED, clean.LAST_OF_CUT, *clean.RIDDLE_RULES, clean.PARROT)
        )
        given = self._settings
        requests = []
        for call in range(given.calls):
            shown = given.seeds.shown(given.per_call, given.seed, call)
            requests.append(Request(prompts.expand(shown), _seed(given.seed, EXPAND, call)))
        riddles = []
        for reply in self._ask(EXPAND, requests):
            if reply.truncated:
                self.tally.record(EXPAND, clean.PROMPT_CUT, reply.text, None)
                continue
            lines = list(clean.riddle_lines(clean.without_thinking(reply.text)))
            self.lines += len(lines)
            for line in lines:
                if line.pieces > 1:
                    self.tally.record(EXPAND, clean.JOINED, line.before, line.text)
            if lines and reply.finish != STOPPED:
                self.tally.record(EXPAND, clean.LAST_OF_CUT, lines.pop().text, None)
            cleaned = (self.tally.apply(EXPAND, clean.RIDDLE_RULES, line.text) for line in lines)
            riddles += [riddle for riddle in cleaned if riddle is not None and not self._parrots(EXPAND, riddle)]
        return riddles

    def _compare(self, riddles: list[str]) -> list[str]:
        """Riddles that are neither a seed nor a riddle before them said again."""
        rules = (clean.OF_A_SEED, clean.DUPLICATE, clean.NEAR_DUPLICATE, clean.OVER_LIMIT)
        self.tally.expect(COMPARE, rules)
        seeds, kept = Index(), Index()
        for text in self._settings.seeds.texts:
            seeds.add(text)
        seed_texts = {normalized(text): text for text in seeds.texts}
        kept_texts: dict[str, str] = {}
        for riddle in riddles:
            plain = normalized(riddle)
            rule: Rule | None = None
            like: str | None = None
            if (seed := seed_texts.get(plain) or _closest(seeds, riddle)) is not None:
                rule, like = clean.OF_A_SEED, seed
            elif (same := kept_texts.get(plain)) is not None:
                rule, like = clean.DUPLICATE, same
            elif (near := _closest(kept, riddle)) is not None:
                rule, like = clean.NEAR_DUPLICATE, near
            elif self._settings.limit is not None and len(kept.texts) >= self._settings.limit:
                rule = clean.OVER_LIMIT
            if rule is None:
                kept_texts[plain] = riddle
                kept.add(riddle)
            else:
                self.tally.record(COMPARE, rule, f"{riddle}\nlike: {like}" if like else riddle, None)
        return kept.texts

    def _answer(self, found: list[Conversation]) -> list[Conversation]:
        rules = clean.ANSWER_RULES
        texts = self._texts(ANSWER, [prompts.answer(each.riddle) for each in found], rules, found)
        for each, text in zip(found, texts, strict=True):
            each.answer = text or ""
        return [each for each in found if each.answer]

    def _ask_back(self, found: list[Conversation]) -> list[Conversation]:
        asked = [prompts.follow_up(each.riddle, each.answer) for each in found]
        texts = self._texts(FOLLOW_UP, asked, clean.FOLLOW_UP_RULES, found)
        for each, text in zip(found, texts, strict=True):
            each.follow_up = text or ""
        return [each for each in found if each.follow_up]

    def _conclude(self, found: list[Conversation]) -> list[Conversation]:
        asked = [prompts.final(each.riddle, each.answer, each.follow_up) for each in found]
        texts = self._texts(FINAL, asked, clean.ANSWER_RULES, found)
        for each, text in zip(found, texts, strict=True):
            each.final = text or ""
        return [each for each in found if each.final]

    # ---- asking

    def _texts(
        self, stage: str, asked: list[tuple[Message, ...]], rules: tuple[Rule, ...], found: list[Conversation]
    ) -> list[str | None]:
        """The cleaned answer to each conversation; None where it was dropped."""
        self.tally.expect(stage, (*_WHOLE_TEXT, *rules, clean.PARROT, clean.ECHO))
        # Of what is asked, not of its place: a conversation that is dropped leaves the others as they are.
        requests = [Request(messages, _seed(self._settings.seed, stage, messages)) for messages in asked]
        texts: list[str | None] = []
        for reply, each in zip(self._ask(stage, requests), found, strict=True):
            text = self._whole(stage, reply)
            if text is not None:
                text = self.tally.apply(stage, rules, text)
            if text is not None and (self._parrots(stage, text) or self._echoes(stage, text, each)):
                text = None
            texts.append(text)
        return texts

    def _parrots(self, stage: str, text: str) -> bool:
        """Whether a text repeats the instruction of its stage; counted if so."""
        said = any(not runs(text, _PARROT).isdisjoint(runs(told, _PARROT)) for told in _TOLD.get(stage, ()))
        if said:
            self.tally.record(stage, clean.PARROT, text, None)
        return said

    def _echoes(self, stage: str, text: str, conversation: Conversation) -> bool:
        """Whether a text says what a message before it said; counted if so."""
        before = [message["content"] for message in conversation.messages]
        said = normalized(text) in map(normalized, filter(None, before))
        if len(words(text)) > _FEW:  # "Why is that?" and "That is why." have the same words
            said = said or any(likeness(text, other) >= _ECHO for other in before)
        if said:
            self.tally.record(stage, clean.ECHO, text, None)
        return said

    def _whole(self, stage: str, reply: Reply) -> str | None:
        """The text of a reply that is all of an answer to all of its prompt."""
        is_met = (reply.truncated > 0, reply.finish == CUT, reply.finish != STOPPED)
        for rule, is_broken in zip(_WHOLE_TEXT, is_met, strict=True):
            if is_broken:
                self.tally.record(stage, rule, reply.text, None)
                return None
        return reply.text.strip()

    def _ask(self, stage: str, requests: list[Request]) -> list[Reply]:
        """A reply to each request: the journal's, or a new one."""
        sampling = self._settings.sampling
        keys = [request_key(stage, request, sampling) for request in requests]
        # A request may stand there twice only where it is the same in everything: it is asked once.
        missing = {key: i for i, key in reversed(list(enumerate(keys))) if key not in self._journal.found}
        waiting = [requests[i] for i in sorted(missing.values())]
        with self._progress.bar(stage, len(requests)) as bar:
            bar.advance(len(requests) - len(waiting))
            self.asked += len(waiting)
            if waiting:
                with contextlib.closing(self._generator.ask(waiting, sampling)) as replies:
                    for position, reply in replies:
                        self._journal.append(stage, waiting[position], sampling, reply)
                        bar.advance()
        found = [self._journal.found[key] for key in keys]
        self._count(stage, found)
        return found

    def _count(self, stage: str, found: list[Reply]) -> None:
        self.answered_by.update(reply.model for reply in found if reply.model is not None)
        self.stages.append(
            StageCount(
                stage=stage,
                requests=len(found),
                stopped=sum(reply.finish == STOPPED for reply in found),
                tokens_in=_sum([reply.tokens_in for reply in found]),
                tokens_out=_sum([reply.tokens_out for reply in found]),
            )
        )


def _closest(index: Index, riddle: str) -> str | None:
    """The text of an index that says nearly the same, or that the riddle is a piece of."""
    if (whole := index.containing(riddle)) is not None:
        return index.texts[whole]
    found = index.closest(riddle, DUPLICATE)
    return None if found is None else index.texts[found[0]]


def _sum(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _seed(seed: int, stage: str, what: object) -> int:
    """A seed of its own for each request, below 2**31 as every server takes it."""
    return int.from_bytes(hashlib.sha256(f"{seed} {stage} {what!r}".encode()).digest()[:4], "big") >> 1
