"""The tree engine against models' own forwards: every family, every adapter form, any budget and order."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from phibench.adapters.spec import VariantSpec
from phibench.harness.engine import scoring
from phibench.harness.engine.attention import TreeUnsupportedError, Way
from phibench.harness.engine.budget import token_budget
from phibench.harness.engine.head import Head
from phibench.harness.engine.plain import PlainEngine
from phibench.harness.engine.requests import Prepared
from phibench.harness.engine.scoring import TreeEngine
from phibench.harness.engine.shape import TreeShape
from phibench.harness.engine.support import find_way
from support.families import COMMON, NOT_SERVED, SERVED, make
from support.models import factory, load, lora, save_adapter, save_base, tiny_model, tiny_tokenizer


def token_pairs(seed: int = 0, questions: int = 10) -> list[tuple[list[int], list[int]]]:
    """Questions with choices, a question within a question, a long continuation, repeats."""
    draw = random.Random(seed)

    def some(most: int, least: int = 1) -> list[int]:
        return [draw.randint(3, 250) for _ in range(draw.randint(least, most))]

    pairs = []
    for _ in range(questions):
        context = some(24)
        pairs += [(context, some(8)) for _ in range(draw.randint(1, 4))]
    pairs.append((some(3), some(60, 60)))
    pairs.append((pairs[0][0] + pairs[0][1], some(4)))
    pairs.append(pairs[0])
    return pairs


def naive(model: Any, pairs: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
    """One request at a time, every logit: (log-likelihood, is greedy)."""
    found = []
    for context, continuation in pairs:
        with torch.no_grad():
            logits = model(torch.tensor([[*context, *continuation[:-1]]])).logits[0, -len(continuation) :].float()
        target = torch.tensor(continuation)
        chosen = torch.log_softmax(logits, -1).gather(1, target[:, None]).sum()
        found.append((float(chosen), bool((logits.argmax(-1) == target).all())))
    return found


def check(engine: PlainEngine, pairs: list[tuple[list[int], list[int]]], model: Any, tolerance: float = 1e-4) -> None:
    found = dict(engine.score(pairs))
    assert sorted(found) == list(range(len(pairs)))
    for i, (loglikelihood, is_greedy) in enumerate(naive(model, pairs)):
        assert found[i].loglikelihood == pytest.approx(loglikelihood, abs=tolerance), pairs[i]
        assert found[i].is_greedy == is_greedy


@pytest.mark.parametrize("family", SERVED)
def test_families_that_trees_serve(family: str) -> None:
    model = make(SERVED[family]())
    assert isinstance(find_way(model), Way)
    own = model.config._attn_implementation
    for budget in (40, 4096):
        engine = TreeEngine(model, tiny_tokenizer(), max_length=256, batch_tokens=budget)
        check(engine, token_pairs(), model)
        assert engine.fallback is None
    assert model.config._attn_implementation == own


@pytest.mark.parametrize("family", NOT_SERVED)
def test_families_that_trees_do_not_serve_are_found_out(family: str) -> None:
    config, says = NOT_SERVED[family]
    model = make(config())
    own = model.config._attn_implementation
    assert says in str(find_way(model))
    assert model.config._attn_implementation == own


def test_a_window_that_only_the_mask_knows_ends_in_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(SERVED["mistral"]())
    pairs = token_pairs()
    expected = naive(model, pairs)
    for layer in model.model.layers:  # as models whose layers do not name their window
        forward = layer.self_attn.forward

        def nameless(*args: Any, forward: Any = forward, module: Any = layer.self_attn, **kwargs: Any) -> Any:
            module.config.sliding_window, kept = None, module.config.sliding_window
            try:
                return forward(*args, **kwargs)
            finally:
                module.config.sliding_window = kept

        monkeypatch.setattr(layer.self_attn, "forward", nameless)
    engine = TreeEngine(model, tiny_tokenizer(), max_length=256, batch_tokens=64)
    found = dict(engine.score(pairs))
    assert "cut to 8 tokens" in str(engine.fallback)
    for i, (loglikelihood, is_greedy) in enumerate(expected):
        assert found[i].loglikelihood == pytest.approx(loglikelihood, abs=1e-4)
        assert found[i].is_greedy == is_greedy


@pytest.mark.parametrize("kind", ["llama", "phi"])
@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_adapters_attached(kind: str, quantization: str | None, tmp_path: Path) -> None:
    base = load(save_base(tmp_path / "base", kind, max_position_embeddings=256))
    folder = save_adapter(tiny_model(kind, max_position_embeddings=256), tmp_path / "lora", lora(kind))
    made = factory(base, lora=folder).make(VariantSpec(name="x", adapter="lora", quantization=quantization))
    assert isinstance(find_way(made.model), Way)
    plain = naive(made.model, token_pairs())
    check(TreeEngine(made.model, made.tokenizer, batch_tokens=100), token_pairs(), made.model)
    assert naive(made.model, token_pairs()) == plain  # the model is as it was


TOKENS = st.lists(st.integers(3, 6), min_size=1, max_size=9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=15), st.sampled_from([1, 20, 500]))
def test_random_request_sets_against_a_naive_scorer(pairs: list[tuple[list[int], list[int]]], budget: int) -> None:
    check(TreeEngine(MODEL, TOKENIZER, batch_tokens=budget), pairs, MODEL)


MODEL, TOKENIZER = tiny_model("llama"), tiny_tokenizer()


def test_same_budget_same_bits_whatever_the_order_and_whatever_ran_before(tmp_path: Path) -> None:
    pairs = token_pairs(1, questions=40)
    first = dict(TreeEngine(MODEL, TOKENIZER, batch_tokens=200).score(pairs))
    folder = save_adapter(tiny_model("llama"), tmp_path / "lora", lora("llama"))
    base = load(save_base(tmp_path / "base", "llama"))
    made = factory(base, lora=folder)
    list(TreeEngine(made.make(VariantSpec(name="x", adapter="lora")).model, TOKENIZER, batch_tokens=200).score(pairs))
    order = random.Random(2).sample(range(len(pairs)), len(pairs))
    again = dict(TreeEngine(MODEL, TOKENIZER, batch_tokens=200).score([pairs[i] for i in order]))
    assert [again[n].loglikelihood for n in range(len(pairs))] == [first[i].loglikelihood for i in order]
    for budget in (1, 37, 100_000):
        other = dict(TreeEngine(MODEL, TOKENIZER, batch_tokens=budget).score(pairs))
        gaps = [abs(float(other[i].loglikelihood or 0) - float(first[i].loglikelihood or 0)) for i in first]
        assert max(gaps) < 1e-3


def test_running_out_of_memory_halves_the_budget_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = token_pairs(3, questions=30)
    engine = TreeEngine(MODEL, TOKENIZER, batch_tokens=100_000)
    real = scoring.hidden_states

    def small_only(causal: Any, shape: Any) -> Any:
        if shape.tokens > 90:
            raise torch.OutOfMemoryError("pretended")
        return real(causal, shape)

    monkeypatch.setattr(scoring, "hidden_states", small_only)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    check(engine, pairs, MODEL)
    assert engine.batch_tokens <= 90


def test_out_of_memory_for_one_sequence_is_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Any:
        raise torch.OutOfMemoryError("pretended")

    monkeypatch.setattr(scoring, "hidden_states", never)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    with pytest.raises(torch.OutOfMemoryError):
        list(TreeEngine(MODEL, TOKENIZER, batch_tokens=50).score(token_pairs()))


def test_the_head_sees_scored_positions_alone_and_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    head = MODEL.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
    monkeypatch.setattr("phibench.harness.engine.head._CHUNK_BYTES", {"cpu": 4 * 272 * 7})
    pairs = token_pairs(4)
    plan_rows = sum(len(continuation) for _, continuation in pairs)
    try:
        check(TreeEngine(MODEL, TOKENIZER, batch_tokens=4096), pairs, MODEL)
    finally:
        handle.remove()
    ours = seen[: -len(pairs)]  # the naive scorer's come last
    assert max(ours) <= 7
    assert sum(ours) <= plan_rows + 1


def test_an_engine_that_fails_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("pretended")

    expected = naive(MODEL, token_pairs())
    monkeypatch.setattr(Head, "score", broken)
    with pytest.raises(RuntimeError, match="pretended"):
        list(TreeEngine(MODEL, TOKENIZER).score(token_pairs()))
    assert naive(MODEL, token_pairs()) == expected
    assert "forward" not in vars(MODEL.get_decoder())


def test_attention_outside_of_a_pass_is_refused() -> None:
    from phibench.harness.engine.attention import tree_attention

    with tree_attention(MODEL), pytest.raises(TreeUnsupportedError, match="outside"):
        MODEL(torch.tensor([[1, 2, 3]]))


def test_variants_of_one_tokenizer_share_what_was_encoded() -> None:
    prepared = Prepared()
    arguments = [("a question", " one"), ("a question", " two")]
    first = TreeEngine(MODEL, TOKENIZER, prepared=prepared).prepare("loglikelihood", arguments)
    second = TreeEngine(MODEL, TOKENIZER, prepared=prepared).prepare("loglikelihood", list(arguments))
    assert first is second
    assert (
        TreeEngine(MODEL, TOKENIZER, prepared=prepared, max_length=64).prepare("loglikelihood", arguments) is not first
    )


SCALED_ROPE: dict[str, Any] = {
    "longrope": {
        "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8,
        "original_max_position_embeddings": 32, "factor": 8.0,
    },
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
}  # fmt: skip


@pytest.mark.parametrize("kind", SCALED_ROPE)
@pytest.mark.parametrize("engine", [PlainEngine, TreeEngine])
def test_a_long_request_does_not_change_the_angles_of_others(kind: str, engine: type[PlainEngine]) -> None:
    config = {**COMMON, "max_position_embeddings": 256 if kind == "longrope" else 32}
    model = make(tf.LlamaConfig(**config, rope_parameters=SCALED_ROPE[kind]))
    pairs = [pair for pair in token_pairs() if len(pair[0]) + len(pair[1]) <= 32]
    expected = naive(model, pairs)
    # Longest first, as both engines and stock lm-eval go: dynamic angles remember the longest text seen.
    long = ([7] * 60, [8, 9, 10])
    [last] = naive(model, [long])
    found = dict(engine(model, tiny_tokenizer(), max_length=256, batch_tokens=4096).score([*pairs, long]))
    for i, (loglikelihood, _) in enumerate([*expected, last]):
        assert found[i].loglikelihood == pytest.approx(loglikelihood, abs=1e-3)


def test_trees_that_give_nan_do_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    real = TreeShape._masked
    monkeypatch.setattr(TreeShape, "_masked", lambda *args: real(*args) * float("nan"))
    assert "nan%" in str(find_way(MODEL))


def test_layers_stay_as_they_are_where_fewer_kernels_give_other_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import contextmanager

    from phibench.harness.engine import packed

    @contextmanager
    def wrong(model: Any) -> Any:
        handle = model.get_decoder().register_forward_hook(
            lambda module, args, output: type(output)(last_hidden_state=output.last_hidden_state * 1.5)
        )
        yield
        handle.remove()

    monkeypatch.setattr(packed, "fused_layers", wrong)
    assert find_way(MODEL) == Way(kernels=False, fused=False)


@pytest.mark.parametrize("family", ["phi", "llama", "cohere", "gpt-neox", "gemma-2"])
def test_the_kernels_in_whole_models(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotary positions and Phi's attention as on CUDA, in Triton's interpreter and float32."""
    pytest.importorskip("triton")
    from phibench.harness.engine import fused, kernels

    turned: list[int] = []
    real = kernels.rotate
    monkeypatch.setattr(kernels, "rotate", lambda *args, **kwargs: (turned.append(1), real(*args, **kwargs))[1])
    monkeypatch.setattr(fused, "kernels_for", lambda device, dtype: True)
    model = make(SERVED[family]())
    pairs = [([5, 6, 7, 8], [9, 10]), ([5, 6, 7, 8], [11]), ([30, 31], [3, 4, 5])]
    engine = TreeEngine(model, tiny_tokenizer(), max_length=256, batch_tokens=100)
    engine.way = Way(kernels=True, fused=True)
    before = naive(model, pairs)
    check(engine, pairs, model)
    # Twice to find out whether the model turns halves as the kernel does, then twice a layer. Cohere interleaves, and
    # GPT-NeoX turns a part of each head inside the function: they keep their own.
    assert (len(turned) >= 2 * model.config.num_hidden_layers) == (family not in ("cohere", "gpt-neox"))
    assert naive(model, pairs) == before


