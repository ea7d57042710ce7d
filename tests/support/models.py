"""Tiny real models, tokenizers and adapters made on the fly: everything the variants' tests run on.

Nothing here goes through phibench except :func:`load` and :func:`factory`, so a test that writes its reference out by
hand shares no code with what it tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from phibench.adapters.adapter_files import read_adapter
from phibench.adapters.base import LoadedBase, load_base
from phibench.adapters.spec import BaseSpec, QuantizationSpec
from phibench.adapters.variants import VariantFactory

CPU = torch.device("cpu")
EOS = "<|endoftext|>"
TOKENS = 257  # of the tiny tokenizer: every byte, and EOS
ROWS = 272  # of the tiny models' embeddings: more than there are tokens, as Phi-2's
EOS_ID = 256
CHATML = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
LLAMA_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PHI_LINEAR = ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"]
LINEAR = {"llama": LLAMA_LINEAR, "llama-untied": LLAMA_LINEAR, "phi": PHI_LINEAR}
# Two rows of input, so that batching and more than one position count.
IDS = torch.arange(2 * 24).view(2, 24) * 7 % TOKENS

NF4 = QuantizationSpec(load_in_4bit=True, bnb_4bit_quant_type="nf4")
NF4_DOUBLE = QuantizationSpec(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
FP4 = QuantizationSpec(load_in_4bit=True, bnb_4bit_quant_type="fp4")
INT8 = QuantizationSpec(load_in_8bit=True)
QUANTIZATIONS = {"nf4": NF4, "nf4-double": NF4_DOUBLE, "fp4": FP4, "int8": INT8}


# ---- bases


def tiny_model(kind: str = "llama", *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A random causal LM of a real architecture: `llama` (tied embeddings), `llama-untied` or `phi`.

    The feed-forward width makes double quantisation work on more than one of its own blocks.
    """
    common = {
        "hidden_size": 64,
        "intermediate_size": 320,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": ROWS,
        "max_position_embeddings": 128,
        "initializer_range": 0.15,
        "bos_token_id": EOS_ID,
        "eos_token_id": EOS_ID,
        **changes,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any
        if kind == "phi":
            model = PhiForCausalLM(PhiConfig(**{"tie_word_embeddings": False, **common}))
        else:
            model = LlamaForCausalLM(LlamaConfig(**{"tie_word_embeddings": kind == "llama", **common}))
        for name, parameter in model.named_parameters():  # biases and norms start at 0 and 1: make them count
            if parameter.ndim == 1:
                parameter.data += torch.randn_like(parameter) * (0.1 if "norm" in name else 0.2)
    # Not the buffers: rotary frequencies stay in float32, as `from_pretrained` has it.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype
    return model.eval()


def tiny_tokenizer(*extra: str, chat_template: str | None = None, **options: Any) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer without a padding token, as GPT-2's kin have none; `extra` tokens follow EOS."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(BPE(vocab={token: number for number, token in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    named = {"bos_token": EOS, "eos_token": EOS, "unk_token": EOS}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **named, **options)
    tokenizer.add_tokens(list(extra), special_tokens=True)
    tokenizer.chat_template = chat_template
    return tokenizer


def spaced_tokenizer(scheme: str = "always") -> PreTrainedTokenizerFast:
    """A tokenizer of characters that puts a space before every text, as SentencePiece's kin do."""
    characters = [EOS, "▁", *(chr(number) for number in range(33, 127)), "\n"]
    backend = Tokenizer(BPE(vocab={token: number for number, token in enumerate(characters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    backend.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=EOS, eos_token=EOS, unk_token=EOS)


def save_base(folder: Path, kind: str = "llama", *, tokenizer: Any = None, **options: Any) -> Path:
    """Write a tiny model and its tokenizer as an ordinary model folder."""
    tiny_model(kind, **options).save_pretrained(folder)
    (tokenizer or tiny_tokenizer()).save_pretrained(folder)
    return folder


def load(folder: Path, **spec: Any) -> LoadedBase:
    """Load a base as a suite would."""
    return load_base(BaseSpec(model=str(folder), **spec))


# ---- adapters


def lora(kind: str = "llama", **changes: Any) -> LoraConfig:
    """A LoRA on every linear layer of a tiny model."""
    return LoraConfig(**{"task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "target_modules": LINEAR[kind], **changes})


def save_adapter(
    base: PreTrainedModel, folder: Path, config: Any, *, seed: int = 1, noise: float = 0.05, **saving: Any
) -> Path:
    """Write an adapter for `base` (changed in place) whose every weight is off its starting value by noise."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = get_peft_model(base, config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * noise)
    model.save_pretrained(folder, **saving)
    return folder


def factory(
    base: LoadedBase,
    *,
    quantizations: Mapping[str, QuantizationSpec] = QUANTIZATIONS,
    device: torch.device = CPU,
    **adapters: Path,
) -> VariantFactory:
    """A factory over adapters found in folders."""
    found = {name: read_adapter(name, folder, str(folder)) for name, folder in adapters.items()}
    return VariantFactory(base, quantizations, found, device)


# ---- the same by hand


def bits_and_bytes(name: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    """The tests' quantisations, as one writes them for transformers."""
    if name == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=name.removesuffix("-double"),
        bnb_4bit_use_double_quant=name.endswith("-double"),
        bnb_4bit_compute_dtype=dtype,
    )


def from_disk(folder: Path, dtype: torch.dtype, quantization: str | None = None) -> Any:
    """What transformers itself loads, with bitsandbytes' repacking of weights at the first forward off."""
    options = {"quantization_config": bits_and_bytes(quantization, dtype)} if quantization else {}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options)
    set_cpu_repacking(model, False)
    return model.eval()


def dequantized_by_hand(folder: Path, dtype: torch.dtype, quantization: str) -> Any:
    """The full-precision model whose linear weights are those that the quantised one stands for."""
    import bitsandbytes as bnb

    quantized, plain = from_disk(folder, dtype, quantization), from_disk(folder, dtype)
    for name, module in quantized.named_modules():
        if isinstance(module, bnb.nn.Linear4bit | bnb.nn.Linear8bitLt):
            weight = dequantized(module).to(dtype)
            plain.get_submodule(name).weight = nn.Parameter(weight, requires_grad=False)
    return plain


def dequantized(layer: Any) -> torch.Tensor:
    """What a linear layer multiplies by, by bitsandbytes' own functions where it is quantised."""
    import bitsandbytes as bnb

    if isinstance(layer, bnb.nn.Linear4bit):
        return torch.as_tensor(bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state))
    if isinstance(layer, bnb.nn.Linear8bitLt):
        scales = layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
        return torch.as_tensor(bnb.functional.int8_vectorwise_dequant(layer.weight.data, scales))
    return torch.as_tensor(layer.weight)


# ---- looking at models


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    """The logits of every position, as one forward in evaluation mode gives them."""
    assert not model.training
    return torch.as_tensor(model(input_ids=ids).logits)


def linear4bit(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The 4-bit layers of a model, by name."""
    import bitsandbytes as bnb

    return ((name, module) for name, module in model.named_modules() if isinstance(module, bnb.nn.Linear4bit))


def set_cpu_repacking(model: nn.Module, on: bool) -> None:
    """Let bitsandbytes repack 4-bit weights at the first forward on a CPU, as it does where the CPU can, or not."""
    for _, module in linear4bit(model):
        module.support_avx512bf16_for_cpu = on


def adapter_logits(base: PreTrainedModel, folder: Path, *, merge: bool = False) -> torch.Tensor:
    """Logits of peft's own adapter on `base`, attached or merged."""
    model = PeftModel.from_pretrained(base, str(folder))
    plain: Callable[..., Any] = model.merge_and_unload if merge else model.eval
    return logits(plain().eval())
