"""The rule-based sentence splitter: golden cases, and what holds for any text."""

from itertools import pairwise

import pytest

from phibench.suites.tasks.sentences import sentence_spans, split_sentences

CASES = [
    ("One. Two! Three?", ["One.", "Two!", "Three?"]),
    ("Dr. Smith met Mrs. Jones. They left.", ["Dr. Smith met Mrs. Jones.", "They left."]),
    (
        "J. R. R. Tolkien wrote it. C. S. Lewis read it.",
        ["J. R. R. Tolkien wrote it.", "C. S. Lewis read it."],
    ),
    ("Take vitamin C. It helps.", ["Take vitamin C.", "It helps."]),
    ("Pi is 3.14. E is 2.72.", ["Pi is 3.14.", "E is 2.72."]),
    ("It began in 1990. 5 people came.", ["It began in 1990.", "5 people came."]),
    ("See Fig. 2 and No. 5. Is the answer no. Yes.", ["See Fig. 2 and No. 5.", "Is the answer no.", "Yes."]),
    ("The U.S. Army left the U.S. The end.", ["The U.S. Army left the U.S.", "The end."]),
    (
        "We met at 5 p.m. on Monday. At 6 p.m. Bob came.",
        ["We met at 5 p.m. on Monday.", "At 6 p.m. Bob came."],
    ),
    ("Sorts, e.g. Gala, i.e. red, etc. are sold.", ["Sorts, e.g. Gala, i.e. red, etc. are sold."]),
    (
        "Lee et al. 2020 say so. So do Wu et al. The rest do not.",
        ["Lee et al. 2020 say so.", "So do Wu et al.", "The rest do not."],
    ),
    ('"Stop." He did. (Why?) Nobody knows.', ['"Stop."', "He did.", "(Why?)", "Nobody knows."]),
    ("Wait... what? Oh… Fine.", ["Wait... what?", "Oh…", "Fine."]),
    ("1. Rinse it.\n2. Boil it.", ["1. Rinse it.", "2. Boil it."]),
    ("- apples\n- pears\n\nThat is all", ["- apples", "- pears", "That is all"]),
    ("a line that\nwraps here. Next", ["a line that wraps here.", "Next"]),
    ("See www.example.com/a.b. It is free.", ["See www.example.com/a.b.", "It is free."]),
    ("Well ... - . Next.", ["Well ... - .", "Next."]),
    ("No stop", ["No stop"]),
    ("", []),
    (" \n ... -- \n", []),
]


@pytest.mark.parametrize(("text", "sentences"), CASES, ids=[text[:30] for text, _ in CASES])
def test_splits_as_a_reader_would(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


@pytest.mark.parametrize("text", [text for text, _ in CASES])
def test_spans_are_ordered_and_lose_no_letter(text: str) -> None:
    spans = sentence_spans(text)
    assert all(start < end for start, end in spans)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    kept = "".join(text[start:end] for start, end in spans)
    assert [c for c in kept if c.isalnum()] == [c for c in text if c.isalnum()]


def test_a_long_text_without_spaces_or_stops_is_quick() -> None:
    assert len(split_sentences("a" * 20_000 + " b. " + "." * 5_000 + " C")) == 2
