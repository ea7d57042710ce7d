"""Generating summaries: phibench's engine against transformers' `generate` in padded batches, in one process.

Both are given the same prompts and the same model object. Run by hand; the last line is JSON.

    python tests/benchmarks/generation.py --model smollm2-135m --limit 24 --new-tokens 48 --peer-batch 4 8 24
    python tests/benchmarks/generation.py --shape phi-2 --tokenizer FOLDER --dtype bfloat16 --limit 500 --peer-batch 64
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from phibench.adapters.quantize import dequantize_once
from phibench.adapters.variants import VariantFactory
from phibench.harness.engine.attention import Way
from phibench.harness.engine.budget import token_budget
from phibench.harness.engine.decoding import Decoder
from phibench.harness.engine.generate import Generation
from phibench.harness.engine.prompts import Prompt, read_prompts
from phibench.harness.engine.sampling import Choice
from phibench.harness.engine.support import find_way, why_not_decode
from phibench.harness.environment import choose_device, hardware, versions
from phibench.harness.tasks import Prompting, build, load_tasks
from shapes import FORMS, base_of, factory_of, parser_of, suite_of


def arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--task", default="dialogsum")
    parser.add_argument("--limit", type=int, default=24, help="documents; repeated ones are left out")
    parser.add_argument("--new-tokens", type=int, default=48, help="of every text: nothing ends one earlier")
    parser.add_argument("--varied", type=int, nargs=2, help="instead: lengths drawn between these, by a seed")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--memory-fraction", type=float, help="of the card that this process may take")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    logging.disable(logging.WARNING)
    device = choose_device(args.device)
    if args.memory_fraction:
        torch.cuda.set_per_process_memory_fraction(args.memory_fraction)
    suite = suite_of(args.model, args.dtype, [{"name": args.task}])
    prompting = Prompting(chat_template=None, system_instruction=None, fewshot_as_multiturn=False, key="plain")
    [loaded] = load_tasks(suite, suite.tasks)
    texts = list(dict.fromkeys(request.args[0] for request in build(suite, loaded, prompting, None).requests))
    base = base_of(suite, args.shape, args.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        factory = factory_of(suite, base, Path(folder), device)
        found = [_form(name, factory, texts[: args.limit], args, device) for name in args.forms]
    for form in found:
        form["times_the_first_form"] = round(form["seconds"] / found[0]["seconds"], 3)
    about = {"versions": versions(), "hardware": hardware(device), "copy_bytes_per_second": _copy_rate(device)}
    print(json.dumps({"benchmark": "generation", "arguments": vars(args), "forms": found, **about}, default=str))


def _form(
    name: str, factory: VariantFactory, texts: Sequence[str], args: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    variant = factory.make(FORMS[name])
    if FORMS[name].quantization and device.type == "cuda":
        dequantize_once(variant.model)
    draw = random.Random(0)
    lengths = [draw.randint(*args.varied) if args.varied else args.new_tokens for _ in texts]
    asked = [(text, {"until": [], "max_gen_toks": n}, 0) for text, n in zip(texts, lengths, strict=True)]
    # The end-of-text token, which is a stop string too, ends none either: the peer is told the same.
    prompts = [replace(prompt, until=()) for prompt in read_prompts(asked, variant.tokenizer, 2048)]
    way = find_way(variant.model)
    if not isinstance(way, Way):
        raise SystemExit(way)
    if args.masked:
        way = Way(kernels=False, fused=True)
    if why := why_not_decode(variant.model, way):
        raise SystemExit(why)
    _ours(variant, way, prompts[:3], device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times, texts_found, parts = [], {}, {}
    for _ in range(args.repeats):
        started = time.perf_counter()
        texts_found, parts = _ours(variant, way, prompts, device)
        times.append(time.perf_counter() - started)
    seconds = statistics.median(times)
    result: dict[str, Any] = {
        "form": name,
        "prompts": len(prompts),
        "prompt_tokens": sum(len(prompt.tokens) for prompt in prompts),
        "new_tokens": sum(lengths),
        "seconds": round(seconds, 3),
        "all_seconds": [round(t, 3) for t in times],
        "peak_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
        **parts,
    }
    _say(result)
    for size in args.peer_batch or []:
        taken, theirs = _peer(variant, prompts, size)
        same = [texts_found[i] == theirs[i] for i in range(len(prompts))]
        result |= {
            f"peer_{size}_s": round(taken, 2),
            f"times_faster_{size}": round(taken / seconds, 2),
            f"same_texts_{size}": sum(same),
        }
        _say(result)
    return result


def _ours(
    variant: Any, way: Way, prompts: Sequence[Prompt], device: torch.device
) -> tuple[dict[int, list[int]], dict[str, Any]]:
    """The new tokens of each prompt, and how long prefill and steps took."""
    decoder = Decoder(variant.model, way)
    spent = {"prefill": 0.0, "step": 0.0}
    read = {"prefill": 0, "step": 0}
    lengths: list[torch.Tensor] = []
    weights = sum(p.numel() * p.element_size() for p in variant.model.parameters())
    # Timed without waiting for the device: what a prefill still has to do is waited for by the first step after it.
    prefill, step = decoder.prefill, decoder.step

    def timed_prefill(forward: Any, starts: list[int]) -> torch.Tensor:
        started = time.perf_counter()
        found = prefill(forward, starts)
        _wait(device)
        spent["prefill"] += time.perf_counter() - started
        read["prefill"] += len(forward.tokens)
        return found

    def counted_step(tokens: torch.Tensor, positions: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        read["step"] += len(tokens)
        lengths.append(positions)
        return step(tokens, positions, starts)

    decoder.prefill, decoder.step = timed_prefill, counted_step  # type: ignore[method-assign]
    with decoder.ready():
        each = sum(layer.bytes for layer in decoder.layers())
    generation = Generation(decoder, variant.tokenizer, Choice({}, {}), set(), token_budget(variant.model, device))
    started = time.perf_counter()
    found = dict(generation.run(range(len(prompts)), prompts))
    spent["step"] = time.perf_counter() - started - spent["prefill"]
    cached = sum(int(positions.sum()) + len(positions) for positions in lengths)
    return found, {
        "prefill_s": round(spent["prefill"], 3),
        "prefill_tokens_per_second": round(read["prefill"] / spent["prefill"]),
        "decode_s": round(spent["step"], 3),
        "decode_tokens_per_second": round(read["step"] / max(spent["step"], 1e-9)),
        # What has to be read: the weights once a step, and every cached token's keys and values.
        "decode_bytes_per_second": round((len(lengths) * weights + each * cached) / max(spent["step"], 1e-9)),
    }


class _Lengths(StoppingCriteria):
    """Ends each row at its own length: what a seed forces on ours too."""

    def __init__(self, lengths: list[int], prompt: int) -> None:
        self._lengths = torch.tensor(lengths)
        self._prompt = prompt

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return self._lengths.to(input_ids.device) <= input_ids.shape[1] - self._prompt


@torch.inference_mode()
def _peer(variant: Any, prompts: Sequence[Prompt], size: int) -> tuple[float, dict[int, list[int]]]:
    """transformers' `generate` as lm-eval calls it: sorted by length, padded on the left."""
    device, pad = next(variant.model.parameters()).device, variant.tokenizer.pad_token_id
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i].tokens))
    found: dict[int, list[int]] = {}
    started = time.perf_counter()
    for first in range(0, len(order), size):
        batch = order[first : first + size]
        longest = max(len(prompts[i].tokens) for i in batch)
        rows = [[pad] * (longest - len(prompts[i].tokens)) + prompts[i].tokens for i in batch]
        mask = [[0] * (longest - len(prompts[i].tokens)) + [1] * len(prompts[i].tokens) for i in batch]
        lengths = [prompts[i].limit for i in batch]
        output = variant.model.generate(
            input_ids=torch.tensor(rows, device=device),
            attention_mask=torch.tensor(mask, device=device),
            max_new_tokens=max(lengths),
            min_new_tokens=0,
            do_sample=False,
            eos_token_id=-1,
            pad_token_id=pad,
            stopping_criteria=StoppingCriteriaList([_Lengths(lengths, longest)]),
        )
        for i, row in zip(batch, output[:, longest:].tolist(), strict=True):
            found[i] = row[: prompts[i].limit]
    return time.perf_counter() - started, found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _copy_rate(device: torch.device) -> float | None:
    """Bytes a second that the device's memory moves in one large copy, read and written counted: the ceiling."""
    if device.type != "cuda":
        return None
    source = torch.empty(2**31, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    _wait(device)
    started = time.perf_counter()
    for _ in range(10):
        target.copy_(source)
    _wait(device)
    return round(10 * 2 * 2**31 / (time.perf_counter() - started))


def _say(result: dict[str, Any]) -> None:
    print({k: v for k, v in result.items() if v is not None}, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
