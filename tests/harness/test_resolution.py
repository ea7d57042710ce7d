"""What a suite's items can resolve, said before it is run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from phibench.harness.resolution import resolution_notes
from phibench.harness.stats import Pairs, paired_difference
from phibench.harness.stats.power import items_for, resolvable, smallest_change, smallest_difference
from phibench.harness.stats.proportions import paired_proportions
from phibench.harness.suite import Suite


def _suite(tasks: list[dict[str, Any]], **more: Any) -> Suite:
    return Suite.model_validate(
        {"name": "s", "base": {"model": "m"}, "variants": [{"name": "a"}, {"name": "b"}], "tasks": tasks, **more}
    )


def test_two_hundred_items_cannot_resolve_one_point() -> None:
    suite = _suite(
        [{"name": "arc_easy", "limit": 200}, {"name": "dialogsum"}],
        gate={"rules": [{"max_loss": 0.01}, {"max_loss": 0.2, "task": "arc_easy"}, {"at_least": 0.3}]},
    )
    notes = resolution_notes(suite)
    assert len(notes) == 3  # what a metric of texts resolves, nobody knows before
    assert notes[1].startswith("arc_easy: 200 items resolve 6.")
    # By the normal distribution: 0.01 / sqrt(0.1 / 200) = 0.447 standard errors, of which 1.645 are needed.
    assert notes[2] == (
        "gate.rules[0]: 200 items of arc_easy cannot resolve 1 point:"
        " were nothing lost, it would pass 12 % of the time, and else be undecided"
    )


def test_a_margin_of_another_metric_is_no_matter_of_points() -> None:
    tasks = [{"name": "mini_piqa"}]
    rules = [{"max_loss": 0.05, "metric": "loglikelihood_margin"}, {"min_gain": 0.02, "metric": "acc"}]
    notes = resolution_notes(_suite(tasks, gate={"rules": rules}))
    (told,) = (note for note in notes if note.startswith("gate."))
    assert told.startswith("gate.rules[1]: 60 items of mini_piqa cannot resolve 2 points: a gain of 12.")


@pytest.mark.parametrize(("items", "margin"), [(200, 0.03), (1000, 0.02), (1838, 0.0165)])
def test_a_rule_passes_as_often_as_is_said_where_nothing_is_lost(items: int, margin: float) -> None:
    tasks = [{"name": "arc_easy", "limit": items}]
    told = resolution_notes(_suite(tasks, gate={"rules": [{"max_loss": margin}]}))[-1]
    generator = np.random.default_rng(0)
    counts = generator.multinomial(items, [0.05, 0.05, 0.9], size=4000)
    low, _ = paired_proportions(counts[:, 0], counts[:, 1], items, 0.9)
    said = float(told.partition("it would pass ")[2].partition(" %")[0]) / 100
    assert float((low >= -margin).mean()) == pytest.approx(said, abs=0.05)


def test_the_limit_of_the_command_line_and_whole_splits() -> None:
    assert "2,376 items" in resolution_notes(_suite([{"name": "arc_easy"}]))[1]
    assert "50 items" in resolution_notes(_suite([{"name": "arc_easy", "limit": 100}]), limit=50)[1]
    assert "56 items" in resolution_notes(_suite([{"name": "mini_arc_easy"}]))[1]  # of phibench's own data


@pytest.mark.parametrize(("items", "changed"), [(200, 0.1), (1000, 0.1), (1000, 0.3)])
def test_the_smallest_change_is_found_four_times_in_five(items: int, changed: float) -> None:
    """By the sign test's own power, summed over the number of items that change."""
    least = smallest_change(items, changed)
    assert least is not None
    winning = (changed + least) / 2 / changed
    power = 0.0
    for count in range(items + 1):
        weight = binom.pmf(count, items, changed)
        if weight < 1e-9:
            continue
        won = range(count + 1)
        lost_p = [2 * binom.cdf(min(k, count - k), count, 0.5) - binom.pmf(min(k, count - k), count, 0.5) for k in won]
        power += weight * sum(binom.pmf(k, count, winning) for k, p in zip(won, lost_p, strict=True) if p <= 0.05)
    assert power == pytest.approx(0.8, abs=0.03)


def test_as_many_items_as_are_said_resolve_the_difference() -> None:
    needed = items_for(0.05, 0.3)
    assert smallest_difference(needed, 0.3) == pytest.approx(0.05, rel=0.01)
    assert smallest_change(3, 0.1) is None
    assert smallest_difference(1, 0.3) is None


def test_few_items_that_differ_do_not_tell_what_could_be_resolved() -> None:
    before = np.linspace(0.1, 0.9, 46)
    few, many = before.copy(), before + np.where(np.arange(46) % 2, 0.05, -0.04)
    few[:4] -= 0.05
    found = [
        paired_difference(Pairs(before, after), aggregation="mean", higher_is_better=True) for after in (few, many)
    ]
    assert resolvable(found[0]) is None
    assert resolvable(found[1]) == pytest.approx(smallest_difference(46, float(np.std(many - before, ddof=1))))
