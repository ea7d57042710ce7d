"""The table that ends a run in the terminal: each task by its leading headline metric."""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..harness.claims import Outcome
from ..harness.comparison import MetricComparison, RunComparison, TaskComparison, compare_run
from ..harness.stats import Verdict
from ..harness.stats.family import NAMES
from . import format as fmt
from .claims import told
from .task_view import score_of

STYLES = {
    Verdict.BETTER: "bold blue",
    Verdict.WORSE: "bold red",
    Verdict.DIFFERENT: "bold",
    Verdict.UNCLEAR: "",
}
_OUTCOMES = {Outcome.CONFIRMED: "bold blue", Outcome.REFUTED: "bold red", Outcome.UNDECIDED: ""}

_COLUMN = 18  # characters that a task's column needs to stay readable


def results_table(run_dir: Path, width: int) -> RenderableType:
    """Scores ± standard error of a run folder, with ▲ and ▼ where a variant is clearly off the baseline; then claims.

    Args:
        run_dir: the run.
        width: of the terminal, in characters: variants by tasks where that fits, else one row a task and variant.

    Raises:
        UserError: when the folder holds no run, or one of another schema.
    """
    run = compare_run(run_dir, examples=0)
    leading = [(task, task.metrics[0]) for task in run.tasks if task.metrics]
    baseline = fmt.one_line(run.manifest.baseline, 80)
    table = Table(
        title=Text(fmt.one_line(run.manifest.name, 80)),
        caption=Text(
            f"▲ better, ▼ worse, ◆ other than {baseline}: paired, at 5 % ({NAMES[run.statistics.correction]} over"
            f" {run.family})"
        ),
    )
    names = max((len(variant.name) for variant in run.manifest.variants), default=0)
    if width >= names + _COLUMN * len(leading):
        _wide(table, run, leading)
    else:
        _long(table, run, leading)
    claims = [Text(told(judged), style=_OUTCOMES[judged.outcome]) for judged in run.claims]
    return Group(table, *claims)


def _wide(table: Table, run: RunComparison, leading: list[tuple[TaskComparison, MetricComparison]]) -> None:
    """Variants as rows, tasks as columns."""
    table.add_column("variant", no_wrap=True)
    for task, metric in leading:
        heading = f"{fmt.one_line(task.info.name)}\n{fmt.metric_label(metric.info)} {fmt.arrow(metric.info)}".rstrip()
        table.add_column(Text(heading), justify="right")
    for variant in run.manifest.variants:
        cells = [_cell(run, variant.name, task, metric) for task, metric in leading]
        table.add_row(Text(fmt.one_line(variant.name, 80)), *cells)


def _long(table: Table, run: RunComparison, leading: list[tuple[TaskComparison, MetricComparison]]) -> None:
    """One row a task and variant, with the difference to the baseline and its interval."""
    table.box = SIMPLE_HEAD
    table.add_column("variant", overflow="fold")  # the only column that may wrap: numbers stay whole
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column(Text("difference [95 %]"), justify="right", no_wrap=True)
    for task, metric in leading:
        heading = f"{fmt.one_line(task.info.name)} · {fmt.metric_label(metric.info)} {fmt.arrow(metric.info)}".rstrip()
        table.add_row(Text(heading, style="bold"))
        for variant in run.manifest.variants:
            if not task.info.asks(variant.name):
                continue
            one = metric.differences.get(variant.name)
            table.add_row(
                Text(f"  {fmt.one_line(variant.name, 80)}"),
                _cell(run, variant.name, task, metric),
                Text(fmt.difference(one) if one is not None else fmt.NOTHING),
            )
        table.add_section()


def _cell(run: RunComparison, variant: str, task: TaskComparison, metric: MetricComparison) -> Text:
    found = score_of(run, variant, task.info.name, metric.info)
    if found is None:
        gap = run.gap(variant, task.info.name)
        return Text(gap.state if gap else fmt.NOTHING, style="dim")
    one = metric.differences.get(variant)
    verdict = one.verdict if one is not None and one.verdict is not None else Verdict.UNCLEAR
    # The mark stands in front, so that the numbers line up on the right.
    return Text(f"{fmt.MARKS[verdict]} {fmt.score(found.value, found.stderr)}".lstrip(), style=STYLES[verdict])
