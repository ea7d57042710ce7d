"""Generation over a cache of our own, against transformers' `generate` one prompt at a time."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
import transformers as tf
from scipy import stats

from phibench.adapters.spec import VariantSpec
from phibench.errors import UserError
from phibench.harness.engine import decoding, support
from phibench.harness.engine.attention import Way
from phibench.harness.engine.cache import KeyValueCache, LayerSize, StepShape
from phibench.harness.engine.decoding import Decoder
from phibench.harness.engine.generate import Generation
from phibench.harness.engine.plain import PlainEngine
from phibench.harness.engine.prompts import Prompt, read_prompts
from phibench.harness.engine.sampling import Choice
from phibench.harness.engine.scoring import TreeEngine
from phibench.harness.engine.shape import Scores
from phibench.harness.engine.stops import StopStrings
from phibench.harness.engine.support import why_not_decode
from support.families import COMMON, SERVED, make
from support.models import EOS_ID, factory, load, lora, save_adapter, save_base, tiny_model, tiny_tokenizer

MODEL = tiny_model("llama")
TOKENIZER = tiny_tokenizer()
TOKENIZER.pad_token = TOKENIZER.eos_token
OURS = "packed, over a cache of our own"
MASKED = Way(kernels=False, fused=True)


def prompts(count: int = 8, seed: int = 0, most: int = 12) -> list[Prompt]:
    """Prompts of many lengths and limits, some with a start in common, one asked twice, one the start of another."""
    draw = random.Random(seed)

    def some(least: int, most: int) -> list[int]:
        return [draw.randint(3, 250) for _ in range(draw.randint(least, most))]

    shared = some(9, 9)
    texts = [shared * (i % 2) + some(1, 20) for i in range(count)]
    texts += [texts[0], texts[1][:4]]
    return [Prompt(text, 0, draw.randint(1, most), (), (), 0) for text in texts]


def one_by_one(model: Any, prompt: Prompt, ends: set[int] = frozenset(), **options: Any) -> list[int]:  # type: ignore[assignment]
    found = model.generate(
        input_ids=torch.tensor([prompt.tokens]),
        attention_mask=torch.ones(1, len(prompt.tokens), dtype=torch.long),
        max_new_tokens=prompt.limit,
        do_sample=False,
        eos_token_id=sorted(ends) or -1,
        pad_token_id=0,
        **options,
    )
    return list(found[0, len(prompt.tokens) :].tolist())


def run(
    model: Any, asked: list[Prompt], *, budget: int = 64, ends: set[int] | None = None, **own: Any
) -> dict[int, Any]:
    generation = Generation(Decoder(model, MASKED), TOKENIZER, Choice(own, {}), ends or set(), budget)
    return dict(generation.run(range(len(asked)), asked))


@pytest.mark.parametrize("family", SERVED)
def test_families_generate_what_generate_does(family: str) -> None:
    model = make(SERVED[family]())
    assert why_not_decode(model, MASKED) is None
    asked = prompts(6)
    found = run(model, asked)
    for i, prompt in enumerate(asked):
        assert found[i] == one_by_one(model, prompt), (family, i)


@pytest.mark.parametrize(
    ("quantization", "merge"),
    [(None, "none"), ("nf4-double", "none"), (None, "base"), ("nf4-double", "requantized")],
)
def test_adapters_attached_and_merged(quantization: str | None, merge: str, tmp_path: Path) -> None:
    base = load(save_base(tmp_path / "base", "phi"))
    folder = save_adapter(tiny_model("phi"), tmp_path / "lora", lora("phi"))
    made = factory(base, a=folder).make(
        VariantSpec(name="x", adapter="a", quantization=quantization, merge=merge)  # type: ignore[arg-type]
    )
    assert why_not_decode(made.model, MASKED) is None
    asked = prompts(5)
    found = run(made.model, asked)
    for i, prompt in enumerate(asked):
        assert found[i] == one_by_one(made.model, prompt), i


@pytest.mark.parametrize("budget", [1, 40, 4096])
@pytest.mark.parametrize("places", [0, 60, 2**16])
def test_rows_leave_and_join(budget: int, places: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows, few places, small forwards: what is generated stays the same."""
    asked = prompts(20, seed=3)
    expected = [one_by_one(MODEL, prompt, {7, 9, 11}) for prompt in asked]
    monkeypatch.setattr(decoding, "_MOST_WITHOUT_KERNELS", 4)
    each = 2 * 4 * 32 * 4  # bytes of a token: two layers, four heads, keys and values of 16, float32
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2 * places * each))
    widths: list[int] = []
    step = Decoder.step
    monkeypatch.setattr(
        Decoder, "step", lambda self, tokens, *rest: (widths.append(len(tokens)), step(self, tokens, *rest))[1]
    )
    found = run(MODEL, asked, budget=budget, ends={7, 9, 11})
    assert [found[i] for i in range(len(asked))] == expected
    assert max(widths) <= 4
    if places > 60:
        assert max(widths) == 4


