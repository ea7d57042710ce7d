"""Task webglm_qa: one answer scored under the names that the task reports."""

from dataclasses import fields
from functools import partial

import pytest
from datasets import Dataset

from phibench.suites.tasks.webglm_qa import utils
from phibench.suites.tasks.webglm_qa.scores import AnswerScores

DOC = {
    "question": "What do cats and dogs do?",
    "answer": "Cats sleep all day [1]. Dogs bark at night [2].",
    "references": ["Cats sleep all day.", "Dogs bark at night.", "Hens lay eggs."],
}
ZERO = {field.name: 0.0 for field in fields(AnswerScores)}


def test_a_perfect_answer() -> None:
    assert utils.process_results(DOC, [DOC["answer"]]) == ZERO | {
        "citation_validity": 1.0, "citation_coverage": 1.0, "citation_recall": 1.0, "citation_precision": 1.0,
        "citation_f1": 1.0, "citations_per_sentence": 1.0, "rougeL": 1.0,
    }  # fmt: skip


def test_a_poor_answer_by_hand() -> None:
    scores = utils.process_results(DOC, ["Cats sleep all day [1][1][3]. Dogs bark at night [3]. Hens lay [9] [ ]."])
    assert scores == pytest.approx(
        {
            "citation_validity": 4 / 6,
            "citation_coverage": 2 / 3,
            "citation_recall": 1 / 3,
            "citation_precision": 1 / 4,  # 1 and 3, 3, 9: only the first counts
            "citation_f1": 2 / 7,
            "citations_per_sentence": 5 / 3,
            "citation_duplicates": 1,
            "citation_fabricated": 1,
            "citation_malformed": 1,
            "answer_empty": 0,
            "rougeL": 2 * (8 / 10) * (8 / 8) / (8 / 10 + 1),  # 8 words of 10 are the reference answer's 8
        }
    )


def test_rouge_does_not_depend_on_the_markers() -> None:
    bare = utils.process_results(DOC, ["Cats sleep all day. Dogs bark at night."])
    assert bare["rougeL"] == 1
    assert utils.process_results(DOC, ["Cats sleep all day [2][3]. Dogs bark [1] at night."])["rougeL"] == 1


@pytest.mark.parametrize("empty", ["", "  \n", "...", "\n###"])
def test_an_empty_answer_scores_0_everywhere_and_is_counted(empty: str) -> None:
    assert utils.process_results(DOC, [empty]) == ZERO | {"answer_empty": 1.0}


def test_the_judge_is_chosen_by_its_options() -> None:
    answer = ["Cats sleep all night [1]."]
    strict = partial(utils.process_results, judge={"kind": "lexical", "threshold": 1.0})
    lenient = partial(utils.process_results, judge={"kind": "lexical", "threshold": 0.1})
    assert strict(DOC, answer)["citation_recall"] == 0
    assert lenient(DOC, answer)["citation_recall"] == 1
    with pytest.raises(ValueError, match="kind"):
        utils.process_results(DOC, answer, judge={"kind": "guess"})


def test_rows_are_checked_before_a_model_is_asked() -> None:
    split = Dataset.from_list([DOC, DOC])
    assert utils.process_docs(split) is split
    with pytest.raises(ValueError, match="row 1: answer must be a string; got NoneType"):
        utils.process_docs(Dataset.from_list([DOC, DOC | {"answer": None}]))
    with pytest.raises(ValueError, match="row 0 has no column 'references'"):
        utils.process_docs(split.remove_columns("references"))
    assert len(utils.process_docs(split.select([]))) == 0  # one for examples, where a suite's own rows have none


def test_quotes_are_not_escaped_anywhere() -> None:
    doc = DOC | {"question": 'Who said "no"?', "answer": 'He said "no" [1].'}
    assert 'Who said "no"?\n' in utils.doc_to_text(doc)
    assert utils.doc_to_target(doc) == 'He said "no" [1].'
