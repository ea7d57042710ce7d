"""What the rules do to texts: golden cases, each fault of the published recipe's cleaning among them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phibench.adapters.synthesis.clean import (
    ANSWER_RULES,
    FOLLOW_UP_RULES,
    RIDDLE_RULES,
    riddle_lines,
    unquoted,
    without_thinking,
)
from phibench.adapters.synthesis.rules import EXAMPLES, Rule, Tally


def cleaned(text: str, rules: tuple[Rule, ...] = RIDDLE_RULES) -> tuple[str | None, list[str]]:
    """What is left of a text, and the rules that had a part in it."""
    tally = Tally()
    left = tally.apply("stage", rules, text)
    return left, [count.rule for count in tally.counts]


# The published recipe split at the number wherever it stood, and kept what came behind its first occurrence.
@pytest.mark.parametrize(("text", "left"), [
    ("1. What has 1. legs?", "What has 1. legs?"),
    ("2. Which of 2. and 22. is even, and which of 2. is odd?", "Which of 2. and 22. is even, and which of 2. is odd?"),
    ("12) What sleeps in a shoe?", "What sleeps in a shoe?"),
    ("IV. What sleeps in a shoe?", "What sleeps in a shoe?"),
    ("XLIX) What sleeps in a shoe?", "What sleeps in a shoe?"),
    ("I. What sleeps in a shoe?", "What sleeps in a shoe?"),
    ("(3) What sleeps in a shoe?", "What sleeps in a shoe?"),
    ("3: What sleeps in a shoe?", "What sleeps in a shoe?"),
    ("3.What sleeps in a shoe?", "What sleeps in a shoe?"),
    ('3."What sleeps in a shoe?"', "What sleeps in a shoe?"),
    ("#3 What sleeps in a shoe?", "What sleeps in a shoe?"),
    ("b) What sleeps in a shoe?", "What sleeps in a shoe?"),
    ("57. What sleeps in a shoe?", "What sleeps in a shoe?"),  # the recipe's list ended at 49
    ("1) 2 ducks swim behind 2 ducks. How many are there?", "2 ducks swim behind 2 ducks. How many are there?"),
])  # fmt: skip
def test_numbering_is_removed_at_the_start(text: str, left: str) -> None:
    found, rules = cleaned(text)
    assert found == left
    assert "numbering removed" in rules


@pytest.mark.parametrize("text", [
    "1.5 litres of me weigh nothing. What am I?",
    "12:30 comes twice a day; what comes once?",
    "I am tall when I am young. What am I?",
    "I. am not a number, said the odd poet; who is?",
    "1984. What does this year have that 1985 lacks?",
    "3D glasses show me flat. What am I?",
    "MIX. It is a number and a drink, what else?",
    "What has 4. wheels and II. drivers?",
    "Riddle me this: what walks without feet?",
    "Question marks end me. What am I?",
    "What does user: mean at the start of a line?",
    "Kidding aside: what grows when it is fed?",
    "- 3 is below zero, is it not?",
])  # fmt: skip
def test_what_only_looks_like_numbering_or_a_label_stays(text: str) -> None:
    if text.startswith("- "):
        assert cleaned(text) == (text[2:], ["bullet removed"])
    else:
        assert cleaned(text) == (text, [])


# The recipe kept only lines that end in a full stop or a question mark.
@pytest.mark.parametrize("text", [
    "Guess who I am, for nobody else will!",
    'The wall says "what?" to whoever says "what?"',
    "He who names me says “I was never here”",
    "I am round and shine at night (but not by my own light.)",
    "What am I if you look away…",
    "What is mine but used by others?!",
])  # fmt: skip
def test_every_end_of_a_sentence_counts(text: str) -> None:
    assert cleaned(text) == (text, [])


@pytest.mark.parametrize(("text", "rule"), [
    ("Ten riddles about the sea", "no end"),
    ("I have a mouth that never speaks,", "no end"),
    ("Riddles:", "no end"),
    ("What am I?", "bare question"),
    ("So, what is it?", "bare question"),
    ("Why me?", "too short"),
    ("?????????????????", "too short"),
    ("Answer: a lantern.", "an answer"),
    ("A: A lantern.", "an answer"),
    ("(Hint: it glows.)", "an answer"),
    ("The answer is a lantern.", "an answer"),
    ("Sure! Here are ten new riddles for you.", "talk"),
    ("I hope you enjoy these riddles!", "talk"),
    ("What gl\ufffdws in the dark and waits?", "broken characters"),
    ("the more you go the more you go the more you go the more you go on?", "loop"),
    ("", "too short"),
])  # fmt: skip
def test_what_is_dropped_and_by_which_rule(text: str, rule: str) -> None:
    found, rules = cleaned(text)
    assert found is None
    assert rules[-1] == rule


@pytest.mark.parametrize(("text", "left"), [
    ("**Riddle 3:** What sleeps in a shoe?", "What sleeps in a shoe?"),
    ("**3. What sleeps in a shoe?**", "What sleeps in a shoe?"),
    ("* What sleeps in a shoe?", "What sleeps in a shoe?"),
    ("### Riddle #7 - What sleeps in a shoe?", "What sleeps in a shoe?"),
    ("Q: What sleeps in a shoe?", "What sleeps in a shoe?"),
    ("Kid: What sleeps in a shoe?", "What sleeps in a shoe?"),
    ("What sleeps in a shoe? (Answer: a foot.)", "What sleeps in a shoe?"),
    ("What sleeps in a shoe? The answer is a foot.", "What sleeps in a shoe?"),
    ("What sleeps\x00 in a shoe?\x1b", "What sleeps in a shoe?"),
    ("Where is it? The answer is never here. What is it?", "Where is it? The answer is never here. What is it?"),
])  # fmt: skip
def test_what_is_put_right(text: str, left: str) -> None:
    assert cleaned(text)[0] == left


@pytest.mark.parametrize(("text", "left"), [
    ('"Who sleeps?"', "Who sleeps?"),
    ("“Who sleeps?”", "Who sleeps?"),
    ("'Who's asleep?'", "Who's asleep?"),
    ('"Who?" asked the owl, "and why?"', '"Who?" asked the owl, "and why?"'),
    ("'Who?' asked the owl, 'and why?'", "'Who?' asked the owl, 'and why?'"),
    ('"Who sleeps?', "Who sleeps?"),
    ('Who sleeps?"', "Who sleeps?"),
    ('The owl asked: "Who sleeps?"', 'The owl asked: "Who sleeps?"'),
    ("'tis mine, but who uses it?", "'tis mine, but who uses it?"),
    ('"', ""),
    ('""', '""'),
])  # fmt: skip
def test_quotes_around_the_whole_text(text: str, left: str) -> None:
    assert unquoted(text) == left


# The recipe split at a role wherever it stood: "I asked my kid: why?" became "why?".
@pytest.mark.parametrize(("text", "left"), [
    ("Kid: Why is it hollow?", "Why is it hollow?"),
    ("user: Why is it hollow?", "Why is it hollow?"),
    ("Question: Why is it hollow?", "Why is it hollow?"),
    ("1. Why is it hollow?", "Why is it hollow?"),
    ("Curious 10-year-old kid: Why is it hollow?", "Why is it hollow?"),
    ('Child: "Why is it hollow?"', "Why is it hollow?"),
    ("I asked my kid: why is it hollow?", "I asked my kid: why is it hollow?"),
    ("Is it older than the user: or not?", "Is it older than the user: or not?"),
    ("Why is it hollow?\nassistant: Because. Why not?", "Why is it hollow?"),
    ("<think>A child, hm?</think>\n\nWhy is it hollow?", "Why is it hollow?"),
])  # fmt: skip
def test_follow_ups(text: str, left: str) -> None:
    assert cleaned(text, FOLLOW_UP_RULES)[0] == left


@pytest.mark.parametrize(("text", "rule"), [
    ("It is hollow.", "no question"),
    ("Why " * 61 + "?", "not short"),
    ("1. Why is it hollow?\n2. Who made it?", "several lines"),
    ("  ", "empty"),
])  # fmt: skip
def test_follow_ups_that_are_dropped(text: str, rule: str) -> None:
    found, rules = cleaned(text, FOLLOW_UP_RULES)
    assert found is None
    assert rules[-1] == rule


def test_answers_keep_their_lines_and_marks() -> None:
    answer = "1. It has **1.** leg.\n2. It cannot walk.\n\nSo it is a mushroom!"
    assert cleaned(answer, ANSWER_RULES) == (answer, [])
    assert cleaned("assistant: It is a mushroom", ANSWER_RULES)[0] == "It is a mushroom"
    assert cleaned("A: It is a mushroom", ANSWER_RULES)[0] == "It is a mushroom"
    assert cleaned("A: a hat\nB: a leg", ANSWER_RULES)[0] == "A: a hat\nB: a leg"


def test_a_call_is_one_riddle_a_line() -> None:
    call = "1. What rises?\r\n2. What falls, and\n3. What waits?\n\n  What   turns? \n"
    assert [line.text for line in riddle_lines(call)] == [
        "1. What rises?", "2. What falls, and", "3. What waits?", "What turns?",
    ]  # fmt: skip


@pytest.mark.parametrize(("call", "riddles"), [
    ("I have a face,\nbut no eyes.\nWhat am I?", ["I have a face, but no eyes. What am I?"]),
    ("I have a face.\nI have no eyes.\nWhat am I?", ["I have a face. I have no eyes. What am I?"]),
    ("I rise,\nI fall.\n\nWhat is up?\nWhat is down?", ["I rise, I fall.", "What is up?", "What is down?"]),
    ("1. I rise,\nand fall?\n2. I wait,\nand go?", ["1. I rise, and fall?", "2. I wait, and go?"]),
    ("Here are some riddles:\nWhat is up?", ["Here are some riddles:", "What is up?"]),
    ("What is up?\nAnswer: the sky", ["What is up?", "Answer: the sky"]),
])  # fmt: skip
def test_a_riddle_in_verse_is_one(call: str, riddles: list[str]) -> None:
    assert [line.text for line in riddle_lines(call)] == riddles


def test_thoughts_are_no_part_of_a_text() -> None:
    assert without_thinking("<think>\nhm\n</think>\n\nWhat is up?") == "What is up?"
    assert without_thinking("What is <think> for?") == "What is <think> for?"


def test_every_rule_has_a_name_of_its_own_and_a_reason() -> None:
    for rules in (RIDDLE_RULES, ANSWER_RULES, FOLLOW_UP_RULES):
        assert len({rule.name for rule in rules}) == len(rules)
        assert all(rule.why.endswith(".") for rule in rules)


def test_the_tally_counts_all_and_shows_a_few() -> None:
    tally = Tally()
    tally.expect("expand", RIDDLE_RULES)
    for number in range(7):
        tally.apply("expand", RIDDLE_RULES, f"{number}. What sleeps in a shoe?")
        tally.apply("expand", RIDDLE_RULES, "Answer: a foot.")
    counts = {count.rule: count for count in tally.counts}
    assert list(counts) == [rule.name for rule in RIDDLE_RULES]
    assert (counts["numbering removed"].changed, counts["numbering removed"].dropped) == (7, 0)
    assert (counts["an answer"].changed, counts["an answer"].dropped) == (0, 7)
    assert counts["numbering removed"].examples[0] == ("0. What sleeps in a shoe?", "What sleeps in a shoe?")
    assert len(counts["an answer"].examples) == EXAMPLES


@given(st.text(max_size=80))
def test_rules_take_any_text_and_a_clean_one_stays_clean(text: str) -> None:
    for line in riddle_lines(text):
        once = Tally().apply("stage", RIDDLE_RULES, line.text)
        if once is not None:
            assert once == once.strip()
            assert once
    Tally().apply("stage", FOLLOW_UP_RULES, text.strip())
    Tally().apply("stage", ANSWER_RULES, text.strip())