def test_what_is_asked_twice_is_generated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = prompts(3) * 4
    read: list[int] = []
    prefill = Decoder.prefill
    monkeypatch.setattr(
        Decoder, "prefill", lambda self, forward, starts: (read.extend(starts), prefill(self, forward, starts))[1]
    )
    found = run(MODEL, asked, budget=4096)
    assert len(found) == len(asked)
    assert len(read) == len({(tuple(p.tokens), p.limit) for p in asked})


def test_prefixes_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = list(range(10, 60))
    asked = [Prompt([*shared, n], 0, 3, (), (), 0) for n in range(100, 120)]
    read: list[int] = []
    prefill = Decoder.prefill
    monkeypatch.setattr(
        Decoder,
        "prefill",
        lambda self, forward, starts: (read.append(len(forward.tokens)), prefill(self, forward, starts))[1],
    )
    found = run(MODEL, asked, budget=4096)
    assert read == [70]
    assert [found[i] for i in range(20)] == [one_by_one(MODEL, prompt) for prompt in asked]


def test_running_out_of_memory_halves_the_budget_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = prompts(12, seed=4)
    prefill = Decoder.prefill

    def small_only(self: Decoder, forward: Any, starts: list[int]) -> torch.Tensor:
        if len(forward.tokens) > 40:
            raise torch.OutOfMemoryError("pretended")
        return prefill(self, forward, starts)

    monkeypatch.setattr(Decoder, "prefill", small_only)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    found = run(MODEL, asked, budget=4096)
    assert [found[i] for i in range(len(asked))] == [one_by_one(MODEL, prompt) for prompt in asked]


@pytest.mark.parametrize("sampled", [False, True])
def test_running_out_of_memory_in_a_step_goes_on_with_fewer_rows(
    sampled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"until": [], "max_gen_toks": 8, "do_sample": sampled, "temperature": float(sampled)}
    requests = [(text, settings, seed) for seed, text in enumerate(("one", "two three", "four", "five", "six"))]
    expected = dict(TreeEngine(MODEL, TOKENIZER, max_length=128).generate(requests))
    step = Decoder.step

    def few_only(self: Decoder, tokens: torch.Tensor, *rest: Any) -> torch.Tensor:
        if len(tokens) > 3:
            raise torch.OutOfMemoryError
        return step(self, tokens, *rest)

    monkeypatch.setattr(Decoder, "step", few_only)
    engine = TreeEngine(MODEL, TOKENIZER, max_length=128)
    assert dict(engine.generate(requests)) == expected
    assert engine.texts_by() == OURS


def test_a_device_without_room_for_one_row_loses_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [(text, {"until": [], "max_gen_toks": 8}, 0) for text in ("one", "two three", "four")]
    engine = TreeEngine(MODEL, TOKENIZER, max_length=128)
    list(engine.generate(requests[:1]))

    def never(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Decoder, "step", never)
    expected = dict(PlainEngine(MODEL, TOKENIZER, max_length=128).generate(requests))
    assert dict(engine.generate(requests)) == expected
    assert engine.texts_by() == "packed, over a cache of our own; 3 of 4 plain: OutOfMemoryError"


