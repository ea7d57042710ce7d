"""Masks and templates, token by token: what a model reads and what it learns of each dataset's rows."""

from __future__ import annotations

from typing import Any

import pytest

from phibench.adapters.encode import IGNORED, encode_pairs, encode_rows, prompt_tokens, puts_space_first
from phibench.adapters.formats import CHAT_TEMPLATES, FORMATS, PAIRS
from phibench.adapters.rows import Rows, strings
from phibench.errors import UserError
from phibench.harness.engine.requests import Encoder
from phibench.suites.tasks.riddles import prompt as riddles
from support.models import EOS, EOS_ID, spaced_tokenizer, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
EOS_OF_SPACED = 0
WEBGLM = {"question": "why?", "answer": " because [1] ", "references": ["a reason"]}
RIDDLE = {
    "messages": [
        {"role": "user", "content": "What is it?"},
        {"role": "assistant", "content": " A door. "},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "It opens."},
    ]
}

# A row -> the text that is read, with what is learned of it between « and ».
GOLDEN: dict[str, tuple[dict[str, Any], str]] = {
    "webglm_qa": (
        WEBGLM,
        "###System:\nRead the references provided and answer the corresponding question.\n"
        f"###References:\n[1] a reason\n###Question:\nwhy?\n###Answer:\n«because [1]{EOS}»",
    ),
    "dialogsum": (
        {"id": "1", "dialogue": "A: hi", "summary": "greeting\n"},
        f"Instruct: Summarize the following conversation.\nA: hi\nOutput:\n«greeting{EOS}»",
    ),
    "riddles": (
        RIDDLE,
        "<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\n«A door.<|im_end|>»\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n«It opens.<|im_end|>»",
    ),
    "instructions": ({"user": "Say hi. ", "chip2": "Hi!"}, f"User: Say hi.\nAssistant:« Hi!{EOS}»"),
}


def rows(*found: dict[str, Any]) -> Rows:
    return Rows("rows.jsonl", "0", [(f"line {number}", row) for number, row in enumerate(found, 1)])


def marked(row: dict[str, Any], tokenizer: Any = TOKENIZER) -> str:
    """The text of an encoded row, with what is learned between « and »."""
    text, learned = "", False
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        assert label in (token, IGNORED)
        if (label != IGNORED) != learned:
            text += "»" if learned else "«"
            learned = not learned
        text += tokenizer.decode([token])
    return text + "»" * learned


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_read_and_what_is_learned(name: str) -> None:
    row, expected = GOLDEN[name]
    [found] = encode_rows(rows(row), name, TOKENIZER, max_length=None, learn_prompts=False).rows
    assert marked(found) == expected
    [found] = encode_rows(rows(row), name, TOKENIZER, max_length=None, learn_prompts=True).rows
    assert marked(found) == f"«{expected.replace('«', '').replace('»', '')}»"


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"riddles"}))
def test_prompts_have_the_tokens_that_evaluation_gives_them(name: str) -> None:
    row, expected = GOLDEN[name]
    prompt = expected.partition("«")[0]
    [found] = encode_rows(rows(row), name, TOKENIZER, max_length=None, learn_prompts=False).rows
    asked = Encoder(TOKENIZER).encode([prompt])[0]
    assert found["input_ids"][: len(asked)] == asked
    assert set(found["labels"][: len(asked)]) == {IGNORED}
    assert found["input_ids"][-1] == found["labels"][-1] == EOS_ID
    assert found["input_ids"].count(EOS_ID) == 1


def test_an_end_that_the_tokenizer_adds_to_prompts_is_taken_off() -> None:
    """A model that reads its prompt's end as an end learns to write nothing."""

    class Ending:
        eos_token, eos_token_id = EOS, EOS_ID

        def __call__(self, text: str, **_: Any) -> dict[str, Any]:
            return {"input_ids": [*TOKENIZER(text)["input_ids"], EOS_ID]}

    assert prompt_tokens("hi", Ending()) == TOKENIZER("hi")["input_ids"]  # type: ignore[arg-type]
    assert prompt_tokens(f"hi{EOS}", Ending())[-1] == EOS_ID  # type: ignore[arg-type]


def test_the_chat_template_is_the_one_that_is_trained_on() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATES["riddles"]
    messages = RIDDLE["messages"]
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    [found] = encode_rows(rows(RIDDLE), "riddles", tokenizer, max_length=None, learn_prompts=False).rows
    assert tokenizer.decode(found["input_ids"]) + "\n" == whole
    asked = tokenizer.apply_chat_template(messages[:3], tokenize=False, add_generation_prompt=True)
    assert whole.startswith(asked)
    assert asked.endswith(riddles.header("assistant"))


# ---- rows that do not fit


def webglm(answer: str, *references: str) -> dict[str, Any]:
    return {"question": "why?", "answer": answer, "references": list(references)}


