"""What a variant costs to serve, by a run's own measurements; for every report and comparison. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .gate.costs import peak_memory
from .outcomes import Outcomes
from .results import VariantInfo


@dataclass(frozen=True)
class Costs:
    """A variant's costs; None for what was not measured.

    Attributes:
        model_bytes: weights and buffers in the real form, quantisation state included.
        peak_memory_bytes: see :func:`.gate.peak_memory`.
        load_seconds: to derive the variant from the loaded base.
        scoring_rate: tokens a second; every request's count, shared or not. Of the real form where it was scored in
            another.
        generation_rate: tokens a second that were written.
        seconds: model time of all its cells.
    """

    model_bytes: int | None = None
    peak_memory_bytes: int | None = None
    load_seconds: float | None = None
    scoring_rate: float | None = None
    generation_rate: float | None = None
    seconds: float | None = None


def costs_of(run: Outcomes, variant: VariantInfo) -> Costs:
    """The costs of one of a run's variants, over its finished cells."""
    generated = {task.name for task in run.manifest.tasks if task.output_type == "generate_until"}
    cells = [one for one in run.results.cells if one.variant == variant.name and one.status == "done"]
    scored = [(one.tokens_in, one.seconds) for one in cells if one.task not in generated]
    real = variant.real_form  # it ran on dequantised weights: what counts was measured before
    return Costs(
        model_bytes=variant.model_bytes,
        peak_memory_bytes=peak_memory(run, variant),
        load_seconds=variant.load_seconds,
        scoring_rate=_rate([(real.tokens_in, real.seconds)] if real else scored),
        generation_rate=_rate([(one.tokens_out, one.seconds) for one in cells if one.task in generated]),
        seconds=sum(one.seconds for one in cells) if cells else None,
    )


def _rate(work: Sequence[tuple[int, float]]) -> float | None:
    """Tokens per second over several cells: (tokens, seconds) each."""
    seconds = sum(entry[1] for entry in work)
    return sum(entry[0] for entry in work) / seconds if seconds > 0 else None
