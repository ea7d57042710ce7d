"""A tiny random model of each family that the engine serves, and of some that it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as tf

COMMON: dict[str, Any] = {
    "vocab_size": 272, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.2, "pad_token_id": 0,
}  # fmt: skip
SMALL: dict[str, Any] = {"vocab_size": 272, "n_embd": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.2}
NEOX = {key: value for key, value in COMMON.items() if key != "num_key_value_heads"}
SERVED: dict[str, Callable[[], Any]] = {
    "phi": lambda: tf.PhiConfig(**COMMON),
    "phi-3": lambda: tf.Phi3Config(**COMMON, sliding_window=8, bos_token_id=1, eos_token_id=2),
    "llama": lambda: tf.LlamaConfig(**COMMON),
    "qwen-2": lambda: tf.Qwen2Config(**COMMON, use_sliding_window=True, sliding_window=8, max_window_layers=2),
    "qwen-3": lambda: tf.Qwen3Config(**COMMON, head_dim=16),
    "mistral": lambda: tf.MistralConfig(**COMMON, sliding_window=8),
    "gemma-2": lambda: tf.Gemma2Config(
        **COMMON,
        head_dim=16,
        sliding_window=8,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=3.0,
        query_pre_attn_scalar=16,
    ),
    "gemma-3": lambda: tf.Gemma3TextConfig(**COMMON, head_dim=16, sliding_window=8),
    "gpt-neox": lambda: tf.GPTNeoXConfig(**NEOX),
    "gpt-2": lambda: tf.GPT2Config(**SMALL, n_positions=256),
    "opt": lambda: tf.OPTConfig(
        vocab_size=272, hidden_size=64, ffn_dim=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=256, init_std=0.2, word_embed_proj_dim=64, pad_token_id=0,
    ),
    "mixtral": lambda: tf.MixtralConfig(**COMMON, num_local_experts=4),
    "granite": lambda: tf.GraniteConfig(**COMMON, logits_scaling=4.0),
    "cohere": lambda: tf.CohereConfig(**COMMON),
}  # fmt: skip
NOT_SERVED: dict[str, tuple[Callable[[], Any], str]] = {
    "bloom (ALiBi)": (
        lambda: tf.BloomConfig(vocab_size=272, hidden_size=64, n_layer=2, n_head=4, initializer_range=0.2),
        "registry",
    ),
    "mamba (recurrent)": (
        lambda: tf.MambaConfig(vocab_size=272, hidden_size=64, num_hidden_layers=2, initializer_range=0.2),
        "registry",
    ),
    "recurrent gemma": (
        lambda: tf.RecurrentGemmaConfig(
            vocab_size=272, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
            lru_width=64, attention_window_size=8,
        ),
        "off by",
    ),
    "lfm-2 (convolutions)": (
        lambda: tf.Lfm2Config(**COMMON, layer_types=["conv", "full_attention", "conv", "full_attention"]),
        "off by",
    ),
    "gpt-oss (attention sinks)": (
        lambda: tf.GptOssConfig(**COMMON, head_dim=16, sliding_window=8, num_local_experts=4),
        "s_aux",
    ),
}  # fmt: skip


def make(config: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = tf.AutoModelForCausalLM.from_config(config).eval()
        for parameter in model.parameters():  # norms and biases start at ones and zeros: make them count
            parameter.data.add_(torch.randn_like(parameter) * 0.02)
    return model
