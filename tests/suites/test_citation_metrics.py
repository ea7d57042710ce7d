"""Citation metrics on answers worked out by hand."""

import pytest

from phibench.suites.tasks.webglm_qa import citations
from phibench.suites.tasks.webglm_qa.citations import parse_answer
from phibench.suites.tasks.webglm_qa.support import Judge


class WordsJudge(Judge):
    """Supports a statement if the premise has all of its words: makes every case below decidable by eye."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def supports_all(self, pairs):
        self.asked += pairs
        return [self._words(statement) <= self._words(premise) for premise, statement in pairs]

    @staticmethod
    def _words(text: str) -> set[str]:
        return set(text.lower().replace(".", "").split())


REFERENCES = ["Alpha", "Beta", "Alpha beta", "Gamma"]

# answer, recall, precision
ALCE = [
    ("Alpha beta [1][2].", 1, 2 / 2),  # only together: each is needed, both count
    ("Alpha beta [3].", 1, 1 / 1),
    ("Alpha beta [3][4].", 1, 1 / 2),  # 4 does not support alone and is not needed
    ("Alpha beta [1][3].", 1, 1 / 2),  # 3 supports alone, so 1 is not needed
    ("Alpha [1][3].", 1, 2 / 2),  # either supports alone: both count
    ("Alpha beta [1][2][4].", 1, 2 / 3),
    ("Alpha beta [4].", 0, 0 / 1),
    ("Alpha beta [1].", 0, 0 / 1),  # half of it is not enough
    ("Alpha beta [1][4].", 0, 0 / 2),  # not supported together: none counts
    ("Alpha beta [3][3].", 1, 1 / 1),  # a repeat is one citation
    ("Alpha beta [3][9].", 1, 1 / 2),  # a fabricated number is one citation that does not count
    ("Alpha beta [9][0].", 0, 0 / 2),
    ("Alpha beta.", 0, 0),
    ("Alpha beta [3][ ].", 1, 1 / 1),  # malformed markers take no part
    ("Alpha beta [3]. Gamma. Alpha [2].", 1 / 3, 1 / 2),
    ("Alpha beta [1-3]. Gamma [4][1].", 2 / 2, 2 / 5),  # 3 of the range, 4 of the second
    ("", 0, 0),
    ("[3]", 0, 0),
]


@pytest.mark.parametrize(("answer", "recall", "precision"), ALCE)
def test_alce_recall_and_precision(answer: str, recall: float, precision: float) -> None:
    measured = citations.recall_and_precision(parse_answer(answer), REFERENCES, WordsJudge())
    assert measured == pytest.approx((recall, precision))


def test_the_judge_sees_what_is_cited_joined_and_the_sentence_without_markers() -> None:
    judge = WordsJudge()
    citations.recall_and_precision(parse_answer("Alpha beta [2][1][7]."), REFERENCES, judge)
    assert judge.asked[0] == ("Beta\nAlpha", "Alpha beta.")
    assert ("Alpha", "Alpha beta.") in judge.asked


def test_f1() -> None:
    assert citations.f1(1 / 3, 1 / 2) == pytest.approx(0.4)
    assert citations.f1(0, 0) == 0
    assert citations.f1(1, 1) == 1


# answer, then for three references: validity, coverage, fabricated, duplicates, per sentence
COUNTED = [
    ("Cats purr [1]. Dogs bark [2].", 1, 1, 0, 0, 1),
    ("Cats purr [1]. Dogs bark.", 1, 1 / 2, 0, 0, 1 / 2),
    ("Cats purr [4]. Dogs bark [2].", 1 / 2, 1 / 2, 1, 0, 1),
    ("Cats purr [0]. Dogs bark.", 0, 0, 1, 0, 1 / 2),
    ("Cats purr [1][ ].", 1 / 2, 1, 0, 0, 1),
    ("Cats purr [citation needed].", 0, 0, 0, 0, 0),
    ("Cats purr [1][1] all day [1]. Dogs bark [1].", 1, 1, 0, 2, 2),
    ("Cats purr [5][5].", 0, 0, 2, 1, 2),
    ("Cats purr [2-5].", 2 / 4, 1, 2, 0, 4),
    ("Cats purr. Dogs bark.", 0, 0, 0, 0, 0),
    ("", 0, 0, 0, 0, 0),
    ("[1] [9]", 0, 0, 1, 0, 0),  # empty: shares are 0, the fabricated number is still counted
]


@pytest.mark.parametrize(("answer", "validity", "coverage", "fabricated", "duplicates", "per_sentence"), COUNTED)
def test_counted_metrics(
    answer: str, validity: float, coverage: float, fabricated: int, duplicates: int, per_sentence: float
) -> None:
    parsed = parse_answer(answer)
    assert citations.validity(parsed, 3) == pytest.approx(validity)
    assert citations.coverage(parsed, 3) == pytest.approx(coverage)
    assert citations.fabricated(parsed, 3) == fabricated
    assert citations.duplicates(parsed) == duplicates
    assert citations.per_sentence(parsed) == pytest.approx(per_sentence)


def test_without_references_every_number_is_fabricated() -> None:
    parsed = parse_answer("Cats purr [1].")
    assert citations.validity(parsed, 0) == citations.coverage(parsed, 0) == 0
    assert citations.recall_and_precision(parsed, [], WordsJudge()) == (0, 0)
