"""Runs of words that texts share: every answer held to a slow and obvious one, and each rule by itself."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from phibench.harness.overlap import COMMON, FEWEST, SHARE, WORDS, Overlap, find_overlaps, normalised_words

Run = tuple[str, ...]


def runs(text: list[str], length: int) -> list[tuple[int, Run]]:
    return [(start, tuple(text[start : start + length])) for start in range(len(text) - length + 1)]


def slow_overlap(rows: list[str], items: list[list[str]], words: int) -> Overlap:
    """The rules of docs/contamination.md, word for word."""
    trained = [normalised_words(row) for row in rows]
    tested = [[normalised_words(text) for text in item] for item in items]
    distinct = [list(map(normalised_words, item)) for item in dict.fromkeys(map(tuple, items))]
    having: dict[Run, int] = {}
    for item in distinct:
        for run in {run for text in item for _, run in runs(text, FEWEST)}:
            having[run] = having.get(run, 0) + 1
    template = {
        run
        for run, count in having.items()
        if (count > COMMON and count > SHARE * len(distinct)) or count == len(distinct) > 1
    }
    checked, found, hit_rows, shared = [], [], set(), []
    for number, item in enumerate(tested):
        to_compare = []
        for text in item:
            theirs = {
                place for start, run in runs(text, FEWEST) if run in template for place in range(start, start + FEWEST)
            }
            lengths = range(words, len(text) + 1) if len(text) >= words else range(len(text), len(text) + 1)
            for length in lengths if len(text) >= FEWEST else ():
                to_compare += [run for at, run in runs(text, length) if not theirs & set(range(at, at + length))]
        in_rows = {
            run: {row for row, text in enumerate(trained) for _, one in runs(text, len(run)) if one == run}
            for run in to_compare
        }
        if to_compare:
            checked.append(number)
        if any(in_rows.values()):
            found.append(number)
            hit_rows |= set().union(*in_rows.values())
            shared += [run for run in to_compare if in_rows[run]]
    longest = max(map(len, shared), default=0)
    run = next((run for run in shared if len(run) == longest), ())
    return Overlap(len(checked), tuple(found), tuple(sorted(hit_rows)), run)


def agree(rows: list[str], tasks: list[list[list[str]]], words: int) -> list[Overlap]:
    found = find_overlaps(rows, tasks, words=words)
    for task, whole, parts in zip(tasks, found, find_overlaps(rows, tasks, words=words, at_once=60), strict=True):
        assert (parts.items, parts.rows, len(parts.run)) == (whole.items, whole.rows, len(whole.run)), task
        assert parts.checked == whole.checked
    for task, one in zip(tasks, found, strict=True):
        slow = slow_overlap(rows, task, words)
        assert (one.checked, one.items, one.rows, len(one.run)) == (slow.checked, slow.items, slow.rows, len(slow.run))
        assert not one.run or any(
            one.run == run for row in rows for _, run in runs(normalised_words(row), len(one.run))
        )
    return found


@pytest.mark.parametrize("seed", range(40))
def test_the_same_as_the_slow_answer_on_texts_cut_from_one_another(seed: int) -> None:
    chance = random.Random(seed)
    vocabulary = [f"w{number}" for number in range(chance.choice([2, 30, 3000]))]
    words = chance.choice([8, 9, 13, 16])

    def text(longest: int) -> list[str]:
        return chance.choices(vocabulary, k=chance.randrange(longest))

    instruction = chance.choices(vocabulary, k=chance.choice([0, 5, 9, 20]))
    tasks = []
    for _ in range(chance.randrange(1, 4)):
        items = [
            [[*instruction, *text(30)], *(text(15) for _ in range(chance.randrange(3)))]
            for _ in range(chance.choice([0, 1, 2, 9, 40]))
        ]
        tasks.append([[" ".join(one) for one in item] for item in items])
    rows = [text(60) for _ in range(chance.randrange(12))]
    for row in rows:
        sources = [one.split() for task in tasks for item in task for one in item]
        if sources and chance.random() < 0.6:
            source = chance.choice(sources)
            start = chance.randrange(len(source) + 1)
            row[len(row) // 2 : len(row) // 2] = source[start : start + chance.randrange(30)]
        elif chance.random() < 0.5:
            row[:0] = instruction
    agree([" ".join(row) for row in rows], tasks, words)


_TEXT = st.lists(st.sampled_from("ab"), max_size=24).map(" ".join)


@settings(max_examples=80, deadline=None)
@example([], [[], [""], ["", ""], ["a"], ["a a a a a a a a a a"]], 8)  # fewer runs than a template takes
@given(st.lists(_TEXT, max_size=5), st.lists(st.lists(_TEXT, max_size=3), max_size=12), st.sampled_from([8, 11, 13]))
def test_the_same_as_the_slow_answer_where_runs_repeat_and_overlap(
    rows: list[str], items: list[list[str]], words: int
) -> None:
    agree(rows, [items], words)


def numbered(first: int, last: int) -> str:
    return " ".join(f"w{number}" for number in range(first, last))


OTHER = numbered(5000, 5040)  # a second item, without which a task's only item might be all template


def test_a_run_of_the_length_is_found_and_one_word_less_is_not() -> None:
    item = numbered(0, 40)
    rows = [f"x {numbered(9, 9 + length)} y" for length in (WORDS, WORDS - 1)]
    [found] = find_overlaps(rows, [[[OTHER], [item]]])
    assert found == Overlap(2, (1,), (0,), tuple(numbered(9, 9 + WORDS).split()))


def test_one_other_word_in_the_middle_parts_a_run() -> None:
    near = f"{numbered(0, 12)} other {numbered(13, 25)}"
    [found] = find_overlaps([near], [[[OTHER], [numbered(0, 25)]]])
    assert found == Overlap(2)


def test_a_run_does_not_go_from_one_text_into_the_next() -> None:
    halves = [numbered(0, 10), numbered(10, 20)]
    assert find_overlaps(halves, [[[OTHER], [numbered(0, 20)]]]) == [Overlap(2)]
    assert find_overlaps([f"a {numbered(2, 18)} b"], [[[OTHER], halves]]) == [Overlap(2)]


def test_a_short_text_is_found_whole_or_not_at_all() -> None:
    short, shorter, shortest = numbered(0, 12), numbered(20, 28), numbered(30, 37)
    rows = [f"a {short} b", numbered(20, 27), shortest, f"{shorter} c"]
    [found] = find_overlaps(rows, [[[short], [shorter], [shortest], ["yes", "no"], []]])
    assert found == Overlap(2, (0, 1), (0, 3), tuple(short.split()))


@pytest.mark.parametrize("items", [2, 5, 6, 40, 200])
def test_what_all_items_say_is_no_overlap(items: int) -> None:
    instruction = "read the conversation below with care and then answer the question about it in a few words"
    tested = [[f"{instruction} {numbered(100 * item, 100 * item + 20)}"] for item in range(items)]
    assert find_overlaps([instruction], [tested]) == [Overlap(items)]
    [found] = find_overlaps([f"{instruction} {numbered(100, 120)}"], [tested])
    assert (found.items, found.rows, found.run) == ((1,), (0,), tuple(numbered(100, 120).split()))


def test_a_passage_that_a_few_items_share_is_no_template() -> None:
    passage = numbered(0, 30)
    tested = [[passage, f"question {item}"] for item in range(COMMON)] + [[numbered(900, 930)]]
    assert find_overlaps([passage], [tested])[0].items == tuple(range(COMMON))
    assert find_overlaps([passage], [[*tested, [passage, "question 9"]]])[0].items == ()


def test_an_item_that_comes_again_and_again_is_no_template() -> None:
    tested = [[numbered(0, 30)]] * 12 + [[OTHER]]
    assert find_overlaps([numbered(0, 30)], [tested])[0].items == tuple(range(12))


@pytest.mark.parametrize(
    "written",
    [
        "  The QUICK, brown fox (it is said) -- jumps:\n\nover a lazy\tdog; in the rain!  ",
        "the_quick_brown_fox_it_is_said_jumps_over_a_lazy_dog_in_the_rain",
        "\uff34he quick brown \ufb01x it is said jumps".replace("\ufb01x", "f\u00ado\u200bx")
        + " over a lazy dog in the rain",
    ],
)
def test_case_punctuation_and_forms_of_letters_do_not_matter(written: str) -> None:
    plain = "the quick brown fox it is said jumps over a lazy dog in the rain"
    assert normalised_words(written) == plain.split()
    assert find_overlaps([written], [[[OTHER], [plain]]])[0].items == (1,)


def test_words_of_other_scripts() -> None:
    assert normalised_words("Straße, CAFE\u0301 caf\u00e9; МИР") == ["strasse", "caf\u00e9", "caf\u00e9", "мир"]
    assert normalised_words("東京は、雨。") == ["東", "京", "は", "雨"]
    assert normalised_words("... – 🙂") == []


def test_nothing_to_compare() -> None:
    assert find_overlaps([], []) == []
    assert find_overlaps([], [[[OTHER], [numbered(0, 30)]], []]) == [Overlap(2), Overlap(0)]
    assert find_overlaps(["", "a"], [[["", "?"], []]]) == [Overlap(0)]


def test_too_few_words_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 8"):
        find_overlaps([], [], words=7)


def test_the_same_in_every_process_and_without_torch() -> None:
    program = (
        "import sys; from phibench.harness.overlap import find_overlaps\n"
        "import phibench.harness.contamination\n"
        "text = ' '.join(map(str, range(50)))\n"
        "print(find_overlaps([text, 'x ' + text[5:]], [[[text], [text[20:]], ['y']]]))\n"
        "assert 'torch' not in sys.modules and 'lm_eval' not in sys.modules"
    )
    said = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(said) == 1
