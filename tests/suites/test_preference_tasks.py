"""Tasks piqa_pairs and orca_dpo_pairs: what is asked is what is trained on, and margins are those of training."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict
from lm_eval.tasks import TaskManager
from peft import PeftModel

from phibench.adapters.base import LoadedBase
from phibench.adapters.encode import encode_pairs
from phibench.adapters.recipe import read_recipe
from phibench.adapters.recipe_table import RECIPES
from phibench.adapters.rows import Rows
from phibench.adapters.train import train
from phibench.adapters.trainers import Job, make_trainer
from phibench.harness.engine.requests import Encoder
from phibench.harness.records import read_records
from phibench.harness.stats import Pairs, paired_difference
from phibench.suites.tasks.embedded import read_rows
from phibench.suites.tasks.preferences import utils
from phibench.suites.tasks.preferences.prompt import Row, read_webglm
from phibench.suites.tasks.webglm_qa.markers import find_markers
from phibench.suites.tasks.webglm_qa.prompt import prompt as webglm_prompt
from support.command import Command
from support.models import CPU, load
from support.tiny import save_tiny_model, tiny_tokenizer

TASKS = Path(__file__).parents[2] / "suites" / "tasks"
PIQA = [
    {"goal": "Open a jar", "sol1": "Turn the lid.", "sol2": "Sing to it loudly.", "label": 0},
    {"goal": "Thicken a café sauce", "sol1": "Add ice.", "sol2": " Let it boil down – slowly.", "label": 1},
    {"goal": "Dry a shirt?", "sol1": "Hang it in the sun.", "sol2": "Hang it in the rain.", "label": 0},
    {"goal": "Find north", "sol1": "Ask a stone.", "sol2": "Look for moss, or for the pole star.", "label": 1},
]
ORCA = [
    {"system": "Be kind.", "question": "Hi?", "chosen": "Hello, how are you?", "rejected": "What?\n"},
    {"system": "", "question": " Why does bread rise? ", "chosen": "Yeast makes gas.", "rejected": "It is hot: 東京."},
]
WEBGLM = [
    {"question": "Why?", "answer": "It is wet [1]. So it rusts [2, 3].\n", "references": ["Rain.", "Iron.", "Air."]},
    {"question": "How – so?", "answer": "By café [2].", "references": ["Tea.", "Coffee."]},
]
ROWS = {"piqa_pairs": PIQA, "orca_dpo_pairs": ORCA, "webglm_pairs": WEBGLM}
METRICS = ["margin", "acc", "margin_per_byte"]
TOKENIZER = tiny_tokenizer()
RECIPE = """
name = "{name}"
method = "{method}"
[data]
format = "{form}"
train.file = "rows.jsonl"
{more}
[training]
max_steps = 4
per_device_train_batch_size = 2
learning_rate = 0.02
gradient_checkpointing = false
"""
LORA = '[lora]\nr = 4\nlora_alpha = 8\ntarget_modules = ["q_proj", "v_proj"]\n'


def task_on(rows: list[dict[str, Any]], name: str) -> Any:
    """The task, on rows of its dataset's schema."""
    split = Dataset.from_list(rows)
    manager = TaskManager(include_path=str(TASKS), include_defaults=False)
    changes = {"custom_dataset": lambda **_: DatasetDict(train=split, validation=split, test=split)}
    return manager.load({"group": "g", "task": [{"task": name, **changes}]})["tasks"][name]


def arguments(task: Any) -> list[tuple[str, str]]:
    task.build_all_requests(rank=0, world_size=1)
    return [instance.args for instance in task.instances]


def named(rows: list[dict[str, Any]]) -> Rows:
    return Rows("rows", "0", [(f"row {number}", row) for number, row in enumerate(rows)])


@pytest.mark.parametrize("name", ROWS)
def test_requests_are_the_pairs_of_training_the_preferred_answer_first(name: str) -> None:
    pairs = encode_pairs(named(ROWS[name]), name, max_length=None, tokenizer=TOKENIZER).rows
    task = task_on(ROWS[name], name)
    expected = [(pair["prompt"], pair[key]) for pair in pairs for key in ("chosen", "rejected")]
    assert arguments(task) == expected


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("bos", [False, True])
def test_tokens_are_those_of_training_but_for_the_end(name: str, bos: bool, tmp_path: Path) -> None:
    base = load(save_tiny_model(tmp_path / "base", bos=bos))
    (tmp_path / "rows.jsonl").write_text("{}\n")
    path = write_recipe(tmp_path, "pairs", form=name, more=LORA)
    job = Job(read_recipe(path), base, CPU, 0, named(ROWS[name]), None, None, tmp_path)
    trained = make_trainer(job, lambda step: None).trainer.train_dataset
    asked = Encoder(base.tokenizer).pairs(arguments(task_on(ROWS[name], name)))
    end = [base.tokenizer.eos_token_id]
    expected = [(row["prompt_ids"], row[key]) for row in trained for key in ("chosen_ids", "rejected_ids")]
    assert [context + answer + end for context, answer in asked] == [prompt + answer for prompt, answer in expected]
    if name != "webglm_pairs":  # whose prompt ends in a line break: lm-eval counts it to both answers alike
        assert [(context, answer + end) for context, answer in asked] == expected


