"""The plan: which cells a run has, and the hash by which a finished one is known again."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..adapters.identity import version
from ..adapters.spec import VariantSpec
from ..errors import UserError
from ..files import sha256_json
from .records import RECORDS_VERSION
from .suite import Suite, TaskSpec
from .tasks import BuiltTask


@dataclass(frozen=True)
class RunOptions:
    """What the command line says beside the suite."""

    limit: int | None = None
    only: tuple[str, ...] = ()  # names of variants and tasks
    device: str | None = None
    offline: bool = False


@dataclass(frozen=True)
class Selection:
    """The variants and tasks that this invocation works on; the others stay as they are."""

    variants: list[VariantSpec]
    tasks: list[TaskSpec]
    references: list[VariantSpec]  # what divergences are measured from

    @property
    def order(self) -> list[VariantSpec]:
        """The variants in the order in which they are made: references first, selected or not."""
        return [*self.references, *(variant for variant in self.variants if variant not in self.references)]


def select(suite: Suite, only: Sequence[str]) -> Selection:
    """Apply `--only`: names of variants restrict the variants, names of tasks the tasks.

    Raises:
        UserError: for a name that the suite does not have.
    """
    variants = {variant.name: variant for variant in suite.all_variants()}
    tasks = {task.name: task for task in suite.tasks}
    for name in only:
        if name not in variants and name not in tasks:
            near = difflib.get_close_matches(name, [*variants, *tasks], n=1)
            raise UserError(
                "the suite has no variant or task of this name",
                where=f"--only {name}",
                fix=f'did you mean "{near[0]}"?' if near else f"it has: {', '.join([*variants, *tasks])}",
            )
    chosen = [tasks[name] for name in tasks if name in only] or list(tasks.values())
    wanted = [variants[name] for name in variants if name in only] or list(variants.values())
    asked = [variant for variant in wanted if any(_asks(task, variant) for task in chosen)]
    if not asked:
        raise UserError(
            "none of these tasks is asked of these variants",
            where=f"--only {' '.join(only)}",
            fix="leave one out, or change the task's variants in the suite",
        )
    references = {
        task.divergence.reference
        for task in chosen
        if task.divergence is not None and any(_asks(task, variant) for variant in asked)
    }
    return Selection(asked, chosen, [variants[name] for name in variants if name in references])


def _asks(task: TaskSpec, variant: VariantSpec) -> bool:
    return task.variants is None or variant.name in task.variants


def suite_hash(suite: Suite, limit: int | None) -> str:
    """The hash of what a run asks: the suite without where it is written and what is made of it, and `--limit`."""
    excluded = {"output", "description", "claims", "statistics"}
    if suite.gate is None or not suite.gate.early_stopping:
        excluded.add("gate")
    asked = suite.model_dump(mode="json", exclude=excluded)
    return sha256_json({"suite": asked, "limit": limit})


def cell_hash(identity: str, built: BuiltTask, suite: Suite, device: str, *, reference: str | None = None) -> str:
    """The hash of everything that decides a cell's records.

    Args:
        identity: the variant's content hash.
        built: the task as built (its documents and prompts count, not their number's reason).
        suite: for the seeds and the context's length.
        device: the type of device, since numbers differ a little between them.
        reference: the content hash of what a divergence is measured from, where the task asks for one.
    """
    divergence = built.spec.divergence
    measured = {"divergence": [divergence.items, divergence.positions, reference]} if divergence is not None else {}
    return sha256_json(
        measured
        | {
            "records": RECORDS_VERSION,
            # Filters and metrics come from these.
            "versions": {name: version(name) for name in ("phibench", "lm-eval", "rouge-score")},
            "variant": identity,
            "task": built.info.config_hash,
            "name": built.info.name,
            "items": built.items_hash,
            "seeds": suite.seeds.model_dump(exclude={"training", "bootstrap"}),
            "max_length": suite.base.max_length,
            "prompts": suite.output.prompts,
            "device": device,
        }
    )


def request_seeds(built: BuiltTask, seed: int) -> list[int]:
    """A seed for every request, decided by its item and its repeat, not by its place."""
    seeds = []
    for item in built.items:
        for instance in item.instances:
            key: Any = [seed, built.info.name, item.item_hash, instance.idx]
            seeds += [int(sha256_json([*key, n])[:15], 16) for n in range(instance.repeats or 1)]
    return seeds
