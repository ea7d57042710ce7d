"""Divergences and tasks for some variants only, from end to end on a tiny model, held to plain torch item by item."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from phibench.harness.divergence import divergence
from phibench.harness.records import Record, read_records
from phibench.harness.results import CellResult, read_manifest, read_results
from support.command import Command
from support.tiny import save_tiny_adapter, save_tiny_model

SUITE = """
name = "parted"
include = []
[base]
model = "{base}"
dtype = "float32"
[adapters.a]
path = "{adapter}"
[matrix]
adapter = "a"
[[tasks]]
name = "mini_webglm_qa_loss"
variants = ["base", "merged"]
divergence = {{ reference = "merged", items = 3, positions = 4 }}
[[tasks]]
name = "mini_arc_easy"
variants = ["base", "adapter"]
[[claims]]
says = "merging moves it"
holds = [{{ variant = "base", than = 0.0, task = "mini_webglm_qa_loss", metric = "kl_divergence", expect = "worse" }}]
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    base = save_tiny_model(folder / "base", context=2048)
    return base, save_tiny_adapter(folder / "adapter", base)


@pytest.fixture
def suite(tmp_path: Path, models: tuple[Path, Path]) -> Path:
    path = tmp_path / "suite.toml"
    path.write_text(SUITE.format(base=models[0], adapter=models[1]), encoding="utf-8")
    return path


@pytest.mark.parametrize("seed", range(5))
def test_it_is_scipys_relative_entropy(seed: int) -> None:
    torch.manual_seed(seed)
    reference, variant = torch.randn(6, 50) * 3, torch.randn(6, 50) * 3
    p, q = (torch.softmax(logits.double(), dim=-1).numpy() for logits in (reference, variant))
    kl, same = divergence(reference, variant)
    assert kl == pytest.approx(float(np.mean([entropy(a, b) for a, b in zip(p, q, strict=True)])), rel=1e-9)
    assert same == np.mean(p.argmax(-1) == q.argmax(-1))


