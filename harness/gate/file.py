"""Reading a file of a gate's rules: a TOML file with a `[gate]` table, such as a suite, or with what stands in one."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from ...errors import SuiteFaults, UserError
from ..suite import Suite
from ..suite_file import anchored_path, form_faults, read_toml
from .spec import GateSpec


def read_rules(path: Path) -> GateSpec:
    """Read and validate a gate's rules; a relative `against` counts from the file's own folder.

    Raises:
        UserError: when the file cannot be read, or is a suite without a gate.
        SuiteFaults: with every fault found, in the order of the lines.
    """
    raw, lines = read_toml(path, "file of rules")
    has_table = "gate" in raw
    if not has_table and {"tasks", "base"} & set(raw):
        raise UserError("this suite has no [gate]", where=str(path), fix="add one, or give a file of rules")
    table = raw["gate"] if has_table else raw
    if has_table and (strays := [key for key in raw if key not in Suite.model_fields]):
        fix = "a gate's rules stand in [[gate.rules]]"
        places = {key: f"{path}:{lines[key,]}: {key}" for key in strays}
        raise SuiteFaults([UserError(f'unknown key "{key}"', where=places[key], fix=fix) for key in strays])
    try:
        spec = GateSpec.model_validate(table)
    except ValidationError as error:
        found = table if isinstance(table, dict) else {}
        _, faults = form_faults(path, lines, found, error, within=("gate",), shown=has_table)
        raise SuiteFaults(faults) from None
    if spec.against is None:
        return spec
    return spec.model_copy(update={"against": anchored_path(spec.against, path.resolve().parent)})
