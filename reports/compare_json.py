"""A comparison as JSON, for other programs: all of its numbers, under a schema with a version of its own.

Numbers are in the metrics' own units, neither rounded nor turned into points; where a number is not finite or not
known there is null. Sides are named by their labels, which are unique within a comparison.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .. import __version__
from ..harness.compare import LeftOver, SideBySide, SideScore, TaskSides
from ..harness.comparison import MetricComparison
from ..harness.examples import Example
from ..harness.stats import CONFIDENCE, Difference
from ..harness.stats.family import Correction
from ..harness.stats.power import LEVEL, POWER, resolvable
from .compare_build import sentences, spoken
from .sentences import plain, verdict_sentence


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SideJson(_Model):
    """One side: a variant of a run, what it is made of, and what it cost."""

    label: str
    run: str = Field(description="the run folder as it was named")
    suite: str
    variant: str
    kind: str
    model: str
    adapter: str | None
    adapter_sha256: str | None
    identity: str | None = Field(description="the content hash that stands for the variant")
    status: str = Field(description="of the run")
    costs: dict[str, int | float | None] = Field(description="bytes, seconds, tokens a second; null: not measured")


class SettingJson(_Model):
    """A setting in which sides differ: its dotted key and each side's value, by label."""

    key: str
    values: dict[str, Any]


class ScoreJson(_Model):
    """A side's score over all of its own items."""

    value: float | None
    low: float | None
    high: float | None
    items: int
    method: str | None = Field(description="of the interval")
    reason: str | None = Field(description="why there is no interval")


class DifferenceJson(_Model):
    """A side minus the first one, on the items that both have."""

    items: int
    first_only: int = Field(description="items that take no part, since only the first side has them")
    other_only: int
    estimate: float | None
    low: float | None
    high: float | None
    method: str | None
    p: float | None
    test: str | None
    adjusted_p: float | None = Field(description="corrected over the family; null outside it")
    effect: float | None = Field(description="Cohen's d of paired differences")
    spread: float | None = Field(description="standard deviation of the items' differences")
    won: int | None
    lost: int | None
    tied: int | None
    sources: int | None = Field(description="how many sources the items come from, where they share some")
    resolvable: float | None = Field(description="the smallest true difference found at the level and power above")
    verdict: str | None
    reason: str | None = Field(description="why there is no interval")
    sentence: str


class MetricJson(_Model):
    """One metric of a task: every side's score, and every other side's difference to the first, by label."""

    name: str
    filter: str
    aggregation: str
    higher_is_better: bool | None
    share: bool = Field(description="the metric lies between 0 and 1 by what it is, whatever the values seen")
    headline: bool
    points: bool = Field(description="every item's value lies between 0 and 1: sentences multiply by 100")
    scores: dict[str, ScoreJson]
    differences: dict[str, DifferenceJson]


class LeftOverJson(_Model):
    """Items that only one of two sides has."""

    count: int
    first_few: list[str]


class PairingJson(_Model):
    """How a side's items stand to the first side's."""

    comparable: bool
    reasons: list[str]
    common: int
    first_only: LeftOverJson
    other_only: LeftOverJson


class SlicesJson(_Model):
    """The kinds of items that stand out in the leading metric, and how many were looked at."""

    looked_at: int
    found: list[dict[str, Any]]


class TaskJson(_Model):
    """One task, as the first side was asked it."""

    name: str
    output_type: str
    version: str
    num_fewshot: int
    items: int
    config_hash: str
    sentences: list[str]
    pairings: dict[str, PairingJson]
    early: list[str] = Field(
        description="sides whose items were asked until a rule was decided: intervals and p-values that allow it"
    )
    metrics: list[MetricJson]
    slices: dict[str, SlicesJson]
    examples: list[dict[str, Any]]


class CompareJson(_Model):
    """A whole comparison."""

    schema_version: Literal["1"] = "1"  # of this document
    phibench_version: str
    first: str = Field(description="the label of the side that the others are compared with")
    confidence: float = CONFIDENCE
    level: float = LEVEL
    power: float = POWER
    correction: Correction = Field(description="of the p-values of headline differences, for their number")
    family: int = Field(description="how many headline differences are corrected together")
    sides: list[SideJson]
    settings: list[SettingJson]
    same_settings: int
    tasks: list[TaskJson]
    elsewhere: dict[str, list[str]] = Field(description="tasks that the first side was not asked: who was")


