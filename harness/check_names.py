"""Names that a suite's nulls, tasks and claims refer to; a part of `phibench check`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..adapters.adapter_files import CONFIG
from ..adapters.lora import null_fault
from ..adapters.recipe import read_recipe
from ..adapters.recipe_table import find_recipe
from ..adapters.spec import AdapterSpec
from ..errors import UserError
from .suite import StatementSpec, statements
from .suite_file import SuiteFile


def name_faults(file: SuiteFile, leaves: Collection[str] | None) -> list[UserError]:
    """What nulls, tasks and claims name that is not there.

    Args:
        file: the suite as read.
        leaves: every task that the suite's entries stand for; None where that is not known.
    """
    suite = file.suite
    variants = [variant.name for variant in suite.all_variants()]
    judged = not {"variants", "matrix", "adapters", "quantizations"} & set(file.left_out)
    faults = _null_faults(file)
    for i, task in enumerate(suite.tasks if judged else []):
        for j, name in enumerate(task.variants or []):
            where = file.where("tasks", i, "variants", j)
            faults += _unknown(name, variants, "variant", where)
            if name in (task.variants or [])[:j]:
                faults.append(UserError(f'the variant "{name}" is named twice', where=where, fix="name it once"))
        if task.divergence is not None:
            where = file.where("tasks", i, "divergence", "reference")
            faults += _unknown(task.divergence.reference, variants, "variant", where)
    if judged and "tasks" not in file.left_out and all(task.variants is not None for task in suite.tasks):
        asked = {name for task in suite.tasks for name in task.variants or []}
        faults += [
            UserError(f'no task is asked of the variant "{name}"', where=str(file.path), fix="ask one, or drop it")
            for name in variants
            if name not in asked
        ]
    known = leaves if leaves is not None and "tasks" not in file.left_out else None
    for keys, statement in statements(suite.claims):
        if judged:
            faults += _unknown(statement.variant, variants, "variant", file.where(*keys, "variant"))
            if isinstance(statement.than, str):
                faults += _unknown(statement.than, variants, "variant", file.where(*keys, "than"))
        for name in statement.tasks if known is not None else []:
            faults += _unknown(name, known or [], "task", file.where(*keys, "task"))
        faults += _undecidable(file, keys, statement, variants) if judged else []
    return faults


def _null_faults(file: SuiteFile) -> list[UserError]:
    """What nulls are of that no null can be drawn of."""
    adapters, left_out = file.suite.adapters, file.left_out.get("adapters", frozenset())
    faults = []
    for name, spec in adapters.items():
        if spec.null_of is None or spec.null_of in left_out:
            continue
        where = file.where("adapters", name, "null_of")
        faults += _unknown(spec.null_of, adapters, "adapter", where)
        of = adapters.get(spec.null_of)
        if of is not None and of.null_of is not None:
            what = "itself" if spec.null_of == name else f"{spec.null_of}, which is a null itself"
            fix = "name an adapter with path, hub or recipe"
            faults.append(UserError(f"this is a null of {what}", where=where, fix=fix))
        elif of is not None and (fault := _not_drawn(of)) is not None:
            faults.append(UserError(f"no null can be drawn of {spec.null_of}: {fault}", where=where, fix="drop it"))
    return faults


def _not_drawn(spec: AdapterSpec) -> str | None:
    """Why no null can be drawn of an adapter, as far as this machine tells; its own faults are told elsewhere."""
    config: Any
    try:
        if spec.path is not None:
            config = json.loads((Path(spec.path) / CONFIG).read_text(encoding="utf-8"))
        elif spec.recipe is not None and (lora := read_recipe(find_recipe(spec.recipe)).lora) is not None:
            config = {"peft_type": "LORA", **lora}
        else:
            return None
    except (UserError, OSError, ValueError):
        return None
    return null_fault(config) if isinstance(config, dict) else None


def _undecidable(
    file: SuiteFile, keys: tuple[str | int, ...], statement: StatementSpec, variants: Collection[str]
) -> list[UserError]:
    """Why a statement could never be decided, whatever a run finds."""
    if statement.variant == statement.than:
        what = f'"{statement.variant}" is compared with itself'
        return [UserError(what, where=file.where(*keys, "than"), fix="name another variant, or a number")]
    asked = {task.name: task.variants for task in file.suite.tasks}
    faults = []
    for key, variant in (("variant", statement.variant), ("than", statement.than)):
        for name in statement.tasks:
            if isinstance(variant, str) and variant in variants and variant not in (asked.get(name) or [variant]):
                what = f'the task "{name}" is not asked of the variant "{variant}"'
                fix = "add it to the task's variants, or name another"
                faults.append(UserError(what, where=file.where(*keys, key), fix=fix))
    return faults


def _unknown(name: str, known: Collection[str], what: str, where: str) -> list[UserError]:
    if name in known:
        return []
    near = difflib.get_close_matches(name, list(known), n=1)
    fix = f'did you mean "{near[0]}"?' if near else f"there is: {', '.join(known) or 'none'}"
    return [UserError(f'the suite has no {what} "{name}"', where=where, fix=fix)]
