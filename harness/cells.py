"""From a cell's responses to its records and scores, by lm-eval's own filters, metrics and aggregations."""

from __future__ import annotations

import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .engine.response import Response
from .item_fields import item_fields
from .records import ItemField, MetricValue, Record
from .results import MARGIN, STOPPED, CellResult, Score
from .tasks import BuiltTask, Item
from .templates import templates

_ONE_PROCESS = "DISABLE_MULTIPROC"  # lm-eval's own switch
_BOOTSTRAP = 1000  # resamples for standard errors that have no formula


def make_records(
    built: BuiltTask,
    variant: str,
    responses: Sequence[Response],
    more: Mapping[int, list[MetricValue]],
    *,
    seconds: float,
    keep_prompts: bool,
) -> list[Record]:
    """One record per item.

    Args:
        built: the task with its requests.
        variant: the variant's name.
        responses: one per entry of `built.requests`, in that order.
        more: metrics that were measured beside them, by the item's index.
        seconds: model time of the cell; an item's share goes by the tokens it took.
        keep_prompts: whether prompts and choices are kept.
    """
    by_item = _deal(built, responses)
    # Filters run over the task's own list; where prompts are wrapped in several ways, it may hold another build's.
    built.task._instances = [instance for item in built.items for instance in item.instances]
    try:
        with templates():
            built.task.apply_filters()
            metrics = {item.index: _metrics(built, item, by_item[item.index]) for item in built.items}
            targets = {item.index: _target(built, item) for item in built.items}
    finally:
        for item in built.items:
            for instance in item.instances:
                instance.resps, instance.filtered_resps = [], {}
    total = sum(r.tokens_in for r in responses) or 1
    return [
        Record(
            variant=variant,
            task=built.info.name,
            item=item.index,
            item_id=item.item_id,
            item_hash=item.item_hash,
            prompt_hash=item.prompt_hash,
            prompt=str(item.instances[0].args[0]) if keep_prompts else None,
            choices=_choices(built, item) if keep_prompts else [],
            target=targets[item.index],
            responses=by_item[item.index],
            metrics=[*metrics[item.index], *more.get(item.index, [])],
            fields=_fields(built, item, keep_prompts),
            seconds=seconds * sum(r.tokens_in for r in by_item[item.index]) / total,
        )
        for item in built.items
    ]


def make_scores(built: BuiltTask, records: Sequence[Record]) -> list[Score]:
    """Aggregate records into scores: lm-eval's aggregation and its standard error."""
    from lm_eval.api.metrics import mean, stderr_for_metric

    aggregations = built.task.aggregation()
    units: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for record in records:
        for metric in record.metrics:
            units[metric.name, metric.filter].append(metric.unit())
    scores = []
    known = {metric.key: metric for metric in built.info.metrics}
    for (name, filter_name), values in units.items():
        aggregate = aggregations.get(name, mean)
        error = stderr_for_metric(aggregate, _BOOTSTRAP) if len(values) > 1 else None
        described = known.get((name, filter_name))
        scores.append(
            Score(
                metric=name,
                filter=filter_name,
                value=_finite(aggregate(values)),
                stderr=_stderr(error, values) if error is not None else None,
                higher_is_better=described.higher_is_better if described else True,
                aggregation=described.aggregation if described else "mean",
                items=len(values),
            )
        )
    return scores


def fill_costs(cell: CellResult, records: Sequence[Record]) -> None:
    """Count items, tokens, cuts and stops of a finished cell."""
    responses = [response for record in records for response in record.responses]
    cell.items = len(records)
    cell.requests = len(responses)
    cell.tokens_in = sum(r.tokens_in for r in responses)
    cell.tokens_out = sum(r.tokens for r in responses)
    cell.truncated_items = sum(any(r.truncated for r in record.responses) for record in records)
    cell.truncated_tokens = sum(r.truncated for r in responses)
    cell.stops = dict(Counter(r.stop for r in responses if r.stop is not None))


def _deal(built: BuiltTask, responses: Sequence[Response]) -> dict[int, list[Response]]:
    """Hand each instance its answers in the form lm-eval expects; return the responses by item."""
    by_item: dict[int, list[Response]] = defaultdict(list)
    position = 0
    for item in built.items:
        for instance in item.instances:
            answers = responses[position : position + (instance.repeats or 1)]
            position += len(answers)
            by_item[item.index] += answers
            instance.resps = [_as_lm_eval(instance.request_type, answer) for answer in answers]
    return by_item