@given(st.integers(0, 2**32 - 1), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_it_is_zero_for_the_same_and_never_less(seed: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(3, 40, generator=generator) * 10).to(dtype)
    assert divergence(logits, logits.clone()) == (0.0, 1.0)
    assert divergence(logits, (logits.float() + 1e-6).to(dtype))[0] >= 0.0


def test_rows_that_only_one_head_has_are_left_out() -> None:
    logits = torch.randn(2, 30)
    longer = torch.cat([logits, torch.full((2, 5), 90.0)], dim=-1)
    assert divergence(logits, longer) == (0.0, 1.0)
    assert divergence(longer, logits) == (0.0, 1.0)


def test_a_run_measures_what_plain_forwards_do(
    phibench: Command, suite: Path, models: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ended = phibench("run", suite, "--out", out, "--limit", 5)
    assert ended.code == 0, ended.all
    cells = {(cell.variant, cell.task): cell for cell in read_results(out).cells}
    assert set(cells) == {
        ("base", "mini_webglm_qa_loss"), ("merged", "mini_webglm_qa_loss"),
        ("base", "mini_arc_easy"), ("adapter", "mini_arc_easy"),
    }  # fmt: skip
    assert all(cell.status == "done" for cell in cells.values())
    found = kl_of(out, cells["base", "mini_webglm_qa_loss"])
    assert len(found) == 3  # of the five items
    assert kl_of(out, cells["merged", "mini_webglm_qa_loss"]) == [0.0, 0.0, 0.0]
    assert found == pytest.approx(by_hand(out, cells["base", "mini_webglm_qa_loss"], models), rel=1e-4)
    told = next(task for task in read_manifest(out).tasks if task.name == "mini_webglm_qa_loss")
    assert told.variants == ["base", "merged"]
    assert {metric.name: metric.higher_is_better for metric in told.metrics} == {
        "nll_per_byte": False, "kl_divergence": False, "same_top_token": True,
    }  # fmt: skip
    report = (out / "report.md").read_text(encoding="utf-8")
    assert "merging moves it | confirmed" in report
    assert "not run" not in report.lower()
    assert "confirmed: merging moves it" in ended.all


def test_the_reference_is_made_first_and_again_where_it_is_needed(
    phibench: Command, suite: Path, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert phibench("run", suite, "--out", whole, "--limit", 2).code == 0
    # The reference's own cell alone; then, by a run that finds it finished, the one that is measured from it.
    assert phibench("run", suite, "--out", parts, "--limit", 2, "--only", "merged").code == 0
    assert phibench("run", suite, "--out", parts, "--limit", 2, "--only", "base").code == 0
    cells = [read_results(out).cell("base", "mini_webglm_qa_loss") for out in (whole, parts)]
    first, second = (kl_of(out, cell) for out, cell in zip((whole, parts), cells, strict=True) if cell)
    assert first == second
    assert len(first) == 2
    assert phibench("run", suite, "--out", parts, "--limit", 2).code == 0
    alone = tmp_path / "alone"
    assert phibench("run", suite, "--out", alone, "--limit", 2, "--only", "base").code == 0
    assert kl_of(alone, read_results(alone).cell("base", "mini_webglm_qa_loss")) == first  # type: ignore[arg-type]
    assert read_results(alone).cell("merged", "mini_webglm_qa_loss").status == "pending"  # type: ignore[union-attr]
    third = read_results(parts).cell("base", "mini_webglm_qa_loss")
    assert third is not None
    assert third.cell_hash == cells[0].cell_hash  # type: ignore[union-attr]


def test_what_the_divergence_is_measured_from_is_part_of_a_cell(phibench: Command, suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert phibench("run", suite, "--out", out, "--limit", 2, "--only", "mini_webglm_qa_loss").code == 0
    before = {cell.variant: cell.cell_hash for cell in read_results(out).cells}
    text = suite.read_text(encoding="utf-8")
    suite.write_text(text.replace('reference = "merged"', 'reference = "base"'), encoding="utf-8")
    shutil.rmtree(out)
    assert phibench("run", suite, "--out", out, "--limit", 2, "--only", "mini_webglm_qa_loss").code == 0
    after = {cell.variant: cell.cell_hash for cell in read_results(out).cells}
    assert all(before[name] != after[name] for name in before)


def test_claims_change_nothing_that_is_asked(phibench: Command, suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert phibench("run", suite, "--out", out, "--limit", 2).code == 0
    text = suite.read_text(encoding="utf-8")
    suite.write_text(text.replace('"merging moves it"', '"it is the same"').replace('"worse"', '"better"'))
    ended = phibench("run", suite, "--out", out, "--limit", 2)
    assert ended.code == 0, ended.all
    assert ended.all.count("every cell is already here") == 3
    assert "refuted: it is the same" in ended.all


def test_a_claim_on_what_is_not_measured_is_refused_before_anything_is_asked(
    phibench: Command, suite: Path, tmp_path: Path
) -> None:
    text = suite.read_text(encoding="utf-8")
    suite.write_text(text.replace('"kl_divergence"', '"kl_divergense"'), encoding="utf-8")
    ended = phibench("run", suite, "--out", tmp_path / "out")
    assert ended.code == 2
    assert 'claims[0].holds[0].metric: the task "mini_webglm_qa_loss" does not measure "kl_divergense"' in ended.all
    assert 'did you mean "kl_divergence"?' in ended.all
    assert not (tmp_path / "out" / "results.json").exists()


def test_only_what_the_selected_tasks_are_asked_of_is_made(phibench: Command, suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = phibench("run", suite, "--out", out, "--limit", 2, "--only", "mini_arc_easy")
    assert ended.code == 0, ended.all
    assert [v.name for v in read_manifest(out).variants if v.identity] == ["base", "adapter"]
    ended = phibench("run", suite, "--out", out, "--limit", 2, "--only", "mini_arc_easy", "--only", "merged")
    assert ended.code == 2
    assert "none of these tasks is asked of these variants" in ended.all


def test_a_task_that_scores_no_answer_has_no_divergence(phibench: Command, suite: Path, tmp_path: Path) -> None:
    text = suite.read_text(encoding="utf-8").replace('"mini_webglm_qa_loss"', '"mini_piqa"')
    suite.write_text(text, encoding="utf-8")
    ended = phibench("run", suite, "--out", tmp_path / "out")
    assert ended.code == 2
    assert "divergence is for tasks of output type loglikelihood" in ended.all


def kl_of(out: Path, cell: CellResult) -> list[float]:
    found = [value(record, "kl_divergence") for record in read_records(out / str(cell.records))]
    return [one for one in found if one is not None]


def value(record: Record, name: str) -> float | None:
    return next((metric.value for metric in record.metrics if metric.name == name), None)


def by_hand(out: Path, cell: CellResult, models: tuple[Path, Path]) -> list[float]:
    """The divergence of the base from the base with the adapter merged by peft, at positions counted out here."""
    from peft import PeftModel

    tokenizer = AutoTokenizer.from_pretrained(models[0])
    base: PreTrainedModel = AutoModelForCausalLM.from_pretrained(models[0], dtype=torch.float32)
    other: PreTrainedModel = AutoModelForCausalLM.from_pretrained(models[0], dtype=torch.float32)
    merged = PeftModel.from_pretrained(other, models[1]).merge_and_unload()
    found = []
    for record in read_records(out / str(cell.records))[:3]:
        prompt = tokenizer(str(record.prompt).rstrip())["input_ids"]  # lm-eval: white space at its end is the answer's
        answer = tokenizer(str(record.prompt) + record.choices[0])["input_ids"][len(prompt) :]
        places = sorted({round(i * (len(answer) - 1) / 3) for i in range(4)})
        tokens = torch.tensor([prompt + answer])
        with torch.no_grad():
            p, q = (torch.log_softmax(m(tokens).logits[0].double(), -1) for m in (merged, base))
        rows = [len(prompt) - 1 + place for place in places]
        found.append(float((p[rows].exp() * (p[rows] - q[rows])).sum(-1).mean()))
    return found
