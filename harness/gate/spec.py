"""What a gate demands: the suite's `[gate]`, or rules from a file of its own. Pure data; imports no torch."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from ...adapters.spec import Spec

Undecided = Literal["undecided", "pass", "fail"]
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB|TiB|KB|MB|GB|TB)\s*$")
_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_UNITS["TB"] = 10**12


def in_bytes(size: str) -> int:
    """Bytes of a size such as `2 GiB` or `800 MB`.

    Raises:
        ValueError: it is not one.
    """
    found = _SIZE.match(size)
    if found is None:
        raise ValueError('must be a size such as "2 GiB" or "800 MB"')
    return round(float(found[1]) * _UNITS[found[2]])


def _is_size(size: str) -> str:
    in_bytes(size)
    return size


def _once_each(names: str | list[str]) -> str | list[str]:
    """Names as given; one that stands there twice would be counted as two."""
    doubles = [name for i, name in enumerate(names) if name in names[:i]] if isinstance(names, list) else []
    if doubles:
        raise ValueError(f'"{doubles[0]}" is named twice: name it once')
    return names


Size = Annotated[str, AfterValidator(_is_size)]
Names = Annotated[str | Annotated[list[str], Field(min_length=1)], AfterValidator(_once_each)]
Group = Annotated[list[str], Field(min_length=2), AfterValidator(_once_each)]
_OF_METRICS = ("max_loss", "min_gain", "at_least", "at_most")
_OF_COSTS = ("max_model_size", "max_memory", "max_seconds_per_item")


class RuleSpec(Spec):
    """One demand; exactly one of the conditions.

    Losses, gains and limits are in the metric's own unit; a loss is a change for the worse, whichever way that is.
    """

    variant: Names | None = None  # whom it binds; default: every variant but the one it is compared with
    task: Names | None = None  # each of these; default: every task (that measures `metric`)
    group: Group | None = None  # instead: the mean over these tasks' metrics
    metric: str | None = None  # default: each task's leading one
    than: str | None = None  # the variant it is compared with; default: the baseline
    max_loss: Annotated[float, Field(ge=0)] | None = None  # non-inferiority: it loses no more than this
    min_gain: Annotated[float, Field(ge=0)] | None = None  # improvement: it gains more than this
    at_least: float | None = None  # a floor of the metric
    at_most: float | None = None  # a ceiling of it
    max_model_size: Size | None = None  # weights and buffers in the form that ships
    max_memory: Size | None = None  # peak, as the report has it
    max_seconds_per_item: Annotated[float, Field(gt=0)] | None = None  # model time

    @model_validator(mode="after")
    def _one_condition(self) -> RuleSpec:
        given = [name for name in (*_OF_METRICS, *_OF_COSTS) if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one condition: {', '.join((*_OF_METRICS, *_OF_COSTS))}")
        if self.group is not None and self.task is not None:
            raise ValueError("give task (each by itself) or group (their mean), not both")
        if given[0] in _OF_COSTS and any(x is not None for x in (self.metric, self.than, self.group)):
            raise ValueError(f"{given[0]} is of a variant: drop metric, than and group")
        if given[0] in ("max_model_size", "max_memory") and self.task is not None:
            raise ValueError(f"{given[0]} is of a variant on all its tasks: drop task")
        if given[0] in ("at_least", "at_most") and self.than is not None:
            raise ValueError(f"{given[0]} is compared with a number: drop than")
        return self

    @property
    def condition(self) -> str:
        """The name of the one that is given."""
        return next(name for name in (*_OF_METRICS, *_OF_COSTS) if getattr(self, name) is not None)

    @property
    def demand(self) -> str:
        """What it asks of each variant and task that it binds, as a text; the same where two rules ask the same."""
        return self.model_dump_json(exclude={"variant", "task", "group"})

    @property
    def variants(self) -> list[str] | None:
        """The variants that it names."""
        return [self.variant] if isinstance(self.variant, str) else self.variant

    @property
    def tasks(self) -> list[str] | None:
        """The tasks that it names each by itself."""
        return [self.task] if isinstance(self.task, str) else self.task

    @property
    def is_cost(self) -> bool:
        """Whether it is measured without sampling error: of a size, memory or time."""
        return self.condition in _OF_COSTS

    @property
    def compares(self) -> bool:
        """Whether it is of a difference to another variant."""
        return self.condition in ("max_loss", "min_gain")


class GateSpec(Spec):
    """The rules by which a run passes."""

    rules: Annotated[list[RuleSpec], Field(min_length=1)]
    level: Annotated[float, Field(gt=0, le=0.2)] = 0.05  # chance of a false alarm, and of passing what should not pass
    undecided: Undecided = "undecided"  # what items that do not tell make of the gate
    against: str | None = None  # a run folder or baseline file to compare with; default: the run's own baseline
    early_stopping: bool = False  # ask items in random order, and stop a cell when every rule on it is decided


DEFAULT_MARGIN = 0.02


def default_gate(margin: float | None = None) -> GateSpec:
    """The gate of a run that has none: no variant loses more than a margin in any task's leading metric."""
    return GateSpec(rules=[RuleSpec(max_loss=DEFAULT_MARGIN if margin is None else margin)])
