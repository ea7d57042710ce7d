"""Both engines against stock lm-eval's own Hugging Face model, request by request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from phibench.harness.engine.plain import PlainEngine
from phibench.harness.engine.requests import fit
from phibench.harness.engine.scoring import TreeEngine
from phibench.harness.engine.tree import Scored
from support.tiny import save_tiny_model

LONG = "The old bridge in the north was built of stone, and the rain falls on it. " * 12
PAIRS = [
    ("", " Paris"),  # an empty context
    ("", "P"),
    ("Question: why?\nAnswer:", " because"),
    ("Question: why?\nAnswer:", " because"),  # asked twice
    ("Question: why?\nAnswer:", " because yeast makes gas"),
    ("Question: why?\nAnswer: because", " yeast makes gas"),  # a context that starts with another one
    ("Question: why?\nAnswer: ", "because"),  # a context that ends in a space
    ("naïve café 東京 🙂", " façade 🙂🙂"),
    ("x", "y"),
    (LONG, " and so it goes on"),  # longer than the context
    ("Short.", LONG[:200]),
]


@pytest.fixture(
    scope="module",
    params=[(PlainEngine, False), (PlainEngine, True), (TreeEngine, False), (TreeEngine, True)],
    ids=["plain", "plain-bos", "trees", "trees-bos"],
)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[PlainEngine, HFLM]:
    kind, bos = request.param
    folder = save_tiny_model(tmp_path_factory.mktemp("model"), bos=bos)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # Without its logits cache: with it, lm-eval 0.4.13 answers the second of two requests that are split differently
    # but spell the same text (two of PAIRS) from the wrong positions.
    stock = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, logits_cache=False)
    return kind(model, tokenizer, batch_tokens=300), stock


def _instances(kind: Any, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, args, i, metadata=("t", i, 1)) for i, args in enumerate(arguments)]


def test_log_likelihoods_are_lm_evals(pair: tuple[PlainEngine, HFLM]) -> None:
    ours, stock = pair
    found = ours.loglikelihood(_instances("loglikelihood", PAIRS))
    expected = stock.loglikelihood(_instances("loglikelihood", PAIRS), disable_tqdm=True)
    for (ll, greedy), (expected_ll, expected_greedy), args in zip(found, expected, PAIRS, strict=True):
        assert ll == pytest.approx(expected_ll, abs=2e-4), args
        assert greedy == expected_greedy, args
    assert found[2] == found[3]


def test_the_batch_budget_changes_nothing(pair: tuple[PlainEngine, HFLM]) -> None:
    ours, _ = pair
    requests = _instances("loglikelihood", PAIRS)
    expected = ours.loglikelihood(requests)
    for budget in (1, 64, 100_000):
        other = type(ours)(ours.model, ours.tokenizer, batch_tokens=budget)
        assert [ll for ll, _ in other.loglikelihood(requests)] == pytest.approx([ll for ll, _ in expected], abs=1e-4)


def test_texts_are_encoded_as_lm_eval_encodes_them(pair: tuple[PlainEngine, HFLM]) -> None:
    ours, stock = pair
    bos = ours.tokenizer.bos_token
    pairs = [p for p in PAIRS if p[0]] + [(bos + "x", " y"), ("ends in spaces   ", "z"), (" ", "leading"), ("x", bos)]
    expected = [stock._encode_pair(*args) for args in pairs]
    assert ours.encoder.pairs(pairs) == expected
    assert [ours._encode_pair(*args) for args in pairs] == expected
    assert ours.encoder.pairs([("", bos + "x")]) == [([ours.prefix_token_id], ours.tok_encode("x", False))]


def test_rolling_windows_are_lm_evals(pair: tuple[PlainEngine, HFLM]) -> None:
    ours, stock = pair
    texts = [("A short text.",), (LONG,), ("東京 🙂",), (LONG[:300],)]
    found = ours.loglikelihood_rolling(_instances("loglikelihood_rolling", texts))
    expected = stock.loglikelihood_rolling(_instances("loglikelihood_rolling", texts), disable_tqdm=True)
    assert found == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("until", [["."], ["\n\n", " the"], [], ["never there"]])
def test_generations_are_lm_evals(pair: tuple[PlainEngine, HFLM], until: list[str]) -> None:
    ours, stock = pair
    settings = {"until": until, "max_gen_toks": 24, "do_sample": False}
    prompts = [(text, dict(settings)) for text in ("Question: why?\nAnswer:", "x", "#Person1#: Good", LONG, "x")]
    found = ours.generate_until(_instances("generate_until", prompts))
    expected = stock.generate_until(_instances("generate_until", prompts), disable_tqdm=True)
    assert found == expected
    assert any(found)


def test_why_a_generation_stopped(pair: tuple[PlainEngine, HFLM]) -> None:
    ours, _ = pair
    prompt = "Question: why?\nAnswer:"

    def only(settings: dict[str, Any]) -> Any:
        [(_, response)] = list(ours.answers(_instances("generate_until", [(prompt, settings)])))
        return response

    free = only({"until": [], "max_gen_toks": 12})
    assert (free.stop, free.tokens) == ("length", 12)
    assert len(free.text) > 4
    cut = only({"until": [free.text[3:5]], "max_gen_toks": 12})
    assert cut.stop == "stop_string"
    assert cut.text == free.text[:3].split(free.text[3:5])[0]


def test_eos_counts_as_stopping_by_itself(pair: tuple[PlainEngine, HFLM], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = pair
    request = _instances("generate_until", [("x", {"until": ["never"], "max_gen_toks": 12})])
    [(_, free)] = list(ours.answers(request))
    prompt = torch.tensor([ours.tokenizer.encode("x")])
    second = int(ours.model.generate(prompt, max_new_tokens=2, do_sample=False)[0, -1])
    monkeypatch.setattr(PlainEngine, "eos_token_ids", property(lambda self: {second}))
    [(_, stopped)] = list(ours.answers(request))
    assert stopped.stop == "eos"
    assert stopped.tokens <= 1
    assert free.text.startswith(stopped.text)


def test_sampling_depends_on_the_items_seed_alone(pair: tuple[PlainEngine, HFLM]) -> None:
    ours, _ = pair
    settings = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.0}
    requests = _instances("generate_until", [("x", settings), ("Question: why?", settings), ("x", settings)])
    first = dict(ours.answers(requests, seeds=[7, 8, 9]))
    again = dict(ours.answers(requests[::-1], seeds=[9, 8, 7]))
    assert [first[i].text for i in range(3)] == [again[2 - i].text for i in range(3)]
    assert first[0].text != first[2].text


def test_a_cut_prompt_is_counted(pair: tuple[PlainEngine, HFLM]) -> None:
    ours, _ = pair
    [(_, scored)] = list(ours.answers(_instances("loglikelihood", [(LONG, " end")])))
    assert scored.truncated == sum(map(len, ours.encoder.pairs([(LONG, " end")])[0])) - (ours.max_length + 1) > 0
    [(_, generated)] = list(ours.answers(_instances("generate_until", [(LONG, {"until": [], "max_gen_toks": 10})])))
    assert generated.truncated == len(ours.tok_encode(LONG)) - (ours.max_length - 10)


def test_memory_running_out_halves_the_plain_budget(
    pair: tuple[PlainEngine, HFLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, _ = pair
    engine = PlainEngine(ours.model, ours.tokenizer, batch_tokens=10_000)
    real = engine._score_batch

    def small_only(batch: list[int], cut: Any) -> Any:
        if len(batch) > 3:
            raise torch.cuda.OutOfMemoryError("pretended")
        return real(batch, cut)

    monkeypatch.setattr(engine, "_score_batch", small_only)
    requests = _instances("loglikelihood", PAIRS)
    assert [ll for ll, _ in engine.loglikelihood(requests)] == pytest.approx(
        [ll for ll, _ in ours.loglikelihood(requests)], abs=1e-4
    )
    assert engine.batch_tokens < 10_000


def test_requests_that_cannot_be_asked() -> None:
    engine = PlainEngine.__new__(PlainEngine)
    with pytest.raises(ValueError, match="at least one"):
        fit([1], [], 4)
    assert fit([1], [2, 3, 4, 5, 6, 7], 4) == Scored([3, 4, 5, 6], [4, 5, 6, 7], 2)
    with pytest.raises(ValueError, match="one request type"):
        list(engine.answers([*_instances("loglikelihood", [("a", "b")]), *_instances("generate_until", [("a", {})])]))


def test_stock_simple_evaluate_takes_the_engine(pair: tuple[PlainEngine, HFLM]) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    import phibench.suites.tasks

    ours, stock = pair
    manager = TaskManager(include_path=str(Path(phibench.suites.tasks.__path__[0])), include_defaults=False)
    names = ["mini_arc_easy", "mini_winogrande"]
    found = lm_eval.simple_evaluate(model=ours, tasks=names, task_manager=manager, limit=6, bootstrap_iters=0)
    expected = lm_eval.simple_evaluate(model=stock, tasks=names, task_manager=manager, limit=6, bootstrap_iters=0)
    for name in names:
        assert found["results"][name]["acc,none"] == expected["results"][name]["acc,none"]


def test_warming_up_leaves_nothing_behind(pair: tuple[PlainEngine, HFLM]) -> None:
    ours, _ = pair
    before = ours.loglikelihood(_instances("loglikelihood", PAIRS))
    ours.warm_up()
    assert ours.loglikelihood(_instances("loglikelihood", PAIRS)) == before
