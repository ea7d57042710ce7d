"""The citation parser against golden cases: what is a marker, what it names, which sentence it belongs to."""

import json
from pathlib import Path
from typing import Any

import pytest

from phibench.suites.tasks.webglm_qa.citations import parse_answer

LINES = (Path(__file__).parent / "citation_cases.jsonl").read_text(encoding="utf-8").split("\n")
CASES = [json.loads(line) for line in LINES if line]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_golden_case(case: dict[str, Any]) -> None:
    parsed = parse_answer(case["answer"])
    assert [{"text": s.text, "cited": list(s.cited)} for s in parsed.sentences] == case["sentences"]
    assert list(parsed.malformed) == case["malformed"]
    bound = [number for sentence in case["sentences"] for number in sentence["cited"]]
    assert list(parsed.cited) == case.get("cited", bound)


def test_there_are_enough_cases_with_names_of_their_own() -> None:
    assert len(CASES) >= 40
    assert len({case["name"] for case in CASES}) == len(CASES)


def test_emptiness() -> None:
    assert parse_answer("").is_empty
    assert parse_answer(" [1] ... [2]").is_empty
    assert not parse_answer("Yes [1]").is_empty


def test_the_text_has_no_markers_left() -> None:
    assert parse_answer("Cats purr [1][2]. Dogs bark. [3]\nHens lay [ ].").text == "Cats purr. Dogs bark.\nHens lay."


@pytest.mark.parametrize("noise", ["[" * 3000, "[1" * 2000, "[1]" * 2000, "]" * 3000, "[1, " * 2000, "." * 5000])
def test_noise_of_a_rambling_model_is_parsed_quickly(noise: str) -> None:
    parse_answer("Cats purr " + noise)
