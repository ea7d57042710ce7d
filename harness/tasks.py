"""Tasks as asked: lm-eval task objects with the suite's changes, and their requests, built once for all variants."""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import sha256_file, sha256_json
from .catalog import OURS, manager_for
from .data import Replacement, replacement_for
from .results import KL_DIVERGENCE, MARGIN, SAME_TOP_TOKEN, SHARES, STOPPED, FileHash, MetricInfo, TaskInfo
from .suite import Suite, TaskSpec
from .task_errors import task_error
from .templates import render_once, templates

LoadedTask = tuple[TaskSpec, Any, list[FileHash]]  # the suite's entry, lm-eval's Task, the files of its data
KINDS = ("multiple_choice", "loglikelihood", "loglikelihood_rolling", "generate_until")


@dataclass(frozen=True)
class Prompting:
    """How prompts are wrapped; requests are built once for each distinct one."""

    chat_template: Callable[..., str] | None = None
    system_instruction: str | None = None
    fewshot_as_multiturn: bool = False
    key: str = "plain"


@dataclass(frozen=True)
class Item:
    """One document of a task and its requests."""

    index: int
    item_id: str | None
    item_hash: str
    prompt_hash: str
    doc: Any
    instances: list[Any]  # lm-eval Instances, in order


@dataclass
class BuiltTask:
    """A task with its requests built, ready to be asked of any number of variants."""

    spec: TaskSpec
    task: Any  # an lm-eval Task
    info: TaskInfo
    items: list[Item] = field(default_factory=list)

    @property
    def requests(self) -> list[Any]:
        """Every instance, once for each of its repeats, in order."""
        return [instance for item in self.items for instance in item.instances for _ in range(instance.repeats or 1)]

    @functools.cached_property
    def items_hash(self) -> str:
        """The hash of all documents and prompts, in their order."""
        return sha256_json([(item.item_hash, item.prompt_hash) for item in self.items])


def load_tasks(suite: Suite, specs: Sequence[TaskSpec]) -> list[LoadedTask]:
    """Load the suite's tasks (groups and tags become their tasks) with their data.

    Raises:
        UserError: for unknown tasks, data that cannot be had, overrides that do not fit, unsafe tasks.
    """
    manager = manager_for([spec.name for spec in specs], [Path(path) for path in suite.include])
    loaded: dict[str, LoadedTask] = {}
    with templates():
        for spec in specs:
            for name, changes in task_leaves(manager, spec.name):
                if name in loaded:
                    raise UserError(
                        f'the task "{name}" is named twice (by "{spec.name}" too)',
                        where="tasks",
                        fix="name it once; to ask it in two ways, give one a name of its own in a YAML under include",
                    )
                leaf = spec.model_copy(update={"name": name, "override": {**changes, **spec.override}})
                loaded[name] = (leaf, *_load_leaf(suite, manager, leaf))
    return list(loaded.values())


