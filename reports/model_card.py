"""The model card of what is published: what it is, what each form of it was measured to gain and lose, how it was made.

Every number comes from a run's comparison; whatever comes from a model, dataset or machine is made inert. Paths of the
machine stay off the card. The metadata, with the results as `model-index`, are huggingface_hub's own.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .. import __version__
from ..adapters.merge_record import MergeRecord, public_name
from ..adapters.spec import QuantizationSpec
from ..harness.comparison import RunComparison, compare_run
from ..harness.results import AdapterInfo, VariantInfo
from . import format as fmt
from .build import build_view
from .figures import curve
from .markdown import by_task, code, inline, pipe_table, text_of
from .provenance import settings_of
from .task_view import score_of
from .view import Cell, Column, Table, TaskView, line, name

_TEMPLATE = Path(__file__).parent / "templates" / "model_card.md.j2"
_MERGED = {
    "base": "merged into the base in its own precision",
    "dequantized": "merged into the quantised base after dequantising it, in full precision",
    "requantized": "merged into the base, then quantised again",
}
_KINDS = {
    "merged": _MERGED["base"],
    "merged-dequantized": _MERGED["dequantized"],
    "merged-requantized": _MERGED["requantized"],
}
# Of an absolute path, or one from a home or working folder, all but the last name; not of an address or a hub id.
_FOLDERS = re.compile(r"(?<![\w:/.~-])(?:~|\.{1,2})?/(?:[^\s\"'/]+/)+|\b[A-Za-z]:\\(?:[^\s\"'\\]+\\)*")
_MAKERS = ("torch", "transformers", "peft", "bitsandbytes")  # whose versions may move a merged weight


@dataclass(frozen=True)
class Subject:
    """What is published."""

    repo: str
    base: str | None  # a hub id, for the metadata; None where the base has none
    base_name: str
    method: str  # peft's name: LORA, IA3, ...
    adapter_sha256: str
    merged: MergeRecord | None = None  # None: the adapter itself
    training: Mapping[str, Any] | None = None
    license: str | None = None
    datasets: tuple[str, ...] = ()
    own_tokenizer: bool = False  # of an adapter: it carries one, and with it its own end of text


@dataclass(frozen=True)
class Evidence:
    """What a run says of it."""

    run: RunComparison  # differences to the suite's baseline
    forms: tuple[VariantInfo, ...]  # the variants that are what is published; the first one leads
    others: RunComparison | None  # the same adapter in other forms, against the leading form; None without others


def gather_evidence(run_dir: Path, forms: list[VariantInfo], adapter: str | None) -> Evidence:
    """Compare a run for the card of what some of its variants are.

    Args:
        run_dir: the run.
        forms: the variants that are what is published; at least one.
        adapter: the adapter's name in the run; other adapters' variants stay off the card.

    Raises:
        UserError: when the folder holds no run.
    """
    names = {form.name for form in forms}
    run = compare_run(run_dir, examples=0)
    same = {one.name for one in run.manifest.variants if adapter is not None and one.adapter == adapter} | names
    bases = {one.name for one in run.manifest.variants if one.adapter is None}
    others = compare_run(run_dir, baseline=forms[0].name, examples=0) if len(same) > 1 else None
    return Evidence(_only(run, same | bases), tuple(forms), _only(others, same) if others else None)


def _only(run: RunComparison, names: set[str]) -> RunComparison:
    """A run as if it had these variants alone, and its baseline."""
    names = names | {run.manifest.baseline}
    variants = [one for one in run.manifest.variants if one.name in names]
    adapters = [info for info in run.manifest.adapters if info.name in {one.adapter for one in variants}]
    tasks = [
        replace(
            task,
            metrics=[
                replace(metric, differences={key: one for key, one in metric.differences.items() if key in names})
                for metric in task.metrics
            ],
        )
        for task in run.tasks
    ]
    manifest = run.manifest.model_copy(
        update={"variants": variants, "adapters": adapters, "model": public_name(run.manifest.model)}
    )
    results = run.results.model_copy(update={"cells": [cell for cell in run.results.cells if cell.variant in names]})
    gaps = [gap for gap in run.gaps if gap.variant in names]
    return replace(run, manifest=manifest, results=results, tasks=tasks, gaps=gaps, claims=[])


def model_card(subject: Subject, evidence: Evidence | None) -> str:
    """The whole card: YAML metadata and Markdown."""
    card = ModelCard.from_template(
        metadata(subject, evidence),
        template_path=str(_TEMPLATE),
        title=inline(subject.repo.rpartition("/")[2]),
        lead=_lead(subject),
        loading=_loading(subject, evidence),
        results=_results(evidence) if evidence else None,
        baseline=code(evidence.run.manifest.baseline) if evidence else None,
        leading=code(evidence.forms[0].name) if evidence else None,
        training=_training(subject.training) if subject.training else None,
        facts=_facts(subject, evidence),
        version=inline(__version__),
    )
    return str(card).rstrip() + "\n"


# ---- metadata


def metadata(subject: Subject, evidence: Evidence | None) -> ModelCardData:
    """The card's metadata; of the run, the headline metrics of each form that is published."""
    merged = subject.merged
    requantized = merged is not None and merged.into == "requantized"
    tags = ["phibench", fmt.one_line(subject.method).lower(), *(["bitsandbytes"] if requantized else [])]
    return ModelCardData(
        base_model=subject.base,
        base_model_relation=None if subject.base is None else "finetune" if merged else "adapter",
        library_name="transformers" if merged else "peft",
        pipeline_tag="text-generation",
        license=subject.license,
        datasets=list(subject.datasets) or None,
        tags=tags,
        model_name=subject.repo.rpartition("/")[2],
        eval_results=(_eval_results(evidence) or None) if evidence else None,
    )


