"""How far each form of an adapter is from the form that was trained, and which to ship. Needs no torch.

The form that was trained is the adapter on the quantised base where there is one (what QLoRA saw), else the adapter on
the base. A merged model may score alike and yet be another model: so answers are compared themselves, not only scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from .answers import Answers, read_answers
from .cell_scores import cell_difference
from .outcomes import Outcomes
from .results import KL_DIVERGENCE, SAME_TOP_TOKEN, TaskInfo, VariantInfo
from .stats import Difference, Interval, Verdict
from .stats.family import Correction, corrected
from .stats.interval import Floats
from .stats.resampling import Paired, student_interval
from .values import CellValues, matched

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Fidelity:
    """One form of an adapter against the form that was trained.

    Attributes:
        variant, trained: which.
        items, flips: items of multiple choice, and on how many of them it takes another choice.
        texts, other_texts: generated texts, and how many of them differ.
        per_token: the change of log-likelihood per token, in nats, of all that was scored; None where nothing was.
        kl_divergence, same_top_token: of next-token distributions, the means over the items of all tasks that measure
            them from the trained form; None where none does.
        update_error: the error of its target modules' weights in units of the adapter's own change of them, the mean
            over modules; `worst_module` and its error; None where it was not measured.
        differences: in the headline metrics, corrected for how many there are over all forms: (task, metric, filter) ->
            one.
        tasks: those that both answered in full.
        complete: whether these are all that both were asked.
    """

    variant: str
    trained: str
    items: int = 0
    flips: int = 0
    texts: int = 0
    other_texts: int = 0
    per_token: Interval | None = None
    kl_divergence: float | None = None
    same_top_token: float | None = None
    update_error: float | None = None
    worst_module: tuple[str, float] | None = None
    differences: dict[tuple[str, str, str], Difference] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    complete: bool = True

    @property
    def worse(self) -> list[tuple[str, str, str]]:
        """The (task, metric, filter) in which it is clearly worse than the trained form."""
        return [key for key, one in self.differences.items() if one.verdict is Verdict.WORSE]

    @property
    def changed(self) -> float | None:
        """The share of choices and texts that differ; None where there are none."""
        answers = self.items + self.texts
        return (self.flips + self.other_texts) / answers if answers else None


@dataclass(frozen=True)
class Recommendation:
    """Which form to ship at one size.

    Attributes:
        trained: the form that forms were compared with.
        quantised: whether among those that are quantised, or those in the base's own precision.
        variant: the one; None where `reason` says why there is none.
        others: those that it is recommended over.
        tasks: on which all of them were compared.
    """

    trained: str
    quantised: bool
    variant: str | None
    others: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    reason: str | None = None


def trained_form(variant: VariantInfo, variants: list[VariantInfo]) -> VariantInfo | None:
    """The form in which a variant's adapter was trained: on the base with the variant's own quantisation, else the only
    one that the run has, else in the base's own precision."""
    attached = [one for one in variants if one.adapter == variant.adapter and one.merge == "none"]
    quantised = [one for one in attached if one.quantization is not None]
    own = [one for one in quantised if one.quantization == variant.quantization]
    full = [one for one in attached if one.quantization is None]
    found = own or (quantised if len(quantised) == 1 else []) or full
    return found[0] if found else None


def measure_fidelity(outcomes: Outcomes, *, correction: Correction = "holm", seed: int = 0) -> list[Fidelity]:
    """Every other form of each adapter against the trained one.

    Args:
        outcomes: the run's.
        correction: for the number of comparisons in headline metrics, over all forms.
        seed: of the resampling.
    """
    variants = outcomes.manifest.variants
    found = []
    for variant in variants:
        trained = trained_form(variant, variants) if variant.adapter is not None else None
        if trained is not None and trained.name != variant.name:
            found.append(_measure(outcomes, variant, trained, seed))
    family = {(one.variant, *key): difference for one in found for key, difference in one.differences.items()}
    directions = {key: _direction(outcomes, *key[1:]) for key in family}
    told = corrected(family, directions, correction)
    return [replace(one, differences={key: told[one.variant, *key] for key in one.differences}) for one in found]


def recommend(found: list[Fidelity], outcomes: Outcomes) -> list[Recommendation]:
    """Which form to ship of each adapter, for who serves it quantised and for who does not.

    Candidates are the forms that answered in full what all of them were asked, something at least. The trained form
    itself, where it is of that size; else, of those that are not clearly worse than it in any headline metric, the
    nearest: by divergence where that was measured of all of them, else by the share of answers that differ.
    """
    variants = {variant.name: variant for variant in outcomes.manifest.variants}
    told = []
    for trained in dict.fromkeys(one.trained for one in found):
        forms = [one for one in found if one.trained == trained]
        for quantised in (True, False):
            here = [one for one in forms if _is_quantised(variants[one.variant]) == quantised]
            if _is_quantised(variants[trained]) == quantised:
                told.append(_trained_itself(trained, quantised, here or forms))
            elif here:
                told.append(_nearest(trained, quantised, here))
    return told


def _trained_itself(trained: str, quantised: bool, forms: list[Fidelity]) -> Recommendation:
    compared = [one for one in forms if one.tasks]
    if not compared:
        return Recommendation(trained, quantised, None, reason="nothing was compared with it")
    tasks = tuple(dict.fromkeys(task for one in compared for task in one.tasks))
    return Recommendation(trained, quantised, trained, tuple(one.variant for one in compared), tasks)


