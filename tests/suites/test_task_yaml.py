"""The tasks as lm-eval sees them: found by their folder, right prompts and requests, run from end to end."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from phibench.suites.tasks.embedded import read_rows
from phibench.suites.tasks.webglm_qa.prompt import prompt

TASKS = Path(__file__).parents[2] / "suites" / "tasks"
MINI = [
    "mini_arc_challenge", "mini_arc_easy", "mini_dialogsum", "mini_hellaswag", "mini_piqa", "mini_webglm_qa",
    "mini_winogrande",
]  # fmt: skip


@pytest.fixture(scope="module")
def manager() -> TaskManager:
    return TaskManager(include_path=str(TASKS), include_defaults=False)


@pytest.fixture(scope="module")
def tasks(manager: TaskManager) -> dict[str, Any]:
    return manager.load(["phibench_mini"])["tasks"]


def requests(task: Any, limit: int = 2) -> list[Any]:
    task.build_all_requests(limit=limit, rank=0, world_size=1)
    return [instance.args for instance in task.instances]


def test_every_task_is_found(manager: TaskManager) -> None:
    loss = {f"{name}_loss" for name in ("webglm_qa", "dialogsum", "mini_webglm_qa", "mini_dialogsum")}
    pairs = {f"{name}_pairs" for name in ("piqa", "orca_dpo", "webglm", "mini_webglm")}
    assert {"webglm_qa", "dialogsum", *pairs, *loss, *MINI} <= set(manager.all_tasks)


def test_the_tag_names_the_mini_tasks(tasks: dict[str, Any]) -> None:
    assert sorted(tasks) == MINI


def test_arc_and_piqa_requests_are_those_of_lm_evals_tasks(tasks: dict[str, Any]) -> None:
    row = read_rows("mini", "arc_easy.jsonl")[0]
    expected = [(f"Question: {row['question']}\nAnswer:", f" {text}") for text in row["choices"]["text"]]
    assert requests(tasks["mini_arc_easy"])[:4] == expected
    assert tasks["mini_arc_challenge"].eval_docs[0]["id"] == read_rows("mini", "arc_challenge.jsonl")[0]["id"]
    row = read_rows("mini", "piqa.jsonl")[0]
    expected = [(f"Question: {row['goal']}\nAnswer:", f" {row[name]}") for name in ("sol1", "sol2")]
    assert requests(tasks["mini_piqa"])[:2] == expected


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("mini_arc_easy", "arc/arc_easy.yaml"), ("mini_piqa", "piqa/piqa.yaml")],
)
def test_fields_and_metrics_are_those_of_lm_evals_yaml(tasks: dict[str, Any], ours: str, theirs: str) -> None:
    import lm_eval.tasks

    stock = load_yaml(Path(lm_eval.tasks.__file__).parent / theirs)
    for field in ("output_type", "doc_to_text", "doc_to_target", "doc_to_choice", "metric_list"):
        assert tasks[ours].config[field] == stock[field], field


def test_hellaswag_documents_read_as_lm_eval_prepares_them(tasks: dict[str, Any]) -> None:
    from lm_eval.tasks.hellaswag.utils import process_docs

    task = tasks["mini_hellaswag"]
    for ours, theirs in zip(task.eval_docs, process_docs(task.eval_docs), strict=True):
        assert task.doc_to_text(ours) == theirs["query"]
        assert task.doc_to_choice(ours) == theirs["choices"]
        assert task.doc_to_target(ours) == theirs["gold"]


def test_winogrande_readings_differ_in_the_context(tasks: dict[str, Any]) -> None:
    from lm_eval.tasks.winogrande import preprocess_winogrande as stock

    task = tasks["mini_winogrande"]
    for doc in task.eval_docs:
        assert task.doc_to_text(doc) == stock.doc_to_text(doc)
        assert task.doc_to_choice(doc) == stock.doc_to_choice(doc)
        assert task.doc_to_target(doc) == stock.doc_to_target(doc)
    (first, ending), (second, same_ending) = requests(task)[:2]
    assert first != second
    assert ending == same_ending


def test_generation_requests(tasks: dict[str, Any]) -> None:
    row = read_rows("mini", "webglm_test.jsonl")[0]
    assert requests(tasks["mini_webglm_qa"])[0] == (
        prompt(row["question"], row["references"]),
        {"until": ["###"], "do_sample": False, "max_gen_toks": 96},
    )
    text, settings = requests(tasks["mini_dialogsum"])[0]
    assert text.startswith("Instruct: Summarize the following conversation.\n#Person1#:")
    assert text.endswith("\nOutput:\n")
    assert settings == {"until": ["\nInstruct:", "###"], "do_sample": False, "max_gen_toks": 48}


def test_one_document_a_dialogue(tasks: dict[str, Any]) -> None:
    documents = tasks["mini_dialogsum"].eval_docs
    assert 3 * len(documents) == len(read_rows("mini", "dialogsum.jsonl"))
    assert all(len(document["summaries"]) == 3 for document in documents)


def test_every_metric_that_is_returned_is_declared_and_the_other_way_round(tasks: dict[str, Any]) -> None:
    for name, answer in (("mini_webglm_qa", "So it is [1]."), ("mini_dialogsum", "They talk.")):
        task = tasks[name]
        scores = task.process_results(task.eval_docs[0], [answer])
        assert set(scores) == set(task.aggregation()) == set(task.higher_is_better()), name
        assert all(type(score) is float for score in scores.values())
    better = tasks["mini_webglm_qa"].higher_is_better()
    assert [name for name, direction in better.items() if direction is None] == ["citations_per_sentence"]
    assert [name for name, direction in better.items() if direction is False] == [
        "citation_duplicates", "citation_fabricated", "citation_malformed", "answer_empty",
    ]  # fmt: skip


def test_loss_tasks_ask_the_prompts_of_the_others_for_their_answers(manager: TaskManager) -> None:
    tasks = manager.load(["phibench_loss"])["tasks"]
    assert sorted(tasks) == ["mini_dialogsum_loss", "mini_webglm_qa_loss"]
    rows = read_rows("mini", "webglm_test.jsonl")
    task = tasks["mini_webglm_qa_loss"]
    assert requests(task)[0] == (prompt(rows[0]["question"], rows[0]["references"]), rows[0]["answer"].strip())
    rows = read_rows("mini", "dialogsum.jsonl")
    text, summary = requests(tasks["mini_dialogsum_loss"])[0]
    assert text.startswith("Instruct: Summarize the following conversation.\n")
    assert summary == rows[0]["summary"].strip()
    found = task.process_results({**task.eval_docs[0], "answer": " häuser\n"}, [(-14.0, False)])
    assert found == {"nll_per_byte": 2.0}  # seven bytes
    assert (task.aggregation().keys(), task.higher_is_better()) == ({"nll_per_byte"}, {"nll_per_byte": False})
    with pytest.raises(ValueError, match="the answer is empty"):
        task.process_results({**task.eval_docs[0], "answer": " "}, [(0.0, True)])


def test_the_webglm_task_runs_on_rows_of_the_published_schema() -> None:
    rows = Dataset.from_list(read_rows("mini", "webglm_test.jsonl")[:3])
    others = Dataset.from_list(read_rows("mini", "webglm_train.jsonl")[:3])
    splits = DatasetDict({"train": others, "validation": others, "test": rows})
    config = load_yaml(TASKS / "webglm_qa" / "webglm_qa.yaml")
    task = ConfigurableTask(config={**config, "custom_dataset": lambda **_: splits})
    assert (task.DATASET_PATH, task.config.generation_kwargs["max_gen_toks"]) == ("THUDM/webglm-qa", 256)
    assert [text for text, _ in requests(task, limit=3)] == [prompt(r["question"], r["references"]) for r in rows]
    few_shot = task.fewshot_context(rows[0], num_fewshot=1)
    assert any("###Answer:\n" + row["answer"] in few_shot for row in others)


def test_lm_eval_runs_the_mini_tasks_from_end_to_end(manager: TaskManager) -> None:
    from lm_eval import simple_evaluate

    results = simple_evaluate(model="dummy", tasks=["phibench_mini"], task_manager=manager, limit=2, bootstrap_iters=0)[
        "results"
    ]
    assert sorted(results) == MINI
    assert results["mini_webglm_qa"]["citation_validity,none"] == 0  # the dummy model always says "lol"
    assert "acc_norm,none" in results["mini_hellaswag"]
    assert "rougeLsum_best,none" in results["mini_dialogsum"]


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ValueError, match="no embedded file mini/arc_hard"):
        read_rows("mini", "arc_hard.jsonl")


def test_task_code_is_light_to_import() -> None:
    modules = ["dialogsum.utils", "mini.utils", "preferences.utils", "webglm_qa.utils", "webglm_qa.judge_quality"]
    code = (
        "import sys; " + "; ".join(f"import phibench.suites.tasks.{module}" for module in modules)
        + "; print([name for name in ('torch', 'transformers', 'datasets', 'nltk') if name in sys.modules])"
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