def _eval_results(evidence: Evidence) -> list[EvalResult]:
    run, found = evidence.run, []
    for task in run.tasks:
        for metric in (one.info for one in task.metrics if one.headline):
            for form in evidence.forms:
                score = score_of(run, form.name, task.info.name, metric)
                if score is None or score.value is None or not math.isfinite(score.value):
                    continue
                dataset = _dataset(task.info.dataset)
                found.append(
                    EvalResult(
                        task_type="text-generation",
                        dataset_type=dataset or fmt.one_line(task.info.name),
                        dataset_name=fmt.one_line(task.info.name),
                        dataset_config=fmt.one_line(task.info.name),  # tasks of one dataset stay apart
                        dataset_args={"num_fewshot": task.info.num_fewshot, "items": score.items},
                        metric_type=fmt.one_line(metric.name),
                        metric_name=fmt.one_line(f"{fmt.metric_label(metric)}, {form.name}"),
                        metric_value=score.value,
                    )
                )
    return found


def _dataset(named: str) -> str | None:
    """A dataset's hub id, where it has one."""
    dataset = named.split(":", 1)[0]
    return dataset if dataset.count("/") == 1 and public_name(dataset) == dataset and " " not in dataset else None


# ---- text


def _lead(subject: Subject) -> str:
    base = code(public_name(subject.base_name))
    if subject.merged is None:
        return f"A {inline(subject.method)} adapter for {base}."
    return f"{base} with a {inline(subject.method)} adapter {_MERGED[subject.merged.into]}."


