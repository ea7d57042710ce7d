"""Records as columns: what is read, and how two cells are paired."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from phibench.harness.item_fields import CHOICES, POSITION, PROMPT_LENGTH, item_fields
from phibench.harness.records import ItemField, MetricValue, Record, Response, as_table, write_records
from phibench.harness.results import MetricInfo
from phibench.harness.values import asked_otherwise, pair, read_values, values_of

ACC = ("acc", "none")


def _record(item: int, value: float, **more: object) -> Record:
    told = {
        "variant": "v",
        "task": "t",
        "item": item,
        "item_id": None,
        "item_hash": f"h{item}",
        "prompt_hash": f"p{item}",
        "prompt": None,
        "choices": [],
        "target": "",
        "responses": [Response(tokens=1, truncated=0, tokens_in=3, loglikelihood=-1.0, is_greedy=True)],
        "metrics": [MetricValue("acc", "none", value)],
    }
    return Record(**{**told, **more})  # type: ignore[arg-type]


def test_pairs_by_hash_in_the_variants_order_and_counts_the_rest() -> None:
    before = values_of(as_table([_record(i, float(i)) for i in (1, 2, 3, 4)]))
    after = values_of(as_table([_record(i, 10.0 + i) for i in (9, 4, 2, 1)]))
    pairs = pair(before, after, ACC)
    assert list(pairs.before) == [4.0, 2.0, 1.0]
    assert list(pairs.after) == [14.0, 12.0, 11.0]
    assert (pairs.baseline_only, pairs.variant_only) == (1, 1)


def test_early_items_come_in_the_order_in_which_they_were_asked() -> None:
    whole = values_of(as_table([_record(i, float(i)) for i in range(5)]))
    early = dataclasses.replace(values_of(as_table([_record(i, float(i)) for i in (3, 0, 4)])), early=True)
    for first, second in ((whole, early), (early, whole)):
        pairs = pair(first, second, ACC)
        assert pairs.early
        assert list(pairs.before) == list(pairs.after) == [3.0, 0.0, 4.0]
    assert not pair(whole, whole, ACC).early


def test_equal_documents_pair_in_their_order() -> None:
    same = [dataclasses.replace(_record(i, float(i)), item_hash="same") for i in range(3)]
    other = [dataclasses.replace(record, metrics=[MetricValue("acc", "none", 5.0 + record.item)]) for record in same]
    pairs = pair(values_of(as_table(same)), values_of(as_table(other[:2])), ACC)
    assert (list(pairs.before), list(pairs.after)) == ([0.0, 1.0], [5.0, 6.0])
    assert pairs.baseline_only == 1


def test_a_metric_that_some_items_lack(tmp_path: Path) -> None:
    records = [_record(i, float(i)) for i in range(4)]
    records[1] = dataclasses.replace(records[1], metrics=[MetricValue("f1", "none", None, '["a", "b"]')])
    write_records(tmp_path / "r.parquet", records)
    found = read_values(tmp_path / "r.parquet")
    assert list(found.metrics[ACC].values) == [0.0, 2.0, 3.0]
    assert found.metrics["f1", "none"].values == [["a", "b"]]
    assert np.isnan(found.metrics[ACC].numbers(4)[1])
    pairs = pair(found, values_of(as_table([_record(i, 7.0) for i in range(4)])), ACC)
    assert list(pairs.before) == [0.0, 2.0, 3.0] and (pairs.baseline_only, pairs.variant_only) == (0, 1)


def test_prompts_that_differ_are_counted() -> None:
    before = [_record(i, 1.0) for i in range(4)]
    after = [dataclasses.replace(record, prompt_hash="other") if record.item > 1 else record for record in before]
    assert asked_otherwise(values_of(as_table(before)), values_of(as_table(after[::-1]))) == 2


def test_fields_and_sources_are_read(tmp_path: Path) -> None:
    records = []
    for i in range(4):
        known = [ItemField("topic", text="ab"[i % 2])]
        if i:
            known += [ItemField("length", number=float(i)), ItemField("source", "s")]
        records.append(dataclasses.replace(_record(i, 1.0), fields=known))
    write_records(tmp_path / "r.parquet", records)
    found = read_values(tmp_path / "r.parquet")
    topics, lengths = found.fields["topic"].texts, found.fields["length"].numbers
    assert topics is not None and lengths is not None and found.sources is not None
    assert list(topics) == ["a", "b", "a", "b"]
    assert np.isnan(lengths[0]) and list(lengths[1:]) == [1.0, 2.0, 3.0]
    assert list(found.sources[1:]) == [0, 0, 0] and found.sources[0] == 1  # what has no source stands for itself
    pairs = pair(found, found, ACC)
    assert pairs.sources is not None and sorted(set(pairs.sources.tolist())) == [0, 1]


@pytest.mark.parametrize("keep_texts", [True, False])
def test_what_is_kept_of_a_document(keep_texts: bool) -> None:
    doc = {"topic": "travel", "story": "x" * 200, "references": ["a", "b"], "year": 2024, "hard": True, "none": None}
    fields = {field.name: field for field in item_fields(doc, "prompt", 4, (2,), source="story", keep_texts=keep_texts)}
    assert fields[PROMPT_LENGTH].number == 6.0
    assert (fields[CHOICES].number, fields[POSITION].text) == (4.0, "3")
    assert fields["characters of story"].number == 200.0 and fields["number of references"].number == 2.0
    assert (fields["year"].number, fields["hard"].text) == (2024.0, "true")
    assert (fields["topic"].text == "travel") is keep_texts
    assert "none" not in fields and "story" not in fields
    assert len(str(fields["source"].text)) == 16


def test_a_run_of_before_does_not_say_which_metrics_are_shares() -> None:
    told = {"filter": "none", "higher_is_better": True}
    shares = {
        name: MetricInfo.model_validate({"name": name, "aggregation": aggregation, **told}).share
        for name, aggregation in (("acc_norm", "mean"), ("stopped", "mean"), ("nll_per_byte", "mean"), ("acc", "f1"))
    }
    assert shares == {"acc_norm": True, "stopped": True, "nll_per_byte": False, "acc": False}