# ---- the engine: stop strings, settings, what goes the plain way


def both(
    requests: list[tuple[str, dict[str, Any], int]], model: Any = MODEL
) -> tuple[TreeEngine, list[Any], list[Any]]:
    ours = TreeEngine(model, TOKENIZER, max_length=128, batch_tokens=200)
    plain = PlainEngine(model, TOKENIZER, max_length=128, batch_tokens=1)
    found, expected = dict(ours.generate(requests)), dict(plain.generate(requests))
    return ours, [found[i] for i in range(len(requests))], [expected[i] for i in range(len(requests))]


@pytest.mark.parametrize("seed", range(4))
def test_stop_strings_cut_where_they_cut_the_plain_way(seed: int) -> None:
    """Stop strings taken from what the model says, over token boundaries and inside of characters."""
    draw = random.Random(seed)
    texts = ["".join(chr(draw.choice([draw.randint(32, 126), 233, 26085])) for _ in range(9)) for _ in range(6)]
    _, free, _ = both([(text, {"until": [], "max_gen_toks": 24}, 0) for text in texts])
    requests = []
    for text, said in zip(texts, free, strict=True):
        whole = said.text
        cuts = [whole[a : a + draw.randint(1, 4)] for a in (draw.randrange(max(1, len(whole))) for _ in range(2))]
        requests.append((text, {"until": [*(cut for cut in cuts if cut), "never there"], "max_gen_toks": 24}, 0))
    engine, found, expected = both(requests)
    assert engine.texts_by() == OURS
    assert found == expected
    assert any(response.stop == "stop_string" for response in found)


def test_a_stop_string_that_ends_in_a_space() -> None:
    stops = StopStrings(TOKENIZER, ["a "])
    assert stops.met(TOKENIZER.encode("banana ", add_special_tokens=False))
    assert not stops.met(TOKENIZER.encode("banana", add_special_tokens=False))


def test_eos_and_the_context_end_a_text() -> None:
    requests = [("abc" * 60, {"until": [], "max_gen_toks": 40}, 0), ("x", {"until": []}, 0)]
    with pytest.raises(Exception, match="leaves no room"):
        both(requests)  # 256 new tokens by default, in a context of 128
    engine, found, expected = both(requests[:1])
    assert found == expected
    assert found[0].truncated > 0
    token = TOKENIZER.encode(found[0].text)[3]
    engine.model = MODEL
    own, MODEL.generation_config.eos_token_id = MODEL.generation_config.eos_token_id, [EOS_ID, token]
    try:
        _, found, expected = both(requests[:1])
    finally:
        MODEL.generation_config.eos_token_id = own
    assert found == expected
    assert found[0].stop == "eos"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"num_beams": 2}, "num_beams"),
        ({"no_repeat_ngram_size": 2}, "no_repeat_ngram_size"),
        ({"num_beams": 1, "no_repeat_ngram_size": 0}, None),
        ({"repetition_penalty": 1.7}, None),
    ],
)
def test_settings(settings: dict[str, Any], says: str | None) -> None:
    requests = [(text, {"until": [], "max_gen_toks": 9, **settings}, 0) for text in ("one", "two three", "four")]
    engine, found, expected = both(requests)
    assert found == expected
    assert (engine.texts_by() == OURS) == (says is None)
    assert says is None or says in str(engine.texts_by())


@pytest.mark.parametrize("settings", [{"max_gen_toks": 0}, {"max_length": 40}])
def test_settings_that_ask_for_no_text_are_the_users_to_mend(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"max_gen_toks|max_length"):
        both([("one", {"until": [], **settings}, 0)])


def test_how_a_model_is_to_be_run_is_no_setting_of_its_texts() -> None:
    """As Gemma's own files have it."""
    own = {"cache_implementation": "hybrid", "use_cache": True, "eos_token_id": [1, 107]}
    assert Choice(own, {}).unsupported is None