def render_compare_json(found: SideBySide) -> str:
    """The whole comparison as indented JSON text."""
    labels = [side.label for side in found.sides]
    document = CompareJson(
        phibench_version=__version__,
        first=labels[0],
        correction=found.correction,
        family=found.family,
        sides=list(_sides(found)),
        settings=[
            SettingJson(key=one.key, values=dict(zip(labels, one.values, strict=True))) for one in found.settings
        ],
        same_settings=found.same_settings,
        tasks=[_task(found, task) for task in found.tasks],
        elsewhere=found.elsewhere,
    )
    return document.model_dump_json(indent=2) + "\n"


def _sides(found: SideBySide) -> Iterable[SideJson]:
    for side, costs in zip(found.sides, found.costs, strict=True):
        manifest, adapter = side.run.manifest, side.adapter
        yield SideJson(
            label=side.label,
            run=side.run.label,
            suite=manifest.name,
            variant=side.variant.name,
            kind=side.variant.kind,
            model=manifest.model,
            adapter=None if adapter is None else adapter.source,
            adapter_sha256=None if adapter is None else adapter.sha256,
            identity=side.variant.identity,
            status=manifest.status,
            costs=asdict(costs),
        )


def _task(found: SideBySide, task: TaskSides) -> TaskJson:
    info = task.compared.info
    return TaskJson(
        **info.model_dump(include={"name", "output_type", "version", "num_fewshot", "items", "config_hash"}),
        sentences=[plain(one) for one in sentences(found, task)],
        pairings={
            label: PairingJson(
                comparable=not one.reasons,
                reasons=list(one.reasons),
                common=one.common,
                first_only=_left_over(one.first_only),
                other_only=_left_over(one.other_only),
            )
            for label, one in task.pairings.items()
        },
        early=list(task.early),
        metrics=[_metric(found, task, one) for one in task.compared.metrics],
        slices={
            label: SlicesJson(looked_at=one.looked_at, found=[asdict(slice_) for slice_ in one.found])
            for label, one in task.compared.slices.items()
        },
        examples=[_example(one) for one in task.compared.examples],
    )


def _left_over(found: LeftOver) -> LeftOverJson:
    return LeftOverJson(count=found.count, first_few=list(found.named))


def _metric(found: SideBySide, task: TaskSides, metric: MetricComparison) -> MetricJson:
    key = metric.info.key
    return MetricJson(
        **metric.info.model_dump(),
        headline=metric.headline,
        points=key in task.shares,
        scores={side.label: _score(task.scores[key, side.label]) for side in found.sides},
        differences={
            label: _difference(one, plain(verdict_sentence(spoken(found, task, label, metric.info, one), one)))
            for label, one in metric.differences.items()
        },
    )


def _score(found: SideScore) -> ScoreJson:
    interval = found.interval
    return ScoreJson(
        value=found.value,
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        items=found.items,
        method=None if interval is None else interval.method,
        reason=found.reason,
    )


def _difference(found: Difference, sentence: str) -> DifferenceJson:
    interval = found.interval
    return DifferenceJson(
        items=found.items,
        first_only=found.baseline_only,
        other_only=found.variant_only,
        estimate=None if interval is None else interval.estimate,
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        method=None if interval is None else interval.method,
        p=found.p,
        test=found.test,
        adjusted_p=found.adjusted_p,
        effect=found.effect,
        spread=found.spread,
        won=found.won,
        lost=found.lost,
        tied=found.tied,
        sources=found.sources,
        resolvable=resolvable(found),
        verdict=None if found.verdict is None else str(found.verdict),
        reason=found.reason,
        sentence=sentence,
    )


def _example(found: Example) -> dict[str, Any]:
    told = asdict(found)
    told["answers"] = {answer.pop("variant"): answer for answer in told["answers"]}
    return told
