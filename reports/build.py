"""Builds the view model of a compared run: what is missing, scores, costs, and each task's part."""

from __future__ import annotations

from collections import Counter

from ..harness.comparison import MetricComparison, RunComparison, TaskComparison
from ..harness.costs import costs_of
from ..harness.gate.judge import GateResult
from ..harness.outcomes import Gap
from ..harness.results import STOPPED
from ..harness.stats import Verdict
from ..harness.stats.family import NAMES
from . import format as fmt
from .claims import claims_note, claims_table
from .contamination import contamination_notes
from .controls import null_section, seeds_section
from .fidelity import fidelity_section
from .gate import gate_note, gate_table
from .provenance import how_it_was_run
from .task_view import metric_heading, score_of, task_view
from .view import Cell, Column, Line, Table, View, joined, line, name

_COUNTED = {
    Verdict.BETTER: "better",
    Verdict.WORSE: "worse",
    Verdict.DIFFERENT: "other",
    Verdict.UNCLEAR: "without a clear difference",
}
_STATES = {
    "failed": "failed",
    "not run": "not run",
    "not made": "not made",
    "unreadable": "records unreadable",
}


def build_view(run: RunComparison, gate: GateResult | None = None) -> View:
    """The view model of a run, in the manifest's order of variants and tasks, and of its gate if it was judged."""
    manifest = run.manifest
    finished = any(cell.status == "done" for cell in run.results.cells)
    return View(
        title=fmt.one_line(manifest.name),
        description=fmt.one_line(manifest.description, 1000),
        lead=_lead(run),
        notices=tuple(_notices(run)),
        baseline=fmt.one_line(manifest.baseline),
        summary=_summary(run) if finished else None,
        legend=tuple(_legend(run)) if finished else (),
        claims=claims_table(run),
        claims_note=claims_note(run),
        sections=tuple(one for one in (fidelity_section(run), seeds_section(run), null_section(run)) if one),
        gate=gate_table(gate) if gate is not None else None,
        gate_note=gate_note(gate) if gate is not None else (),
        tasks=tuple(task_view(run, task) for task in run.tasks),
        costs=_costs(run) if finished else None,
        how=how_it_was_run(run),
        version=manifest.phibench_version,
    )


def _lead(run: RunComparison) -> Line:
    variants = fmt.plural(len(run.manifest.variants), "variant")
    items = sum(task.info.items for task in run.tasks)
    tasks = f"{fmt.plural(len(run.tasks), 'task')} ({fmt.plural(items, 'item')})"
    return line(
        f"{variants} of ",
        name(run.manifest.model or "an unnamed base"),
        f" on {tasks}. Every difference is to ",
        name(run.manifest.baseline),
        ", paired item by item.",
    )


def _notices(run: RunComparison) -> list[Line]:
    """What is missing from the report, gravest first."""
    manifest = run.manifest
    notices = []
    if manifest.baseline not in [variant.name for variant in manifest.variants]:
        notices.append(line("The baseline ", name(manifest.baseline), " is none of the run's variants."))
    if not any(cell.status == "done" for cell in run.results.cells):
        notices.append(line("No cell has finished: there are no scores yet."))
    if manifest.status != "done":
        notices.append(line(f"The run's status is “{manifest.status}”: this report shows what there was."))
    for variant in manifest.variants:
        if variant.error is not None:
            notices.append(line("Not made: ", name(variant.name), ". ", name(variant.error)))
    for state in ("failed", "unreadable"):
        notices += [_cell_notice(gap) for gap in run.gaps if gap.state == state]
    for variant in manifest.variants:
        tasks = [gap.task for gap in run.gaps if (gap.variant, gap.state) == (variant.name, "not run")]
        if tasks:
            notices.append(line("Not run: ", name(variant.name), " on ", *joined(tasks), "."))
    return notices


def _cell_notice(gap: Gap) -> Line:
    said = line(f"{_STATES[gap.state].capitalize()}: ", name(gap.variant), " on ", name(gap.task), ".")
    return said + line(" ", name(gap.reason)) if gap.reason else said


def _headlines(run: RunComparison) -> list[tuple[TaskComparison, MetricComparison]]:
    return [(task, metric) for task in run.tasks for metric in task.metrics if metric.headline]


def _summary(run: RunComparison) -> Table:
    """Variants by headline metrics: score ± standard error, marked where clearly off the baseline."""
    headlines = _headlines(run)
    columns = [Column(line("Variant"))]
    for task, metric in headlines:
        heading = line(name(task.info.name), " ", *metric_heading(metric.info))
        columns.append(Column(heading, numeric=True))
    rows = []
    for variant in run.manifest.variants:
        role = line(" (baseline)") if variant.name == run.manifest.baseline else ()
        cells = [_summary_cell(run, variant.name, task.info.name, metric) for task, metric in headlines]
        rows.append((Cell(line(name(variant.name)) + role), *cells))
    return Table("Headline scores, ± standard error", tuple(columns), tuple(rows), marked=True)