def test_prompts_beyond_what_rotary_angles_were_made_for_are_counted() -> None:
    config = {**COMMON, "max_position_embeddings": 32}
    model = make(tf.LlamaConfig(**config, rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}))
    engine = TreeEngine(model, TOKENIZER, max_length=128)
    list(engine.generate([(text, {"until": [], "max_gen_toks": 4}, 0) for text in ("one", "x" * 50)]))
    assert "1 of 2 plain: no tokens in the prompt, or more than" in str(engine.texts_by())


def test_passes_do_not_overlap() -> None:
    engine = TreeEngine(MODEL, TOKENIZER, max_length=128)
    own = MODEL.config._attn_implementation
    requests = [(text, {"until": [], "max_gen_toks": n + 1}, 0) for n, text in enumerate(("one", "two", "three"))]
    first = engine.generate(requests)
    next(first)
    with pytest.raises(RuntimeError, match="in a pass already"):
        list(TreeEngine(MODEL, TOKENIZER, max_length=128).generate(requests))
    first.close()
    assert MODEL.config._attn_implementation == own


def test_the_models_own_settings_count_as_they_do_for_generate() -> None:
    requests = [(text, {"until": [], "max_gen_toks": 12}, 0) for text in ("one", "two three", "four")]
    _, before, _ = both(requests)
    MODEL.generation_config.repetition_penalty = 2.0
    try:
        engine, found, expected = both(requests)
    finally:
        MODEL.generation_config.repetition_penalty = None
    assert engine.texts_by() == OURS
    assert found == expected != before


# ---- sampling


@pytest.mark.parametrize(
    "options",
    [{"temperature": 0.7}, {"top_k": 4}, {"top_p": 0.6}, {"min_p": 0.1, "top_k": 0}, {"repetition_penalty": 1.5}],
)
def test_sampled_tokens_have_the_distribution_of_generates_own_processors(options: dict[str, Any]) -> None:
    vocabulary, draws = 24, 20_000
    logits = torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(5)) * 2
    history = torch.tensor([[3, 5, 3]])
    config = tiny_model().generation_config
    config.update(do_sample=True, **{"top_k": 50, **options})
    processors = MODEL._get_logits_processor(config, input_ids_seq_length=3, device="cpu")
    expected = torch.softmax(processors(history, logits.clone()), -1)[0].double().numpy()
    choice = Choice({}, {"do_sample": True, **options})
    assert choice.unsupported is None
    chance = torch.from_numpy(
        torch.rand(draws, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).numpy()
    )
    tokens = choice(logits.expand(draws, -1).clone(), history.expand(draws, -1), chance)
    counts = torch.bincount(tokens, minlength=vocabulary).numpy()
    assert (counts[expected == 0] == 0).all()
    kept = expected > 0
    assert stats.chisquare(counts[kept], expected[kept] / expected[kept].sum() * draws).pvalue > 1e-4
    chosen = choice(logits, history, torch.tensor([1.0 - 2**-53], dtype=torch.float64))
    assert expected[int(chosen)] > 0


def test_a_sampled_text_is_its_seeds_alone() -> None:
    settings = {"until": [], "max_gen_toks": 10, "do_sample": True, "temperature": 1.0}
    requests = [(text, settings, seed) for text in ("one", "two three", "four") for seed in (1, 2)]
    engine = TreeEngine(MODEL, TOKENIZER, max_length=128, batch_tokens=200)
    found = {requests[i][::2]: r.text for i, r in engine.generate(requests)}
    assert engine.texts_by() == OURS
    mixed = random.Random(0).sample(requests, len(requests))
    small = TreeEngine(MODEL, TOKENIZER, max_length=128, batch_tokens=1)
    assert {mixed[i][::2]: r.text for i, r in small.generate(mixed)} == found
    assert len(set(found.values())) == len(found)


