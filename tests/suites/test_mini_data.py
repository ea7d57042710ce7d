"""The embedded mini data: complete, well-formed, balanced, without repeats and without leaks."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from phibench.suites.tasks.embedded import read_rows
from phibench.suites.tasks.webglm_qa.citations import fabricated, parse_answer
from phibench.suites.tasks.webglm_qa.prompt import read_row

CHOICE_SETS = ["arc_easy", "arc_challenge", "hellaswag", "piqa", "winogrande"]
RIDDLES = read_rows("mini", "riddles_train.jsonl")
TRAIN, TEST = read_rows("mini", "webglm_train.jsonl"), read_rows("mini", "webglm_test.jsonl")


def words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[a-z0-9]+", text.lower()))


def grams(row: dict[str, Any], size: int = 8) -> set[tuple[str, ...]]:
    """Every run of `size` words in a row's question, answer and references."""
    texts = [words(text) for text in (row["question"], row["answer"], *row["references"])]
    return {text[i : i + size] for text in texts for i in range(len(text) - size + 1)}


def choices(name: str, row: dict[str, Any]) -> tuple[str, list[str], int]:
    """The question of a multiple-choice row, its choices and the index of the right one."""
    if name.startswith("arc"):
        return row["question"], row["choices"]["text"], row["choices"]["label"].index(row["answerKey"])
    if name == "hellaswag":
        return row["ctx"], row["endings"], int(row["label"])
    if name == "piqa":
        return row["goal"], [row["sol1"], row["sol2"]], row["label"]
    return row["sentence"], [row["option1"], row["option2"]], int(row["answer"]) - 1


SCHEMAS: dict[str, dict[str, type]] = {
    "arc_easy": {"id": str, "question": str, "choices": dict, "answerKey": str},
    "arc_challenge": {"id": str, "question": str, "choices": dict, "answerKey": str},
    "hellaswag": {
        "id": str, "activity_label": str, "ctx_a": str, "ctx_b": str, "ctx": str, "endings": list,
        "label": str,
    },
    "piqa": {"id": str, "goal": str, "sol1": str, "sol2": str, "label": int},
    "winogrande": {"id": str, "sentence": str, "option1": str, "option2": str, "answer": str},
    "dialogsum": {"id": str, "dialogue": str, "summary": str, "topic": str},
}  # fmt: skip


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_rows_have_the_published_columns_and_ids_of_their_own(name: str) -> None:
    rows = read_rows("mini", f"{name}.jsonl")
    for row in rows:
        assert {column: type(value) for column, value in row.items()} == SCHEMAS[name], row["id"]
    assert len({row["id"] for row in rows}) == len(rows)


@pytest.mark.parametrize("name", CHOICE_SETS)
def test_multiple_choice_sets_are_large_enough_balanced_and_sound(name: str) -> None:
    rows = [choices(name, row) for row in read_rows("mini", f"{name}.jsonl")]
    assert len(rows) >= 50
    for question, options, right in rows:
        assert 0 <= right < len(options), question
        assert len({words(option) for option in options}) == len(options), question
        assert all(option == option.strip() and option for option in options), question
    places = Counter(right for _, _, right in rows)
    assert len(places) == max(len(options) for _, options, _ in rows)
    assert max(places.values()) - min(places.values()) <= 2


@pytest.mark.parametrize("name", CHOICE_SETS)
def test_no_question_is_asked_twice(name: str) -> None:
    questions = Counter(words(choices(name, row)[0]) for row in read_rows("mini", f"{name}.jsonl"))
    assert [question for question, times in questions.items() if times > 1] == []


@pytest.mark.parametrize("name", ["arc_easy", "arc_challenge", "hellaswag", "piqa"])
@pytest.mark.parametrize("extreme", [max, min])
def test_length_does_not_give_the_answer_away(name: str, extreme: Callable[[Iterable[int]], int]) -> None:
    """A model that takes the longest choice, or the shortest, should not do much better than chance."""
    rows = [choices(name, row) for row in read_rows("mini", f"{name}.jsonl")]
    hits = 0.0
    for _, options, right in rows:
        lengths = [len(option) for option in options]
        taken = [place for place, length in enumerate(lengths) if length == extreme(lengths)]
        hits += (right in taken) / len(taken)
    assert hits / len(rows) <= 1 / len(rows[0][1]) + 0.12


def test_winogrande_has_one_gap_and_names_both_options() -> None:
    for row in read_rows("mini", "winogrande.jsonl"):
        assert row["sentence"].count("_") == 1, row["id"]
        assert row["option1"] in row["sentence"] and row["option2"] in row["sentence"], row["id"]
        assert row["sentence"].split("_")[1].strip(" ."), row["id"]


