"""The gate: which cells pass, fail and stay undecided under each kind of rule, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from phibench.errors import UserError
from phibench.harness.gate.check import SAME_MODEL, Check
from phibench.harness.gate.judge import GateResult, judge_gate
from phibench.harness.gate.names import refuse_unmeasured
from phibench.harness.gate.spec import GateSpec, default_gate
from phibench.harness.outcomes import Gap, Outcomes
from phibench.harness.results import MetricInfo, RealForm
from phibench.harness.stats.proportions import paired_proportions
from phibench.harness.values import CellValues
from support.outcomes import ACCURACY, outcomes_of, task_info

LOSS = MetricInfo(name="nats", filter="none", aggregation="mean", higher_is_better=False)
ROUGE = MetricInfo(name="rouge", filter="none", aggregation="mean", higher_is_better=True)
PERPLEXITY = MetricInfo(name="ppl", filter="none", aggregation="perplexity", higher_is_better=False)

Values = Mapping[tuple[str, str], Sequence[Any]]


def turned(items: int, won: int, lost: int) -> tuple[list[float], list[float]]:
    """Right and wrong answers of a baseline, and of a variant by which so many turned right and wrong."""
    kept = items - won - lost
    return [0.0] * won + [1.0] * lost + [1.0] * kept, [1.0] * won + [0.0] * lost + [1.0] * kept


def pair_of(items: int, won: int, lost: int, task: str = "t", variant: str = "a") -> Values:
    before, after = turned(items, won, lost)
    return {("base", task): before, (variant, task): after}


def gate_of(*rules: dict[str, Any], **more: Any) -> GateSpec:
    return GateSpec.model_validate({"rules": list(rules), **more})


def judged(values: Values, *rules: dict[str, Any], metric: MetricInfo = ACCURACY, **more: Any) -> GateResult:
    return judge_gate(gate_of(*rules, **more), outcomes_of(values, metric))


def only(result: GateResult) -> Check:
    (check,) = result.checks
    return check


# ---- conditions


@pytest.mark.parametrize(
    ("won", "lost", "rule", "verdict"),
    [
        (0, 0, {"max_loss": 0.02}, "pass"),
        (30, 0, {"max_loss": 0.0}, "pass"),
        (10, 10, {"max_loss": 0.02}, "pass"),
        (10, 24, {"max_loss": 0.02}, "undecided"),
        (0, 50, {"max_loss": 0.02}, "fail"),
        (0, 50, {"max_loss": 0.1}, "pass"),
        (50, 0, {"min_gain": 0.03}, "pass"),
        (50, 0, {"min_gain": 0.05}, "undecided"),
        (50, 0, {"min_gain": 0.08}, "fail"),
        (0, 40, {"min_gain": 0.0}, "fail"),
        (0, 0, {"min_gain": 0.0}, "undecided"),
    ],
)
def test_a_difference_against_its_limit(won: int, lost: int, rule: dict[str, Any], verdict: str) -> None:
    result = judged(pair_of(1000, won, lost), rule)
    assert (only(result).verdict, result.verdict) == (verdict, verdict)
    low, high = paired_proportions(won, lost, 1000, 0.9)
    measured = only(result).measured
    assert measured is not None
    assert (measured.low, measured.high) == pytest.approx((float(low), float(high)))
    assert only(result).items == 1000


@pytest.mark.parametrize(("shift", "limit", "verdict"), [
    (0.3, 0.1, "fail"), (0.3, 0.5, "pass"), (-0.3, 0.0, "pass"), (0.1, 0.1, "undecided"),
])  # fmt: skip
def test_of_a_loss_less_is_better(shift: float, limit: float, verdict: str) -> None:
    generator = np.random.default_rng(0)
    before = generator.normal(2, 0.5, 100)
    after = before + shift + generator.normal(0, 0.2, 100)
    check = only(judged({("base", "t"): before, ("a", "t"): after}, {"max_loss": limit}, metric=LOSS))
    assert check.verdict == verdict
    assert check.limit == limit  # a loss is a rise
    gain = only(judged({("base", "t"): before, ("a", "t"): after}, {"min_gain": limit}, metric=LOSS))
    assert gain.limit == -limit
    assert gain.verdict == ("pass" if shift < -limit else "fail" if shift > 0 else gain.verdict)


@pytest.mark.parametrize(("rule", "verdict"), [
    ({"at_least": 0.7}, "pass"), ({"at_least": 0.8}, "undecided"), ({"at_least": 0.9}, "fail"),
    ({"at_most": 0.9}, "pass"), ({"at_most": 0.8}, "undecided"), ({"at_most": 0.7}, "fail"),
])  # fmt: skip
def test_a_score_against_a_number(rule: dict[str, Any], verdict: str) -> None:
    result = judged({("a", "t"): [1.0] * 160 + [0.0] * 40}, rule)
    check = only(result)
    assert (check.verdict, check.than) == (verdict, None)
    assert check.measured is not None
    assert check.measured.method == "Clopper-Pearson"
    assert check.measured.estimate == 0.8


def test_a_floor_counts_sources_and_only_the_items_that_have_the_metric() -> None:
    run = outcomes_of({("a", "t"): [1.0, 1.0, 0.0, 0.0] * 50})
    cell = run.cells["a", "t"]
    assert isinstance(cell, CellValues)
    alone = only(judge_gate(gate_of({"at_least": 0.1}), run)).measured
    column = cell.metrics["acc", "none"]
    some = replace(column, rows=column.rows[:100], values=column.values[:100])
    clustered = replace(cell, metrics={("acc", "none"): some})
    clustered.__dict__["sources"] = np.repeat(np.arange(100), 2)  # two items of each source, which go together
    run.cells["a", "t"] = clustered
    together = only(judge_gate(gate_of({"at_least": 0.1}), run)).measured
    assert alone is not None
    assert together is not None
    assert together.method == "Clopper-Pearson, of the effective number of items"
    assert together.high - together.low > 1.7 * (alone.high - alone.low)


def test_items_of_one_source_are_one_draw_though_only_one_side_knows_it() -> None:
    before, after = turned(200, 40, 20)
    run = outcomes_of({("base", "t"): before, ("a", "t"): after})
    cell = run.cells["a", "t"]
    cell.__dict__["sources"] = np.arange(200) // 10
    check = only(judge_gate(gate_of({"max_loss": 0.0}), run))
    assert check.measured is not None
    assert "bootstrap" in check.measured.method


def test_a_metric_without_a_better_direction_counts_as_one_to_raise() -> None:
    metric = MetricInfo(name="length", filter="none", aggregation="mean", higher_is_better=None)
    assert only(judged(pair_of(1000, 0, 100), {"max_loss": 0.02}, metric=metric)).verdict == "fail"


@pytest.mark.parametrize(("rule", "says"), [
    ({"max_loss": 5}, "5 can never fail"), ({"max_loss": 1.01}, "1.01 can never fail"),
    ({"min_gain": 2}, "2 can never pass"), ({"at_least": 40}, "40 can never pass"),
    ({"at_least": -1}, "-1 can never fail"), ({"at_most": 90}, "90 can never fail"),
    ({"at_most": -0.5}, "-0.5 can never pass"),
])  # fmt: skip
def test_a_share_is_not_held_against_per_cent(rule: dict[str, Any], says: str) -> None:
    values = {**pair_of(100, 5, 4, "t"), **pair_of(100, 5, 4, "u")}
    (key,) = rule
    for more in ({}, {"group": ["t", "u"]}):
        with pytest.raises(UserError, match=f"{says}: acc on t") as raised:
            judged(values, {"at_least": 0.0, "variant": "a"}, {**rule, **more})
        assert raised.value.where == f"gate.rules[1].{key}"
        assert "a share, not per cent" in str(raised.value.fix)


@pytest.mark.parametrize(("metric", "values"), [
    (LOSS, [0.2, 0.3, 0.9]),  # nats that happen to lie between 0 and 1
    (ROUGE, [20.0, 30.0, 90.0]),  # rouge in per cent
    (PERPLEXITY, [-0.2, -0.3, -0.9]),
])  # fmt: skip
def test_a_metric_of_another_scale_may_have_any_limit(metric: MetricInfo, values: list[float]) -> None:
    cells = {("base", "t"): values * 10, ("a", "t"): values * 10}
    assert len(judged(cells, {"at_most": 50}, {"max_loss": 5}, metric=metric).checks) == 3


# ---- many rules


def test_the_gate_passes_only_where_all_rules_do() -> None:
    values = {**pair_of(1000, 30, 0, "good"), **pair_of(1000, 0, 80, "bad"), **pair_of(100, 5, 4, "small")}
    result = judged(values, {"max_loss": 0.02})
    assert {check.tasks[0]: str(check.verdict) for check in result.checks} == {
        "good": "pass", "bad": "fail", "small": "undecided",
    }  # fmt: skip
    assert result.verdict == "fail"
    assert judged({k: v for k, v in values.items() if k[1] != "bad"}, {"max_loss": 0.02}).verdict == "undecided"
    assert judged({k: v for k, v in values.items() if k[1] == "good"}, {"max_loss": 0.02}).verdict == "pass"


@pytest.mark.parametrize("undecided", ["undecided", "pass", "fail"])
def test_what_undecided_rules_make_of_the_gate(undecided: str) -> None:
    assert judged(pair_of(100, 5, 4), {"max_loss": 0.02}, undecided=undecided).verdict == undecided


@pytest.mark.parametrize("undecided", ["undecided", "pass", "fail"])
@pytest.mark.parametrize("state", ["failed", "not run", "not made", "unreadable"])
def test_answers_that_are_missing_are_not_items_that_do_not_tell(state: str, undecided: Any) -> None:
    run = outcomes_of({**pair_of(1000, 30, 0, "t"), **pair_of(1000, 30, 0, "u")})
    run.cells["a", "u"] = Gap("a", "u", state, "the device\nran out of memory")
    result = judge_gate(gate_of({"max_loss": 0.02}, undecided=undecided), run)
    assert [str(check.verdict) for check in result.checks] == ["pass", "undecided"]
    assert [check.missing for check in result.checks] == [False, True]
    assert result.checks[1].reason == f"a on u: {state}: the device ran out of memory"
    assert result.verdict == "undecided"
    # Beside items that do not tell, which are the policy's.
    small = outcomes_of({**pair_of(100, 5, 4, "t"), **pair_of(1000, 30, 0, "u")})
    small.cells["a", "u"] = run.cells["a", "u"]
    both = judge_gate(gate_of({"max_loss": 0.02}, undecided=undecided), small)
    assert both.verdict == ("fail" if undecided == "fail" else "undecided")
    # What is shown to be broken is broken all the same.
    worse = outcomes_of({**pair_of(1000, 0, 90, "t"), **pair_of(1000, 30, 0, "u")})
    worse.cells["a", "u"] = run.cells["a", "u"]
    assert judge_gate(gate_of({"max_loss": 0.02}, undecided=undecided), worse).verdict == "fail"


def test_the_error_of_a_variant_that_was_not_made_is_told() -> None:
    run = outcomes_of(pair_of(100, 5, 4), costs={"a": {"error": "the adapter is of another base"}})
    run.cells["a", "t"] = Gap("a", "t", "not made")
    check = only(judge_gate(gate_of({"max_loss": 0.02}, undecided="pass"), run))
    assert check.reason == "a on t: not made: the adapter is of another base"


def test_the_cost_of_a_variant_without_a_finished_cell_is_missing() -> None:
    for rule in ({"max_memory": "1 GiB"}, {"max_model_size": "1 GiB"}, {"task": "t", "max_seconds_per_item": 1}):
        spec = gate_of({"variant": "a", **rule}, undecided="pass")
        run = costly()
        for cell in run.results.cells:
            cell.status, cell.peak_memory_bytes, cell.error = "failed", None, "out of memory"
        result = judge_gate(spec, run)
        assert (only(result).missing, result.verdict) == (True, "undecided")
    assert "failed: out of memory" in str(only(result).reason)


def test_one_of_many_rules_fails_at_its_share_of_the_level() -> None:
    lone = pair_of(1000, 20, 52)
    assert only(judged(lone, {"max_loss": 0.02})).verdict == "undecided"
    clear = pair_of(1000, 20, 60)
    assert only(judged(clear, {"max_loss": 0.02})).verdict == "fail"
    many = clear | {key: cell for i in range(9) for key, cell in pair_of(1000, 20, 20, f"other{i}").items()}
    result = judged(many, {"max_loss": 0.02})
    assert [str(check.verdict) for check in result.checks].count("pass") == 9  # each pass is at the level itself
    assert {str(check.verdict) for check in result.checks} == {"pass", "undecided"}


def test_what_two_rules_ask_alike_takes_one_share_of_the_level() -> None:
    rules = [{"max_loss": 0.02}] + [{"variant": "a", "task": ["t"], "max_loss": 0.02}] * 9
    assert [str(check.verdict) for check in judged(pair_of(1000, 20, 60), *rules).checks] == ["fail"] * 10
    others = [{"max_loss": 0.02}] + [{"max_loss": 0.02 + i / 100} for i in range(1, 10)]
    assert judged(pair_of(1000, 20, 60), *others).checks[0].verdict == "undecided"


@pytest.mark.parametrize(
    ("key", "names"), [("group", ["t"] * 8), ("task", ["t", "t"]), ("variant", ["a", "base", "a"])]
)
def test_a_name_that_stands_twice_is_no_second_draw(key: str, names: list[str]) -> None:
    with pytest.raises(ValidationError, match=r'"[ta]" is named twice: name it once'):
        gate_of({key: names, "max_loss": 0.02})


def test_costs_take_no_share_of_the_level() -> None:
    values = pair_of(1000, 20, 60)
    costs = {"a": {"model_bytes": 5}}
    run = outcomes_of(values, costs=costs)
    rules = [{"max_loss": 0.02}] + [{"variant": "a", "max_model_size": "1 KiB"}] * 9
    assert judge_gate(gate_of(*rules), run).checks[0].verdict == "fail"


def test_a_gate_seldom_fails_where_the_loss_is_just_what_is_allowed() -> None:
    generator = np.random.default_rng(1)
    failed = 0
    for _ in range(150):
        values: dict[tuple[str, str], list[float]] = {}
        for task in ("t", "u", "v"):  # 10 % turn right and 15 % wrong: a true loss of 0.05
            change = generator.choice([1, -1, 0], 200, p=[0.1, 0.15, 0.75])
            values["base", task] = [float(c < 0) for c in change]
            values["a", task] = [float(c > 0) for c in change]
        failed += judged(values, {"max_loss": 0.05}).verdict == "fail"
    assert failed <= 150 * 0.05 + 3 * math.sqrt(150 * 0.05 * 0.95)


# ---- groups


def test_a_groups_interval_is_its_tasks_put_together_by_mover() -> None:
    values = {**pair_of(300, 30, 10, "t"), **pair_of(200, 5, 25, "u")}
    check = only(judged(values, {"group": ["t", "u"], "max_loss": 0.02}))
    (l1, h1), (l2, h2) = (
        tuple(map(float, paired_proportions(*counts, 0.9))) for counts in [(30, 10, 300), (5, 25, 200)]
    )
    d1, d2 = 20 / 300, -20 / 200
    measured = check.measured
    assert measured is not None
    assert measured.estimate == pytest.approx((d1 + d2) / 2)
    assert measured.low == pytest.approx((d1 + d2) / 2 - math.hypot(d1 - l1, d2 - l2) / 2)
    assert measured.high == pytest.approx((d1 + d2) / 2 + math.hypot(h1 - d1, h2 - d2) / 2)
    assert check.tasks == ("t", "u")
    assert check.items == 200  # of the smaller one


def test_tasks_of_a_group_that_share_documents_are_taken_to_move_as_one() -> None:
    values = {**pair_of(500, 10, 30, "t"), **pair_of(500, 10, 30, "u")}
    apart = only(judged(values, {"group": ["t", "u"], "max_loss": 0.02})).measured
    run = outcomes_of(values)
    for name in ("base", "a"):
        cell = run.cells[name, "u"]
        assert isinstance(cell, CellValues)
        run.cells[name, "u"] = replace(cell, keys=run.cells[name, "t"].keys)  # type: ignore[union-attr]
    together = only(judge_gate(gate_of({"group": ["t", "u"], "max_loss": 0.02}), run)).measured
    alone = only(judged(pair_of(500, 10, 30), {"max_loss": 0.02})).measured
    assert apart is not None and together is not None and alone is not None
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high))
    assert apart.high - apart.low == pytest.approx((alone.high - alone.low) / math.sqrt(2), rel=0.01)
    keys = list(run.cells["base", "t"].keys)  # type: ignore[union-attr]
    for name in ("base", "a"):  # one document in common changes hardly anything
        cell = run.cells[name, "u"]
        assert isinstance(cell, CellValues)
        run.cells[name, "u"] = replace(cell, keys=pd.Index([keys[0], *(f"u {key}" for key in keys[1:])]))
    nearly = only(judge_gate(gate_of({"group": ["t", "u"], "max_loss": 0.02}), run)).measured
    assert nearly is not None
    assert (nearly.low, nearly.high) == pytest.approx((apart.low, apart.high), abs=1e-4)


def test_a_groups_interval_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    chances = {"t": (0.1, 0.2), "u": (0.05, 0.02), "v": (0.3, 0.25)}
    truth = sum(up - down for up, down in chances.values()) / 3
    covered = 0
    for _ in range(200):
        values: dict[tuple[str, str], list[float]] = {}
        for task, (up, down) in chances.items():
            change = generator.choice([1, -1, 0], 80, p=[up, down, 1 - up - down])
            values["base", task] = [float(c < 0) for c in change]
            values["a", task] = [float(c > 0) for c in change]
        found = only(judged(values, {"group": [*chances], "max_loss": 0.0})).measured
        assert found is not None
        covered += found.low <= truth <= found.high
    assert abs(covered / 200 - 0.9) < 3 * math.sqrt(0.09 / 200) + 0.02


def test_what_some_tasks_raise_and_others_lower_has_no_mean() -> None:
    run = outcomes_of({**pair_of(100, 5, 4, "t"), **pair_of(100, 5, 4, "u")})
    run.manifest.tasks[1] = task_info("u", ACCURACY.model_copy(update={"higher_is_better": False}))
    check = only(judge_gate(gate_of({"group": ["t", "u"], "max_loss": 0.1}), run))
    assert check.verdict == "undecided"
    assert "no mean" in str(check.reason)


# ---- costs


def costly(**costs: Any) -> Outcomes:
    run = outcomes_of({("base", "t"): [1.0] * 10, ("a", "t"): [1.0] * 10}, costs={"a": costs})
    for cell in run.results.cells:
        cell.seconds, cell.tokens_in, cell.peak_memory_bytes = 5.0, 1000, 3 * 2**30
    return run


@pytest.mark.parametrize(("rule", "costs", "verdict"), [
    ({"max_model_size": "2 GiB"}, {"model_bytes": 2 * 2**30}, "pass"),
    ({"max_model_size": "2 GiB"}, {"model_bytes": 2 * 2**30 + 1}, "fail"),
    ({"max_model_size": "2 GB"}, {"model_bytes": 2 * 2**30}, "fail"),
    ({"max_model_size": "2 GiB"}, {}, "undecided"),
    ({"max_memory": "3 GiB"}, {}, "pass"),
    ({"max_memory": "2.9 GiB"}, {}, "fail"),
    ({"max_memory": "2 GiB"}, {"real_form": RealForm(tokens_in=9, seconds=1, peak_memory_bytes=2**30)}, "pass"),
    ({"max_memory": "2 GiB"}, {"real_form": RealForm(tokens_in=9, seconds=1)}, "undecided"),
    ({"max_seconds_per_item": 0.5}, {}, "pass"),
    ({"max_seconds_per_item": 0.49}, {}, "fail"),
    # The real form reads 100 tokens a second: 10 s for the cell's 1000, 1 s an item.
    ({"max_seconds_per_item": 0.9}, {"real_form": RealForm(tokens_in=100, seconds=1)}, "fail"),
    ({"max_seconds_per_item": 1.0}, {"real_form": RealForm(tokens_in=100, seconds=1)}, "pass"),
])  # fmt: skip
def test_costs(rule: dict[str, Any], costs: dict[str, Any], verdict: str) -> None:
    result = judge_gate(gate_of({"variant": "a", **rule}), costly(**costs))
    assert only(result).verdict == verdict
    assert only(result).metric is None


def test_memory_is_that_of_scoring_where_anything_is_scored() -> None:
    run = costly()
    run.manifest.tasks.append(task_info("g", output_type="generate_until"))
    written = run.results.cells[1].model_copy(update={"task": "g", "peak_memory_bytes": 9 * 2**30})
    run.results.cells.append(written)
    assert only(judge_gate(gate_of({"variant": "a", "max_memory": "3 GiB"}), run)).verdict == "pass"


def test_generations_of_dequantised_weights_are_not_the_time_of_the_form_that_ships() -> None:
    run = costly(real_form=RealForm(tokens_in=100, seconds=1))
    run.manifest.tasks[0] = task_info("t", output_type="generate_until")
    check = only(judge_gate(gate_of({"variant": "a", "max_seconds_per_item": 9}), run))
    assert check.verdict == "undecided"
    assert "dequantize_once" in str(check.reason)


def test_costs_bind_the_baseline_too_unless_a_variant_is_named() -> None:
    result = judge_gate(gate_of({"max_memory": "3 GiB"}), costly())
    assert [check.variant for check in result.checks] == ["base", "a"]


# ---- how many items would decide


@pytest.mark.parametrize("rule", [{"max_loss": 0.02}, {"min_gain": 0.01}, {"max_loss": 0.0}])
@pytest.mark.parametrize(("items", "won", "lost"), [(60, 0, 0), (60, 3, 2), (200, 20, 21), (100, 4, 10), (40, 12, 8)])
def test_so_many_items_of_the_same_kind_decide_right_and_wrong(
    items: int, won: int, lost: int, rule: dict[str, Any]
) -> None:
    check = only(judged(pair_of(items, won, lost), rule))
    if check.verdict != "undecided" or check.items_needed is None:
        assert check.verdict != "undecided" or (won - lost) / items == check.limit
        return
    times = math.ceil(check.items_needed / items)
    assert only(judged(pair_of(items * times, won * times, lost * times), rule)).verdict != "undecided"
    # Nor is it many times too many: with a third of them nothing would be decided.
    fewer = max(1, int(check.items_needed / items / 3))
    assert only(judged(pair_of(items * fewer, won * fewer, lost * fewer), rule)).verdict == "undecided"


def test_so_many_items_of_the_same_kind_decide_other_values_and_scores() -> None:
    generator = np.random.default_rng(3)
    before = generator.uniform(0.2, 0.4, 60)
    values = {("base", "t"): before, ("a", "t"): before + generator.normal(-0.015, 0.08, 60)}
    for rule in ({"max_loss": 0.02}, {"max_loss": 0.005}, {"variant": "a", "at_least": 0.28}):
        check = only(judged(values, rule, metric=ROUGE))
        if check.verdict == "undecided":
            assert check.items_needed is not None
            times = math.ceil(check.items_needed / 60)
            more = {key: np.tile(cell, times) for key, cell in values.items()}
            assert only(judged(more, rule, metric=ROUGE)).verdict != "undecided"


def test_a_failure_among_many_rules_needs_the_items_for_its_share_of_the_level() -> None:
    values = pair_of(100, 2, 9) | {key: c for i in range(9) for key, c in pair_of(2000, 40, 40, f"o{i}").items()}
    needed = judged(values, {"max_loss": 0.02}).checks[0].items_needed
    alone = only(judged(pair_of(100, 2, 9), {"max_loss": 0.02})).items_needed
    assert needed is not None
    assert alone is not None
    assert needed > 1.5 * alone
    times = math.ceil(needed / 100)
    more = values | pair_of(100 * times, 2 * times, 9 * times)
    assert judged(more, {"max_loss": 0.02}).checks[0].verdict == "fail"


def test_an_estimate_on_the_limit_is_decided_by_no_number_of_items() -> None:
    check = only(judged(pair_of(100, 5, 5), {"max_loss": 0.0}))
    assert (check.verdict, check.items_needed) == ("undecided", None)


# ---- another run


def against_of(values: Values, **more: Any) -> Outcomes:
    return outcomes_of(values, label="other", **more)


def test_a_variant_is_compared_with_its_namesake_else_with_the_others_baseline() -> None:
    before, after = turned(1000, 0, 100)
    run = outcomes_of({("base", "t"): before, ("a", "t"): after, ("new", "t"): after})
    other = against_of({("first", "t"): before, ("a", "t"): after, ("base", "t"): before}, baseline="first")
    result = judge_gate(gate_of({"max_loss": 0.02}), run, other)
    assert [(c.variant, c.than, str(c.verdict)) for c in result.checks] == [
        ("base", "base", "pass"), ("a", "a", "pass"), ("new", "first", "fail"),
    ]  # fmt: skip
    assert result.against == "other"
    named = judge_gate(gate_of({"variant": "a", "than": "first", "max_loss": 0.02}), run, other)
    assert (only(named).than, str(only(named).verdict)) == ("first", "fail")


def test_items_that_only_one_run_asked_are_counted() -> None:
    before, after = turned(1000, 10, 10)
    run = outcomes_of({("a", "t"): after})
    check = only(judge_gate(gate_of({"max_loss": 0.05}), run, against_of({("a", "t"): [*before, 1.0, 1.0]})))
    assert (check.items, check.left_out) == (1000, 2)


@pytest.mark.parametrize(("mine", "theirs", "left_out"), [
    (True, False, 5), (False, True, 60), (True, True, 5), (False, False, 65),
])  # fmt: skip
def test_items_that_were_not_asked_any_more_are_not_left_out(mine: bool, theirs: bool, left_out: int) -> None:
    """100 items in common; 5 that only the run has, and 60 that only the other has."""
    run = outcomes_of({("a", "t"): [1.0] * 105})
    other = against_of({("a", "t"): [1.0] * 160})
    cells = run.cells["a", "t"], other.cells["a", "t"]
    assert isinstance(cells[0], CellValues)
    assert isinstance(cells[1], CellValues)
    other_items = pd.Index([*cells[1].keys[:100], *(f"other {i}" for i in range(60))])
    run.cells["a", "t"] = replace(cells[0], early=mine)
    other.cells["a", "t"] = replace(cells[1], early=theirs, keys=other_items, prompts=other_items)
    check = only(judge_gate(gate_of({"max_loss": 0.5}), run, other))
    assert (check.items, check.left_out) == (100, left_out)


@pytest.mark.parametrize(("change", "says"), [
    ({"version": "2"}, "its version was 2 there and is 1 here"),
    ({"num_fewshot": 5}, "its few-shot examples was 5 there and is 0 here"),
    ({"config_hash": "x"}, "its configuration differs"),
])  # fmt: skip
def test_a_task_that_was_asked_otherwise_is_not_compared(change: dict[str, Any], says: str) -> None:
    run, other = outcomes_of({("a", "t"): [1.0] * 20}), against_of({("a", "t"): [1.0] * 20})
    other.manifest.tasks[0] = other.manifest.tasks[0].model_copy(update=change)
    with pytest.raises(UserError, match=says) as raised:
        judge_gate(gate_of({"max_loss": 0.02}), run, other)
    assert raised.value.where == "other"


def test_items_that_were_asked_otherwise_are_not_compared() -> None:
    run, other = outcomes_of({("a", "t"): [1.0] * 20}), against_of({("a", "t"): [1.0] * 20})
    cell = other.cells["a", "t"]
    assert isinstance(cell, CellValues)
    other.cells["a", "t"] = replace(cell, prompts=cell.prompts + " in a chat template")
    with pytest.raises(UserError, match="20 of its items were asked with other prompts there"):
        judge_gate(gate_of({"max_loss": 0.02}), run, other)


def test_the_same_model_with_the_same_answers_has_lost_nothing() -> None:
    values = {("a", "t"): [1.0, 0.0] * 10}
    costs = {"a": {"identity": "f00"}}
    run, other = outcomes_of(values, costs=costs), against_of(values, costs=costs)
    check = only(judge_gate(gate_of({"max_loss": 0.0}), run, other))
    assert check.verdict == "pass"
    assert check.measured is not None
    assert check.measured.method == SAME_MODEL
    assert only(judge_gate(gate_of({"min_gain": 0.0}), run, other)).verdict == "fail"
    # By another identity, or with other answers, 20 items tell little.
    renamed = outcomes_of(values, costs={"a": {"identity": "bad"}})
    assert only(judge_gate(gate_of({"max_loss": 0.02}), renamed, other)).verdict == "undecided"
    otherwise = outcomes_of({("a", "t"): [1.0, 0.0] * 9 + [1.0, 1.0]}, costs=costs)
    assert only(judge_gate(gate_of({"max_loss": 0.02}), otherwise, other)).verdict == "undecided"


def test_versions_and_devices_that_differ_are_said() -> None:
    values = {("a", "t"): [1.0] * 20}
    run = outcomes_of(values, versions={"lm-eval": "0.4.13", "torch": "2.11"}, hardware={"device": "cuda:0"})
    other = against_of(values, versions={"lm-eval": "0.4.12", "torch": "2.11"}, hardware={"device": "cpu"})
    assert judge_gate(gate_of({"max_loss": 0.02}), run, other).notes == (
        "lm-eval was 0.4.12 there and is 0.4.13 here",
        "it ran on cpu there and on cuda here",
    )


# ---- names


@pytest.mark.parametrize(("rule", "where", "says", "fix"), [
    ({"variant": "adaptr"}, "variant", 'no variant "adaptr"', 'did you mean "adapter"?'),
    ({"variant": ["adapter", "zzz"]}, "variant", 'no variant "zzz"', "it has: base, adapter"),
    ({"task": ["t", "piqq"]}, "task", 'no task "piqq"', 'did you mean "piqa"?'),
    ({"group": ["t", "piqq"]}, "group", 'no task "piqq"', 'did you mean "piqa"?'),
    ({"than": "bsae"}, "than", 'no variant "bsae"', 'did you mean "base"?'),
    ({"metric": "ac"}, "metric", 'no task measures "ac"', 'did you mean "acc"?'),
    ({"metric": "ac", "task": "t"}, "metric", 'the task "t" does not measure "ac"', 'did you mean "acc"?'),
    ({"variant": "base"}, "variant", '"base" is compared with itself', "--against"),
    ({"variant": ["base", "adapter"], "than": "adapter"}, "variant", '"adapter" is compared with itself', "--against"),
])  # fmt: skip
def test_names_that_are_not_there_are_refused(rule: dict[str, Any], where: str, says: str, fix: str) -> None:
    run = outcomes_of({(v, t): [1.0] * 20 for v in ("base", "adapter") for t in ("t", "piqa")})
    with pytest.raises(UserError) as raised:
        judge_gate(gate_of({"max_loss": 0.02}, {**rule, "max_loss": 0.02}), run)
    assert raised.value.where == f"gate.rules[1].{where}"
    assert says in raised.value.what
    assert fix in str(raised.value.fix)


def test_a_variant_may_be_compared_with_itself_in_another_run_which_must_have_what_is_named() -> None:
    run, other = outcomes_of({("base", "t"): [1.0] * 20}), against_of({("main", "t"): [1.0] * 20})
    assert only(judge_gate(gate_of({"variant": "base", "max_loss": 0.5}), run, other)).than == "main"
    with pytest.raises(UserError, match='other has no variant "base"'):
        judge_gate(gate_of({"than": "base", "max_loss": 0.5}), run, other)


def test_rules_of_the_runs_own_suite_wait_for_what_was_not_run() -> None:
    run = outcomes_of({("base", "t"): [1.0] * 20, ("a", "t"): [1.0] * 20})
    spec = gate_of({"task": ["t", "later"], "max_loss": 0.5}, {"metric": "later", "at_least": 0.1})
    result = judge_gate(spec, run, checked=True)
    assert [(check.number, str(check.verdict), check.reason) for check in result.checks] == [
        (1, "pass", None),
        (1, "undecided", "later was not run"),
        (2, "undecided", "nothing that it binds was run"),
    ]
    assert result.verdict == "undecided"


def test_a_rule_that_binds_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="nothing to compare") as raised:
        judge_gate(default_gate(), outcomes_of({("base", "t"): [1.0] * 20}))
    assert "--against" in str(raised.value.fix)
    run = outcomes_of({("base", "t"): [1.0] * 20, ("a", "t"): [1.0] * 20})
    run.manifest.tasks[0] = task_info("t", variants=["base"])
    with pytest.raises(UserError, match="binds nothing"):
        judge_gate(default_gate(), run)


def test_a_rule_binds_the_variants_that_are_asked_its_tasks() -> None:
    run = outcomes_of({(v, t): [1.0] * 400 for v in ("base", "a", "b") for t in ("t", "u")})
    run.manifest.tasks[1] = task_info("u", variants=["base", "a"])
    bound = judge_gate(gate_of({"task": "u", "max_loss": 0.02}, {"group": ["t", "u"], "max_loss": 0.02}), run)
    assert [(check.number, check.variant) for check in bound.checks] == [(1, "a"), (2, "a")]
    each = judge_gate(gate_of({"max_loss": 0.02}), run)
    assert [(check.variant, *check.tasks) for check in each.checks] == [("a", "t"), ("a", "u"), ("b", "t")]


def test_a_metric_is_known_before_anything_is_asked() -> None:
    spec = gate_of({"max_loss": 0.1}, {"task": "t", "metric": "f1", "max_loss": 0.1})
    acc, f1, other = (ACCURACY.model_copy(update={"name": name}) for name in ("acc", "f1", "F1"))
    refuse_unmeasured(spec, {"t": [acc, f1]})
    refuse_unmeasured(gate_of({"task": "t", "metric": "f1,none", "max_loss": 0.1}), {"t": [acc, f1]})
    refuse_unmeasured(spec, {"other": [acc]})
    refuse_unmeasured(None, {"t": [acc]})
    anywhere = gate_of({"metric": "f1", "max_loss": 0.1})
    refuse_unmeasured(anywhere, {"t": [acc]}, whole=False)
    with pytest.raises(UserError, match="no task measures"):
        refuse_unmeasured(anywhere, {"t": [acc]})
    with pytest.raises(UserError) as raised:
        refuse_unmeasured(spec, {"t": [acc, other]})
    assert raised.value.where == "gate.rules[1].metric"


# ---- cells that are not there, or came early


@pytest.mark.parametrize("state", ["failed", "not run", "not made", "unreadable"])
@pytest.mark.parametrize("variant", ["base", "a"])
def test_a_cell_that_is_missing_leaves_its_rule_undecided(state: str, variant: str) -> None:
    run = outcomes_of({("base", "t"): [1.0] * 20, ("a", "t"): [1.0] * 20})
    run.cells[variant, "t"] = Gap(variant, "t", state)
    check = only(judge_gate(gate_of({"max_loss": 0.5}), run))
    assert (str(check.verdict), check.measured) == ("undecided", None)
    assert check.reason == f"{variant} on t: {state}"


def test_a_cost_that_is_missing_leaves_its_rule_undecided() -> None:
    run = costly()
    run.results.cells[1].status = "failed"
    check = only(judge_gate(gate_of({"variant": "a", "max_seconds_per_item": 9}), run))
    assert (str(check.verdict), check.reason) == ("undecided", "a on t: failed")


@pytest.mark.parametrize(("metric", "values", "says"), [
    (ACCURACY, {("base", "t"): [1.0], ("a", "t"): [1.0]}, "at least 2 items in common"),
    (ACCURACY.model_copy(update={"aggregation": "bleu"}), {("base", "t"): [1.0] * 20, ("a", "t"): [1.0] * 20}, "bleu"),
    (PERPLEXITY, {("base", "t"): [-1.0, -2.0] * 9, ("a", "t"): [-1.0, -2.0] * 9}, "no item differs"),
])  # fmt: skip
def test_without_an_interval_a_rule_is_undecided(metric: MetricInfo, values: Values, says: str) -> None:
    check = only(judged(values, {"max_loss": 0.02}, metric=metric))
    assert check.verdict == "undecided"
    assert says in str(check.reason)


def stopped_early(run: Outcomes, variant: str, task: str) -> Outcomes:
    """The run with a cell of which no more items were asked than decided its rules."""
    cell = run.values(variant, task)
    assert isinstance(cell, CellValues)
    return replace(run, cells={**run.cells, (variant, task): replace(cell, early=True)})


def test_cells_that_stopped_early_are_judged_by_a_confidence_sequence() -> None:
    generator = np.random.default_rng(4)
    before = (generator.random(400) < 0.6).astype(float)
    after = np.where(generator.random(400) < 0.1, 1 - before, before)
    run = outcomes_of({("base", "t"): before, ("a", "t"): after})
    once = only(judge_gate(gate_of({"max_loss": 0.15}), run))
    early = only(judge_gate(gate_of({"max_loss": 0.15}), stopped_early(run, "a", "t")))
    assert (once.early, early.early) == (False, True)
    assert once.measured is not None
    assert early.measured is not None
    assert early.measured.estimate == pytest.approx(once.measured.estimate)
    assert early.measured.low < once.measured.low < once.measured.high < early.measured.high
    assert early.measured.method.startswith("confidence sequence")


def test_an_early_cell_of_an_unbounded_metric_is_undecided_with_the_reason() -> None:
    values = {("base", "t"): [2.0, 3.0] * 20, ("a", "t"): [2.5, 3.5] * 20}
    run = stopped_early(outcomes_of(values, LOSS), "a", "t")
    check = only(judge_gate(gate_of({"max_loss": 9.0}), run))
    assert check.verdict == "undecided"
    assert "between 0 and 1" in str(check.reason)


def test_an_early_cell_needs_a_metric_that_is_a_share_whatever_its_values_were_so_far() -> None:
    values = {("base", "t"): [0.2, 0.3] * 200, ("a", "t"): [0.2, 0.3] * 200}
    nats = only(judge_gate(gate_of({"max_loss": 0.1}), stopped_early(outcomes_of(values, LOSS), "a", "t")))
    assert (str(nats.verdict), nats.measured) == ("undecided", None)
    share = LOSS.model_copy(update={"share": True})
    told = only(judge_gate(gate_of({"max_loss": 0.1}), stopped_early(outcomes_of(values, share), "a", "t")))
    assert told.verdict == "pass"


def test_an_early_cell_of_items_that_share_sources_is_undecided() -> None:
    run = stopped_early(outcomes_of(pair_of(400, 5, 4)), "a", "t")
    run.cells["a", "t"].__dict__["sources"] = np.arange(400) // 10
    check = only(judge_gate(gate_of({"max_loss": 0.1}), run))
    assert (str(check.verdict), check.measured) == ("undecided", None)
    assert "share no source" in str(check.reason)


# ---- what is no evidence


@pytest.mark.parametrize("undecided", ["pass", "fail"])
def test_values_that_are_no_numbers_are_no_evidence(undecided: Any) -> None:
    for broken in ("a", "base"):
        values = {("base", "t"): [0.5] * 200, ("a", "t"): [0.5] * 200}
        values[broken, "t"] = [math.nan] * 199 + [0.5]
        result = judge_gate(gate_of({"max_loss": 0.02}, undecided=undecided), outcomes_of(values, LOSS))
        assert result.verdict == "undecided"
        assert only(result).reason == f"{broken} on t: 199 of its values of nats are not finite numbers"


@pytest.mark.parametrize("value", [[math.nan, 50.0], [-math.inf, 50.0], None, "text"])
@pytest.mark.parametrize("rule", [{"max_loss": 0.02}, {"at_most": 50.0, "variant": "a"}])
def test_values_of_which_a_corpus_metric_is_made_are_numbers_too(value: Any, rule: dict[str, Any]) -> None:
    metric = PERPLEXITY.model_copy(update={"aggregation": "weighted_perplexity"})
    values = {(v, "t"): [[-float(i), 50.0] for i in range(1, 31)] for v in ("base", "a")}
    values["a", "t"] = [value, *values["a", "t"][1:]]
    result = judge_gate(gate_of(rule, undecided="pass"), outcomes_of(values, metric))
    assert (only(result).missing, result.verdict) == (True, "undecided")


@pytest.mark.parametrize("rule", [{"max_loss": 0.02}, {"at_least": 0.5, "variant": "a"}])
@pytest.mark.parametrize("undecided", ["pass", "fail"])
def test_a_cell_without_values_is_no_evidence(rule: dict[str, Any], undecided: Any) -> None:
    run = outcomes_of(pair_of(100, 5, 4))
    cell = run.cells["a", "t"]
    assert isinstance(cell, CellValues)
    for metrics in (
        {},
        {key: replace(one, rows=one.rows[:1], values=one.values[:1]) for key, one in cell.metrics.items()},
    ):
        run.cells["a", "t"] = replace(cell, metrics=metrics)
        result = judge_gate(gate_of(rule, undecided=undecided), run)
        assert (only(result).missing, result.verdict) == (True, "undecided")
    run.cells["a", "t"] = replace(cell, keys=pd.Index([f"other {key}" for key in cell.keys]))
    if "max_loss" in rule:
        result = judge_gate(gate_of(rule, undecided=undecided), run)
        assert (only(result).missing, result.verdict) == (True, "undecided")


def test_a_cost_that_was_not_measured_is_no_evidence() -> None:
    run = costly()
    for cell in run.results.cells:
        cell.peak_memory_bytes = None
    result = judge_gate(gate_of({"variant": "a", "max_memory": "1 MiB"}, undecided="pass"), run)
    assert (only(result).missing, result.verdict) == (True, "undecided")


def test_items_that_all_lose_the_same_fail() -> None:
    values = {("base", "t"): [2.0] * 200, ("a", "t"): [3.0] * 200}
    assert judged(values, {"max_loss": 0.02}, metric=LOSS).verdict == "fail"


@pytest.mark.parametrize("undecided", ["undecided", "pass"])
def test_variants_that_were_asked_otherwise_are_not_compared(undecided: Any) -> None:
    run = outcomes_of(pair_of(1000, 5, 4))
    cell = run.cells["a", "t"]
    assert isinstance(cell, CellValues)
    run.cells["a", "t"] = replace(cell, prompts=pd.Index([f"its own template, {key}" for key in cell.prompts]))
    result = judge_gate(gate_of({"max_loss": 0.1}, undecided=undecided), run)
    assert (only(result).missing, result.verdict) == (True, "undecided")
    assert only(result).reason == "not comparable: 1,000 items of t were asked of base with other prompts"


# ---- filters


def test_a_rule_can_name_the_filter_of_a_metric() -> None:
    strict, flexible = (ACCURACY.model_copy(update={"filter": name}) for name in ("strict", "flexible"))
    before, lost = [1.0] * 200, [0.0] * 200
    run = outcomes_of({("base", "t"): before, ("a", "t"): lost}, strict)
    for name, other in (("base", before), ("a", before)):
        cell = run.cells[name, "t"]
        assert isinstance(cell, CellValues)
        column = replace(cell.metrics["acc", "strict"], values=np.array(other))
        run.cells[name, "t"] = replace(cell, metrics={**cell.metrics, ("acc", "flexible"): column})
    run.manifest.tasks[0].metrics.append(flexible)
    verdicts = {
        name: judge_gate(gate_of({"max_loss": 0.1, "metric": name}), run).verdict
        for name in ("acc", "acc,strict", "acc,flexible")
    }
    assert verdicts == {"acc": "fail", "acc,strict": "fail", "acc,flexible": "pass"}
    assert judge_gate(gate_of({"max_loss": 0.1, "metric": "acc,strict", "task": "t"}), run).verdict == "fail"
    with pytest.raises(UserError, match='does not measure "acc,none"'):
        judge_gate(gate_of({"max_loss": 0.1, "metric": "acc,none", "task": "t"}), run)


# ---- the default


def test_the_default_gate_is_on_every_variants_leading_metrics() -> None:
    run = outcomes_of({(v, t): [1.0] * 2000 for v in ("base", "a", "b") for t in ("t", "u")})
    result = judge_gate(default_gate(), run)
    assert len(result.checks) == 4
    assert result.verdict == "pass"
    assert {check.limit for check in result.checks} == {-0.02}
    assert {check.limit for check in judge_gate(default_gate(0.1), run).checks} == {-0.1}