def test_beta_times_the_difference_of_margins_is_the_margin_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phibench: Command
) -> None:
    """Each side by its own path: a training's last evaluation, and the records of a run of both variants."""
    monkeypatch.setenv("PHIBENCH_CACHE", str(tmp_path / "cache"))
    base = load(save_tiny_model(tmp_path / "base"))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PIQA))
    sft = [{"instruction": row["goal"], "output": row["sol2"]} for row in PIQA]
    (tmp_path / "sft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sft))
    start = write_recipe(tmp_path, "start", method="sft", form="instructions", more=LORA)
    start.write_text(start.read_text().replace("rows.jsonl", "sft.jsonl"))
    held = 'eval.file = "rows.jsonl"\n'
    tuned = write_recipe(tmp_path, "tuned", form="piqa_pairs", more=held)
    settings = ["start=start", "reference=frozen_adapter", "training.beta=0.5", "training.eval_steps=4"]
    made = train(read_recipe(tuned, settings), tuned, base, CPU, seed=0, on_step=lambda step: None)
    [sft_folder] = (tmp_path / "cache" / "adapters").glob("start-*")
    folders = {"tuned": made.folder, "start": sft_folder}

    suite = tmp_path / "suite.toml"
    suite.write_text(
        f'name = "pairs"\nbaseline = "start"\n[base]\nmodel = "{base.source}"\n'
        + f'[data]\n"baber/piqa" = "{tmp_path / "rows.jsonl"}"\n[[tasks]]\nname = "piqa_pairs"\n'
        + "".join(f'[adapters.{name}]\npath = "{folder}"\n' for name, folder in folders.items())
        + "".join(f'[[variants]]\nname = "{name}"\nadapter = "{name}"\n' for name in folders)
    )
    ended = phibench("run", suite, "--out", tmp_path / "out")
    assert ended.code == 0, ended.all
    margin = {name: recorded(tmp_path / "out" / "records" / name / "piqa_pairs.parquet") for name in folders}
    ends = {name: end_margins(base, folder) for name, folder in folders.items()}
    gained = [margin["tuned"][n] - margin["start"][n] for n in range(len(PIQA))]
    stopping = [ends["tuned"][n] - ends["start"][n] for n in range(len(PIQA))]
    found = [0.5 * sum(terms) for terms in zip(gained, stopping, strict=True)]
    assert found == pytest.approx(made.record["held_out_margins"], abs=2e-4)
    assert max(map(abs, gained)) > 0.1  # it moved

    # So that the items won, of a paired comparison, are the pairs that are right.
    both = list(margin["start"].values()), [margin["tuned"][item] for item in margin["start"]]
    compared = paired_difference(Pairs(*both), aggregation="mean", higher_is_better=True)
    assert (compared.won, compared.lost) == (sum(g > 0 for g in gained), sum(g < 0 for g in gained))
    assert "`piqa_pairs` | `margin` ↑" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def recorded(file: Path) -> dict[int, float]:
    """The margin of each item."""
    metrics = {record.item: {metric.name: metric.value for metric in record.metrics} for record in read_records(file)}
    return {item: float(values["margin"] or 0.0) for item, values in metrics.items()}


@torch.no_grad()
def end_margins(base: LoadedBase, adapter: Path) -> list[float]:
    """What the end-of-text token adds to the margin of each pair, by hand."""
    model = PeftModel.from_pretrained(load(Path(base.source)).model, adapter).eval()
    found = []
    for row in PIQA:
        terms = []
        for answer in utils.piqa_choices(row):
            ids = base.tokenizer(utils.piqa_text(row) + answer, return_tensors="pt")["input_ids"]
            last = model(input_ids=ids).logits[0, -1].float().log_softmax(-1)
            terms.append(float(last[base.tokenizer.eos_token_id]))
        found.append(terms[0] - terms[1])
    return found


def write_recipe(folder: Path, name: str, *, form: str, more: str, method: str = "dpo") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(RECIPE.format(name=name, method=method, form=form, more=more))
    return path


PAIR = Row("Q:", " häuser", " zu")  # of 7 and 2 bytes


@pytest.mark.parametrize(
    ("chosen", "rejected", "margin", "acc", "per_byte"),
    [(-14.0, -6.0, -8.0, 0.0, 1.0), (-3.5, -4.0, 0.5, 1.0, 1.5), (-7.0, -7.0, 0.0, 0.5, 2.5)],
)
def test_scores_of_a_pair(chosen: float, rejected: float, margin: float, acc: float, per_byte: float) -> None:
    found = utils.preference(PAIR, [(chosen, False), (rejected, True)])
    assert found == {"margin": margin, "acc": acc, "margin_per_byte": pytest.approx(per_byte)}


@pytest.mark.parametrize("name", ROWS)
def test_every_metric_that_is_returned_is_declared(name: str) -> None:
    task = task_on(ROWS[name], name)
    found = task.process_results(task.eval_docs[0], [(-2.0, False), (-3.0, False)])
    assert [*found] == [*task.aggregation()] == METRICS
    assert task.higher_is_better() == dict.fromkeys(METRICS, True)
    assert task.config.metadata["headline"] == ["margin", "acc"]
    assert math.isclose(found["margin"], 1.0)


def test_examples_show_the_preferred_answer_as_training_has_it() -> None:
    task = task_on(PIQA, "piqa_pairs")
    text = task.fewshot_context(PIQA[0], num_fewshot=1)
    shown = [f"Question: {row['goal']}\nAnswer:{utils.piqa_choices(row)[0]}\n\n" for row in PIQA]
    assert text in [f"{one}{utils.piqa_text(PIQA[0])}" for one in shown]


def test_orca_is_evaluated_on_what_the_recipe_holds_out(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fake(path: str, split: str) -> Dataset:
        asked.append((path, split))
        return Dataset.from_list(ORCA)

    monkeypatch.setattr("datasets.load_dataset", fake)
    task = TaskManager(include_path=str(TASKS), include_defaults=False).load(["orca_dpo_pairs"])["tasks"]
    assert len(task["orca_dpo_pairs"].eval_docs) == len(ORCA)
    data = read_recipe(RECIPES / "dpo.toml").data
    assert data.eval is not None
    assert asked == [(rows.path, rows.split) for rows in (data.train, data.eval)]


@pytest.mark.parametrize(
    ("docs", "rows", "message"),
    [
        (utils.piqa_docs, [PIQA[0], PIQA[1] | {"label": -1}], "row 1: label must be 0 or 1"),
        (utils.orca_docs, [ORCA[0] | {"rejected": None}], "row 0: rejected must be a text"),
    ],
)
def test_rows_that_are_no_pairs_are_named(docs: Any, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        docs(Dataset.from_list(rows))


@pytest.mark.parametrize(
    ("answer", "count", "moved"),
    [
        ("It is [1]. And [2].", 2, "It is [2]. And [1]."),
        ("It is [1, 3] or [2].", 3, "It is [2] or [3]."),
        ("It is [1] of [9] in [10 kg].", 2, "It is [2] of [9] in [10 kg]."),
        ("It is [1-2].", 5, "It is [3][4]."),
        ("It is [1][2]; so [3].", 4, "It is [3][4]; so [4]."),
        ("It is [2] [1].", 3, "It is [3]."),
        ("It is [1][2].", 2, None),  # all of them: none is wrong
        ("It is [1-3], so [1].", 3, "It is [1-3], so [2]."),
        ("It is.", 3, None),
        ("It is [?] or [9].", 3, None),
        ("It is [1].", 1, None),
    ],
)
def test_other_references_are_cited_instead(answer: str, count: int, moved: str | None) -> None:
    row = {"question": "q", "answer": answer, "references": [f"text {n}" for n in range(count)]}
    found = read_webglm(row, "row")
    assert (found and found.rejected) == moved
    assert found is None or found.chosen == answer


def test_a_reference_with_the_same_text_is_not_another() -> None:
    row = {"question": "q", "answer": "It is [1].", "references": ["same", "same ", "other"]}
    assert read_webglm(row, "row") == Row(webglm_prompt("q", row["references"]), "It is [1].", "It is [3].")
    assert read_webglm({**row, "references": ["same", "same"]}, "row") is None


@pytest.mark.parametrize("name", ["train", "test"])
def test_no_embedded_answer_is_paired_with_one_that_cites_the_same(name: str) -> None:
    for row in read_rows("mini", f"webglm_{name}.jsonl"):
        pair = read_webglm(row, "row")
        assert pair is not None
        for chosen, rejected in zip(cited(pair.chosen), cited(pair.rejected), strict=True):
            assert not chosen & rejected or chosen == set(range(1, len(row["references"]) + 1))


def cited(answer: str) -> list[set[int]]:
    """The numbers cited in each sentence."""
    return [{n for m in find_markers(part) for n in m.numbers} for part in re.split(r"(?<=[.!?]) ", answer)]


def test_equal_answers_make_no_pair() -> None:
    rows = [*PIQA, {"goal": "g", "sol1": "a", "sol2": "a ", "label": 0}]
    assert encode_pairs(named(rows), "piqa_pairs", max_length=None, tokenizer=TOKENIZER).unpaired == ["row 4"]
    assert len(task_on(rows, "piqa_pairs").eval_docs) == 4


def test_rows_that_make_no_pair_are_left_out_of_task_and_training_alike() -> None:
    rows = [*WEBGLM, {"question": "q", "answer": "no citation", "references": ["a", "b"]}]
    found = encode_pairs(named(rows), "webglm_pairs", max_length=None, tokenizer=TOKENIZER)
    assert (len(found.rows), found.unpaired, found.dropped) == (2, ["row 2"], [])
    assert len(task_on(rows, "webglm_pairs").eval_docs) == 2
