"""What a run shows while it works: a line per finished cell, a bar with rate and time left for the one under way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from .results import CellResult


class _Rate(ProgressColumn):
    """Items per second of the bar under way."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "", style="progress.data.speed")


class RunProgress:
    """The terminal of a run.

    Args:
        console: where to write; a quiet one shows nothing.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
        )

    def __enter__(self) -> RunProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def say(self, text: str, *, style: str = "") -> None:
        """Print one line above the bars."""
        self._bars.console.print(escape(text), style=style or None, highlight=False, soft_wrap=True)

    @contextmanager
    def bar(self, label: str, total: int | None) -> Iterator[Bar]:
        """A bar that is there for as long as the context."""
        task = self._bars.add_task(escape(label), total=total, note="")
        try:
            yield Bar(self._bars, task)
        finally:
            self._bars.remove_task(task)

    def finished(self, cell: CellResult, headline: list[str]) -> None:
        """Say how a cell ended."""
        name = f"{cell.variant} · {cell.task}"
        if cell.status == "failed":
            self.say(f"✗ {name}: {cell.error}", style="red")
            return
        shown = [score for score in cell.scores if score.metric in headline and score.value is not None]
        several = len({score.filter for score in shown}) > 1
        scores = "  ".join(
            f"{s.metric}{f' ({s.filter})' if several else ''} {s.value:.3f}"
            + (f" ± {s.stderr:.3f}" if s.stderr is not None else "")
            for s in shown
        )
        cut = f"  ({cell.truncated_items} prompts cut to fit the context)" if cell.truncated_items else ""
        self.say(f"✓ {name}  {scores}  {cell.seconds:.0f} s{cut}")


class Bar:
    """One bar under way."""

    def __init__(self, bars: Progress, task: TaskID) -> None:
        self._bars = bars
        self._task = task
        self.moved = False

    def set_total(self, total: int) -> None:
        """Say how far the bar goes, where that was not known before."""
        self._bars.update(self._task, total=total)

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """Move on, and say something at the bar's end."""
        self.moved = self.moved or steps > 0
        self._bars.advance(self._task, steps)
        if note is not None:
            self._bars.update(self._task, note=escape(note))
