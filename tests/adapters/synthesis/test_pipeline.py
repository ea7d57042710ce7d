"""The stages with a scripted model: what comes out, what is counted, and going on after a stop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from phibench.adapters.synthesis.dataset import write_dataset
from phibench.adapters.synthesis.generator import CUT, STOPPED, Reply, Request, Sampling
from phibench.adapters.synthesis.journal import Journal, request_key
from phibench.adapters.synthesis.kinds import KINDS
from phibench.adapters.synthesis.pipeline import Conversation, Synthesis
from phibench.adapters.synthesis.results import Results
from phibench.adapters.synthesis.seeds import Seeds, embedded_seeds
from phibench.adapters.synthesis.settings import Settings, refuse_mixing
from phibench.adapters.synthesis.similarity import KIN, likeness
from phibench.errors import UserError
from phibench.suites.tasks.riddles import prompt as riddles
from support.scripted import THINGS, NoProgress, ScriptedGenerator

SEEDS = embedded_seeds("riddles_seed.jsonl", "riddle")
SETTINGS = Settings(KINDS["riddles"], SEEDS, calls=4, eval_share=0.2)
Replies = dict[str, list[tuple[str, str]]]


def make(folder: Path, generator: ScriptedGenerator, settings: Settings = SETTINGS) -> tuple[Synthesis, Results]:
    folder.mkdir(exist_ok=True)
    with Journal(folder / "requests.jsonl") as journal:
        synthesis = Synthesis(settings, generator, journal, NoProgress())
        conversations = synthesis.run()
    return synthesis, write_dataset(folder, settings, synthesis, conversations, 1.0)


def rows(folder: Path) -> list[dict[str, object]]:
    text = (folder / "train.jsonl").read_text(encoding="utf-8") + (folder / "eval.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


class Told(ScriptedGenerator):
    """Says what it is told, stage by stage, in order."""

    def __init__(self, *stages: list[str | Reply]) -> None:
        super().__init__()
        self._stages = list(stages)

    def ask(self, requests: Sequence[Request], sampling: Sampling):  # type: ignore[no-untyped-def]
        replies = self._stages.pop(0)
        self.asked += requests
        for position, reply in enumerate(replies[: len(requests)]):
            yield position, reply if isinstance(reply, Reply) else Reply(reply, STOPPED)


def told(folder: Path, *stages: list[str | Reply], **changes: object) -> tuple[list[Conversation], dict[str, int]]:
    """Conversations, and what each rule dropped, where the model says what it is told."""
    settings = replace(SETTINGS, calls=len(stages[0]), **changes)  # type: ignore[arg-type]
    with Journal(folder / "requests.jsonl") as journal:
        synthesis = Synthesis(settings, Told(*stages), journal, NoProgress())
        conversations = synthesis.run()
    dropped = {f"{c.stage}: {c.rule}": c.dropped for c in synthesis.tally.counts if c.dropped}
    return conversations, dropped


# ---- what comes out


def test_rows_are_conversations_of_four_messages(tmp_path: Path) -> None:
    _, results = make(tmp_path, ScriptedGenerator())
    found = rows(tmp_path)
    assert len(found) == results.train + results.eval > 8
    assert results.eval > 0
    assert len({row["id"] for row in found}) == len(found)
    for row in found:
        messages = row["messages"]
        assert isinstance(messages, list)
        assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant"]
        assert messages[0]["content"].startswith("Who hides a ")  # numbering and instructions are no part of it
        assert messages[2]["content"].startswith("But why the ")  # nor are the role and the quotes


def test_rows_are_what_training_takes(tmp_path: Path) -> None:
    make(tmp_path, ScriptedGenerator())
    for row in rows(tmp_path):
        assert len(riddles.read_row(row, "a row")) == 4


def test_every_text_is_one_that_the_journal_has(tmp_path: Path) -> None:
    _, results = make(tmp_path, ScriptedGenerator())
    journal = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text(encoding="utf-8").splitlines()]
    finals = {row["reply"]["text"]: row for row in journal if row["stage"] == "final answer"}
    for row in rows(tmp_path):
        messages = row["messages"]
        assert isinstance(messages, list)
        asked = finals[messages[3]["content"]]
        assert asked["messages"] == messages[:3]
        assert asked["reply"]["finish"] == STOPPED
        assert asked["sampling"] == {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "max_new_tokens": 500}
    assert len(journal) == sum(stage.requests for stage in results.stages)
    assert len({(row["stage"], row["seed"]) for row in journal}) == len(journal)  # a seed of its own for each


def test_the_counts_add_up(tmp_path: Path) -> None:
    synthesis, results = make(tmp_path, ScriptedGenerator())
    dropped = dict.fromkeys(("expand", "compare", "answer", "follow-up", "final answer"), 0)
    for rule in results.rules:
        dropped[rule.stage] += rule.dropped
    assert results.lines - dropped["expand"] - dropped["compare"] == synthesis.kept
    assert synthesis.kept - dropped["answer"] - dropped["follow-up"] - dropped["final answer"] == len(rows(tmp_path))
    assert dropped["final answer"] > 0  # the script cuts one in five


def test_a_prompt_shows_ten_seeds_of_its_own_and_asks_for_ten(tmp_path: Path) -> None:
    generator = ScriptedGenerator()
    make(tmp_path, generator)
    calls = [r.messages[0]["content"] for r in generator.asked if "new riddles of your own" in r.messages[0]["content"]]
    shown = [frozenset(seed for seed in SEEDS.texts if seed in call) for call in calls]
    assert [len(seeds) for seeds in shown] == [10] * 4
    assert len(set(shown)) == 4
    assert all("Invent 10 new riddles" in call and not call.startswith('"') for call in calls)


# ---- what is dropped, which the published recipe kept, and kept, which it dropped


def test_a_cut_call_loses_its_last_line_alone(tmp_path: Path) -> None:
    call = Reply("Who rises in the east?\nWho sets in the we.", CUT)
    found, dropped = told(tmp_path, [call], ["The sun."], ["Why?"], ["It turns."])
    assert [each.riddle for each in found] == ["Who rises in the east?"]
    assert dropped == {"expand: last line of a cut call": 1}


def test_the_first_riddle_in_the_alphabet_is_kept(tmp_path: Path) -> None:
    found, _ = told(tmp_path, ["Zebras do what at noon?\nAnts do what at dawn?"], ["A"] * 2, ["B?"] * 2, ["C"] * 2)
    assert [each.riddle for each in found] == ["Zebras do what at noon?", "Ants do what at dawn?"]


def test_copies_of_seeds_and_of_one_another_go_and_the_first_stays(tmp_path: Path) -> None:
    lines = [
        SEEDS.texts[0].upper(),
        SEEDS.texts[5].replace("fold away", "folded away"),
        "Who guards the harbour lamp?",
        "who guards the harbour lamp!",
        "Who is guarding the harbour's lamp?",
        "Who guards the mountain goat?",
        "I am always ahead of the train.",
        "Guards the mountain goat?",
    ]
    found, dropped = told(tmp_path, ["\n".join(lines)], ["A"] * 2, ["B?"] * 2, ["C"] * 2)
    assert [each.riddle for each in found] == [lines[2], lines[5]]
    assert dropped == {"compare: copy of a seed": 3, "compare: duplicate": 1, "compare: near-duplicate": 2}


def test_a_final_answer_that_was_cut_is_dropped(tmp_path: Path) -> None:
    call = "Who rises in the east?\nWho waits by the door?"
    finals: list[str | Reply] = [Reply("It turns and turns and", CUT), "It is patient."]
    found, dropped = told(tmp_path, [call], ["The sun."] * 2, ["Why?"] * 2, finals)
    assert [each.final for each in found] == ["It is patient."]
    assert dropped == {"final answer: cut": 1}


def test_first_answers_and_follow_ups_are_held_to_the_same(tmp_path: Path) -> None:
    call = "\n".join(f"Who waits at the {place}?" for place in ("harbour", "tower", "garden", "castle", "forest"))
    answers: list[str | Reply] = [
        Reply("The", CUT),
        "Who waits at the tower?",
        Reply("", "content_filter"),
        Reply("x", STOPPED, truncated=3),
        "A",
    ]
    found, dropped = told(tmp_path, [call], answers, ["It is nice."], [])
    assert found == []
    assert dropped == {
        "answer: cut": 1, "answer: echo": 1, "answer: not finished": 1, "answer: prompt cut": 1,
        "follow-up: no question": 1,
    }  # fmt: skip


def test_what_says_nothing_new_is_dropped(tmp_path: Path) -> None:
    places = ("harbour", "tower", "garden", "castle")
    call = "\n".join(f"Who waits at the {place}?" for place in places)
    call += "\nWrite each riddle on one line, and write nothing but the riddles?"
    answers: list[str | Reply] = ["It is the gate.", "Work it out step by step, in simple words!", "A bee?", "An oak."]
    follow_ups: list[str | Reply] = ["But why a gate?", "A bee?", "Who waits at the castle?"]
    found, dropped = told(tmp_path, [call], answers, follow_ups, ["It is the gate!"])
    assert found == []
    assert dropped == {
        "expand: instruction repeated": 1, "answer: instruction repeated": 1, "follow-up: echo": 2,
        "final answer: echo": 1,
    }  # fmt: skip


def test_few_words_in_another_order_are_no_echo(tmp_path: Path) -> None:
    found, dropped = told(tmp_path, ["Who rises in the east?"], ["That is why."], ["Why is that?"], ["It turns."])
    assert (len(found), dropped) == (1, {})


def test_a_limit_counts_what_it_leaves_out(tmp_path: Path) -> None:
    call = "Who rises in the east?\nWho waits by the door?\nWho sings at noon?"
    found, dropped = told(tmp_path, [call], ["A"] * 2, ["B?"] * 2, ["C"] * 2, limit=2)
    assert len(found) == 2
    assert dropped == {"compare: over the limit": 1}


def test_an_id_is_the_riddles_own() -> None:
    one, other = Conversation("Who is up?", "a", "b", "c"), Conversation("Who is up?", "x", "y", "z")
    assert one.id == other.id != Conversation("Who is down?").id


# ---- going on


@pytest.mark.parametrize("stop_after", [0, 1, 3, 4, 11, 30])
def test_going_on_gives_what_an_unstopped_synthesis_gives(stop_after: int, tmp_path: Path) -> None:
    whole = ScriptedGenerator()
    make(tmp_path / "whole", whole)
    stopped, going_on = ScriptedGenerator(stop_after), ScriptedGenerator()
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "stopped", stopped)
    assert not (tmp_path / "stopped/train.jsonl").exists()
    make(tmp_path / "stopped", going_on)
    for name in ("train.jsonl", "eval.jsonl"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len(stopped.asked) == stop_after
    assert len({id(r) for r in stopped.asked + going_on.asked}) == len(whole.asked)
    assert {(r.messages, r.seed).__repr__() for r in stopped.asked + going_on.asked} == {
        (r.messages, r.seed).__repr__() for r in whole.asked
    }


def test_a_line_cut_short_by_a_kill_is_asked_again(tmp_path: Path) -> None:
    make(tmp_path / "a", ScriptedGenerator())
    journal = tmp_path / "a/requests.jsonl"
    content = journal.read_bytes()
    journal.write_bytes(content[:-20])
    again = ScriptedGenerator()
    make(tmp_path / "a", again)
    assert len(again.asked) == 1
    assert sorted(journal.read_bytes().split(b"\n")) == sorted(content.split(b"\n"))


def test_a_damaged_line_is_told_and_not_thrown_away(tmp_path: Path) -> None:
    make(tmp_path / "a", ScriptedGenerator())
    journal = tmp_path / "a/requests.jsonl"
    lines = journal.read_bytes().split(b"\n")
    journal.write_bytes(b"\n".join([lines[0], b'{"key": 3', *lines[1:]]))
    before = journal.read_bytes()
    with pytest.raises(UserError, match=r"requests\.jsonl:2: this line of the journal is damaged"):
        make(tmp_path / "a", ScriptedGenerator())
    assert journal.read_bytes() == before


def test_more_calls_ask_only_for_what_is_new(tmp_path: Path) -> None:
    first, more = ScriptedGenerator(), ScriptedGenerator()
    make(tmp_path / "a", first, replace(SETTINGS, calls=2))
    make(tmp_path / "a", more)
    whole = ScriptedGenerator()
    make(tmp_path / "b", whole)
    assert len(first.asked) + len(more.asked) == len(whole.asked)
    assert (tmp_path / "a/train.jsonl").read_bytes() == (tmp_path / "b/train.jsonl").read_bytes()


def test_a_request_is_known_by_all_that_it_asks() -> None:
    request, sampling = Request(({"role": "user", "content": "Who?"},), 1), Sampling()
    keys = {
        request_key("answer", request, sampling),
        request_key("final answer", request, sampling),
        request_key("answer", replace(request, seed=2), sampling),
        request_key("answer", Request(({"role": "user", "content": "Why?"},), 1), sampling),
        request_key("answer", request, Sampling(temperature=0.5)),
        request_key("answer", request, Sampling(max_new_tokens=50)),
    }
    assert len(keys) == 6


# ---- one folder, one data set


@pytest.mark.parametrize(("change", "names"), [
    ({"seed": 1}, "seed: 0 there, 1 here"),
    ({"per_call": 5}, "per_call: 10 there, 5 here"),
    ({"sampling": Sampling(temperature=0.5)}, "sampling.temperature: 1.0 there, 0.5 here"),
    ({"seeds": Seeds("x", "abc", ("a",))}, "seeds_count: 42 there, 1 here"),
])  # fmt: skip
def test_other_settings_are_not_mixed_in(change: dict[str, object], names: str) -> None:
    asked = replace(SETTINGS, **change)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="made otherwise") as caught:
        refuse_mixing(SETTINGS.manifest({"model": "a"}, {}, {}), asked.manifest({"model": "a"}, {}, {}), "here")
    assert names in str(caught.value)


def test_another_model_is_not_mixed_in_and_more_calls_are_no_other_settings() -> None:
    before = SETTINGS.manifest({"model": "a"}, {}, {})
    with pytest.raises(UserError, match=r"identity\.model: a there, b here"):
        refuse_mixing(before, SETTINGS.manifest({"model": "b"}, {}, {}), "here")
    more = replace(SETTINGS, calls=300, limit=7, eval_share=0.5)
    refuse_mixing(before, more.manifest({"model": "a"}, {"torch": "9"}, {"cores": 2}), "here")


def test_the_files_keep_kin_on_one_side(tmp_path: Path) -> None:
    conversations = [
        Conversation(f"Who left the {thing} of thing{n} and place{n} in {colour}?", "A", "B?", "C")
        for n, thing in enumerate(THINGS[:12])
        for colour in ("red", "blue", "green")
    ]
    with Journal(tmp_path / "requests.jsonl") as journal:
        synthesis = Synthesis(SETTINGS, ScriptedGenerator(), journal, NoProgress())
    results = write_dataset(tmp_path, SETTINGS, synthesis, conversations, 1.0)
    assert (results.groups, results.largest_group, results.eval) == (12, 3, 6)
    sides = [
        [json.loads(line)["messages"][0]["content"] for line in (tmp_path / name).read_text("utf-8").splitlines()]
        for name in ("train.jsonl", "eval.jsonl")
    ]
    assert max(likeness(one, other) for one in sides[0] for other in sides[1]) < KIN
    assert results.overlaps[1].closest[0].likeness < KIN
    assert len(sides[0]) + len(sides[1]) == 36