def _nearest(trained: str, quantised: bool, forms: list[Fidelity]) -> Recommendation:
    most = max((one.tasks for one in forms), key=len)
    whole = [one for one in forms if one.tasks and one.complete and set(one.tasks) == set(most)]
    if not whole:
        return Recommendation(trained, quantised, None, reason="no form answered in full what the trained one did")
    sound = [one for one in whole if not one.worse]
    if not sound:
        return Recommendation(trained, quantised, None, tasks=most, reason="each is clearly worse in something")
    by_divergence = {one.variant: one.kl_divergence for one in sound if one.kl_divergence is not None}
    by_change = {one.variant: one.changed for one in sound if one.changed is not None}
    distances = next((by for by in (by_divergence, by_change) if len(by) == len(sound)), None)
    if distances is None:
        return Recommendation(trained, quantised, None, tasks=most, reason="nothing tells how far they are from it")
    best = min(distances, key=lambda name: distances[name])
    others = tuple(one.variant for one in whole if one.variant != best)
    return Recommendation(trained, quantised, best, others, most)


def _is_quantised(variant: VariantInfo) -> bool:
    return variant.quantization is not None and variant.merge != "dequantized"


def _direction(outcomes: Outcomes, task: str, metric: str, filter_name: str) -> bool | None:
    info = outcomes.task(task)
    found = None if info is None else outcomes.metric(info, f"{metric},{filter_name}")
    return None if found is None else found.higher_is_better


def _measure(outcomes: Outcomes, variant: VariantInfo, trained: VariantInfo, seed: int) -> Fidelity:
    flips, texts, sums = [0, 0], [0, 0], list[Floats]()
    differences = {}
    complete, tasks = True, list[str]()
    divergences: dict[str, list[Any]] = {KL_DIVERGENCE: [], SAME_TOP_TOKEN: []}
    for info, own, other in _cells(outcomes, variant.name, trained.name):
        if own is None or other is None or own.early or other.early or not len(matched(other, own)[0]):
            complete = False
            continue
        tasks.append(info.name)
        for metric, headline in outcomes.metrics(info):
            key = metric.key
            if headline and key in own.metrics and key in other.metrics:
                differences[info.name, metric.name, metric.filter] = cell_difference(other, own, metric, seed=seed)
            if metric.name in divergences and _reference(outcomes, info.name) == trained.name:
                divergences[metric.name] += [*own.metrics[key].values] if key in own.metrics else []
        if own.path is None or other.path is None:
            continue
        theirs, mine = matched(other, own)
        before, after = read_answers(other.path), read_answers(own.path)
        if info.output_type == "generate_until":
            texts[0] += len(mine)
            texts[1] += _other_texts(before, theirs, after, mine)
            continue
        if info.output_type == "multiple_choice":
            flips[0] += len(mine)
            flips[1] += int((before.likeliest()[theirs] != after.likeliest()[mine]).sum())
        sums.append(_likelihoods(before, theirs, after, mine))
    errors = {error.module: error.relative_to_update for error in variant.weight_error}
    worst = max(errors, key=lambda module: errors[module]) if errors else None
    return Fidelity(
        variant.name,
        trained.name,
        flips[0],
        flips[1],
        texts[0],
        texts[1],
        _per_token(np.concatenate(sums)) if sums else None,
        _mean(divergences[KL_DIVERGENCE]),
        _mean(divergences[SAME_TOP_TOKEN]),
        float(np.mean(list(errors.values()))) if errors else None,
        None if worst is None else (worst, errors[worst]),
        differences,
        tuple(tasks),
        complete,
    )


def _cells(
    outcomes: Outcomes, variant: str, trained: str
) -> Iterator[tuple[TaskInfo, CellValues | None, CellValues | None]]:
    """Each task that both forms were asked, with the variant's cell and the trained form's, where they are there."""
    for info in outcomes.manifest.tasks:
        if not (info.asks(variant) and info.asks(trained)):
            continue
        own, other = (outcomes.values(name, info.name) for name in (variant, trained))
        yield info, own if isinstance(own, CellValues) else None, other if isinstance(other, CellValues) else None


def _reference(outcomes: Outcomes, task: str) -> str | None:
    """The variant that a task's divergence was measured from."""
    spec: dict[str, Any] = next(
        (one for one in outcomes.manifest.suite.get("tasks", []) if one.get("name") == task), {}
    )
    return (spec.get("divergence") or {}).get("reference")


def _mean(values: list[Any]) -> float | None:
    return float(np.mean(values)) if values else None


def _other_texts(before: Answers, theirs: Rows, after: Answers, mine: Rows) -> int:
    """Of how many items the first texts differ."""
    texts = [answers.texts.take(answers.starts[rows]) for answers, rows in ((before, theirs), (after, mine))]
    return int(pc.sum(pc.not_equal(*texts)).as_py() or 0)


def _likelihoods(before: Answers, theirs: Rows, after: Answers, mine: Rows) -> Floats:
    """(items, 2): the change of log-likelihood of all that was scored of each item, and its tokens."""
    change = after.sums(after.loglikelihoods)[mine] - before.sums(before.loglikelihoods)[theirs]
    return np.stack([change, after.sums(after.tokens.astype(np.float64))[mine]], axis=1)


def _per_token(sums: Floats) -> Interval | None:
    sums = sums[np.isfinite(sums).all(axis=1)]
    if len(sums) < 2 or not sums[:, 1].sum():
        return None
    units = Paired(sums, sums * np.array([-1.0, 1.0]), lambda totals: totals[..., 0] / totals[..., 1])
    low, high = student_interval(units)
    return Interval(units.estimate, low, high, "t over items")