def test_forwards_stretch_where_a_long_prefix_would_be_fed_too_often() -> None:
    draw = random.Random(5)
    examples = [draw.randint(3, 250) for _ in range(90)]
    pairs = [([*examples, *(draw.randint(3, 250) for _ in range(5))], [7, 8]) for _ in range(60)]
    fed: list[int] = []

    def count(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        if kwargs.get("input_ids") is not None:  # the head's passes feed hidden states
            fed.append(kwargs["input_ids"].shape[1])

    handle = MODEL.get_decoder().register_forward_hook(count, with_kwargs=True)
    try:
        sums = []
        for elastic in (False, True):
            engine = TreeEngine(MODEL, TOKENIZER, batch_tokens=100)
            engine.elastic = elastic
            fed.clear()
            list(engine.score(pairs))
            sums.append(sum(fed))
    finally:
        handle.remove()
    assert sums[1] < sums[0] / 5


@pytest.mark.parametrize(("free", "budget"), [(2**40, 16384), (2**30 + 4096 * 90_000, 4096), (0, 256)])
def test_the_budget_follows_the_free_memory(free: int, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from phibench.harness.engine import budget as module

    monkeypatch.setattr(module, "free_bytes", lambda device: free)
    model = make(tf.LlamaConfig(**{**COMMON, "hidden_size": 512, "intermediate_size": 4096, "num_hidden_layers": 1}))
    assert token_budget(model, torch.device("cuda")) == budget
