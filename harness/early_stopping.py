"""Early stopping: a cell's items in random order, and no more of them than the gate's rules need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ..files import sha256_json
from .gate.check import Check, GateVerdict, check_target
from .gate.spec import GateSpec
from .gate.targets import Target, compared_with, statistical, targets_of
from .outcomes import Outcomes
from .records import Record, as_table
from .results import CellResult
from .run_state import RunState
from .tasks import BuiltTask
from .values import values_of

_FIRST = 32  # items before the first look
_GROWTH = 1.3  # of how many there are at each further look


class EarlyStopping:
    """Which cells may stop early, and when.

    A cell may where rules bind it, each of them on that task alone and on a metric that is known to lie between 0 and
    1, nothing is compared with it, and its items share no source. Rules are judged by confidence sequences, which hold
    however often one looks.

    Args:
        spec: the suite's gate.
        state: of the run; its variants and tasks were announced.
        against: what the gate compares with, where that is not the run itself.
        seed: of the order.

    Raises:
        UserError: a rule names what the run does not have.
    """

    def __init__(self, spec: GateSpec, state: RunState, against: Outcomes | None, *, seed: int) -> None:
        self._spec = spec
        self._state = state
        self._against = against
        self._seed = seed
        self._targets = targets_of(spec, self._outcomes(), against)

    def may_stop(self, variant: str, built: BuiltTask) -> bool:
        """Whether a cell's items may be asked until its rules are decided."""
        mine, task = self._on(variant, built.info.name), built.info.name
        alone = bool(mine) and all(len(target.tasks) == 1 for target in mine)
        draws = built.spec.source is None and built.spec.divergence is None
        return alone and draws and not self._unbounded(mine, built) and (variant, task) not in self._needed()

    def notes(self, asked: Sequence[tuple[str, BuiltTask]]) -> list[str]:
        """What of the variants' tasks cannot be stopped early, and why.

        Args:
            asked: variants and their tasks.
        """
        found = []
        for variant, built in asked:
            mine, task = self._on(variant, built.info.name), built.info.name
            if mine and built.spec.source is not None:
                found.append(f"gate.early_stopping: items of {task} share sources: all of them are asked")
            elif unbounded := self._unbounded(mine, built):
                found.append(
                    f"gate.early_stopping: {', '.join(unbounded)} of {task} is not known to lie between 0 and 1"
                    " (a task's metadata.shares says so): all of its items are asked"
                )
        return list(dict.fromkeys(found))

    def is_needed(self, variant: str) -> bool:
        """Whether others are compared with a variant, so that it is to be asked before them."""
        return any(name == variant for name, _ in self._needed())

    def identity(self, variant: str, task: str, hashes: Mapping[tuple[str, str], str]) -> list[object]:
        """What decides how many of a cell's items are asked, and in which order; for its hash.

        Args:
            variant, task: the cell.
            hashes: of this run's cells.
        """
        found: list[object] = [self._spec.level, self._count(), self._seed]
        for target in self._on(variant, task):
            found.append(target.rule.model_dump(mode="json"))
            if target.rule.compares:
                than = compared_with(target.rule, variant, self._outcomes(), self._against)
                other = self._against.cell(than, task) if self._against is not None else None
                found.append(hashes.get((than, task)) if self._against is None else other and other.cell_hash)
        return found

    def shuffled(self, built: BuiltTask) -> BuiltTask:
        """The task with its items in random order, the same for every variant."""
        lots = {
            item.index: sha256_json([self._seed, built.info.name, item.item_hash, item.index]) for item in built.items
        }
        return replace(built, items=sorted(built.items, key=lambda item: lots[item.index]))

    def looks(self, items: int) -> Iterator[int]:
        """After how many of the items to look."""
        count = _FIRST
        while count < items:
            yield count
            count = max(count + 1, round(count * _GROWTH))
        yield items

    def checks(self, cell: CellResult, records: Sequence[Record]) -> list[Check]:
        """The rules on a cell, judged by the items asked so far.

        Args:
            cell: which.
            records: of these items, in the order in which they were asked.
        """
        outcomes = self._outcomes()
        outcomes.cells[cell.variant, cell.task] = replace(values_of(as_table(records)), early=True)
        return [
            check_target(target, self._spec, self._count(), outcomes, self._against)
            for target in self._on(cell.variant, cell.task)
        ]

    def _outcomes(self) -> Outcomes:
        return Outcomes("this run", self._state.manifest, self._state.results, self._state.folder.path)

    def _on(self, variant: str, task: str) -> list[Target]:
        return [t for t in self._targets if t.variant == variant and task in t.tasks and not t.rule.is_cost]

    def _unbounded(self, targets: Sequence[Target], built: BuiltTask) -> list[str]:
        """The metrics that rules are about of which it is not known that they are shares."""
        metrics = [self._outcomes().metric(built.info, target.rule.metric) for target in targets]
        return list(dict.fromkeys(one.name for one in metrics if one is not None and not one.share))

    def _count(self) -> int:
        return statistical(self._targets)

    def _needed(self) -> set[tuple[str, str]]:
        """Cells of this run that others are compared with: all of their items are asked."""
        if self._against is not None:
            return set()
        return {
            (compared_with(target.rule, target.variant, self._outcomes(), None), task)
            for target in self._targets
            if target.rule.compares
            for task in target.tasks
        }


def is_decided(checks: Sequence[Check]) -> bool:
    """Whether every rule has its verdict."""
    return all(check.verdict is not GateVerdict.UNDECIDED for check in checks)


def cannot_be(checks: Sequence[Check]) -> bool:
    """Whether some rule has nothing that it could be decided by, however many items are asked."""
    return any(check.measured is None for check in checks)
