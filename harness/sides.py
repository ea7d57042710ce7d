"""The variants that are set side by side: found by how a user names them, and given short names. Needs no torch."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from .measured import find_variant, info_of, split_reference
from .outcomes import Outcomes, open_run
from .results import AdapterInfo, Manifest, VariantInfo


@dataclass(frozen=True)
class Side:
    """One variant of one run.

    Attributes:
        label: its name in a comparison, unique there: the variant's where all are of one run, else with as much of
            the run folder's path before it as tells the runs apart.
        run: what the run came to.
        variant: which of its variants.
    """

    label: str
    run: Outcomes
    variant: VariantInfo

    @property
    def adapter(self) -> AdapterInfo | None:
        """The adapter that it has, if any."""
        return info_of(self.run.manifest, self.variant.adapter)


def open_sides(references: Sequence[str]) -> list[Side]:
    """Find what a user wants compared.

    Args:
        references: at least two; each `RUN_DIR:VARIANT`, or a run folder alone, which stands for its only variant, or
            for the only one with an adapter attached.

    Returns:
        The sides in this order; a run that is named several times is read once.

    Raises:
        UserError: fewer than two, a folder that holds no run, a variant that the run does not have, or a run without
            a variant's name that has several to choose from.
    """
    if len(references) < 2:
        raise UserError(
            "a comparison needs at least two: the first is what the others are compared with",
            where=" ".join(references) or None,
            fix="name them as RUN_DIR:VARIANT RUN_DIR:VARIANT; the run may be the same",
        )
    runs: dict[Path, Outcomes] = {}
    found = []
    for reference in references:
        folder, name = _split(reference)
        place = Path(os.path.realpath(folder))
        if place not in runs:
            runs[place] = _open(folder)
            runs[place].label = _printable(str(folder))
        manifest = runs[place].manifest
        variant = find_variant(manifest, name, reference) if name is not None else _only_variant(manifest, reference)
        found.append((place, variant))
    labels = [_printable(label) for label in _labels([(place, variant.name) for place, variant in found])]
    return [Side(label, runs[place], variant) for label, (place, variant) in zip(labels, found, strict=True)]


def _split(reference: str) -> tuple[Path, str | None]:
    try:
        return split_reference(reference) or (Path(reference).expanduser(), None)
    except (OSError, RuntimeError, ValueError) as error:  # a name that no file can have, or nobody's home
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"this cannot be a run folder: {why}", where=reference, fix="give RUN_DIR:VARIANT") from None


def _open(folder: Path) -> Outcomes:
    try:
        return open_run(folder)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"this run cannot be read: {why}", where=str(folder), fix="give a run's own folder") from None


def _only_variant(manifest: Manifest, reference: str) -> VariantInfo:
    attached = [one for one in manifest.variants if one.adapter is not None and one.merge == "none"]
    for candidates in (attached, manifest.variants):
        if len(candidates) == 1:
            return candidates[0]
    names = ", ".join(f"{reference}:{one.name}" for one in manifest.variants)
    raise UserError(
        f"the run has {len(attached) or 'no'} variants with an adapter attached: say which variant is meant",
        where=reference,
        fix=f"name one of: {names}" if names else "this run has no variants",
    )


def _labels(found: Sequence[tuple[Path, str]]) -> list[str]:
    places = list(dict.fromkeys(place for place, _ in found))
    if len(places) == 1:
        names = [variant for _, variant in found]
    else:
        short = _short_names(places)
        names = [f"{short[place]}:{variant}" for place, variant in found]
    seen: Counter[str] = Counter()
    labels = []
    for name in names:
        seen[name] += 1
        labels.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return labels


def _printable(path: str) -> str:
    """A path of which bytes that are not UTF-8 are written out, so that it can stand in any file."""
    return path.encode("utf-8", "backslashreplace").decode("utf-8")


def _short_names(places: Sequence[Path]) -> dict[Path, str]:
    """The last parts of each path, as many as tell them all apart."""
    for count in range(1, max(len(place.parts) for place in places)):
        short = {place: "/".join(place.parts[-count:]) for place in places}
        if len(set(short.values())) == len(places):
            return short
    return {place: str(place) for place in places}
