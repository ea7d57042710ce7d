"""The prompts of the tasks, word for word, and their rows checked."""

import pytest

from phibench.suites.tasks.dialogsum import prompt as dialogsum
from phibench.suites.tasks.webglm_qa import prompt as webglm


def test_webglm_prompt_word_for_word() -> None:
    assert webglm.prompt('What is "tea"?', ["A leaf.", "A {drink}."]) == (
        "###System:\nRead the references provided and answer the corresponding question.\n"
        '###References:\n[1] A leaf.\n[2] A {drink}.\n###Question:\nWhat is "tea"?\n###Answer:\n'
    )


def test_webglm_prompt_without_references() -> None:
    assert "###References:\n###Question:\nWhy?\n" in webglm.prompt("Why?", [])


def test_webglm_prompt_refuses_a_string_for_the_references() -> None:
    with pytest.raises(ValueError, match="list of strings"):
        webglm.prompt("Why?", "one reference")


def test_dialogsum_prompt_word_for_word() -> None:
    expected = "Instruct: Summarize the following conversation.\n#Person1#: Hi.\n#Person2#: Hi.\nOutput:\n"
    assert dialogsum.prompt("#Person1#: Hi.\n#Person2#: Hi.") == expected


def test_completions_have_no_outer_white_space() -> None:
    assert webglm.completion(' It is "tea" [1].\n') == 'It is "tea" [1].'
    assert dialogsum.completion(" They greet.\n") == "They greet."


WEBGLM = {"question": "Why?", "answer": "So [1].", "references": ["Because."]}
DIALOGSUM = {"id": "test_0_1", "dialogue": "#Person1#: Hi.", "summary": "They greet."}


def test_rows_are_read() -> None:
    assert webglm.read_row(WEBGLM, "row 0") == webglm.Row("Why?", "So [1].", ("Because.",))
    assert dialogsum.read_row(DIALOGSUM, "row 0") == dialogsum.Row("test_0_1", "#Person1#: Hi.", "They greet.")


@pytest.mark.parametrize("column", list(WEBGLM))
def test_webglm_names_the_row_and_the_missing_column(column: str) -> None:
    row = {name: value for name, value in WEBGLM.items() if name != column}
    with pytest.raises(ValueError, match=f"test row 7 has no column '{column}'"):
        webglm.read_row(row, "test row 7")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"question": None}, "row 7: question must be a string; got NoneType"),
        ({"answer": 3}, "row 7: answer must be a string; got int"),
        ({"references": "text"}, "row 7: references must be a list of strings; got 'text'"),
        ({"references": ["text", None]}, "row 7: references must be a list of strings"),
    ],
)
def test_webglm_names_the_row_and_the_wrong_type(changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        webglm.read_row(WEBGLM | changed, "row 7")


@pytest.mark.parametrize("column", list(DIALOGSUM))
def test_dialogsum_names_the_row_and_the_fault(column: str) -> None:
    row = {name: value for name, value in DIALOGSUM.items() if name != column}
    with pytest.raises(ValueError, match=f"row 7 has no column '{column}'"):
        dialogsum.read_row(row, "row 7")
    with pytest.raises(ValueError, match=f"row 7: {column} must be a string; got NoneType"):
        dialogsum.read_row(row | {column: None}, "row 7")
