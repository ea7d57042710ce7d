"""The lexical judge measured: docs/metrics.md says what is found, and the default threshold follows."""

from pathlib import Path

import pytest

from phibench.suites.tasks.webglm_qa import judge_quality
from phibench.suites.tasks.webglm_qa.judge_quality import Pair, Quality
from phibench.suites.tasks.webglm_qa.support import DEFAULT_LEXICAL_THRESHOLD, LexicalJudge

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
DEV, TRAIN = judge_quality.labelled_pairs("dev"), judge_quality.cited_pairs("train")


def test_quality_by_hand() -> None:
    pairs = [
        Pair("a", "", True, "x"),
        Pair("b", "", True, "x"),
        Pair("c", "", False, "x"),
        Pair("d", "", False, "x"),
    ]
    scores = {"a": 0.9, "b": 0.1, "c": 0.5, "d": 0.4}
    measured = judge_quality.quality(pairs, lambda _, statement: scores[statement], 0.5)
    assert measured == Quality(true_positive=1, false_positive=1, false_negative=1, true_negative=1)
    assert (measured.precision, measured.recall, measured.f1, measured.accuracy) == (0.5, 0.5, 0.5, 0.5)
    assert Quality(0, 0, 0, 0).f1 == 0


def test_the_labelled_pairs_are_balanced_and_their_splits_apart() -> None:
    test = judge_quality.labelled_pairs("test")
    for pairs in (DEV, test):
        assert len(pairs) == 100
        assert sum(pair.supported for pair in pairs) == 50
    assert not {pair.reference for pair in DEV} & {pair.reference for pair in test}
    assert not {pair.statement for pair in DEV} & {pair.statement for pair in test}


def test_the_default_threshold_is_the_best_on_the_pairs_to_choose_by() -> None:
    assert judge_quality.best_threshold(DEV, TRAIN, LexicalJudge().score) == DEFAULT_LEXICAL_THRESHOLD


def test_the_document_says_what_is_measured() -> None:
    document = DOCUMENT.read_text(encoding="utf-8").split("\n")
    lines = [
        *judge_quality.tables(LexicalJudge().score, DEFAULT_LEXICAL_THRESHOLD),
        *judge_quality.departure_table(DEV, TRAIN),
    ]
    missing = [line for line in lines if line.startswith("|") and line not in document]
    assert not missing, "docs/metrics.md is out of date; run phibench.suites.tasks.webglm_qa.judge_quality"


# precision and recall on the test pairs, as docs/metrics.md has them
LABELLED = (0.557, 0.78)
CITED = (0.941, 0.991)


def test_precision_and_recall_at_the_default_threshold() -> None:
    judge = LexicalJudge()
    labelled = judge_quality.quality(judge_quality.labelled_pairs("test"), judge.score, judge.threshold)
    assert (round(labelled.precision, 3), round(labelled.recall, 3)) == LABELLED
    cited = judge_quality.quality(judge_quality.cited_pairs("test"), judge.score, judge.threshold)
    assert (round(cited.precision, 3), round(cited.recall, 3)) == CITED


def test_the_printed_tables(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["judge_quality"])
    judge_quality.main()
    assert "| labelled, test | 100 |" in capsys.readouterr().out
