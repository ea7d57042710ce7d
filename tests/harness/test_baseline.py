"""Baseline files: what they keep, what they do not tell, and that a gate works on them as on the run."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phibench.errors import UserError
from phibench.harness import baseline_file
from phibench.harness.baseline import open_against, read_baseline, save_baseline
from phibench.harness.gate.judge import judge_gate
from phibench.harness.gate.spec import GateSpec
from phibench.harness.item_fields import SOURCE
from phibench.harness.outcomes import Outcomes, open_run
from phibench.harness.records import ItemField, read_records, write_records
from phibench.harness.results import FileHash, read_manifest
from phibench.harness.values import CellValues, MetricColumn
from support.run_folder import HOSTILE, SCRIPT, TASKS, VARIANTS, edit_cell, edit_manifest, write_run_folder


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_run_folder(tmp_path / "run", items=30)


def saved(run_dir: Path, *more: str, **options: Any) -> Path:
    out = run_dir.parent / "baseline.json"
    save_baseline([f"{run_dir}{name}" for name in more or [""]], out, **options)
    return out


def cell_of(outcomes: Outcomes, variant: str, task: str) -> CellValues:
    found = outcomes.values(variant, task)
    assert isinstance(found, CellValues)
    return found


# ---- what it keeps


def test_every_cell_comes_back_as_it_was(run_dir: Path) -> None:
    run, kept = open_run(run_dir), read_baseline(saved(run_dir))
    for variant in VARIANTS:
        for task in TASKS:
            mine, theirs = cell_of(run, variant, task), cell_of(kept, variant, task)
            assert theirs.keys.equals(mine.keys)
            assert theirs.prompts.equals(mine.prompts)
            assert np.array_equal(theirs.items, mine.items)
            assert set(mine.metrics) - set(theirs.metrics) == ({("bleu", "none")} if task == "dialogsum" else set())
            for key, column in theirs.metrics.items():
                assert np.array_equal(column.rows, mine.metrics[key].rows)
                assert np.array_equal(column.values, mine.metrics[key].values)  # to the last bit
            before, after = run.cell(variant, task), kept.cell(variant, task)
            assert before is not None
            assert after == before.model_copy(update={"records": None})
    assert [task.metrics for task in kept.manifest.tasks] == [task.metrics for task in run.manifest.tasks]
    assert kept.manifest.versions == run.manifest.versions
    assert kept.manifest.seeds == run.manifest.seeds
    assert [one.identity for one in kept.manifest.variants] == [one.identity for one in run.manifest.variants]


def test_a_gate_says_the_same_of_a_baseline_file_and_of_the_run(run_dir: Path, tmp_path: Path) -> None:
    other = write_run_folder(tmp_path / "other", items=24)  # fewer items: they are paired by their hashes
    spec = GateSpec.model_validate({"rules": [{"max_loss": 0.05, "than": "base"}]})
    by_run = judge_gate(spec, open_run(other), open_run(run_dir))
    by_file = judge_gate(spec, open_run(other), read_baseline(saved(run_dir)))
    assert [check.items for check in by_file.checks] == [24] * 9
    assert by_file.checks == by_run.checks
    assert {str(check.verdict) for check in by_file.checks} == {"pass", "fail", "undecided"}


def test_equal_documents_keep_their_places(run_dir: Path) -> None:
    path = run_dir / "records/base/arc_easy.parquet"
    records = read_records(path)
    twins = [one if i % 3 else one.__class__(**{**vars(one), "item_hash": "a" * 64}) for i, one in enumerate(records)]
    write_records(path, twins[::-1])
    mine = cell_of(open_run(run_dir), "base", "arc_easy")
    theirs = cell_of(read_baseline(saved(run_dir)), "base", "arc_easy")
    assert mine.keys.is_unique
    assert theirs.keys.equals(mine.keys)
    assert list(theirs.items) == [one.item for one in records][::-1]


def with_sources(run_dir: Path) -> None:
    """Three items each from one source."""
    for variant in VARIANTS:
        path = run_dir / f"records/{variant}/arc_easy.parquet"
        fields = {one.item: [ItemField(SOURCE, text=f"source {one.item // 3}")] for one in read_records(path)}
        write_records(path, [one.__class__(**{**vars(one), "fields": fields[one.item]}) for one in read_records(path)])


ON_ARC = GateSpec.model_validate({"rules": [{"max_loss": 0.05, "than": "base", "task": "arc_easy"}]})


def test_items_of_one_source_are_drawn_together_where_only_the_file_knows_it(run_dir: Path, tmp_path: Path) -> None:
    other = write_run_folder(tmp_path / "other", items=30)
    with_sources(run_dir)
    path = saved(run_dir)
    assert "source 1" not in path.read_text()
    mine, kept = cell_of(open_run(run_dir), "base", "arc_easy"), cell_of(read_baseline(path), "base", "arc_easy")
    assert mine.sources is not None
    assert np.array_equal(mine.sources, kept.sources)
    assert cell_of(read_baseline(path), "base", "dialogsum").sources is None
    by_run = judge_gate(ON_ARC, open_run(other), open_run(run_dir))
    by_file = judge_gate(ON_ARC, open_run(other), read_baseline(path))
    assert by_file.checks == by_run.checks
    assert "bootstrap" in str(by_file.checks[1].measured)


def test_a_file_of_the_first_version_is_read(run_dir: Path) -> None:
    with_sources(run_dir)
    path = saved(run_dir)
    told = json.loads(path.read_text())
    assert told["format_version"] == "2"
    told["format_version"] = "1"
    for part in told["items"]:
        part.pop("sources", None)
    path.write_text(json.dumps(told))
    run = open_run(run_dir)
    assert cell_of(read_baseline(path), "base", "arc_easy").sources is None
    assert judge_gate(ON_ARC, run, read_baseline(path)).checks == judge_gate(ON_ARC, run, open_run(run_dir)).checks


@pytest.mark.parametrize("early", [("base",), ("base", "merged"), ("merged",)])
def test_what_was_asked_until_decided_is_judged_as_such_from_the_file(early: tuple[str, ...], run_dir: Path) -> None:
    order = np.random.default_rng(0).permutation(30)
    for variant in VARIANTS:
        path = run_dir / f"records/{variant}/arc_easy.parquet"
        records = read_records(path)
        if variant in early:
            write_records(path, [records[int(i)] for i in order[:24]])
            edit_cell(run_dir, variant, "arc_easy", stopped_early=True)
    run, kept = open_run(run_dir), read_baseline(saved(run_dir))
    for variant in early:
        cell = cell_of(kept, variant, "arc_easy")
        assert cell.early
        assert list(cell.items) == list(order[:24])  # as they were asked
    by_run, by_file = (judge_gate(ON_ARC, run, against) for against in (open_run(run_dir), kept))
    assert by_file.checks == by_run.checks
    merged = next(check for check in by_file.checks if check.variant == "merged")
    assert "betting" in str(merged.measured) or "confidence sequence" in str(merged.measured)


def test_some_variants_of_several_runs(run_dir: Path, tmp_path: Path) -> None:
    write_run_folder(tmp_path / "run2", items=20)
    out = tmp_path / "both.json"
    save_baseline([f"{run_dir}:merged", f"{tmp_path / 'run2'}:adapter-nf4"], out)
    kept = read_baseline(out)
    assert [one.name for one in kept.manifest.variants] == ["merged", "adapter-nf4"]
    assert kept.manifest.baseline == "merged"
    assert len(cell_of(kept, "adapter-nf4", "wikitext")) == 20
    with pytest.raises(UserError, match='two variants are called "merged"'):
        save_baseline([str(run_dir), f"{tmp_path / 'run2'}:merged"], out)


def test_runs_that_asked_otherwise_do_not_stand_in_one_file(run_dir: Path, tmp_path: Path) -> None:
    other = write_run_folder(tmp_path / "run2", items=20)
    tasks = [task.model_copy(update={"num_fewshot": 5}) for task in read_manifest(other).tasks]
    edit_manifest(other, tasks=tasks)
    with pytest.raises(UserError, match="was not asked alike"):
        save_baseline([f"{run_dir}:base", f"{other}:merged"], tmp_path / "both.json")


def test_cells_that_are_not_there_are_left_out_and_said(run_dir: Path, tmp_path: Path) -> None:
    edit_cell(run_dir, "merged", "arc_easy", status="failed", error="/home/me/secret")
    out = tmp_path / "b.json"
    found = save_baseline([str(run_dir)], out)
    assert "merged on arc_easy: failed" in found.left_out
    assert read_baseline(out).cell("merged", "arc_easy") is None
    assert found.size == out.stat().st_size
    for name in ("records/base", "records/merged", "records/adapter-nf4"):
        for task in TASKS:
            (run_dir / name / f"{task}.parquet").unlink()
    with pytest.raises(UserError, match="none of these variants has a finished cell"):
        save_baseline([str(run_dir)], out)


# ---- what it does not tell


def test_no_text_and_no_folder_of_this_machine_is_in_the_file(run_dir: Path) -> None:
    manifest = read_manifest(run_dir)
    variants = [
        one.model_copy(update={"parts": {"base": "/home/me/models/phi@1", "dtype": "float16"}, "error": "/home/me/x"})
        for one in manifest.variants
    ]
    tasks = [
        one.model_copy(
            update={"dataset": "/home/me/data:part", "data_files": [FileHash(path="/home/me/rows", sha256="f" * 64)]}
        )
        for one in manifest.tasks
    ]
    edit_manifest(
        run_dir, model="/home/me/models/phi", variants=variants, tasks=tasks, suite={"base": {"model": "/home/me"}},
        hardware={"device": "cpu", "host": "/home/me"}, chosen=["/home/me"], warnings=["/home/me"],
    )  # fmt: skip
    text = saved(run_dir).read_text()
    assert "/home" not in text
    assert str(run_dir) not in text
    assert "records/" not in text
    assert read_baseline(run_dir.parent / "baseline.json").manifest.model == "phi"
    assert json.loads(text)["manifest"]["tasks"][0]["data_files"] == [{"path": "", "sha256": "f" * 64}]
    everything = text + "".join(
        zlib.decompress(__import__("base64").b64decode(part[key])).decode("latin-1")
        for part in json.loads(text)["items"]
        for key in ("keys", "prompts")
    )
    for secret in ("Question: which", "the first answer", "Summarise", "A summary of", HOSTILE[4]):
        assert secret not in everything


def test_prompts_are_kept_where_they_are_asked_for(run_dir: Path) -> None:
    plain, told = saved(run_dir).stat().st_size, saved(run_dir, prompts=True)
    texts = json.loads(told.read_text())["items"][0]["texts"]
    assert texts[0].startswith("Question: which one is it")
    assert all(len(text) <= 200 for text in texts)
    assert told.stat().st_size > plain
    assert len(cell_of(read_baseline(told), "base", "arc_easy")) == 30


def test_the_same_run_gives_the_same_file(run_dir: Path) -> None:
    first = saved(run_dir).read_bytes()
    assert saved(run_dir).read_bytes() == first


def test_right_and_wrong_answers_take_a_bit_each() -> None:
    column = MetricColumn(np.arange(6000), np.random.default_rng(0).integers(0, 2, 6000).astype(np.float64))
    part = baseline_file.pack_column("acc", "none", column, 6000)
    assert part is not None
    assert part.kind == "bits"
    assert len(part.values) < 6000 / 8 * 4 / 3 + 40


@pytest.mark.parametrize(
    "values",
    [
        np.array([0.1, np.nan, -np.inf, 1e-300, 5.0]),
        np.array([0.0, 1.0, 1.0, 0.0, 1.0]),
        np.array([]),
        [[-3.25, 17], [-1.5, 4]],
        [[0, 1], [1, 1]],
    ],
)
def test_columns_come_back_to_the_last_bit(values: Any) -> None:
    rows = np.arange(len(values)) * 2
    part = baseline_file.pack_column("m", "f", MetricColumn(rows, values), 20)
    assert part is not None
    found = baseline_file.unpack_column(part, 20)
    assert np.array_equal(found.rows, rows)
    assert np.array_equal(np.asarray(found.values), np.asarray(values), equal_nan=True)


@pytest.mark.parametrize("values", [[["a", "b"]], [[1], [1, 2]], [[True, 1]], ["text"], [None], [[2**60]], [[]]])
def test_columns_that_are_no_numbers_are_left_out(values: Any) -> None:
    assert baseline_file.pack_column("m", "f", MetricColumn(np.arange(len(values)), values), len(values)) is None


# ---- files that are none


def broken(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        told = json.loads(path.read_text())
        change(told)
        path.write_text(json.dumps(told))

    return edit


@pytest.mark.parametrize(("edit", "says"), [
    (lambda path: path.unlink(), "cannot be read"),
    (lambda path: path.write_text("{"), "not a baseline file"),
    (lambda path: path.write_bytes(b"\xff\xfe"), "not a baseline file"),
    (lambda path: path.write_text("[" * 100_000), "not a baseline file"),
    (lambda path: path.write_text("[]"), "not a baseline file"),
    (lambda path: path.write_text('{"format": "other"}'), "not a baseline file"),
    (broken(lambda told: told.update(format_version="3")), "of version 3; those read here: 1, 2"),
    (broken(lambda told: told.pop("items")), "broken: 1 field"),
    (broken(lambda told: told.update(more=1)), "broken: 1 field"),
    (broken(lambda told: told["cells"][0].update(items=99)), "a list of items that is not there"),
    (broken(lambda told: told["cells"][0].update(items=1)), "are not those of"),
    (broken(lambda told: told["items"][0].update(keys="@@")), "a column is broken"),
    (broken(lambda told: told["items"][0].update(keys="AAAA")), "a column is broken"),
    (broken(lambda told: told["items"][0].update(sources=baseline_file.pack(b"x"))), "other than 240 bytes"),
    (broken(lambda told: told["items"][0].update(count=5)), "not there"),
    (broken(lambda told: told["items"][0].update(count=10**12)), "broken: 1 field"),
    (broken(lambda told: told["items"][0].update(keys=baseline_file.pack(b"x" * 10**7))), "other than 480 bytes"),
    (broken(lambda told: told["cells"][0]["columns"][0].update(rows=baseline_file.pack(b"\xff" * 240))), "not there"),
    (broken(lambda told: told["cells"][0]["columns"][0].update(count=9999)), "not there"),
    (broken(lambda told: told["cells"][1]["columns"][0].update(width=3)), "other than|has a width"),
])  # fmt: skip
def test_what_is_no_baseline_file_is_told_without_a_traceback(
    edit: Callable[[Path], None], says: str, run_dir: Path
) -> None:
    path = saved(run_dir)
    edit(path)
    with pytest.raises(UserError, match=says) as raised:
        read_baseline(path)
    assert raised.value.where == str(path)


def test_what_a_gate_compares_with_is_a_run_or_a_file_and_a_variant_of_it(run_dir: Path) -> None:
    path = saved(run_dir)
    for text in (str(path), str(run_dir)):
        assert open_against(text)[1] is None
        outcomes, variant = open_against(f"{text}:merged")
        assert variant == "merged"
        assert [task.name for task in outcomes.manifest.tasks] == list(TASKS)
        with pytest.raises(UserError, match="no variant of this name"):
            open_against(f"{text}:gone")
    for text in ("gone.json", f"{run_dir}x:merged", ""):
        with pytest.raises(UserError):
            open_against(text)


def test_hostile_names_stay_what_they_are(run_dir: Path) -> None:
    assert SCRIPT in read_baseline(saved(run_dir)).manifest.name
