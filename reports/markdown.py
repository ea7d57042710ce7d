"""The Markdown report: fit for a pull-request comment, with all foreign text inert.

What comes from a suite, model, dataset or machine must neither break a table nor turn into markup, a link, an
image that is fetched, or a mention. Literals become code, long texts fenced blocks, and the rest is escaped.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence

from . import format as fmt
from .view import Block, Cell, Column, Line, ShownExample, Table, View, line, mark, name

LONGEST = 65_000  # characters: GitHub refuses a comment beyond 65,536
_LEFT_OUT = "Left out, to stay within the length of a comment ({} has them): {}.\n"
# What is kept first when not all folds fit; examples come after these.
_KEPT_FIRST = ("how it was run", "all metrics")
# What GitHub takes for a mention, an issue or an address even where Markdown is escaped.
_LINKED = re.compile(r"@|\bGH-(?=\d)|\bwww(?=\.)|:(?=//)|#(?=\d)", re.IGNORECASE)
_LONGEST_LINE = 2000  # characters; the view cuts most lines shorter
_ZERO_WIDTH_SPACE = "\u200b"


def render_markdown(view: View) -> str:
    """The whole report.

    Folds that would take it beyond :data:`LONGEST` characters are left out and named; the open part never is.
    """
    folds = {}
    metrics = by_task("All metrics", [(task.task, task.metrics) for task in view.tasks])
    if metrics is not None:
        folds["all metrics"] = fold(line("All metrics"), pipe_table(metrics))
    for task in view.tasks:
        if task.examples:
            examples = "\n\n".join(example_text(example) for example in task.examples)
            folds[f"examples of {code(task.task)}"] = fold(line("Examples: ", name(task.task)), examples)
    folds["how it was run"] = fold(line("How it was run"), "\n\n".join(_block(block) for block in view.how))
    return fitted(_first_screens(view), folds) + f"\nMade by phibench {inline(view.version)}.\n"


def inline(text: str) -> str:
    """Foreign prose on one line, with nothing in it that Markdown or GitHub acts on."""
    text = _unlinked(fmt.one_line(text, _LONGEST_LINE))
    text = re.sub(r"([\\`*_{}\[\]<>#|~$&!])", r"\\\1", text)
    text = re.sub(r"^(\d+)([.)])(?!\S)", r"\1\\\2", text)
    return re.sub(r"^([-+=])", r"\\\1", text)


def code(text: str) -> str:
    """A foreign literal as inline code that also holds inside a table."""
    text = fmt.one_line(text, _LONGEST_LINE)
    if not text:
        return "(empty)"
    if not re.search(r"[`|\\]", text):
        return f"`{text}`"
    # Inside a table no code span holds a pipe after a backslash: character references hold anything anywhere.
    return "<code>" + re.sub(r"[!-/:-@\[-`{-~]", lambda found: f"&#{ord(found[0])};", _unlinked(text)) + "</code>"


def fenced(text: str) -> str:
    """A foreign text as a block of code whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _unlinked(text: str) -> str:
    return _LINKED.sub(lambda found: found[0] + _ZERO_WIDTH_SPACE, text)


def text_of(content: Line) -> str:
    """A line in Markdown, its foreign pieces made inert."""
    write: dict[str, Callable[[str], str]] = {"own": str, "prose": inline, "name": code}
    return "".join(write[span.kind](span.text) for span in content)


def pipe_table(table: Table) -> str:
    """A pipe table; the caption is left to the heading above it."""
    heads = [text_of(column.heading) for column in table.columns]
    rules = ["---:" if column.numeric else "---" for column in table.columns]
    rows = [
        [f"{text_of(cell.content)} {mark(cell) if table.marked else ''}".rstrip() for cell in row] for row in table.rows
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in [heads, rules, *rows])


def by_task(caption: str, tables: Sequence[tuple[str, Table | None]]) -> Table | None:
    """The tasks' tables, which have the same columns, as one with the task in front."""
    found = [(task, table) for task, table in tables if table is not None]
    if not found:
        return None
    rows = [(Cell(line(name(task))), *row) for task, table in found for row in table.rows]
    return Table(caption, (Column(line("Task")), *found[0][1].columns), tuple(rows))


