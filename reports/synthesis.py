"""The report of a synthesised data set: what each rule did and why, overlap, lengths. No torch; all its text inert."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..adapters.synthesis.results import (
    TRAIN,
    Manifest,
    Overlap,
    Results,
    RuleOutcome,
    read_manifest,
    read_results,
)
from ..files import write_text
from . import format as fmt
from .markdown import code, fenced, inline

_SHOWN = 3  # conversations
_LONGEST = 300  # characters of an example


def write_report(folder: Path) -> Path:
    """Write `report.md` into the folder of a synthesis; the same folder always gives the same report.

    Raises:
        UserError: when the folder holds no finished synthesis.
    """
    path = folder / "report.md"
    lines = (folder / TRAIN).read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines[:_SHOWN] if line]
    write_text(path, render(read_manifest(folder), read_results(folder), rows))
    return path


def render(manifest: Manifest, results: Results, rows: Sequence[dict[str, object]]) -> str:
    """The report as Markdown.

    Args:
        manifest: what was asked.
        results: what came out.
        rows: conversations to show.
    """
    parts = [
        f"## Synthesised {inline(manifest.kind)}",
        _lead(manifest, results),
        "### Stages",
        _stages(results),
        "### What each rule did",
        _rules(results.rules),
        _examples(results.rules),
        "### Overlap",
        "Texts that share at least one run of so many words, and how alike the closest pair is by their words"
        " (0 to 1; from 0.7 on riddles count as near-duplicates, from 0.5 on they stay on the same side of the split).",
        _overlaps(results.overlaps),
        _closest(results.overlaps),
        f"The split was drawn over {fmt.plural(results.groups, 'group')} of riddles that are kin;"
        f" the largest has {results.largest_group:,}.",
        "### Lengths",
        _table(
            ("Message", "Words: least", "median", "mean", "most"),
            [(each.message, each.least, each.median, each.mean, each.most) for each in results.lengths],
        ),
        _conversations(rows),
        "### How it was made",
        _how(manifest, results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _lead(manifest: Manifest, results: Results) -> str:
    made = results.train + results.eval
    return (
        f"**{fmt.plural(made, 'conversation')}: {results.train:,} in train.jsonl, {results.eval:,} in eval.jsonl.**"
        f" {fmt.plural(manifest.calls, 'call')} gave {fmt.plural(results.lines, 'line')}; {results.kept:,} of them"
        f" were riddles of their own and were answered; {made:,} conversations came through to the end."
    )


def _stages(results: Results) -> str:
    rows = [
        (each.stage, each.requests, each.stopped, _count(each.tokens_in), _count(each.tokens_out))
        for each in results.stages
    ]
    return _table(("Stage", "Requests", "Ended by the model", "Tokens in", "Tokens out"), rows)


def _rules(rules: Sequence[RuleOutcome]) -> str:
    found = [each for each in rules if each.dropped or each.changed]
    idle: dict[str, list[str]] = {}
    for each in rules:
        if each not in found:
            idle.setdefault(each.stage, []).append(each.rule)
    rows = [(each.stage, inline(each.rule), each.dropped, each.changed, _why(each.why)) for each in found]
    parts = [_table(("Stage", "Rule", "Dropped", "Changed", "What it is for"), rows)] if rows else []
    if idle:
        told = "; ".join(f"{stage}: {', '.join(names)}" for stage, names in idle.items())
        parts.append(_fold("Rules that found nothing", inline(told) + ".", [told]))
    return "\n\n".join(parts)


def _examples(rules: Sequence[RuleOutcome]) -> str:
    rows = [
        (each.stage, inline(each.rule), code(fmt.clip_end(before, _LONGEST)), _after(after))
        for each in rules
        for before, after in each.examples
    ]
    return _fold("Examples of what was dropped or changed", _table(("Stage", "Rule", "Before", "After"), rows), rows)


def _overlaps(overlaps: Sequence[Overlap]) -> str:
    lengths = list(overlaps[0].shared)
    rows = [
        (
            each.what,
            f"{each.texts:,} with {each.others:,}",
            *(each.shared[length] for length in lengths),
            f"{each.closest[0].likeness:.2f}" if each.closest else fmt.NOTHING,
        )
        for each in overlaps
    ]
    return _table(("What", "Texts", *(f"{length} words" for length in lengths), "Closest pair"), rows)


def _closest(overlaps: Sequence[Overlap]) -> str:
    rows = [
        (each.what, f"{pair.likeness:.2f}", _short(pair.text), _short(pair.other))
        for each in overlaps
        for pair in each.closest
    ]
    return _fold("The closest pairs", _table(("What", "Likeness", "Text", "Other"), rows), rows)


def _conversations(rows: Sequence[dict[str, object]]) -> str:
    texts = [fenced(fmt.visible(_conversation(row))) for row in rows]
    return _fold(f"The first {fmt.plural(len(rows), 'conversation')} of train.jsonl", "\n\n".join(texts), rows)


def _conversation(row: dict[str, object]) -> str:
    messages = row["messages"]
    if not isinstance(messages, list):
        raise TypeError("a row has a list of messages")
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def _how(manifest: Manifest, results: Results) -> str:
    lines = [f"{inline(name)}: {code(value)}" for name, value in manifest.identity.items()]
    lines.append(f"texts generated: {inline(results.generated)}")
    lines += [f"{inline(name)}: {code(str(value))}" for name, value in manifest.sampling.items()]
    lines += [
        f"seed: {manifest.seed}",
        f"seeds: {code(manifest.seeds_source)}, {manifest.seeds_count:,} of them,"
        f" {manifest.per_call} shown in each call, SHA-256 {code(fmt.short_hash(manifest.seeds_sha256))}",
        f"share held out: {manifest.eval_share:g}",
        f"time of the last command: {fmt.duration(results.seconds)}",
    ]
    lines += [f"answered by {code(name)}: {count:,}" for name, count in results.answered_by.items()]
    lines += [f"SHA-256 of {code(name)}: {code(digest)}" for name, digest in results.sha256.items()]
    lines.append("every prompt, seed and answer: `requests.jsonl`; versions and prompt templates: `manifest.json`")
    return "\n".join(f"- {line}" for line in lines)


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A pipe table of cells that are inert already; numbers stand to the right."""
    numeric = [bool(rows) and all(isinstance(row[place], int | float) for row in rows) for place in range(len(heads))]
    lines = [heads, ["---:" if right else "---" for right in numeric]]
    lines += [[_cell(cell) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:,.1f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def _fold(title: str, body: str, rows: Sequence[object]) -> str:
    return f"<details>\n<summary>{title}</summary>\n\n{body}\n\n</details>" if rows else ""


def _after(after: str | None) -> str:
    return "(dropped)" if after is None else _short(after)


def _short(text: str) -> str:
    return code(fmt.clip_end(text, _LONGEST))


def _why(why: str) -> str:
    """Our own words, in which backticks are Markdown."""
    return why.replace("|", "\\|").replace("<", "&lt;")


def _count(count: int | None) -> object:
    return "not told" if count is None else count
