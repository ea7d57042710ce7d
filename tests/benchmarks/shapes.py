"""What the benchmarks have in common: forms, and where no real weights are at hand Phi-2's shape and a random LoRA."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from phibench.adapters.adapter_files import read_adapter
from phibench.adapters.base import LoadedBase, clone_to, load_base
from phibench.adapters.spec import VariantSpec
from phibench.adapters.variants import VariantFactory
from phibench.harness.suite import Suite

FORMS = {
    "base": VariantSpec(name="base"),
    "base-nf4": VariantSpec(name="base-nf4", quantization="nf4"),
    "adapter": VariantSpec(name="adapter", adapter="lora"),
    "adapter-nf4": VariantSpec(name="adapter-nf4", adapter="lora", quantization="nf4"),
}


def parser_of(about: str | None) -> argparse.ArgumentParser:
    """What every benchmark of one process is told: the model, its forms, the peer."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="what base.model may be")
    parser.add_argument("--shape", choices=["phi-2"], help="random weights in this shape instead of --model's own")
    parser.add_argument("--tokenizer", help="with --shape: the folder whose tokenizer is used")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=["base"])
    parser.add_argument("--peer-batch", type=int, nargs="*", help="batch sizes of the peer; none: do not measure it")
    parser.add_argument("--masked", action="store_true", help="masked attention on CUDA too: what a T4 gets")
    return parser


def suite_of(model: str, dtype: str, tasks: list[dict[str, Any]]) -> Suite:
    """A suite with NF4 in double quantisation."""
    nf4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    return Suite.model_validate(
        {
            "name": "benchmark",
            "base": {"model": model, "dtype": dtype},
            "quantizations": {"nf4": nf4},
            "variants": [{"name": "base"}],
            "tasks": tasks,
        }
    )


def base_of(suite: Suite, shape: str | None, tokenizer: str) -> LoadedBase:
    """The suite's base, or Phi-2's shape with the tokenizer of a folder."""
    if not shape:
        return load_base(suite.base, offline=True)
    from transformers import AutoTokenizer

    model = phi_2(getattr(torch, suite.base.dtype)).to("cpu")
    model.requires_grad_(False)
    tokens = AutoTokenizer.from_pretrained(tokenizer)
    tokens.pad_token = tokens.pad_token or tokens.eos_token
    return LoadedBase(suite.base, tokenizer, None, model, tokens)


def factory_of(suite: Suite, base: LoadedBase, folder: Path, device: torch.device) -> VariantFactory:
    """All forms of a base, with a random adapter that is written to `folder`."""
    save_lora(clone_to(base.model, device), folder)
    return VariantFactory(base, suite.quantizations, {"lora": read_adapter("lora", folder, "random")}, device)


def phi_2(dtype: torch.dtype) -> Any:
    """Phi-2's shape with random weights, on the device: speed and memory as the real ones, answers without meaning."""
    from transformers import PhiConfig, PhiForCausalLM

    config = PhiConfig(
        vocab_size=51200, hidden_size=2560, intermediate_size=10240, num_hidden_layers=32, num_attention_heads=32,
        partial_rotary_factor=0.4, max_position_embeddings=2048, hidden_act="gelu_new",
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            return PhiForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)


def save_lora(model: Any, folder: Path) -> None:
    """Write a LoRA of rank 32 with random weights, on every linear layer of `model` (changed in place) but the head."""
    from peft import LoraConfig, get_peft_model

    names = {n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    config = LoraConfig(r=32, lora_alpha=64, target_modules=sorted(names - {"lm_head"}), task_type="CAUSAL_LM")
    made = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_" in name:
                parameter.normal_(0.0, 0.01)
    made.save_pretrained(folder)
