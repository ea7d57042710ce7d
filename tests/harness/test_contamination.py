"""Items of real tasks in training rows: found, named, and told from those that are not there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from phibench.harness.contamination import NAMED, check_contamination
from phibench.harness.overlap import WORDS
from phibench.harness.suite import Suite
from phibench.harness.tasks import BuiltTask, Prompting, build, load_tasks
from phibench.suites.tasks.embedded import read_rows
from phibench.suites.tasks.webglm_qa import prompt as webglm

NAMES = [f"mini_{name}" for name in "arc_easy arc_challenge dialogsum hellaswag piqa webglm_qa winogrande".split()]


@pytest.fixture(scope="module")
def tasks() -> dict[str, BuiltTask]:
    suite = Suite(name="s", base={"model": "m"}, tasks=[{"name": name} for name in NAMES])  # type: ignore[arg-type, list-item]
    built = [build(suite, loaded, Prompting(), None) for loaded in load_tasks(suite, suite.tasks)]
    return {one.info.name: one for one in built}


def webglm_rows(name: str) -> list[tuple[str, str]]:
    """Rows as a recipe puts them before a model: prompt and completion."""
    rows = [webglm.read_row(row, name) for row in read_rows("mini", name)]
    texts = [webglm.prompt(row.question, row.references) + webglm.completion(row.answer) for row in rows]
    return [(f"line {number}", text) for number, text in enumerate(texts, 1)]


def riddles() -> list[tuple[str, str]]:
    rows = read_rows("mini", "riddles_train.jsonl")
    return [(row["id"], "\n".join(message["content"] for message in row["messages"])) for row in rows]


def test_the_embedded_training_rows_are_in_no_embedded_task(tasks: dict[str, BuiltTask]) -> None:
    for training in (webglm_rows("webglm_train.jsonl"), riddles()):
        for found in check_contamination(training, list(tasks.values())):
            assert (found.rows, found.items) == (len(training), len(tasks[found.task].items))
            assert (found.overlapping_items, found.overlapping_rows, found.longest) == (0, 0, 0), found
            assert (found.item_ids, found.row_names, found.example) == ([], [], "")


def test_training_on_the_test_rows_is_found_and_named(tasks: dict[str, BuiltTask]) -> None:
    training = webglm_rows("webglm_test.jsonl")
    found = check_contamination(training, [tasks["mini_piqa"], tasks["mini_webglm_qa"]])
    assert [one.task for one in found] == ["mini_piqa", "mini_webglm_qa"]
    assert found[0].overlapping_items == 0
    assert found[1].words == WORDS and found[1].items_checked == len(training)
    assert found[1].overlapping_items == found[1].overlapping_rows == len(training) == 46
    assert found[1].item_ids == [f"item {number}" for number in range(NAMED)]
    assert found[1].row_names == [f"line {number}" for number in range(1, NAMED + 1)]
    assert found[1].longest > 30


def test_one_leaked_item_of_each_task_is_named(tasks: dict[str, BuiltTask]) -> None:
    arc = read_rows("mini", "arc_easy.jsonl")
    arc_text = next(row for row in arc if 8 <= len(row["question"].split()) < WORDS)  # a short one: whole
    gap = next(row for row in read_rows("mini", "winogrande.jsonl") if len(row["sentence"].split()) > WORDS + 2)
    twins = [gap["id"], gap["id"].removesuffix("a") + "b"]  # the other differs in the words that turn its answer
    dialogue = read_rows("mini", "dialogsum.jsonl")[7]
    training = [
        ("arc", f"Quiz! {arc_text['question'].upper()} Do you know?"),
        ("winogrande", gap["sentence"].replace("_", gap["option1"])),
        ("summary", f"Well: {dialogue['summary']}"),
        ("none", "A row about something else, long enough to hold a run of as many words as are looked for."),
    ]
    found = {one.task: one for one in check_contamination(training, list(tasks.values()))}
    named = {task: (one.row_names, one.item_ids) for task, one in found.items() if one.overlapping_items}
    assert named == {
        "mini_arc_easy": (["arc"], [arc_text["id"]]),
        "mini_winogrande": (["winogrande"], twins),
        "mini_dialogsum": (["summary"], ["mini_2"]),
    }
    assert found["mini_winogrande"].longest == len(gap["sentence"].replace("_", gap["option1"]).split())


def test_items_that_are_too_short_are_counted(tasks: dict[str, BuiltTask]) -> None:
    built = tasks["mini_piqa"]
    short = [replace(item, doc={"goal": "Boil an egg.", "sol1": "Use water.", "sol2": ""}) for item in built.items[:7]]
    [found] = check_contamination([("a", "Boil an egg.")], [replace(built, items=short + built.items[7:])])
    assert (found.items, found.items_checked, found.overlapping_items) == (60, 53, 0)


def test_nothing_was_trained_on(tasks: dict[str, BuiltTask]) -> None:
    [found] = check_contamination([], [tasks["mini_piqa"]])
    assert (found.rows, found.overlapping_items) == (0, 0)
    assert check_contamination([("a", "b")], []) == []