@pytest.mark.parametrize(
    ("answer", "kept"),
    [("so [1]", 1), ("so [2][1]", 2), ("so [1-3]", 3), ("so", 1), ("so [9]", 1)],
)
def test_references_are_left_out_whole_from_the_end_while_none_is_cited(answer: str, kept: int) -> None:
    row = webglm(answer, *("x" * 40 for _ in range(4)))
    lengths = []
    for count in range(1, 5):
        only = encode_rows(
            rows(webglm("so", *row["references"][:count])), "webglm_qa", TOKENIZER, max_length=None, learn_prompts=False
        )
        lengths.append(len(only.rows[0]["input_ids"]) + len(answer) - len("so"))
    for count, length in enumerate(lengths, 1):
        found = encode_rows(rows(row), "webglm_qa", TOKENIZER, max_length=length, learn_prompts=False)
        if count < kept:
            assert (found.rows, found.dropped) == ([], ["line 1"])
            continue
        text = TOKENIZER.decode(found.rows[0]["input_ids"])
        assert [f"[{n}] x" in text for n in range(1, 5)] == [n <= count for n in range(1, 5)]
        assert text.endswith(f"{answer}{EOS}")
        assert (found.shortened, found.dropped) == (["line 1"] * (count < 4), [])


def test_rows_that_do_not_fit_are_dropped_and_never_cut() -> None:
    short, long = GOLDEN["dialogsum"][0], GOLDEN["dialogsum"][0] | {"dialogue": "A: " + "very " * 30}
    whole = encode_rows(rows(short), "dialogsum", TOKENIZER, max_length=None, learn_prompts=False).rows
    unnamed = {key: value for key, value in short.items() if key != "id"}  # an id is evaluation's
    assert encode_rows(rows(unnamed), "dialogsum", TOKENIZER, max_length=None, learn_prompts=False).rows == whole
    length = len(whole[0]["input_ids"])
    found = encode_rows(rows(long, short, long), "dialogsum", TOKENIZER, max_length=length, learn_prompts=False)
    assert (found.rows, found.dropped, found.shortened) == (whole, ["line 1", "line 3"], [])
    found = encode_rows(rows(short), "dialogsum", TOKENIZER, max_length=length - 1, learn_prompts=False)
    assert found.dropped == ["line 1"]


# ---- pairs


def test_pairs() -> None:
    piqa = {"goal": "Open a jar", "sol1": "Hit it.", "sol2": "Turn the lid.", "label": 1}
    orca = {"system": "Be kind.", "question": "Hi?", "chosen": "Hello!", "rejected": "What?"}
    assert PAIRS.keys() == {"piqa_pairs", "orca_dpo_pairs", "webglm_pairs"}
    [found] = encode_pairs(rows(piqa), "piqa_pairs", max_length=None, tokenizer=TOKENIZER).rows
    # The prompt is lm-eval's own of this task, whose choices follow it after a space.
    assert found == {"prompt": "Question: Open a jar\nAnswer:", "chosen": " Turn the lid.", "rejected": " Hit it."}
    [found] = encode_pairs(rows(orca), "orca_dpo_pairs", max_length=None, tokenizer=TOKENIZER).rows
    assert found == {"prompt": "User: Be kind.\n\nHi?\nAssistant:", "chosen": " Hello!", "rejected": " What?"}
    length = len("Question: Open a jar\nAnswer: Turn the lid.") + 1
    assert encode_pairs(rows(piqa), "piqa_pairs", max_length=length, tokenizer=TOKENIZER).rows
    assert encode_pairs(rows(piqa), "piqa_pairs", max_length=length - 1, tokenizer=TOKENIZER).dropped == ["line 1"]


# ---- texts that spell special tokens


@pytest.mark.parametrize("name", GOLDEN)
def test_a_row_that_spells_a_special_token_is_left_out(name: str) -> None:
    row = GOLDEN[name][0]
    tokenizer = tiny_tokenizer("<|im_start|>", "<|im_end|>", "<extra>")
    spelt = [change(row, text, token) for text in own_texts(row) for token in (EOS, "<|im_end|>", "<extra>")]
    plain = [change(row, text, "<|im_|end|>") for text in own_texts(row)]
    found = encode_rows(rows(*spelt, *plain), name, tokenizer, max_length=None, learn_prompts=False)
    assert found.special == [f"line {number}" for number in range(1, len(spelt) + 1)]
    assert len(found.rows) == len(plain) > 0
    # The template's own tokens are no fault, and neither is a column that is not read.
    more = row | {"text": f"<|im_start|>user{EOS}"}
    assert encode_rows(rows(row, more), name, tokenizer, max_length=None, learn_prompts=False).special == []


def test_a_pair_that_spells_a_special_token_is_left_out() -> None:
    pair = {"question": "q", "chosen": "a", "rejected": "b"}
    spelt = [pair | {column: f"x{EOS}"} for column in (*pair, "system")]
    found = encode_pairs(rows(*spelt, pair), "orca_dpo_pairs", max_length=None, tokenizer=TOKENIZER)
    assert (len(found.special), len(found.rows)) == (4, 1)


def own_texts(value: Any) -> list[str]:
    """The texts of a row that are an example's."""
    return [text for text in strings(value) if text not in ("user", "assistant", "1")]


