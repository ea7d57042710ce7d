"""Slices: the kinds of items that drive a difference are named, and where none does, none is."""

from __future__ import annotations

import numpy as np
import pytest

from phibench.harness.slices import Question, find_slices
from phibench.harness.values import ItemColumn


def _fields(n: int, generator: np.random.Generator) -> dict[str, ItemColumn]:
    return {
        "topic": ItemColumn(texts=generator.choice(np.array(["travel", "work", "food"], dtype=object), n)),
        "length": ItemColumn(numbers=generator.integers(100, 2000, n).astype(float)),
        "id": ItemColumn(texts=np.array([f"item {i}" for i in range(n)], dtype=object)),
        "source": ItemColumn(texts=np.array(["s"] * n, dtype=object)),
    }


def test_the_kind_that_loses_is_named() -> None:
    generator = np.random.default_rng(0)
    fields = _fields(600, generator)
    gains = generator.choice([-1.0, 0.0, 1.0], p=[0.1, 0.8, 0.1], size=600)
    gains[(fields["topic"].texts == "travel") & (generator.random(600) < 0.3)] = -1.0
    found = find_slices(gains, fields)
    assert found.looked_at == 3 + 4  # topics and quarters of the length; an id is no kind, nor is a source
    assert (found.found[0].field, found.found[0].value) == ("topic", "travel")
    assert found.found[0].question is Question.WORSE
    assert found.found[0].inside > 2 * found.found[0].outside
    assert find_slices(gains, fields, ["length"]).looked_at == 4


def test_where_the_length_drives_it_the_quarter_is_named() -> None:
    generator = np.random.default_rng(1)
    fields = _fields(400, generator)
    lengths = fields["length"].numbers
    assert lengths is not None
    gains = generator.normal(0.0, 0.1, 400) - 0.2 * (lengths > np.quantile(lengths, 0.75))
    worst = find_slices(gains, fields).found[0]
    assert (
        worst.field == "length"
        and worst.value.startswith("more than ")
        and worst.question is Question.GAIN
        and worst.inside < worst.outside
    )
    assert worst.items == 100


@pytest.mark.parametrize(
    ("items", "worse", "better", "kinds"), [(300, 0.15, 0.15, 3), (500, 0.05, 0.0, 20), (600, 0.05, 0.02, 15)]
)
def test_false_alarms_are_as_rare_as_is_said(items: int, worse: float, better: float, kinds: int) -> None:
    """Also where few items change and kinds are small: none that happens to have no loss counts as a find."""
    generator = np.random.default_rng(2)
    alarms = 0
    for _ in range(80):
        gains = generator.choice([-1.0, 0.0, 1.0], p=[worse, 1 - worse - better, better], size=items)
        topics = generator.choice(np.array([f"topic {i}" for i in range(kinds)], dtype=object), items)
        alarms += bool(find_slices(gains, {"topic": ItemColumn(texts=topics)}).found)
    assert alarms <= 9  # 5 % of 80, and two and a half standard errors


def test_false_alarms_of_gains_by_rank() -> None:
    generator = np.random.default_rng(3)
    alarms = 0
    for _ in range(80):
        gains = generator.laplace(size=300)
        alarms += bool(find_slices(gains, _fields(300, generator)).found)
    assert alarms <= 9


def test_a_kind_without_a_loss_is_no_find() -> None:
    gains = np.array([0.0] * 20 + [-1.0] * 98 + [0.0] * 882)
    topics = np.array(["a"] * 20 + ["b"] * 980, dtype=object)
    assert find_slices(gains, {"topic": ItemColumn(texts=topics)}).found == ()


def test_too_few_items_are_no_kind() -> None:
    fields = {"topic": ItemColumn(texts=np.array(["a"] * 9 + ["b"] * 40, dtype=object))}
    gains = np.array([-1.0] * 9 + [0.0] * 40)
    assert find_slices(gains, fields).looked_at == 0
    assert find_slices(np.zeros(49), fields).looked_at == 0
    assert find_slices(gains[:19], fields).looked_at == 0
