"""Task dialogsum: rows of one dialogue become one document, scored by ROUGE against every summary."""

import pytest
from datasets import Dataset
from rouge_score.rouge_scorer import RougeScorer

from phibench.suites.tasks.dialogsum import utils
from phibench.suites.tasks.rouge import rouge_f

KINDS = ["rouge1", "rouge2", "rougeL", "rougeLsum"]


def rows(*ids_and_dialogues: tuple[str, str]) -> Dataset:
    return Dataset.from_list(
        [
            {"id": name, "dialogue": dialogue, "summary": f"Summary {name}.", "topic": "t"}
            for name, dialogue in ids_and_dialogues
        ]
    )


def test_rows_of_one_dialogue_become_one_document() -> None:
    split = rows(("test_0_1", "A"), ("test_0_2", "A"), ("test_0_3", "A"), ("test_10_1", "B"), ("test_10_2", "B"))
    documents = utils.process_docs(split)
    assert documents.to_list() == [
        {"id": "test_0", "dialogue": "A", "summaries": [f"Summary test_0_{n}." for n in (1, 2, 3)]},
        {"id": "test_10", "dialogue": "B", "summaries": ["Summary test_10_1.", "Summary test_10_2."]},
    ]


def test_splits_with_one_row_a_dialogue_stay_as_they_are() -> None:
    documents = utils.process_docs(rows(("train_0", "A"), ("train_1", "A"), ("train_12", "B")))
    assert documents["id"] == ["train_0", "train_1", "train_12"]
    assert [len(summaries) for summaries in documents["summaries"]] == [1, 1, 1]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (Dataset.from_list([{"id": "a", "dialogue": "A"}]), "row 0 has no column 'summary'"),
        (rows(("test_0_1", "A"), ("test_0_2", "B")), r"row 1 \(test_0_2\): its dialogue is not that of"),
        (rows(("test_0_1", "A"), ("test_0_1", "A")), "row 1: another row has the id 'test_0_1' too"),
    ],
)
def test_faults_are_named(split: Dataset, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        utils.process_docs(split)


DOC = {
    "id": "test_0",
    "dialogue": "#Person1#: Hi.",
    "summaries": [
        "#Person1# asks for a table. #Person2# finds one by the window.",
        "#Person2# seats #Person1# by the window.",
        "A guest gets a table.",
    ],
}


def test_scores_are_the_mean_and_the_best_over_the_references() -> None:
    summary = "#Person1# wants a table by the window. #Person2# finds one."
    scores = utils.process_results(DOC, [summary])
    scorer = RougeScorer(KINDS, use_stemmer=True)
    lines = summary.replace(". ", ".\n")
    direct = [scorer.score(reference.replace(". ", ".\n"), lines) for reference in DOC["summaries"]]
    for kind in KINDS:
        measured = [one[kind].fmeasure for one in direct]
        assert scores[f"{kind}_mean"] == pytest.approx(sum(measured) / 3)
        assert scores[f"{kind}_best"] == pytest.approx(max(measured))
    assert scores["summary_empty"] == 0
    assert len(scores) == 9


def test_line_breaks_change_no_score_and_sentences_count_for_rouge_lsum() -> None:
    reference = "The guest pays. The waiter smiles."
    swapped = "The waiter smiles. The guest pays."
    kinds = tuple(KINDS)
    assert rouge_f(swapped.replace(". ", ".\n\n"), reference, kinds) == rouge_f(swapped, reference, kinds)
    scores = rouge_f(swapped, reference, kinds)
    assert scores["rougeLsum"] == 1  # sentence by sentence everything is there
    assert scores["rougeL"] < 1


@pytest.mark.parametrize("empty", ["", " \n", "..."])
def test_an_empty_summary_scores_nothing_and_is_counted(empty: str) -> None:
    scores = utils.process_results(DOC, [empty])
    assert scores.pop("summary_empty") == 1
    assert set(scores.values()) == {0}


def test_a_perfect_summary() -> None:
    scores = utils.process_results(DOC | {"summaries": DOC["summaries"][:1]}, [DOC["summaries"][0]])
    assert all(score == pytest.approx(1) for name, score in scores.items() if name != "summary_empty")