def _loading(subject: Subject, evidence: Evidence | None) -> str:
    """Python that loads it: only names that were checked and typed settings stand in it."""
    if subject.merged is not None:
        needs = "  # needs bitsandbytes" if subject.merged.into == "requantized" else ""
        return (
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f'model = AutoModelForCausalLM.from_pretrained("{subject.repo}", dtype="auto"){needs}\n'
            f'tokenizer = AutoTokenizer.from_pretrained("{subject.repo}")'
        )
    settings = _quantization(evidence) if evidence else None
    quantized = f"    quantization_config=BitsAndBytesConfig(\n        {settings},\n    ),\n" if settings else ""
    dtype = evidence.forms[0].parts.get("dtype", "auto") if evidence else "auto"
    # peft loads the base's settings: without this an adapter that ends its texts otherwise would not stop.
    stops = "\nmodel.generation_config.eos_token_id = tokenizer.eos_token_id  # where it learned to stop"
    return (
        "from peft import AutoPeftModelForCausalLM\n"
        f"from transformers import AutoTokenizer{', BitsAndBytesConfig' if settings else ''}\n\n"
        f'model = AutoPeftModelForCausalLM.from_pretrained(\n    "{subject.repo}",\n    dtype={json.dumps(dtype)},\n'
        f"{quantized})\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{subject.repo}"){stops if subject.own_tokenizer else ""}'
    )


def _quantization(evidence: Evidence) -> str | None:
    """The quantisation of the leading form, as the arguments of a `BitsAndBytesConfig`."""
    form, manifest = evidence.forms[0], evidence.run.manifest
    if form.quantization is None:
        return None
    named = manifest.suite.get("quantizations", {}).get(form.quantization)
    if named is None:
        return None
    fields = QuantizationSpec.model_validate(named).model_dump(exclude_defaults=True)
    if fields.get("load_in_4bit"):
        fields.setdefault("bnb_4bit_compute_dtype", form.parts.get("dtype", "float32"))
    return ",\n        ".join(
        f"{key}={value!r}" if not isinstance(value, str) else f'{key}="{value}"' for key, value in fields.items()
    )


def _results(evidence: Evidence) -> dict[str, Any]:
    """The tables of the results, for the template."""
    view = build_view(evidence.run)
    others = None
    if evidence.others is not None:
        others = _differences(build_view(evidence.others).tasks)
    return {
        "forms": pipe_table(_forms(evidence)),
        "lead": text_of(view.lead),
        "gaps": [f"{code(gap.variant)} on {code(gap.task)} ({gap.state})" for gap in evidence.run.gaps],
        "unfinished": None if evidence.run.manifest.status == "done" else inline(evidence.run.manifest.status),
        "scores": pipe_table(view.summary) if view.summary else None,
        "legend": [text_of(note) for note in view.legend],
        "differences": _differences(view.tasks),
        "others": others,
    }


def _differences(tasks: tuple[TaskView, ...]) -> str | None:
    table = by_task("Differences", [(task.task, task.differences) for task in tasks])
    return pipe_table(table) if table else None


def _forms(evidence: Evidence) -> Table:
    """Which forms were measured, and which of them this is."""
    published = {form.name for form in evidence.forms}
    columns = ("Form", "What it is", "Model size", "Published here")
    rows = tuple(
        (
            Cell(line(name(one.name))),
            Cell(line(_what_it_is(one, is_published=one.name in published))),
            Cell(line(fmt.size(one.model_bytes))),
            Cell(line("yes" if one.name in published else "")),
        )
        for one in evidence.run.manifest.variants
    )
    return Table("Forms", tuple(Column(line(text), numeric=text == "Model size") for text in columns), rows)


def _what_it_is(variant: VariantInfo, *, is_published: bool) -> str:
    if variant.adapter is None and is_published:
        return "this very folder, evaluated as a base"
    if variant.adapter is None:
        return "the base, quantised" if variant.quantization else "the base in its own precision"
    if variant.kind in _KINDS:
        return f"the adapter {_KINDS[variant.kind]}"
    return (
        "the adapter on the quantised base" if variant.quantization else "the adapter on the base in its own precision"
    )


def _training(record: Mapping[str, Any]) -> dict[str, Any]:
    """How phibench trained the adapter: settings as a table, and where the loss went."""
    shown = {key: value for key, value in record.items() if key not in ("curve", "parts")}
    told = settings_of(_without_folders(shown))
    rows = tuple((Cell(line(name(key))), Cell(line(name(value)))) for key, value in told)
    drawn = curve(record.get("curve"))
    columns = (Column(line("Setting")), Column(line("Value")))
    return {"table": pipe_table(Table("Training", columns, rows)), "curve": inline(drawn.caption) if drawn else None}


