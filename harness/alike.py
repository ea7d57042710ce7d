"""Whether two runs can be compared: a task that was asked alike, and versions that were the same. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import UserError
from .outcomes import Outcomes
from .results import TaskInfo

_VERSIONS = ("lm-eval", "torch", "transformers", "peft", "bitsandbytes", "rouge-score")


def refuse_unlike(mine: TaskInfo, theirs: TaskInfo, where: str) -> None:
    """Refuse to compare answers to a task that was not the same.

    Raises:
        UserError: telling what differs.
    """
    found = differing(mine, theirs)
    if found:
        raise UserError(
            f'"{mine.name}" cannot be compared: {"; ".join(found)}',
            where=where,
            fix="run both with the same versions and settings, or make the baseline again",
        )


def differing(mine: TaskInfo, theirs: TaskInfo) -> list[str]:
    """In what two runs asked a task differently, besides its items."""
    told = [("version", mine.version, theirs.version), ("few-shot examples", mine.num_fewshot, theirs.num_fewshot)]
    found = [f"its {what} was {old} there and is {new} here" for what, new, old in told if new != old]
    if not found and mine.config_hash != theirs.config_hash:
        found.append("its configuration differs (prompt, filters, metrics or the code behind them)")
    return found


def made_otherwise(run: Outcomes, against: Outcomes) -> Iterator[str]:
    """In what another run was made otherwise, that may move its numbers though it was asked the same."""
    mine, theirs = ({"phibench": one.phibench_version, **one.versions} for one in (run.manifest, against.manifest))
    for name in ("phibench", *_VERSIONS):
        if name in mine and name in theirs and mine[name] != theirs[name]:
            yield f"{name} was {theirs[name]} there and is {mine[name]} here"
    devices = [str(one.manifest.hardware.get("device", "")).partition(":")[0] for one in (against, run)]
    if all(devices) and devices[0] != devices[1]:
        yield f"it ran on {devices[0]} there and on {devices[1]} here"
