"""Generating for many prompts: read packed, then decoded together, each leaving when it is done and others joining."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
import torch

from .budget import activation_bytes, free_bytes
from .cache import KeyValueCache, LayerSize
from .decoding import Decoder
from .prompts import Prompt
from .sampling import Choice
from .shape import to_device
from .stops import StopStrings
from .tree import Plan, Scored

_REFILL = 0.75  # others join when no more than this share of the rows goes on
_LEAST_BUDGET = 256
_HOST_SHARE = 0.5  # of the host's free memory that a cache there may take


@dataclass
class _Row:
    """One text on its way."""

    number: int  # of the plan's sequence
    prompt: Prompt
    members: list[int]  # the requests that it answers
    stops: StopStrings
    start: int = 0  # its first place in the cache
    asked: int = 0  # new tokens that were computed, read back or not
    generated: list[int] = field(default_factory=list)
    is_done: bool = False

    @property
    def size(self) -> int:
        """Places it needs: the last new token is never fed."""
        return len(self.prompt.tokens) + self.prompt.limit - 1


@dataclass
class _State:
    """The rows of a batch on the device."""

    tokens: torch.Tensor  # [B]: the newest of each
    positions: torch.Tensor  # [B]: its place
    starts: torch.Tensor  # [B]
    lengths: torch.Tensor  # [B]: of the prompts
    history: torch.Tensor | None  # [B, n]: all tokens, then the first one again; where a penalty looks back
    chances: torch.Tensor | None  # [B, m], float64: a number for each new token; where tokens are sampled

    def only(self, kept: torch.Tensor) -> _State:
        """The rows that are kept, [b] numbers."""
        return _State(*(None if part is None else part[kept] for part in self._parts()))  # type: ignore[arg-type]

    def joined(self, other: _State) -> _State:
        """These rows and others behind them."""
        pairs = zip(self._parts(), other._parts(), strict=True)
        joined = [None if a is None or b is None else torch.cat([a, b]) for a, b in pairs]
        return _State(*joined)  # type: ignore[arg-type]

    def _parts(self) -> list[torch.Tensor | None]:
        return [self.tokens, self.positions, self.starts, self.lengths, self.history, self.chances]

    def choose(self, choice: Choice, logits: torch.Tensor) -> torch.Tensor:
        """Take the next token of each row: [B]."""
        chance = None
        if self.chances is not None:
            drawn = self.positions + 1 - self.lengths
            chance = self.chances.gather(1, drawn[:, None])[:, 0]
        self.tokens = choice(logits, self.history, chance)
        self.positions = self.positions + 1
        if self.history is not None:
            self.history.scatter_(1, self.positions[:, None], self.tokens[:, None])
        return self.tokens


class Generation:
    """One pass over prompts that share their options.

    Args:
        decoder: the model.
        tokenizer: the model's.
        choice: how next tokens are chosen.
        ends: tokens that end a text.
        budget: tokens of a prefill forward; it and the number of rows are halved when memory runs out.
    """

    def __init__(self, decoder: Decoder, tokenizer: Any, choice: Choice, ends: set[int], budget: int) -> None:
        self._decoder = decoder
        self._device = decoder.device
        self._tokenizer = tokenizer
        self._choice = choice
        self._ends = ends
        self.budget = budget
        self._most = decoder.most_rows
        # An accelerator works on one step while the tokens of the one before are read; nothing else gains by it.
        self._ahead = 1 if self._device.type == "cuda" else 0

    def run(self, members: Sequence[int], prompts: Sequence[Prompt]) -> Iterator[tuple[int, list[int]]]:
        """Generate for the prompts numbered `members`: (number, new tokens), each as soon as it is done.

        Raises:
            torch.OutOfMemoryError: when not even one prompt fits.
        """
        missing = set(members)
        while missing:
            try:
                for member, tokens in self._pass(sorted(missing), prompts):
                    missing.discard(member)
                    yield member, tokens
            except torch.OutOfMemoryError:
                if self._most == 1:
                    raise
            if missing:  # outside of the handler, which holds on to what was there
                torch.cuda.empty_cache()
                self._most //= 2

    def _pass(self, members: Sequence[int], prompts: Sequence[Prompt]) -> Iterator[tuple[int, list[int]]]:
        rows = self._rows(members, prompts)
        plan = Plan([Scored(row.prompt.tokens, [i]) for i, row in enumerate(rows)])
        waiting = [rows[member] for (member,) in plan.members]
        for number, row in enumerate(waiting):
            row.number = number
        with self._decoder.ready():
            layers = self._decoder.layers()
            longest = max(row.size for row in rows) + 1
            cache = self._decoder.open(layers, self._places(layers, rows), longest)
            yield from self._loop(plan, deque(waiting), cache)

    def _rows(self, members: Sequence[int], prompts: Sequence[Prompt]) -> list[_Row]:
        """Distinct texts to generate: what is asked twice is answered once, unless chance has a say."""
        found: dict[Any, _Row] = {}
        stops: dict[tuple[str, ...], StopStrings] = {}
        for i in members:
            prompt = prompts[i]
            until = stops.setdefault(prompt.until, StopStrings(self._tokenizer, prompt.until))
            seed = prompt.seed if self._choice.is_sampled else None
            key = (tuple(prompt.tokens), prompt.limit, prompt.until, seed)
            found.setdefault(key, _Row(0, prompt, [], until)).members.append(i)
        return list(found.values())

    def _places(self, layers: list[LayerSize], rows: list[_Row]) -> int:
        """Places of the cache: for as many rows as run together, as far as memory goes."""
        sizes = sorted((row.size for row in rows), reverse=True)
        wanted = sum(sizes[: self._most])
        each = sum(layer.bytes for layer in layers)
        free = free_bytes(self._device)
        if free is None:
            room = int(_HOST_SHARE * psutil.virtual_memory().available) // each
            return min(wanted, max(sizes[0], room))
        free -= self._most * self._decoder.row_bytes(sampled=self._choice.is_sampled)
        while True:
            room = int(0.9 * (free - activation_bytes(self._decoder.causal, self.budget))) // each
            if room >= sizes[0] or self.budget <= _LEAST_BUDGET:
                return min(wanted, max(sizes[0], room))
            self.budget //= 2

    def _loop(self, plan: Plan, waiting: deque[_Row], cache: KeyValueCache) -> Iterator[tuple[int, list[int]]]:
        rows: list[_Row] = []
        state: _State | None = None
        unread: deque[tuple[list[_Row], _Later]] = deque()
        peak, filling = 0, True
        while rows or waiting:
            going = [i for i, row in enumerate(rows) if not row.is_done and row.asked < row.prompt.limit]
            if state is not None and len(going) < len(rows):
                for i in set(range(len(rows))) - set(going):
                    cache.give(rows[i].start, rows[i].size)
                rows = [rows[i] for i in going]
                state = state.only(to_device(np.array(going, dtype=np.int64), self._device)) if rows else None
            filling = bool(waiting) and (filling or len(rows) <= _REFILL * peak)
            if filling:
                joining = self._admitted(plan, waiting, cache, self._most - len(rows))
                filling = bool(joining)
                if joining:
                    new = self._prefill(plan, joining, waiting, cache)
                    if new is None:
                        continue
                    unread.append((joining, _Later(new.tokens)))
                    rows = rows + joining
                    state = new if state is None else state.joined(new)
                    peak = len(rows)
                    continue
            if state is not None:
                logits = self._decoder.step(state.tokens, state.positions, state.starts)
                unread.append((rows, _Later(state.choose(self._choice, logits))))
                for row in rows:
                    row.asked += 1
            while len(unread) > (self._ahead if rows else 0):
                yield from self._read(*unread.popleft())
        while unread:
            yield from self._read(*unread.popleft())

    def _admitted(self, plan: Plan, waiting: deque[_Row], cache: KeyValueCache, most: int) -> list[_Row]:
        """The next rows of the plan that one forward, the cache and a batch have room for; taken off `waiting`."""
        first = waiting[0].number
        end = min(plan.end(self.budget, first), first + most)
        joining: list[_Row] = []
        while waiting and waiting[0].number < end and (start := cache.take(waiting[0].size)) is not None:
            row = waiting.popleft()
            row.start = start
            joining.append(row)
        return joining

    def _prefill(self, plan: Plan, joining: list[_Row], waiting: deque[_Row], cache: KeyValueCache) -> _State | None:
        """Read the prompts of rows that join; None, and they wait again, where memory ran out."""
        forward = plan.forward(joining[0].number, joining[-1].number + 1)
        try:
            logits = self._decoder.prefill(forward, [row.start for row in joining])
            state = self._new_state(joining)
            state.choose(self._choice, logits)
        except torch.OutOfMemoryError:
            if len(joining) == 1:
                raise
            state = None
        if state is None:  # outside of the handler, which holds on to what the forward had made
            torch.cuda.empty_cache()
            self.budget = max(1, len(forward.tokens) // 2)
            for row in reversed(joining):
                cache.give(row.start, row.size)
                waiting.appendleft(row)
            return None
        for row in joining:
            row.asked = 1
        return state

    def _new_state(self, rows: list[_Row]) -> _State:
        lengths = torch.tensor([len(row.prompt.tokens) for row in rows], device=self._device)
        starts = torch.tensor([row.start for row in rows], device=self._device)
        history = chances = None
        if self._choice.penalty != 1.0:
            filled = np.empty((len(rows), self._decoder.longest + 1), dtype=np.int64)
            for line, row in zip(filled, rows, strict=True):
                line[:] = row.prompt.tokens[0]
                line[: len(row.prompt.tokens)] = row.prompt.tokens
            history = to_device(filled, self._device)
        if self._choice.is_sampled:
            drawn = np.zeros((len(rows), self._decoder.longest + 1))
            for places, row in zip(drawn, rows, strict=True):
                places[: row.prompt.limit] = np.random.default_rng(row.prompt.seed).random(row.prompt.limit)
            chances = to_device(drawn, self._device)
        return _State(lengths, lengths - 1, starts, lengths, history, chances)

    def _read(self, rows: list[_Row], tokens: _Later) -> Iterator[tuple[int, list[int]]]:
        for row, token in zip(rows, tokens.values(), strict=True):
            if row.is_done:
                continue
            row.generated.append(token)
            row.is_done = token in self._ends or len(row.generated) == row.prompt.limit or row.stops.met(row.generated)
            if row.is_done:
                for member in row.members:
                    yield member, row.generated


class _Later:
    """Tokens on their way to the host."""

    def __init__(self, tokens: torch.Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._tokens = tokens
        if tokens.device.type == "cuda":
            self._tokens = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
            self._tokens.copy_(tokens, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def values(self) -> list[int]:
        """The tokens, when they have come."""
        if self._event is not None:
            self._event.synchronize()
        return [int(token) for token in self._tokens.tolist()]