def _without_folders(value: Any) -> Any:
    """A setting with the folders taken off every path in it, however deep and wherever in a text."""
    if isinstance(value, Mapping):
        return {key: _without_folders(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_folders(one) for one in value]
    return _FOLDERS.sub("", value) if isinstance(value, str) else value


def _facts(subject: Subject, evidence: Evidence | None) -> list[str]:
    """How it was made and measured, so that it can be made and measured again."""
    merged = subject.merged
    facts = [f"Adapter: {inline(subject.method)}, SHA-256 {code(fmt.short_hash(subject.adapter_sha256))}."]
    if merged is not None:
        made = ", ".join(f"{code(package)} {inline(merged.versions.get(package, 'absent'))}" for package in _MAKERS)
        facts.append(
            f"Merged on {code(merged.device)} with {made}; the identity {code(fmt.short_hash(merged.identity))} is"
            " the hash of base, adapter, quantisation, tokenizer and versions. `phibench_merge.json` has all of it."
        )
    return facts + (_measured(subject, evidence) if evidence else [])


def _contamination(adapter: AdapterInfo) -> str:
    """Whether training rows overlap the tasks' items; what overlaps stands beside the scores, by its numbers only."""
    if not adapter.contamination:
        return "Whether its training rows overlap the tasks' items is not known."
    overlapping = sum(1 for found in adapter.contamination if found.overlapping_items)
    tasks = fmt.plural(len(adapter.contamination), "task")
    found = f"in {overlapping} of them some overlap" if overlapping else "no item overlaps"
    said = f"Its training rows were compared with the items of {tasks}; {found}."
    return said if adapter.unknown_start is None else f"{said} Those of the adapter that it went on from are not known."


def _measured(subject: Subject, evidence: Evidence) -> list[str]:
    manifest = evidence.run.manifest
    limit = manifest.options.get("limit")
    at_most = f", at most {fmt.plural(limit, 'item')} a task" if isinstance(limit, int) else ""
    device = manifest.hardware.get("accelerator") or manifest.hardware.get("processor") or "unknown"
    versions = ", ".join(
        f"{code(package)} {inline(manifest.versions[package])}"
        for package in ("lm-eval", *_MAKERS)
        if package in manifest.versions
    )
    facts = [
        f"Measured by phibench {inline(manifest.phibench_version)}, suite {code(manifest.name)}"
        f" ({code(fmt.short_hash(manifest.digest))}){at_most}, {inline(manifest.started[:10])}, on"
        f" {inline(str(device))}.",
        f"Versions: {versions}." if versions else "",
        "Identities: "
        + ", ".join(f"{code(form.name)} {code(fmt.short_hash(form.identity or ''))}" for form in evidence.forms)
        + ".",
    ]
    facts += [
        f"{code(task.info.name)}: {fmt.plural(task.info.items, 'item')}, {task.info.num_fewshot}-shot, from"
        f" {code(public_name(task.info.dataset))}, version {code(task.info.version)}."
        for task in evidence.run.tasks
    ]
    measured_on = manifest.model  # without the folders above it
    if subject.base is not None and measured_on != subject.base:
        facts.append(
            f"The base was measured as {code(measured_on)}; that this is {code(subject.base)} is the publisher's word."
        )
    facts += [f"The run warned: {inline(_without_folders(warning))}" for warning in manifest.warnings]
    facts += [_contamination(info) for info in manifest.adapters]
    moved = [p for p in _MAKERS if subject.merged and subject.merged.versions.get(p) != manifest.versions.get(p)]
    if moved:
        facts.append(f"What was measured was made with other versions of {', '.join(map(code, moved))} than this.")
    return [fact for fact in facts if fact]