def _summary_cell(run: RunComparison, variant: str, task: str, metric: MetricComparison) -> Cell:
    found = score_of(run, variant, task, metric.info)
    if found is None:
        gap = run.gap(variant, task)
        return Cell(line(_STATES[gap.state] if gap else fmt.NOTHING))
    one = metric.differences.get(variant)
    cell = run.results.cell(variant, task)
    asked = f", {fmt.plural(cell.items, 'item')}" if cell is not None and cell.stopped_early else ""
    return Cell(line(fmt.score(found.value, found.stderr) + asked), one.verdict if one else None)


def _legend(run: RunComparison) -> list[Line]:
    """What the summary's marks mean and how many there are, and what else a reader of it must know."""
    legend = []
    differences = [one for _, metric in _headlines(run) for one in metric.differences.values()]
    counts = Counter(one.verdict for one in differences if one.verdict is not None)
    if counts:
        said = ", ".join(f"{counts[verdict]} {word}" for verdict, word in _COUNTED.items() if counts[verdict])
        baseline = name(run.manifest.baseline)
        legend.append(line("▲ better, ▼ worse or ◆ other than ", baseline, f": {mark_rule(run)} Here: {said}."))
    if any(cell.stopped_early for cell in run.results.cells):
        said = (
            "Scores with a number of items are of those that were asked until the gate was decided: they are not of the"
        )
        legend.append(line(f"{said} items of the other scores. Differences are, item by item."))
    for task in run.tasks:
        if task.other_prompts:
            asked = line("Asked ", name(task.info.name), " with other prompts than ", name(run.manifest.baseline), ": ")
            asked += line(*joined(list(task.other_prompts)), ". Differences to it are of models and prompts together.")
            legend.append(asked)
    legend += contamination_notes(run.manifest)
    cut = [cell for cell in run.results.cells if cell.truncated_items]
    if cut:
        prompts = fmt.plural(sum(cell.truncated_items for cell in cut), "prompt")
        tokens = fmt.plural(sum(cell.truncated_tokens for cell in cut), "token")
        tasks = joined(list(dict.fromkeys(cell.task for cell in cut)))
        said = f"Over all variants, {prompts} did not fit the context and lost {tokens} from the left, in "
        legend.append(line(said, *tasks, "."))
    if any(metric.info.name == STOPPED for task in run.tasks for metric in task.metrics):
        legend.append(line(name(STOPPED), " is the share of generations that the model ended by itself."))
    return legend


def mark_rule(run: RunComparison) -> str:
    """When a difference is marked."""
    if run.statistics.correction == "none":
        return (
            "the 95 % interval of the paired difference leaves out zero, and its test says so. Each is one of 95 % by"
            " itself: where nothing differs, about one in twenty is marked by chance."
        )
    held = {
        "holm": "of any mark by chance, where nothing differs, is at most 5 %",
        "fdr_bh": "share of marks by chance is at most 5 %",
    }[run.statistics.correction]
    return (
        "the 95 % interval of the paired difference leaves out zero, and its p-value is at most 0.05 corrected"
        f" ({NAMES[run.statistics.correction]}) for {fmt.plural(run.family, 'comparison')}: every variant in every"
        f" headline metric. The {'chance' if run.statistics.correction == 'holm' else 'expected'} {held}."
    )


def _costs(run: RunComparison) -> Table:
    """What each variant costs: size, memory, time to derive, and throughput of scoring and generation."""
    columns = (
        Column(line("Variant")),
        Column(line("Model size"), numeric=True),
        Column(line("Peak memory"), numeric=True),
        Column(line("Time to derive"), numeric=True),
        Column(line("Scoring, tokens/s"), numeric=True),
        Column(line("Generation, tokens/s"), numeric=True),
    )
    rows = []
    for variant in run.manifest.variants:
        found = costs_of(run.outcomes, variant)
        shown = (
            fmt.size(found.model_bytes),
            fmt.size(found.peak_memory_bytes),
            fmt.duration(found.load_seconds),
            fmt.rate(found.scoring_rate),
            fmt.rate(found.generation_rate),
        )
        rows.append((Cell(line(name(variant.name))), *(Cell(line(text)) for text in shown)))
    caption = "Scoring counts every request's tokens, shared or not, and generation those that were written"
    if any(variant.real_form for variant in run.manifest.variants):
        caption += "; where 4-bit weights were dequantised once, memory and scoring are those of a forward before it"
    if not str(run.manifest.hardware.get("device", "")).startswith("cuda"):
        caption += "; peak memory is the whole process's, with the base that every variant is copied from"
    else:
        caption += "; peak memory is of scoring, where anything is scored"
    return Table(caption, columns, tuple(rows))
