"""Forms against the form that was trained, the spread of seeds, and null controls."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from phibench.harness.comparison import compare_run
from phibench.harness.fidelity import Fidelity, measure_fidelity, recommend, trained_form
from phibench.harness.null_control import measure_null_controls
from phibench.harness.outcomes import Gap, Outcomes, open_run
from phibench.harness.records import read_records, write_records
from phibench.harness.results import KL_DIVERGENCE, AdapterInfo, MetricInfo, VariantInfo, WeightError
from phibench.harness.spread import measure_spread
from phibench.harness.stats import Verdict
from phibench.harness.values import CellValues
from support.outcomes import outcomes_of
from support.run_folder import write_run_folder


def _variant(name: str, adapter: str | None = "a", quantization: str | None = None, merge: str = "none") -> VariantInfo:
    return VariantInfo(name=name, kind=name, adapter=adapter, quantization=quantization, merge=merge)


FORMS = [
    _variant("base", None),
    _variant("base-nf4", None, "nf4"),
    _variant("adapter"),
    _variant("adapter-nf4", quantization="nf4"),
    _variant("merged", merge="base"),
    _variant("merged-dequantized", quantization="nf4", merge="dequantized"),
    _variant("merged-requantized", quantization="nf4", merge="requantized"),
]


def test_the_form_that_was_trained() -> None:
    for form in FORMS[2:]:
        trained = trained_form(form, FORMS)
        assert trained is not None and trained.name == "adapter-nf4"
    full = [form for form in FORMS if form.quantization is None]
    assert trained_form(full[-1], full) == FORMS[2]
    assert trained_form(FORMS[4], [FORMS[0], FORMS[4]]) is None


def test_flips_and_likelihoods_are_counted_from_the_answers(tmp_path: Path) -> None:
    run_dir = write_run_folder(tmp_path / "run")
    [found] = measure_fidelity(open_run(run_dir))
    assert (found.variant, found.trained) == ("merged", "adapter-nf4")
    flips, change, tokens, texts = 0, 0.0, 0, 0
    for task in ("arc_easy", "dialogsum", "wikitext"):
        before, after = (read_records(run_dir / f"records/{v}/{task}.parquet") for v in ("adapter-nf4", "merged"))
        for old, new in zip(before, after, strict=True):
            if task == "dialogsum":
                texts += old.responses[0].text != new.responses[0].text
                continue
            likely = [[one.loglikelihood or 0.0 for one in record.responses] for record in (old, new)]
            if task == "arc_easy":
                flips += likely[0].index(max(likely[0])) != likely[1].index(max(likely[1]))
            change += sum(likely[1]) - sum(likely[0])
            tokens += sum(one.tokens for one in new.responses)
    assert (found.items, found.flips, found.texts, found.other_texts) == (60, flips, 60, texts)
    assert found.per_token is not None and found.per_token.estimate == pytest.approx(change / tokens)
    assert found.per_token.low < found.per_token.estimate < found.per_token.high
    assert {task for task, *_ in found.differences} == {"arc_easy", "dialogsum", "wikitext"}
    assert all(one.adjusted_p is not None for one in found.differences.values() if one.interval)


def test_the_same_answers_are_no_distance_at_all(tmp_path: Path) -> None:
    run_dir = write_run_folder(tmp_path / "run")
    for task in ("arc_easy", "dialogsum", "wikitext"):
        write_records(
            run_dir / f"records/merged/{task}.parquet", read_records(run_dir / f"records/adapter-nf4/{task}.parquet")
        )
    run = compare_run(run_dir)
    [found] = run.fidelity
    assert (found.flips, found.other_texts, found.changed) == (0, 0, 0.0)
    assert found.per_token is not None
    assert (found.per_token.estimate, found.per_token.low, found.per_token.high) == (0.0, 0.0, 0.0)
    assert all(one.interval is None or one.interval.estimate == 0.0 for one in found.differences.values())
    assert [(one.quantised, one.variant) for one in run.recommendations] == [(True, "adapter-nf4"), (False, "merged")]


def _outcomes(values: dict[str, list[float]]) -> Outcomes:
    outcomes = outcomes_of({(name, "t"): found for name, found in values.items()}, baseline="base")
    kinds = {form.name: form for form in FORMS}
    outcomes.manifest.variants = [kinds[name].model_copy(deep=True) for name in values]
    return outcomes


def _told(found: list[Fidelity], outcomes: Outcomes) -> list[tuple[bool, str | None, tuple[str, ...]]]:
    return [(one.quantised, one.variant, one.others) for one in recommend(found, outcomes)]


RIGHT, WRONG = [1.0] * 40, [1.0] * 20 + [0.0] * 20


def test_a_form_that_lost_is_not_recommended() -> None:
    outcomes = _outcomes({"base": WRONG, "adapter-nf4": RIGHT, "merged": WRONG, "merged-dequantized": RIGHT})
    outcomes.manifest.variants[2].weight_error = [
        WeightError(module="a", relative_to_update=0.5, relative_to_weight=0.01),
        WeightError(module="b", relative_to_update=1.5, relative_to_weight=0.01),
    ]
    found = {one.variant: dataclasses.replace(one, items=40) for one in measure_fidelity(outcomes)}
    assert found["merged"].worse == [("t", "acc", "none")]
    assert (found["merged"].update_error, found["merged"].worst_module) == (1.0, ("b", 1.5))
    assert not found["merged-dequantized"].worse
    assert _told(list(found.values()), outcomes) == [
        (True, "adapter-nf4", ("merged", "merged-dequantized")),
        (False, "merged-dequantized", ("merged",)),
    ]


def test_where_every_form_lost_none_is_recommended() -> None:
    outcomes = _outcomes({"adapter-nf4": RIGHT, "merged": [0.0] * 40})
    told = recommend(measure_fidelity(outcomes), outcomes)[1]
    assert (told.quantised, told.variant, told.reason) == (False, None, "each is clearly worse in something")


def test_what_was_not_measured_is_not_recommended() -> None:
    """A form without answers, or beside a trained form without any, is no candidate: it is not worse in anything."""
    outcomes = _outcomes({"adapter-nf4": RIGHT, "merged": RIGHT, "merged-dequantized": RIGHT})
    outcomes.cells["merged", "t"] = Gap("merged", "t", "failed")
    found = [dataclasses.replace(one, items=40, flips=8) for one in measure_fidelity(outcomes)]
    assert _told(found, outcomes)[1] == (False, "merged-dequantized", ())
    outcomes.cells["adapter-nf4", "t"] = Gap("adapter-nf4", "t", "failed")
    told = recommend(measure_fidelity(outcomes), outcomes)
    assert [one.variant for one in told] == [None, None]
    assert told[1].reason == "no form answered in full what the trained one did"


def test_each_filter_of_a_metric_counts() -> None:
    outcomes = _outcomes({"base": WRONG, "adapter-nf4": RIGHT, "merged": RIGHT})
    for name, values in (("adapter-nf4", RIGHT), ("merged", WRONG)):
        cell = outcomes.cells[name, "t"]
        assert isinstance(cell, CellValues)
        other = dataclasses.replace(cell.metrics["acc", "none"], values=np.array(values))
        outcomes.cells[name, "t"] = dataclasses.replace(cell, metrics={("acc", "strict"): other, **cell.metrics})
    strict = outcomes.manifest.tasks[0].metrics[0].model_copy(update={"filter": "strict"})
    outcomes.manifest.tasks[0].metrics.insert(0, strict)
    [found] = measure_fidelity(outcomes)
    assert found.worse == [("t", "acc", "strict")]
    assert {key[2] for key in found.differences} == {"strict", "none"}
    assert _told([dataclasses.replace(found, items=40)], outcomes)[1] == (False, None, ())


@pytest.mark.parametrize("order", [("t", "u"), ("u", "t")])
def test_divergence_is_that_of_every_task_that_measures_it(order: tuple[str, str]) -> None:
    kl = MetricInfo(name=KL_DIVERGENCE, filter="none", aggregation="mean", higher_is_better=False)
    measured = {"t": [3.0] * 30, "u": [0.01] * 10}
    values = {(v, t): measured[t] for v in ("adapter-nf4", "merged") for t in order}
    outcomes = outcomes_of(values, kl)
    outcomes.manifest.variants = [form for form in FORMS if form.name in ("adapter-nf4", "merged")]
    outcomes.manifest.suite = {"tasks": [{"name": t, "divergence": {"reference": "adapter-nf4"}} for t in order]}
    [found] = measure_fidelity(outcomes)
    assert found.kl_divergence == pytest.approx((30 * 3.0 + 10 * 0.01) / 40)


def test_distances_of_different_kinds_are_not_compared() -> None:
    outcomes = _outcomes({"adapter-nf4": RIGHT, "merged": RIGHT, "merged-dequantized": RIGHT})
    both = [
        dataclasses.replace(one, items=40, flips=flips, kl_divergence=kl)
        for one, flips, kl in zip(measure_fidelity(outcomes), (4, 8), (0.2, 0.01), strict=True)
    ]
    assert _told(both, outcomes)[1] == (False, "merged-dequantized", ("merged",))
    one_only = [dataclasses.replace(both[0], kl_divergence=None), both[1]]
    assert _told(one_only, outcomes)[1] == (False, "merged", ("merged-dequantized",))


# ---- seeds and nulls


def _adapter(name: str, seed: int, null_of: str | None = None) -> AdapterInfo:
    told = {"source": "null" if null_of else "recipe r", "method": "LORA", "sha256": name, "parameters": 1}
    return AdapterInfo(name=name, seed=seed, null_of=null_of, training=None if null_of else {}, **told)  # type: ignore[arg-type]


def test_the_spread_of_seeds_is_kept_apart_from_the_error_over_items() -> None:
    generator = np.random.default_rng(0)
    base = generator.random(200)
    shifts = {"one": 0.10, "two": 0.14, "three": 0.06}
    values = {name: base + shift + generator.normal(0, 0.02, 200) for name, shift in shifts.items()}
    outcomes = outcomes_of({("base", "t"): list(base)} | {(name, "t"): list(x) for name, x in values.items()})
    outcomes.manifest.adapters = [_adapter(name, seed) for seed, name in enumerate(values)]
    outcomes.manifest.variants = [_variant("base", None), *(_variant(name, name) for name in values)]
    [found] = measure_spread(outcomes)
    assert (found.variants, found.seeds) == (("one", "two", "three"), (0, 1, 2))
    differences = [float((x - base).mean()) for x in values.values()]
    assert found.differences == pytest.approx(differences)
    assert found.between == pytest.approx(np.std(differences, ddof=1))
    gains = np.mean([x - base for x in values.values()], axis=0)
    assert found.over_items == pytest.approx(gains.std(ddof=1) / math.sqrt(200))
    assert found.between > 10 * found.over_items
    assert found.mean.high - found.mean.estimate == pytest.approx(4.302653 * found.between / math.sqrt(3), rel=1e-5)


def test_a_seed_that_stands_there_twice_is_one_training() -> None:
    generator = np.random.default_rng(0)
    values = {name: list(generator.random(50)) for name in ("base", "one", "again", "two")}
    outcomes = outcomes_of({(name, "t"): found for name, found in values.items()})
    outcomes.manifest.adapters = [_adapter("one", 0), _adapter("again", 0), _adapter("two", 1)]
    outcomes.manifest.variants = [_variant("base", None), *(_variant(name, name) for name in ("one", "again", "two"))]
    [found] = measure_spread(outcomes)
    assert (found.variants, found.seeds) == (("one", "two"), (0, 1))
    outcomes.manifest.adapters = [_adapter("one", 0), _adapter("again", 1), _adapter("two", 0)]
    [found] = measure_spread(outcomes)
    assert (found.variants, found.seeds) == (("one", "again"), (0, 1))
    outcomes.cells["one", "t"] = Gap("one", "t", "failed")
    [found] = measure_spread(outcomes)
    assert (found.variants, found.seeds) == (("again", "two"), (1, 0))
    outcomes.manifest.adapters = [_adapter("one", 0), _adapter("again", 0), _adapter("two", 0)]
    assert measure_spread(outcomes) == []


def test_one_seed_and_nulls_have_no_spread() -> None:
    outcomes = outcomes_of({("base", "t"): [0.0, 1.0, 1.0], ("a", "t"): [1.0, 1.0, 0.0], ("n", "t"): [1.0, 0.0, 0.0]})
    outcomes.manifest.adapters = [_adapter("a", 0), _adapter("n", 1, null_of="a")]
    outcomes.manifest.variants = [_variant("base", None), _variant("a", "a"), _variant("n", "n")]
    assert measure_spread(outcomes) == []


def test_a_form_is_held_against_the_same_form_of_its_null() -> None:
    values = {"a": [1.0] * 30, "a-nf4": [1.0] * 30, "n": [0.0] * 25 + [1.0] * 5, "n-nf4": [1.0] * 30}
    outcomes = outcomes_of({(name, "t"): found for name, found in values.items()})
    outcomes.manifest.adapters = [_adapter("a", 0), _adapter("n", 0, null_of="a")]
    outcomes.manifest.variants = [_variant(name, name[0], "nf4" if "nf4" in name else None) for name in values]
    found = measure_null_controls(outcomes)
    assert [(one.trained, one.null) for one in found] == [("a", "n"), ("a-nf4", "n-nf4")]
    assert [one.difference.verdict for one in found] == [Verdict.BETTER, Verdict.UNCLEAR]
    assert found[0].difference.interval is not None
    assert found[0].difference.interval.estimate == pytest.approx(25 / 30)
