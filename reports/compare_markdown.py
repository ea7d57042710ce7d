"""A comparison as Markdown: fit for a pull-request comment, with all foreign text inert."""

from __future__ import annotations

from .compare_view import ComparedTask, CompareView
from .markdown import code, example_text, fitted, fold, inline, pipe_table, text_of
from .view import line, name


def render_compare_markdown(view: CompareView) -> str:
    """The whole comparison; folds that would make it longer than a comment may be are left out and named."""
    folds = {}
    if view.settings is not None:
        folds["settings"] = fold(line("What differs in how they were made"), pipe_table(view.settings))
    for task in view.tasks:
        shown = code(task.task)
        if task.slices is not None:
            folds[f"kinds of items of {shown}"] = fold(
                line("Kinds of items: ", name(task.task)), pipe_table(task.slices)
            )
        if task.metrics is not None:
            folds[f"other metrics of {shown}"] = fold(
                line("Other metrics: ", name(task.task)), pipe_table(task.metrics)
            )
        if task.examples:
            examples = "\n\n".join(example_text(example) for example in task.examples)
            folds[f"examples of {shown}"] = fold(line("Examples: ", name(task.task)), examples)
    return fitted(_first_screens(view), folds, "--html") + f"\nMade by phibench {inline(view.version)}.\n"


def _first_screens(view: CompareView) -> str:
    parts = [f"## {inline(view.title)}", text_of(view.lead)]
    if view.notices:
        parts.append("\n".join(["> **Not all is compared**", ">", *(f"> - {text_of(one)}" for one in view.notices)]))
    if view.verdicts:
        parts.append("\n".join(f"- {text_of(one)}" for one in view.verdicts))
    parts += [text_of(view.family), "### What is compared", pipe_table(view.sides), text_of(view.settings_note)]
    for task in view.tasks:
        parts += _task(task)
    parts += ["### Cost", view.costs.caption + ".", pipe_table(view.costs)]
    return "\n\n".join(parts) + "\n"


def _task(task: ComparedTask) -> list[str]:
    parts = [f"### {code(task.task)}", text_of(task.about) + ".", pipe_table(task.scores)]
    if task.notes:
        parts.append("\n".join(f"- {text_of(one)}" for one in task.notes))
    return parts
