"""What a report says of contamination: which items of a task overlap what an adapter was trained on."""

from __future__ import annotations

from ..harness.results import AdapterInfo, Contamination, Manifest
from . import format as fmt
from .view import Block, Line, joined, line, name


def contamination_notes(manifest: Manifest) -> list[Line]:
    """What stands beside the scores: each overlap that was found, and rows that could not be looked at."""
    return [
        line("Contamination: ", name(found.task), ": ", *_counts(adapter, found))
        for adapter in manifest.adapters
        for found in adapter.contamination
        if found.overlapping_items
    ] + [
        line("Contamination: ") + _unknown_start(adapter)
        for adapter in manifest.adapters
        if adapter.unknown_start is not None
    ]


def contamination_block(manifest: Manifest) -> Block | None:
    """All that was looked for, with the names of items and rows; None where there is no adapter."""
    lines = [one for adapter in manifest.adapters for one in _lines(adapter)]
    return Block(line("Contamination"), lines=tuple(lines)) if lines else None


def _lines(adapter: AdapterInfo) -> list[Line]:
    if adapter.contamination:
        found = [line(name(found.task), ": ") + _found(adapter, found) for found in adapter.contamination]
        return [*found, _unknown_start(adapter)] if adapter.unknown_start is not None else found
    if adapter.null_of is not None:
        return [line(name(adapter.name), ": a null of ", name(adapter.null_of), ", drawn and not trained.")]
    if adapter.training is None:
        return [line(name(adapter.name), ": not known: the adapter does not say what it was trained on.")]
    return [line(name(adapter.name), ": not checked.")]


def _unknown_start(adapter: AdapterInfo) -> Line:
    return line(
        name(adapter.name),
        " was trained on from ",
        name(str(adapter.unknown_start)),
        ": what that was trained on is not known, and its rows are not among these.",
    )


def _counts(adapter: AdapterInfo, found: Contamination) -> Line:
    """How many items overlap how many rows, as a sentence."""
    share = "shares" if found.overlapping_items <= 1 else "share"
    items = f"{found.overlapping_items:,}" if found.overlapping_items else "none"
    rows = f"{found.overlapping_rows:,} of {found.rows:,}" if found.overlapping_rows else f"any of {found.rows:,}"
    return line(
        f"{items} of {fmt.plural(found.items, 'item')} {share} {found.words} words in a row, or a whole shorter text, "
        f"with {rows} training rows of ",
        name(adapter.name),
        ".",
    )


def _found(adapter: AdapterInfo, found: Contamination) -> Line:
    said = _counts(adapter, found)
    if found.overlapping_items:
        said += line(" Items: ", *_named(found.item_ids, found.overlapping_items), ".")
        said += line(" Rows: ", *_named(found.row_names, found.overlapping_rows), ".")
        said += line(f" The longest run has {fmt.plural(found.longest, 'word')}: ", name(found.example), ".")
    if unchecked := found.items - found.items_checked:
        said += line(f" Too short to tell: {fmt.plural(unchecked, 'item')}.")
    return said


def _named(names: list[str], total: int) -> Line:
    """Names as an enumeration, and how many more there are."""
    more = total - len(names)
    return line(*joined(names)) + (line(f" and {more:,} more") if more > 0 else ())
