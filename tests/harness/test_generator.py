"""A local model behind a synthesis: a tiny random chat model, against transformers' own words and token by token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from phibench.adapters.spec import BaseSpec
from phibench.adapters.synthesis.generator import CUT, STOPPED, Message, Reply, Request, Sampling
from phibench.errors import UserError
from phibench.harness.engine.plain import PlainEngine
from phibench.harness.engine.scoring import TreeEngine
from phibench.harness.generator import LocalGenerator, local_generator
from support.models import CHATML, save_base, tiny_tokenizer

GREEDY = Sampling(temperature=0.0, max_new_tokens=12)
SAMPLED = Sampling(temperature=0.9, top_p=0.95, top_k=50, max_new_tokens=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("chat"), tokenizer=tiny_tokenizer(chat_template=CHATML))


@pytest.fixture(scope="module")
def local(folder: Path) -> LocalGenerator:
    return LocalGenerator(BaseSpec(model=str(folder)), device="cpu", offline=True)


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def some(count: int = 6) -> list[Request]:
    turns: list[tuple[Message, ...]] = [
        (user(f"Who is {n}?"), {"role": "assistant", "content": "I."}, user("Why?")) if n % 2 else (user("Who?" * n),)
        for n in range(count)
    ]
    return [Request(messages, seed=n) for n, messages in enumerate(turns)]


def test_greedy_texts_are_those_of_a_loop_over_the_model(local: LocalGenerator) -> None:
    assert isinstance(local.engine, TreeEngine)
    found = dict(local.ask(some(), GREEDY))
    tokenizer, model = local.engine.tokenizer, local.engine.model
    for n, request in enumerate(some()):
        text = "".join(f"<|{message['role']}|>{message['content']}" for message in request.messages)
        tokens = tokenizer.encode(text)
        start = len(tokens)
        with torch.no_grad():
            while len(tokens) < start + 12 and tokens[-1] != tokenizer.eos_token_id:
                tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
        ended = tokens[-1] == tokenizer.eos_token_id
        new = tokens[start : len(tokens) - ended]
        expected = Reply(tokenizer.decode(new), STOPPED if ended else CUT, start, len(new))
        assert found[n] == expected, n


def test_a_sampled_text_is_its_seeds_whatever_is_asked_beside_it(local: LocalGenerator) -> None:
    together = dict(local.ask(some(), SAMPLED))
    alone = {n: next(local.ask([request], SAMPLED))[1] for n, request in enumerate(some())}
    assert together == alone
    other = dict(local.ask([Request(request.messages, request.seed + 1000) for request in some()], SAMPLED))
    assert sum(other[n].text != together[n].text for n in together) >= 4


def test_what_decides_the_texts_is_in_the_identity(local: LocalGenerator, folder: Path, tmp_path: Path) -> None:
    one = local.identity()
    again = LocalGenerator(BaseSpec(model=str(folder)), device="cpu", offline=True).identity()
    assert one == again
    other = save_base(tmp_path / "other", seed=1, tokenizer=tiny_tokenizer(chat_template=CHATML + " "))
    changed = LocalGenerator(BaseSpec(model=str(other)), device="cpu", offline=True).identity()
    assert {key for key in one if one[key] != changed[key]} == {"model", "base", "chat_template"}


def test_a_prompt_that_does_not_fit_is_told(local: LocalGenerator) -> None:
    long = Request((user("x" * 200),), seed=0)
    ((_, reply),) = local.ask([long], GREEDY)
    assert reply.truncated == len("<|user|>") + 200 + 12 - 128


def test_no_room_for_a_prompt_is_the_users_to_mend(local: LocalGenerator) -> None:
    with pytest.raises(UserError, match="--max-new-tokens: 100 new tokens leave no room") as caught:
        list(local.ask(some(1), Sampling(max_new_tokens=100)))
    assert "lower it" in str(caught.value)


def test_a_model_that_trees_do_not_serve_answers_the_plain_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phibench.harness.generator.find_way", lambda model: "it was made so")
    plain = LocalGenerator(BaseSpec(model=str(folder)), device="cpu", offline=True)
    assert type(plain.engine) is PlainEngine
    assert plain.how() == "plain: it was made so"
    ours = LocalGenerator(BaseSpec(model=str(folder)), device="cpu", offline=True)
    assert dict(plain.ask(some(), GREEDY)) == dict(ours.ask(some(), GREEDY))
    assert len(dict(plain.ask(some(2), SAMPLED))) == 2


def test_a_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    bare = save_base(tmp_path / "bare")
    with pytest.raises(UserError, match="no chat template") as caught:
        LocalGenerator(BaseSpec(model=str(bare)), device="cpu", offline=True)
    assert caught.value.where == f"--model {bare}"


def test_a_template_that_refuses_is_told(tmp_path: Path) -> None:
    picky = save_base(tmp_path / "picky", tokenizer=tiny_tokenizer(chat_template="{{ raise_exception('no, thanks') }}"))
    asked = LocalGenerator(BaseSpec(model=str(picky)), device="cpu", offline=True)
    with pytest.raises(UserError, match="does not take this conversation: no, thanks"):
        list(asked.ask(some(1), GREEDY))


def test_faults_are_told_in_the_words_of_the_command_line(tmp_path: Path) -> None:
    options = {"revision": None, "dtype": "auto", "device": "cpu", "offline": True}
    with pytest.raises(UserError) as caught:
        local_generator(str(tmp_path), **options)
    assert caught.value.where == f"--model {tmp_path}"
    with pytest.raises(UserError, match="--dtype float3: there is no such precision"):
        local_generator(str(tmp_path), **{**options, "dtype": "float3"})
    with pytest.raises(UserError, match="this device cannot be used"):
        local_generator(str(tmp_path), **{**options, "device": "nowhere"})
