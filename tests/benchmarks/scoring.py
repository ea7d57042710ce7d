"""Model time of scoring: phibench's tree engine against stock lm-eval's own Hugging Face model, in one process.

Both are given the same tokenised requests and the same model object. Run by hand; the last line is JSON.

    python tests/benchmarks/scoring.py --model smollm2-135m --limit 100 --dtype float32
    python tests/benchmarks/scoring.py --shape phi-2 --tokenizer FOLDER --dtype bfloat16 --forms base adapter-nf4
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from phibench.adapters.quantize import dequantize_once
from phibench.adapters.variants import Variant, VariantFactory
from phibench.harness.engine.attention import Way
from phibench.harness.engine.budget import token_budget
from phibench.harness.engine.packed import causal_of
from phibench.harness.engine.plain import PlainEngine
from phibench.harness.engine.requests import ScoringRequests
from phibench.harness.engine.scoring import TreeEngine
from phibench.harness.engine.tree import Plan
from phibench.harness.environment import choose_device, hardware, versions
from phibench.harness.suite import Suite
from phibench.harness.tasks import Prompting, build, load_tasks
from shapes import FORMS, base_of, factory_of, parser_of, suite_of

TASKS = ["arc_easy", "arc_challenge", "hellaswag", "piqa", "winogrande"]


def arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--limit", type=int, help="documents of each task")
    parser.add_argument("--num-fewshot", type=int, default=0, help="examples before each question, the same for all")
    parser.add_argument("--reference", type=int, help="compare this many requests with a float32 copy of the base")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-tokens", type=int)
    parser.add_argument("--profile", type=Path, help="write a table of the device's kernels there")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    logging.disable(logging.WARNING)
    device = choose_device(args.device)
    suite = _suite(args)
    prompting = Prompting(chat_template=None, system_instruction=None, fewshot_as_multiturn=False, key="plain")
    tasks = [build(suite, loaded, prompting, args.limit) for loaded in load_tasks(suite, suite.tasks)]
    texts = [tuple(request.args) for task in tasks for request in task.requests]
    base = base_of(suite, args.shape, args.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        factory = factory_of(suite, base, Path(folder), device)
        found = [_form(name, factory, texts, args, device) for name in args.forms]
    first = found[0]["tree_s"]
    for form in found:
        form["times_the_first_form"] = round(form["tree_s"] / first, 3)
    about = {"versions": versions(), "hardware": hardware(device), "matmul_tflops": _matmul(device, base.dtype)}
    print(json.dumps({"benchmark": "scoring", "arguments": vars(args), "forms": found, **about}, default=str))


def _form(
    name: str, factory: VariantFactory, texts: list[Any], args: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    variant = factory.make(FORMS[name])
    once = len(dequantize_once(variant.model)) if FORMS[name].quantization and device.type == "cuda" else 0
    tokens = args.batch_tokens or token_budget(variant.model, device)
    engine = TreeEngine(variant.model, variant.tokenizer, batch_tokens=tokens)
    if args.masked:
        engine.way = Way(kernels=False, fused=True)
    started = time.perf_counter()
    requests = engine.prepare("loglikelihood", texts)
    encoded = time.perf_counter()
    plan = Plan(requests.items)
    planned = time.perf_counter()
    pairs = [(list(i.inputs[: len(i.inputs) + 1 - len(i.targets)]), list(i.targets)) for i in requests.items]
    fed, distinct = sum(len(item.inputs) for item in requests.items), plan.tokens
    engine.warm_up()
    warm = ScoringRequests(requests.items[:64], list(range(64)))
    list(engine.score_all(warm))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times, ours = [], {}
    for _ in range(args.repeats):
        taken, ours = _timed(lambda: dict(engine.score_all(requests)), device)
        times.append(taken)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    if args.profile:
        _profile(engine, requests, args.profile.with_suffix(f".{name}.txt"))
    # The layers alone: the head sees scored positions only.
    layers = causal_of(variant.model).get_decoder().named_parameters()
    weights = sum(p.numel() for n, p in layers if p.ndim == 2 and "embed" not in n and "lora_" not in n)
    tree = statistics.median(times)
    result: dict[str, Any] = {
        "form": name,
        "requests": len(texts),
        "tokens_fed_by_lm_eval": fed,
        "tokens_distinct": distinct,
        "tokens_fed": sum(len(plan.forward(*run).tokens) for run in plan.ranges(tokens)),
        "encode_s": round(encoded - started, 2),
        "plan_s": round(planned - encoded, 2),
        "tree_s": round(tree, 3),
        "tree_all_s": [round(t, 3) for t in times],
        "tree_tflops": round(2 * weights * distinct / tree / 1e12, 1),
        "fallback": engine.fallback,
        "budget": engine.batch_tokens,
        "dequantized_once": once,
        "peak_bytes": peak,
    }
    _say(result)
    said = {"tree": [float(ours[i].loglikelihood) for i in range(len(texts))]}
    for size in args.peer_batch or []:
        stock = HFLM(pretrained=variant.model, tokenizer=variant.tokenizer, batch_size=size, logits_cache=True)
        asked = [((c, t), *pair) for (c, t), pair in zip(texts, pairs, strict=True)]
        stock._loglikelihood_tokens(asked[:size], disable_tqdm=True)
        taken, theirs = _timed(lambda: stock._loglikelihood_tokens(asked, disable_tqdm=True), device)  # noqa: B023
        said[f"peer_{size}"] = [float(answer[0]) for answer in theirs]
        gaps = [a - b for a, b in zip(said["tree"], said[f"peer_{size}"], strict=True)]
        result |= {
            f"peer_{size}_s": round(taken, 2),
            f"times_faster_{size}": round(taken / tree, 2),
            f"largest_gap_{size}_nats": max(map(abs, gaps)),
            f"mean_gap_{size}_nats": statistics.mean(gaps),
        }
        _say(result)
    if args.reference:
        result |= _off_float32(variant, requests, said, args.reference)
        _say(result)
    return result


def _off_float32(
    variant: Variant, requests: ScoringRequests, said: dict[str, list[float]], count: int
) -> dict[str, Any]:
    """Mean difference to the plain engine on a float32 copy, its standard error, and the spread; nats a request."""
    chosen = list(range(0, len(requests.items), max(1, len(requests.items) // count)))
    exact = PlainEngine(copy.deepcopy(variant.model).float(), variant.tokenizer, batch_tokens=4096)
    sample = ScoringRequests([requests.items[i] for i in chosen], chosen)
    reference = {chosen[n]: float(response.loglikelihood or 0.0) for n, response in exact.score_all(sample)}
    found: dict[str, Any] = {}
    for name, values in said.items():
        off = [values[i] - reference[i] for i in chosen]
        spread = statistics.stdev(off)
        found[f"off_float32_{name}"] = {"mean": statistics.mean(off), "stderr": spread / len(off) ** 0.5, "sd": spread}
    return found


def _timed(work: Any, device: torch.device) -> tuple[float, Any]:
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    found = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started, found


def _suite(args: argparse.Namespace) -> Suite:
    fixed = {"num_fewshot": args.num_fewshot, "override": {"fewshot_config": {"sampler": "first_n"}}}
    tasks = [{"name": task, **(fixed if args.num_fewshot else {})} for task in args.tasks]
    return suite_of(args.model, args.dtype, tasks)


def _matmul(device: torch.device, dtype: torch.dtype) -> float | None:
    """TFLOP/s of one large matrix product on random data: the ceiling."""
    if device.type != "cuda":
        return None
    a, b = (torch.randn(8192, 8192, device=device, dtype=dtype) for _ in range(2))
    for _ in range(5):
        a @ b
    taken, _ = _timed(lambda: [a @ b for _ in range(20)], device)
    return round(20 * 2 * 8192**3 / taken / 1e12, 1)


def _profile(engine: TreeEngine, requests: ScoringRequests, path: Path) -> None:
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    some = ScoringRequests(requests.items[:3000], list(range(3000)))
    _ = some.plan
    with profile(activities=kinds) as seen:
        list(engine.score_all(some))
    sort = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    path.write_text(seen.key_averages().table(sort_by=sort, row_limit=45, max_name_column_width=90), encoding="utf-8")


def _say(result: dict[str, Any]) -> None:
    print({k: v for k, v in result.items() if v is not None}, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