def _first_screens(view: View) -> str:
    """What stands open: what was compared, what is missing, scores, differences and cost."""
    parts = [f"## {inline(view.title) or 'phibench report'}"]
    if view.description:
        parts.append(inline(view.description))
    if view.notices:
        parts.append("\n".join(["> **Incomplete**", ">", *(f"> - {text_of(notice)}" for notice in view.notices)]))
    parts.append(text_of(view.lead))
    if view.gate is not None:
        parts += ["### Gate", text_of(view.gate_note), pipe_table(view.gate)]
    if view.claims is not None:
        parts += ["### Claims", text_of(view.claims_note), pipe_table(view.claims)]
    if view.summary is not None:
        parts += ["### Scores", view.summary.caption + ".", pipe_table(view.summary)]
        parts += [text_of(note) for note in view.legend]
    for section in view.sections:
        parts += [f"### {section.title}", pipe_table(section.table), *(text_of(note) for note in section.notes)]
    differences = by_task("Differences", [(task.task, task.differences) for task in view.tasks])
    if differences is not None:
        parts += [f"### Differences to {code(view.baseline)}", pipe_table(differences)]
        parts += [
            "\n".join(f"- {code(task.task)}: {text_of(said)}" for said in task.slices)
            for task in view.tasks
            if len(task.slices) > 1
        ]
    if view.costs is not None:
        parts += ["### Cost", view.costs.caption + ".", pipe_table(view.costs)]
    return "\n\n".join(parts) + "\n"


def fold(title: Line, body: str) -> str:
    """A folded part. Its title stands in HTML, where Markdown is not read."""
    shown = "".join(
        f"<code>{html.escape(span.text)}</code>" if span.kind == "name" else html.escape(span.text) for span in title
    )
    return f"\n<details>\n<summary>{shown}</summary>\n\n{body}\n\n</details>\n"


def fitted(start: str, folds: dict[str, str], elsewhere: str = "report.html") -> str:
    """The start and, in their own order, the folds that fit, with a note on those that do not and where they are."""
    room = LONGEST - len(start) - len(_LEFT_OUT) - sum(len(title) + 2 for title in folds) - 100
    kept = set()
    for title in sorted(folds, key=lambda title: _KEPT_FIRST.index(title) if title in _KEPT_FIRST else 9):
        if len(folds[title]) <= room:
            room -= len(folds[title])
            kept.add(title)
    missing = [title for title in folds if title not in kept]
    note = "\n" + _LEFT_OUT.format(elsewhere, ", ".join(missing)) if missing else ""
    return start + "".join(text for title, text in folds.items() if title in kept) + note


def _block(block: Block) -> str:
    parts = [f"**{text_of(block.title)}**"]
    if block.lines:
        parts.append("\n".join("- " + text_of(content) for content in block.lines))
    if block.table is not None:
        parts.append(pipe_table(block.table))
    if block.curve is not None:
        parts.append(inline(block.curve.caption) + ".")
    if block.literal is not None:
        parts.append(fenced(block.literal))
    return "\n\n".join(parts)


def example_text(example: ShownExample) -> str:
    """An item with what each variant answered."""
    parts = [f"**{text_of(example.title)}**"]
    if example.prompt is not None:
        parts.append(fenced(example.prompt))
    if example.choices:
        columns = tuple(Column(line(heading)) for heading in ("Choice", "Text", "Reference", "Taken by"))
        rows = [
            (
                choice.label,
                code(choice.text),
                "reference" if choice.is_target else "",
                ", ".join(map(code, choice.taken_by)),
            )
            for choice in example.choices
        ]
        heads = pipe_table(Table("Choices", columns, ()))
        parts.append("\n".join([heads, *("| " + " | ".join(row) + " |" for row in rows)]))
    if example.target is not None:
        parts += ["Reference:", fenced(example.target)]
    for answer in example.answers:
        parts.append(f"{code(answer.variant)}: {code(answer.metric)} {answer.value}")
        if answer.text is not None:
            parts.append(fenced(answer.text))
    return "\n\n".join(parts)
