"""What the benchmarks run where no real weights are at hand: Phi-2's shape, and a LoRA, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


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