def task_leaves(manager: Any, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(task name, changes that its group makes) of every task that `name` stands for."""
    entry = manager.task_index.get(name)
    kind = entry.kind.name if entry is not None else "TASK"
    if kind == "TAG":
        for member in sorted(entry.tags):
            yield from task_leaves(manager, member)
    elif kind == "GROUP":
        yield from _members(manager, entry.cfg)
    else:
        yield name, {}


def _members(manager: Any, group: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    own = ("group", "task", "tag", "group_alias", "aggregate_metric_list", "metadata", "include", "task_alias")
    shared = {key: value for key, value in group.items() if key not in own}
    members = group.get("task") or []
    for member in [members] if isinstance(members, str) else members:
        if isinstance(member, str):
            leaves = task_leaves(manager, member)
            changes: dict[str, Any] = {}
        elif "group" in member and member["group"] not in manager.task_index:
            leaves = _members(manager, member)
            changes = {}
        else:
            leaves = task_leaves(manager, member.get("group") or member["task"])
            changes = {key: value for key, value in member.items() if key not in own}
        for name, inner in leaves:
            yield name, {**shared, **inner, **changes}


def _load_leaf(suite: Suite, manager: Any, spec: TaskSpec) -> tuple[Any, list[FileHash]]:
    config = {**(manager.task_index[spec.name].cfg or {}), **spec.override}
    changes: dict[str, Any] = dict(spec.override)
    if spec.num_fewshot is not None:
        changes["num_fewshot"] = spec.num_fewshot
    if config.get("output_type", "generate_until") == "generate_until":
        laid_over = suite.generation.model_dump(exclude_none=True)
        if laid_over:
            changes["generation_kwargs"] = {**(config.get("generation_kwargs") or {}), **laid_over}
    replacement = replacement_for(suite.data, config.get("dataset_path"), config.get("dataset_name"))
    files = replacement.hashes() if replacement is not None else []
    if replacement is not None:
        dataset = _replaced(replacement, spec, config)
        changes |= {"custom_dataset": lambda **_: dataset, "dataset_kwargs": None}
    where = f"tasks: {spec.name}"
    try:
        # A group of one is lm-eval's own way to lay overrides over a task that is in its index.
        found = manager.load({"group": "phibench", "task": [{"task": spec.name, **changes}]})["tasks"]
        task = found[spec.name]
    except UserError:
        raise
    except Exception as error:
        raise task_error(error, where, config) from error
    if getattr(task, "UNSAFE_CODE", False) and not suite.allow_code:
        raise UserError(
            "this task runs code that the model writes", where=where, fix="set allow_code = true if you accept that"
        )
    if task.OUTPUT_TYPE not in KINDS or getattr(task, "MULTIMODAL", False):
        raise UserError(f"tasks of this type are not supported: {task.OUTPUT_TYPE}", where=where)
    if spec.divergence is not None and task.OUTPUT_TYPE != "loglikelihood":
        raise UserError(
            f"divergence is for tasks of output type loglikelihood, and this one's is {task.OUTPUT_TYPE}",
            where=f"{where}.divergence",
            fix="take a task of held-out loss, such as dialogsum_loss",
        )
    if spec.metric_options:
        own = task.config.process_results
        if not callable(own):
            raise UserError("metric_options are for tasks with a process_results of their own", where=where)
        task.config.process_results = functools.partial(own, **spec.metric_options)
        _try_out(task, spec)
    if task.config.num_fewshot is None:
        task.config.num_fewshot = 0
    task.set_fewshot_seed(seed=suite.seeds.fewshot)
    return task, files


def _replaced(replacement: Replacement, spec: TaskSpec, config: dict[str, Any]) -> Any:
    """The local data in the place of a task's dataset, with every split that the task names."""
    where = f"tasks: {spec.name}"
    evaluated = config.get("test_split") or config.get("validation_split")
    if not evaluated:
        raise UserError("the task names no split to evaluate", where=where)
    splits = ("training_split", "validation_split", "test_split", "fewshot_split")
    dataset = replacement.load(evaluated, [config[split] for split in splits if config.get(split)])
    shots = config.get("num_fewshot") if spec.num_fewshot is None else spec.num_fewshot
    source = config.get("fewshot_split") or config.get("training_split") or evaluated
    # Where examples come from the evaluated split, the document itself is left out.
    if shots and len(dataset[source]) < shots + (source == evaluated):
        raise UserError(
            f'{shots} few-shot examples cannot be drawn from {len(dataset[source])} rows of the split "{source}"',
            where=where,
            fix=f'give that split more rows: "{replacement.key}" = {{ {evaluated} = "...", {source} = "..." }}',
        )
    return dataset


def _try_out(task: Any, spec: TaskSpec) -> None:
    """Score an empty answer to the first document: options that cannot work are told before a model is asked."""
    where = f"tasks: {spec.name}.metric_options"
    try:
        task.process_results(task.eval_docs[0], [""])
    except (TypeError, ValueError, OSError, ImportError) as error:
        text = " ".join(str(error).split())[:300]
        raise UserError(f"the task does not take these options: {text}", where=where) from error


def build(suite: Suite, loaded: LoadedTask, prompting: Prompting, limit: int | None) -> BuiltTask:
    """Build a task's requests.

    Args:
        suite: the suite that names the task.
        loaded: a task as :func:`load_tasks` gives it.
        prompting: how prompts are wrapped.
        limit: at most this many items; None for all.

    Raises:
        UserError: when documents lack what the task's templates need.
    """
    spec, task, files = loaded
    where = f"tasks: {spec.name}"
    try:
        with templates():
            task.build_all_requests(
                limit=limit,
                apply_chat_template=prompting.chat_template is not None,
                chat_template=prompting.chat_template,
                system_instruction=prompting.system_instruction,
                fewshot_as_multiturn=prompting.fewshot_as_multiturn,
                tokenizer_name=prompting.key,
            )
    except Exception as error:
        raise task_error(error, where, task.config.to_dict()) from error
    items = _items(task)
    if spec.source is not None and not all(isinstance(one.doc, dict) and spec.source in one.doc for one in items):
        known = [key for key in items[0].doc if isinstance(key, str)] if isinstance(items[0].doc, dict) else []
        raise UserError(
            f'not every item has the field "{spec.source}"',
            where=f"{where}.source",
            fix=f"its fields are: {', '.join(known)}" if known else None,
        )
    render_once(task, [item.doc for item in items])
    return BuiltTask(spec, task, _info(suite, spec, task, items, files), items)


def _items(task: Any) -> list[Item]:
    grouped: dict[int, list[Any]] = {}
    for instance in task.instances:
        grouped.setdefault(instance.doc_id, []).append(instance)
    items = []
    for index, instances in grouped.items():
        instances.sort(key=lambda instance: instance.idx)
        doc = instances[0].doc
        given = next(
            (doc[key] for key in ("id", "ind", "qid", "question_id") if isinstance(doc, dict) and key in doc), None
        )
        items.append(
            Item(
                index=index,
                item_id=None if given is None else str(given),
                item_hash=sha256_json(doc),
                prompt_hash=sha256_json([list(instance.args) for instance in instances]),
                doc=doc,
                instances=instances,
            )
        )
    return items


def _info(suite: Suite, spec: TaskSpec, task: Any, items: list[Item], files: list[FileHash]) -> TaskInfo:
    from lm_eval.api.metrics import mean
    from lm_eval.api.registry import AGGREGATION_REGISTRY

    names = {id(function): name for name, function in AGGREGATION_REGISTRY.items()}
    filters = [ensemble.name for ensemble in task._filters]
    directions = task.higher_is_better()
    metadata = task.config.metadata or {}
    declared = metadata.get("shares") or []
    if not isinstance(declared, list) or not all(isinstance(name, str) for name in declared):
        fix = "write a list of metrics' names"
        raise UserError("shares is not a list of names", where=f"tasks: {spec.name}: metadata.shares", fix=fix)
    shares = {*SHARES, *declared}
    metrics = [
        MetricInfo(
            name=name,
            filter=filter_name,
            aggregation=names.get(id(function), getattr(function, "__name__", "custom")),
            higher_is_better=directions.get(name, True),
            share=function is mean and name in shares,
        )
        for filter_name in filters
        for name, function in task.aggregation().items()
    ]
    own = {"generate_until": {STOPPED: True}, "multiple_choice": {MARGIN: True}}.get(task.OUTPUT_TYPE, {})
    if spec.divergence is not None:
        own |= {KL_DIVERGENCE: False, SAME_TOP_TOKEN: True}
    metrics += [
        MetricInfo(name=name, filter=filters[0], aggregation=names[id(mean)], higher_is_better=direction)
        for name, direction in own.items()
    ]
    config = {
        k: v for k, v in task.config.to_dict(keep_callable=True).items() if k not in ("custom_dataset", "metadata")
    }
    return TaskInfo(
        name=spec.name,
        output_type=task.OUTPUT_TYPE,
        version=str(metadata.get("version", task.VERSION)),
        num_fewshot=task.config.num_fewshot,
        items=len(items),
        requests=sum((instance.repeats or 1) for item in items for instance in item.instances),
        dataset=":".join(part for part in (task.DATASET_PATH, task.DATASET_NAME) if part) or "the task's own data",
        config_hash=sha256_json({"config": _hashable(config), "code": _code(suite, metadata)}),
        data_files=files,
        metrics=metrics,
        headline=_headline(spec, task, metrics, metadata),
        variants=spec.variants,
        source=spec.source,
    )


def _hashable(value: Any) -> Any:
    """A task's configuration in a form that is the same in every process: functions are their source."""
    if isinstance(value, dict):
        return {str(key): _hashable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_hashable(inner) for inner in value]
    if isinstance(value, functools.partial):
        return {"function": _hashable(value.func), "args": _hashable(value.args), "keywords": _hashable(value.keywords)}
    if callable(value):
        try:
            return inspect.getsource(value)
        except (TypeError, OSError):
            return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}"
    return value


def _code(suite: Suite, metadata: dict[str, Any]) -> str:
    """What stands for the code behind a task: all Python beside its YAML, or lm-eval's version for lm-eval's own."""
    source = Path(str(metadata.get("config_source", "")))
    for root in (OURS, *(Path(folder) for folder in suite.include)):
        if source.is_relative_to(root):
            files = sorted(root.rglob("*.py"))
            return sha256_json({path.relative_to(root).as_posix(): sha256_file(path) for path in files})
    return importlib.metadata.version("lm-eval")


def _headline(spec: TaskSpec, task: Any, metrics: list[MetricInfo], metadata: dict[str, Any]) -> list[str]:
    names = list(dict.fromkeys(metric.name for metric in metrics))
    if spec.metrics:
        for name in spec.metrics:
            if name not in names:
                raise UserError(
                    f'the task does not measure "{name}"',
                    where=f"tasks: {spec.name}.metrics",
                    fix=f"it measures: {', '.join(names)}",
                )
        return list(spec.metrics)
    if declared := [name for name in metadata.get("headline") or [] if name in names]:
        return declared
    preferred: list[str] = [name for name in ("acc_norm", "acc", "exact_match", "word_perplexity") if name in names]
    return preferred[:1] or names[:1]
