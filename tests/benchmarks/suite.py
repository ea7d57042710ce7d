"""A whole suite of six variants, process start to report, against one stock lm-eval process for each variant.

phibench runs once; the peer loads a ready model for the quantised forms, since lm-eval's own `load_in_4bit=True` fails
with transformers 5. Run by hand; the last line is JSON.

    python tests/benchmarks/suite.py --model FOLDER --dtype float32 --limit 50
    python tests/benchmarks/suite.py --shape phi-2 --tokenizer FOLDER --peers base base-nf4 adapter-nf4
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from shapes import phi_2, save_lora

TASKS = ["arc_easy", "arc_challenge", "hellaswag", "piqa", "winogrande"]
FORMS = ["base", "base-nf4", "adapter-nf4", "merged", "merged-dequantized", "merged-requantized"]
KINDS = ["base", "base-q", "adapter-q", "merged", "merged-dequantized", "merged-requantized"]

SUITE = """name = "six"
[base]
model = "{model}"
dtype = "{dtype}"
[quantizations.nf4]
load_in_4bit = true
bnb_4bit_quant_type = "nf4"
bnb_4bit_use_double_quant = true
[adapters.lora]
path = "{adapter}"
[matrix]
adapter = "lora"
quantization = "nf4"
kinds = {kinds}
"""

PEER = """
import json, sys
import torch, lm_eval
from lm_eval.models.huggingface import HFLM
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
asked = json.loads(sys.argv[1])
dtype = getattr(torch, asked["dtype"])
nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                         bnb_4bit_compute_dtype=dtype)
options = {"quantization_config": nf4} if asked["quantized"] else {}
where = {"device_map": {"": 0}} if torch.cuda.is_available() else {}
model = AutoModelForCausalLM.from_pretrained(asked["model"], dtype=dtype, **options, **where).eval()
if asked["adapter"]:
    model = PeftModel.from_pretrained(model, asked["adapter"]).eval()
stock = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(asked["model"]), batch_size=asked["batch"])
found = lm_eval.simple_evaluate(model=stock, tasks=asked["tasks"], limit=asked["limit"])
print(json.dumps({task: found["results"][task]["acc,none"] for task in asked["tasks"]}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model folder")
    parser.add_argument("--shape", choices=["phi-2"], help="random weights in this shape instead")
    parser.add_argument("--tokenizer", help="with --shape: the folder whose tokenizer is used")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--peers", nargs="*", choices=FORMS, default=FORMS)
    parser.add_argument("--peer-batch", type=int, default=64)
    parser.add_argument("--memory-fraction", type=float, help="of the card that phibench's process may take")
    parser.add_argument("--keep", type=Path, help="work in this folder and leave it there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = args.keep or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        model, adapter = _base(args, work), work / "adapter"
        if not adapter.exists():
            _adapter(model, adapter, args.dtype)
        result: dict[str, Any] = {
            "benchmark": "suite",
            "arguments": vars(args),
            **_phibench(args, model, adapter, work),
        }
        _say(result)
        for form in args.peers:
            result[f"peer_{form}_s"], result[f"peer_{form}_acc"] = _peer(args, form, model, adapter, work)
            _say({form: result[f"peer_{form}_s"]})
    print(json.dumps(result, default=str))


def _phibench(args: argparse.Namespace, model: Path, adapter: Path, work: Path) -> dict[str, Any]:
    suite, out = work / "suite.toml", work / f"run-{os.getpid()}"
    text = SUITE.format(model=model, dtype=args.dtype, adapter=adapter, kinds=json.dumps(KINDS))
    suite.write_text(text + "".join(f'[[tasks]]\nname = "{task}"\n' for task in args.tasks), encoding="utf-8")
    command = [sys.executable, "-m", "phibench", "run", str(suite), "--out", str(out), "--offline", "-q"]
    if args.memory_fraction:
        start = (
            "import sys, torch; torch.cuda.set_per_process_memory_fraction({}); from phibench.cli import main; main()"
        )
        command[1:3] = ["-c", start.format(args.memory_fraction)]
    command += ["--limit", str(args.limit)] if args.limit else []
    started = time.perf_counter()
    code = subprocess.run(command, check=False).returncode
    seconds = time.perf_counter() - started
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    cells = json.loads((out / "results.json").read_text(encoding="utf-8"))["cells"]
    own = {v["name"]: [c for c in cells if c["variant"] == v["name"]] for v in manifest["variants"]}
    return {
        "phibench_s": round(seconds, 1),
        "exit_code": code,
        "model_s": {name: round(sum(c["seconds"] for c in found), 2) for name, found in own.items()},
        "derive_s": {v["name"]: v["load_seconds"] for v in manifest["variants"]},
        "scoring": {v["name"]: v["scoring"] for v in manifest["variants"]},
        "peak_bytes": {name: max((c["peak_memory_bytes"] or 0) for c in found) for name, found in own.items()},
        "failed": [c["error"] for c in cells if c["status"] != "done"],
        "acc": {
            name: {
                c["task"]: next(s["value"] for s in c["scores"] if s["metric"] == "acc") for c in found if c["scores"]
            }
            for name, found in own.items()
        },
        "versions": manifest["versions"],
        "hardware": manifest["hardware"],
    }


def _peer(args: argparse.Namespace, form: str, model: Path, adapter: Path, work: Path) -> tuple[float, Any]:
    source = _merged(args, form, model, adapter, work) if form.startswith("merged") else model
    asked = {
        "model": str(source), "dtype": args.dtype, "quantized": form.endswith(("nf4", "requantized")),
        "adapter": str(adapter) if form.startswith("adapter") else None, "tasks": args.tasks, "limit": args.limit,
        "batch": args.peer_batch,
    }  # fmt: skip
    started = time.perf_counter()
    ran = subprocess.run([sys.executable, "-c", PEER, json.dumps(asked)], check=True, capture_output=True, text=True)
    return round(time.perf_counter() - started, 1), json.loads(ran.stdout.strip().splitlines()[-1])


def _merged(args: argparse.Namespace, form: str, model: Path, adapter: Path, work: Path) -> Path:
    """The merged model as a folder, as people ship it; making it is not timed."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    folder = work / ("merged-dequantized" if form == "merged-dequantized" else "merged")
    if not folder.exists():
        dtype = getattr(torch, args.dtype)
        nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
        options = {"quantization_config": nf4} if folder.name == "merged-dequantized" else {}
        base = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, **options)
        base = base.dequantize(dtype=dtype) if options else base
        PeftModel.from_pretrained(base, str(adapter)).merge_and_unload().save_pretrained(folder)
        AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


def _base(args: argparse.Namespace, work: Path) -> Path:
    """The model's folder; random weights are made on the device and written once."""
    if not args.shape:
        return Path(args.model).resolve()
    folder = work / "phi-2-shape"
    if not folder.exists():
        from transformers import AutoTokenizer

        phi_2(getattr(torch, args.dtype)).save_pretrained(folder)
        AutoTokenizer.from_pretrained(args.tokenizer).save_pretrained(folder)
    return folder


def _adapter(model: Path, folder: Path, dtype: str) -> None:
    from transformers import AutoModelForCausalLM

    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        save_lora(AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)), folder)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _say(what: dict[str, Any]) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