def test_sampling_over_many_seeds_follows_the_models_probabilities() -> None:
    settings = {"until": [], "max_gen_toks": 1, "do_sample": True, "temperature": 0.5, "top_k": 6}
    requests = [("one", settings, seed) for seed in range(3000)]
    engine = TreeEngine(MODEL, TOKENIZER, max_length=128, batch_tokens=400)
    [prompt] = read_prompts(requests[:1], TOKENIZER, 128)
    seen = Counter(
        tokens[0]
        for _, tokens in engine._decoded(
            Choice({}, dict(prompt.options)), list(range(3000)), read_prompts(requests, TOKENIZER, 128)
        )
    )
    with torch.no_grad():
        logits = MODEL(torch.tensor([prompt.tokens])).logits[0, -1] / 0.5
    values, tokens = logits.topk(6)
    expected = torch.softmax(values, -1).double().numpy()
    counts = [seen[token] for token in tokens.tolist()]
    assert sum(counts) == 3000
    assert stats.chisquare(counts, expected / expected.sum() * 3000).pvalue > 1e-4


# ---- models that cannot, and parts


def test_a_model_that_does_not_see_its_cache_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(self: StepShape, layer: int, q: Any, k: Any, v: Any, scores: Scores) -> torch.Tensor:
        return v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)

    monkeypatch.setattr(StepShape, "attend", forgetful)
    assert "off by" in str(why_not_decode(MODEL, MASKED))
    engine, found, expected = both([("one", {"until": [], "max_gen_toks": 9}, 0)])
    assert "off by" in str(engine.texts_by())
    assert found == expected


def test_a_model_whose_steps_answer_in_one_place_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    step, place = Decoder.step, torch.empty(3, COMMON["vocab_size"])

    def recorded(self: Decoder, *inputs: torch.Tensor) -> torch.Tensor:
        return place.copy_(step(self, *inputs))

    monkeypatch.setattr(support.Decoder, "step", recorded)
    assert why_not_decode(MODEL, MASKED) is None


def test_a_failing_step_is_a_reason_and_the_model_is_its_own_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = MODEL.config._attn_implementation

    def fails(*_: Any) -> torch.Tensor:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(support.Decoder, "step", fails)
    assert "no such thing" in str(why_not_decode(MODEL, MASKED))
    assert MODEL.config._attn_implementation == before


def test_runs_of_places_are_given_out_and_joined_again() -> None:
    cache = KeyValueCache([LayerSize(1, 2, 2, torch.float32)], 10, torch.device("cpu"))
    assert [cache.take(4), cache.take(3), cache.take(4), cache.take(3)] == [0, 4, None, 7]
    cache.give(0, 4)
    cache.give(7, 3)
    assert cache.take(5) is None
    cache.give(4, 3)
    assert cache.take(10) == 0


@pytest.mark.parametrize(("heads", "key_heads", "width"), [(4, 4, 80), (4, 2, 64), (2, 1, 24)])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (20, None), (None, 5.0), (20, 5.0)])
def test_the_cached_kernel(heads: int, key_heads: int, width: int, window: int | None, softcap: float | None) -> None:
    pytest.importorskip("triton")
    draw = torch.Generator().manual_seed(0)
    cache = KeyValueCache([LayerSize(key_heads, width, width, torch.float32)], 300, torch.device("cpu"))
    for states in (cache.keys[0], cache.values[0]):
        states.normal_(generator=draw)
    starts, positions = torch.tensor([0, 100, 130, 300]), torch.tensor([99, 0, 64, 0])
    q = torch.randn(4, heads, width, generator=draw)
    k, v = (torch.randn(4, key_heads, width, generator=draw) for _ in range(2))
    found, expected = (
        StepShape(cache, starts, positions, longest=200, kernels=kernels).attend(
            0, q, k, v, Scores(width**-0.5, window, softcap)
        )
        for kernels in (True, False)
    )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_sizes_of_graphs_reach_the_most_rows() -> None:
    assert list(decoding._SIZES) == sorted(decoding._SIZES)
    assert decoding._SIZES[-1] == decoding.MOST_ROWS