def _as_lm_eval(request_type: str, answer: Response) -> Any:
    if request_type == "generate_until":
        return answer.text
    if request_type == "loglikelihood_rolling":
        return answer.loglikelihood
    return answer.loglikelihood, answer.is_greedy


def _metrics(built: BuiltTask, item: Item, responses: Sequence[Response]) -> list[MetricValue]:
    found: list[MetricValue] = []
    filters = list(item.instances[0].filtered_resps)
    for name in filters:
        values: Mapping[str, Any] = built.task.process_results(
            item.doc, [instance.filtered_resps[name] for instance in item.instances]
        )
        found += [_metric(metric, name, value) for metric, value in values.items()]
    stops = [response.stop == "eos" for response in responses if response.stop is not None]
    if stops:
        found.append(MetricValue(STOPPED, filters[0], sum(stops) / len(stops)))
    margin = _margin(built, item, responses)
    if margin is not None:
        found.append(MetricValue(MARGIN, filters[0], margin))
    return found


def _margin(built: BuiltTask, item: Item, responses: Sequence[Response]) -> float | None:
    """By how many nats the (likeliest) right choice is likelier than the likeliest wrong one."""
    scored = [response.loglikelihood for response in responses][: _count_choices(built, item)]
    gold = set(_gold(built, item))
    right = [value for index, value in enumerate(scored) if index in gold and value is not None]
    wrong = [value for index, value in enumerate(scored) if index not in gold and value is not None]
    return max(right) - max(wrong) if right and wrong else None


def _gold(built: BuiltTask, item: Item) -> tuple[int, ...]:
    """The right choices' positions, as lm-eval's `process_results` finds them; none for other than multiple choice."""
    count = _count_choices(built, item)
    if not count:
        return ()
    task = built.task
    gold = task.doc_to_text(item.doc) if getattr(task, "multiple_input", 0) else task.doc_to_target(item.doc)
    found = []
    for one in gold if isinstance(gold, list) else [gold]:
        if isinstance(one, str):
            choices = task.doc_to_choice(item.doc)
            found += [choices.index(one)] if one in choices else []
        elif isinstance(one, int | np.integer) and 0 <= one < count:
            found.append(int(one))
    return tuple(found)


def _count_choices(built: BuiltTask, item: Item) -> int:
    if built.task.OUTPUT_TYPE != "multiple_choice":
        return 0
    return len(built.task.doc_to_choice(item.doc))


def _fields(built: BuiltTask, item: Item, keep_texts: bool) -> list[ItemField]:
    return item_fields(
        item.doc,
        str(item.instances[0].args[0]),
        _count_choices(built, item),
        _gold(built, item),
        source=built.spec.source,
        keep_texts=keep_texts,
    )


def _metric(name: str, filter_name: str, value: Any) -> MetricValue:
    if isinstance(value, bool | int | float | np.number) and math.isfinite(float(value)):
        return MetricValue(name, filter_name, float(value))
    return MetricValue(name, filter_name, None, json.dumps(value, default=_plain))


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _choices(built: BuiltTask, item: Item) -> list[str]:
    """The continuations that were asked, or the contexts where those are what differs (WinoGrande)."""
    asked = [instance.args for instance in item.instances if instance.request_type == "loglikelihood"]
    differs = 0 if getattr(built.task, "multiple_input", 0) else 1
    return [str(args[differs]) for args in asked]


def _target(built: BuiltTask, item: Item) -> str:
    target = built.task.doc_to_target(item.doc)
    return target if isinstance(target, str) else json.dumps(target, default=str, ensure_ascii=False)


def _stderr(error: Callable[[Sequence[Any]], Any], values: Sequence[Any]) -> float | None:
    """lm-eval's standard error, in this process.

    lm-eval bootstraps in a pool of forked processes; forking a process whose threads hold locks, as torch's do, can
    hang for ever. Its own switch for a single process gives the same numbers. It also prints what it does: for its
    module alone, since another thread may be writing to the terminal.
    """
    from lm_eval.api import metrics

    before = os.environ.get(_ONE_PROCESS)
    os.environ[_ONE_PROCESS] = "1"
    metrics.print = lambda *_, **__: None
    try:
        return _finite(error(values))
    finally:
        del metrics.print
        if before is None:
            del os.environ[_ONE_PROCESS]
        else:
            os.environ[_ONE_PROCESS] = before


def _finite(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
