"""What a variant *is*: the content hash that keeps one model's answers from ever standing for another's."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import sha256_file, sha256_json
from .spec import QuantizationSpec, VariantSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .adapter_files import AdapterFiles
    from .base import LoadedBase

# `*.py`: a model that runs code of its own is that code too.
_WEIGHTS = ("*.safetensors", "*.bin", "*.py", "config.json", "generation_config.json")


def base_parts(base: LoadedBase) -> dict[str, str]:
    """The base's share of every variant's identity: its files (or hub commit) and the precision it is held in."""
    weights = base.weights.result() if base.weights is not None else weights_hash(base.source)
    return {
        "base": weights or f"{base.source}@{base.revision}",
        "dtype": str(base.dtype).removeprefix("torch."),
        "attention": str(base.model.config._attn_implementation),
        **{f"version:{name}": version(name) for name in ("torch", "transformers")},
    }


def weights_hash(source: str) -> str | None:
    """The hash of a model folder's files; None for a hub id, which its commit stands for."""
    folder = Path(source)
    if not folder.is_dir():
        return None
    files = sorted({path for pattern in _WEIGHTS for path in folder.glob(pattern)})
    return sha256_json({path.name: sha256_file(path) for path in files})


def hash_ahead(model: str) -> Future[str | None]:
    """Hash a base's files in a thread of its own, beside the imports and the loading, which wait for other things.

    Args:
        model: a local folder; for anything else there is nothing to hash.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="hash")
    found = thread.submit(weights_hash, str(Path(model).expanduser()))
    thread.shutdown(wait=False)
    return found


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """The hash of everything that decides which tokens a text becomes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    inner = json.loads(backend.to_str()) if backend is not None else {"vocab": tokenizer.get_vocab()}
    for state in ("truncation", "padding"):  # how it was last called, which training does in other ways
        inner.pop(state, None)
    return sha256_json({"tokenizer": inner, "special": tokenizer.special_tokens_map})


def variant_parts(
    spec: VariantSpec,
    base: dict[str, str],
    *,
    adapter: AdapterFiles | None,
    quantization: QuantizationSpec | None,
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, str]:
    """All parts of a variant's identity, by name; their hash is the identity.

    The variant's name is no part of it, nor is the name its adapter or quantisation goes by in the suite.
    """
    parts = dict(base)
    parts["merge"] = spec.merge
    parts["tokenizer"] = tokenizer_hash(tokenizer)
    parts["chat_template"] = sha256_json(tokenizer.chat_template) if tokenizer.chat_template else "none"
    if adapter is not None:
        parts["adapter"] = adapter.sha256
        parts["version:peft"] = version("peft")
    if quantization is not None:
        parts["quantization"] = sha256_json(quantization.model_dump())
        parts["version:bitsandbytes"] = version("bitsandbytes")
    return parts


def other_parts(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Names of the parts in which two identities differ, but for how a model is run: versions and attention."""
    names = sorted(name for name in {*one, *other} if not name.startswith("version:") and name != "attention")
    return [name for name in names if one.get(name) != other.get(name)]


def version(distribution: str) -> str:
    """The installed version of a distribution, or `absent`."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