def test_hellaswag_context_is_its_two_parts_and_needs_no_cleaning() -> None:
    for row in read_rows("mini", "hellaswag.jsonl"):
        assert row["ctx"] == f"{row['ctx_a']} {row['ctx_b']}".strip(), row["id"]
        assert not re.search(r"\[|  ", " ".join([row["ctx"], *row["endings"]])), row["id"]


def test_dialogues_have_three_summaries_each() -> None:
    rows = read_rows("mini", "dialogsum.jsonl")
    dialogues: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        dialogues.setdefault(row["id"].rsplit("_", 1)[0], []).append(row)
    assert len(dialogues) >= 40
    for name, group in dialogues.items():
        assert [row["id"] for row in group] == [f"{name}_{n}" for n in (1, 2, 3)]
        assert len({row["dialogue"] for row in group}) == 1
        assert len({words(row["summary"]) for row in group}) == 3
        assert "#Person1#:" in group[0]["dialogue"] and "#Person2#:" in group[0]["dialogue"]
    assert len({words(group[0]["dialogue"]) for group in dialogues.values()}) == len(dialogues)


@pytest.mark.parametrize(("name", "rows", "least"), [("train", TRAIN, 120), ("test", TEST, 40)])
def test_webglm_rows_cite_given_references_and_nothing_else(name: str, rows: list[dict[str, Any]], least: int) -> None:
    assert len(rows) >= least
    for index, raw in enumerate(rows):
        assert set(raw) == {"question", "answer", "references"}
        row = read_row(raw, f"{name} row {index}")
        parsed = parse_answer(row.answer)
        assert parsed.cited and not parsed.malformed, row.question
        assert fabricated(parsed, len(row.references)) == 0, row.question
        assert len(row.references) >= 2, row.question
        assert not any("###" in text for text in (row.question, row.answer, *row.references)), row.question
        assert row.answer == row.answer.strip()


def test_webglm_questions_and_references_are_not_repeated() -> None:
    questions = Counter(words(row["question"]) for row in TRAIN + TEST)
    references = Counter(words(reference) for row in TRAIN + TEST for reference in row["references"])
    assert max(questions.values()) == max(references.values()) == 1


def test_webglm_training_rows_do_not_leak_into_the_test_rows() -> None:
    trained = set().union(*map(grams, TRAIN))
    assert [row["question"] for row in TEST if grams(row) & trained] == []


def test_webglm_test_questions_are_not_training_questions_reworded() -> None:
    for tested in TEST:
        for trained in TRAIN:
            ours, theirs = set(words(tested["question"])), set(words(trained["question"]))
            overlap = len(ours & theirs) / len(ours | theirs)
            assert overlap < 0.6, (tested["question"], trained["question"])


def test_the_cited_reference_is_not_always_in_the_same_place() -> None:
    """A model that always cites one number must not look good."""
    first = Counter(parse_answer(row["answer"]).cited[0] for row in TEST)
    assert max(first.values()) / len(TEST) <= 0.5


def said(row: dict[str, Any]) -> list[str]:
    """The four texts of a riddle's conversation: riddle, answer, question, answer."""
    return [message["content"] for message in row["messages"]]


def test_riddles_are_conversations_of_four_messages() -> None:
    assert len(RIDDLES) == len({row["id"] for row in RIDDLES}) == 64
    for row in RIDDLES:
        assert set(row) == {"id", "messages"} and isinstance(row["id"], str)
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * 2, row["id"]
        for message in row["messages"]:
            assert set(message) == {"role", "content"} and isinstance(message["content"], str)


def test_riddles_texts_are_whole_and_plain() -> None:
    for row in RIDDLES:
        riddle, answer, question, reply = said(row)
        for text in said(row):
            assert text and text == text.strip() and text.isascii() and not re.search(r"\s\s|[\n\t`]", text), row["id"]
            assert text[0].isupper() and text[-1] in ".?", row["id"]
        assert question.endswith("?") and reply.endswith("."), row["id"]
        assert len(words(riddle)) >= 10 and len(words(answer)) >= 25, row["id"]
        assert len(words(question)) <= 14 and len(re.findall(r"[.?]", answer)) >= 3, row["id"]


def test_riddles_are_not_repeated() -> None:
    texts = Counter(words(text) for row in RIDDLES for text in said(row))
    assert [text for text, times in texts.items() if times > 1] == []
    for index, row in enumerate(RIDDLES):
        for other in RIDDLES[:index]:
            ours, theirs = set(words(said(row)[0])), set(words(said(other)[0]))
            assert len(ours & theirs) / len(ours | theirs) < 0.5, (row["id"], other["id"])


def test_a_few_answers_ask_for_what_the_riddle_does_not_tell() -> None:
    assert 3 <= sum(said(row)[1].endswith("?") for row in RIDDLES) <= 12