def change(value: Any, text: str, token: str) -> Any:
    """A row with a token in one of its texts."""
    if isinstance(value, dict):
        return {key: change(part, text, token) for key, part in value.items()}
    if isinstance(value, list):
        return [change(part, text, token) for part in value]
    return f"{value[:2]}{token}{value[2:]}" if value == text else value


# ---- tokenizers that put a space before every text


def test_which_tokenizers_put_a_space_first() -> None:
    assert [puts_space_first(spaced_tokenizer(scheme)) for scheme in ("always", "first", "never")] == [
        True,
        True,
        False,
    ]
    assert not puts_space_first(TOKENIZER)
    assert not puts_space_first(tiny_tokenizer("<|im_start|>"))


@pytest.mark.parametrize("scheme", ["always", "first"])
@pytest.mark.parametrize("name", ["webglm_qa", "dialogsum", "instructions"])
def test_an_answer_does_not_start_with_a_space_that_the_tokenizer_puts_there(name: str, scheme: str) -> None:
    tokenizer = spaced_tokenizer(scheme)
    row, golden = GOLDEN[name]
    [found] = encode_rows(rows(row), name, tokenizer, max_length=None, learn_prompts=False).rows
    text = golden.replace("«", "").replace("»", "").removesuffix(EOS)
    assert found["input_ids"] == [*tokenizer(text)["input_ids"], EOS_OF_SPACED]  # as the whole
    prompt = tokenizer(golden.partition("«")[0])["input_ids"]
    assert found["input_ids"][: len(prompt)] == prompt  # as a model is asked
    assert [label == IGNORED for label in found["labels"]] == [True] * len(prompt) + [False] * (
        len(found["labels"]) - len(prompt)
    )


@pytest.mark.parametrize(("scheme", "refused"), [("always", True), ("first", False)])
def test_a_conversation_whose_parts_are_not_the_whole_is_refused(scheme: str, refused: bool) -> None:
    """With `always`, what follows a special token gets a space, too; by themselves, parts do not show it."""
    tokenizer = spaced_tokenizer(scheme)
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    if not refused:
        [found] = encode_rows(rows(RIDDLE), "riddles", tokenizer, max_length=None, learn_prompts=False).rows
        text = GOLDEN["riddles"][1].replace("«", "").replace("»", "")
        assert found["input_ids"] == tokenizer(text)["input_ids"]
        return
    with pytest.raises(UserError, match="puts a space before every text") as caught:
        encode_rows(rows(RIDDLE), "riddles", tokenizer, max_length=None, learn_prompts=False)
    assert "Phi's or SmolLM's" in str(caught.value.fix)


# ---- columns of other names, and mistakes

INSTRUCTIONS = [
    {"question": "Say hi.", "answer": "Hi!"},
    {"instruction": "Say hi.", "input": "", "output": "Hi!"},
    {"instruction": "Say hi.", "instances": [{"input": "", "output": "Hi!"}]},
    {"instruction": "Say hi.", "instances": {"input": [""], "output": ["Hi!"]}},
]


@pytest.mark.parametrize("row", INSTRUCTIONS, ids=["gsm8k", "alpaca", "self-instruct", "self-instruct-columns"])
def test_instructions_of_other_datasets(row: dict[str, Any]) -> None:
    [found] = encode_rows(rows(row), "instructions", TOKENIZER, max_length=None, learn_prompts=False).rows
    assert marked(found) == GOLDEN["instructions"][1]


def test_messages_without_roles_take_turns() -> None:
    bare = {"messages": [message["content"] for message in RIDDLE["messages"]]}
    [found] = encode_rows(rows(bare), "riddles", TOKENIZER, max_length=None, learn_prompts=False).rows
    assert marked(found) == GOLDEN["riddles"][1]


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("webglm_qa", {"question": "why?"}, "line 1 has no column 'answer'"),
    ("webglm_qa", WEBGLM | {"answer": 3}, "answer must be a string"),
    ("webglm_qa", WEBGLM | {"references": "one"}, "must be a list of strings"),
    ("dialogsum", {"id": "1"}, "no column 'dialogue'"),
    ("riddles", {"text": "hi"}, "no column 'messages'"),
    ("riddles", {"messages": [{"role": "cat", "content": "miaow"}]}, "turn 1 needs a role"),
    ("riddles", {"messages": ["only a question"]}, "no turn is the assistant's"),
    ("instructions", {"text": "hi"}, "needs the columns user and chip2"),
    ("instructions", {"question": "hi", "answer": " "}, "answer must be a text"),
    ("piqa_pairs", {"goal": "g", "sol1": "a", "sol2": "b", "label": 2}, "label must be 0 or 1"),
    ("orca_dpo_pairs", {"question": "q", "chosen": "a"}, "rejected must be a text"),
]


@pytest.mark.parametrize(("name", "row", "message"), BAD)
def test_bad_rows(name: str, row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        if name in FORMATS:
            encode_rows(rows(row), name, TOKENIZER, max_length=None, learn_prompts=False)
        else:
            encode_pairs(rows(row), name, max_length=None, tokenizer=TOKENIZER)
    assert caught.value.where == "rows.jsonl"
