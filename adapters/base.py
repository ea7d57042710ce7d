"""Loading the base model and its tokenizer: once a run, in its own precision, on the host."""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..errors import UserError
from .bundled import NAME as BUNDLED
from .bundled import ensure_bundled
from .spec import BaseSpec, is_local

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedBase:
    """The base as read from disk: the master that every variant is copied from. Never changed, never run."""

    spec: BaseSpec
    source: str  # local folder or hub id
    revision: str | None  # the hub commit that was read
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def dtype(self) -> torch.dtype:
        """The precision the weights are held in."""
        return self.model.dtype


def base_source(spec: BaseSpec) -> str:
    """The local folder or hub id that `spec.model` stands for; makes the bundled model if that is asked for.

    Raises:
        UserError: when a local folder is missing or holds no model.
    """
    if spec.model == BUNDLED:
        return str(ensure_bundled())
    if not is_local(spec.model):
        return spec.model
    folder = Path(spec.model).expanduser()
    if not (folder / "config.json").is_file():
        raise UserError(
            "this folder holds no transformers model: it has no config.json",
            where=f"base.model = {spec.model}",
            fix="give a folder written by save_pretrained, a hub id such as microsoft/phi-2, or smollm2-135m",
        )
    return str(folder)


def load_base(spec: BaseSpec, *, offline: bool = False) -> LoadedBase:
    """Read the base model and its tokenizer onto the host.

    Raises:
        UserError: when the model cannot be found or read, is already quantised, or needs what the suite forbids.
    """
    source = base_source(spec)
    common: dict[str, Any] = {
        "revision": spec.revision,
        "trust_remote_code": spec.trust_remote_code,
        "local_files_only": offline,
    }
    try:
        config = AutoConfig.from_pretrained(source, **common)
        if getattr(config, "quantization_config", None) is not None:
            raise UserError(
                "this model is already quantised; phibench derives the quantised forms itself",
                where=f"base.model = {spec.model}",
                fix="name the full-precision model it was made from, and put the quantisation under [quantizations.*]",
            )
        model = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype=spec.dtype if spec.dtype == "auto" else getattr(torch, spec.dtype),
            attn_implementation=spec.attn_implementation,
            use_safetensors=None if spec.allow_pickle else True,
            **common,
        )
        tokenizer = load_tokenizer(source, spec, offline=offline)
    except UserError:
        raise
    except (OSError, ValueError, ImportError) as error:
        raise _load_error(spec, error) from error
    model.eval()
    model.requires_grad_(False)
    return LoadedBase(spec, source, getattr(model.config, "_commit_hash", None), model, tokenizer)


def load_tokenizer(source: str, spec: BaseSpec, *, offline: bool = False) -> PreTrainedTokenizerBase:
    """Load a tokenizer for evaluation: with a padding token, and never one that ends every prompt with EOS."""
    tokenizer = AutoTokenizer.from_pretrained(
        source,
        revision=spec.revision if source == spec.model else None,
        trust_remote_code=spec.trust_remote_code,
        local_files_only=offline,
    )
    if getattr(tokenizer, "add_eos_token", False):
        # Recipes set this for training; transformers 5 then appends EOS to prompts too, and the model answers nothing.
        tokenizer.add_eos_token = False
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if isinstance(spec.chat_template, str):
        path = Path(spec.chat_template).expanduser()
        tokenizer.chat_template = path.read_text(encoding="utf-8")
    if spec.chat_template and tokenizer.chat_template is None:
        raise UserError(
            "the tokenizer has no chat template of its own",
            where="base.chat_template",
            fix="name a Jinja file instead of true, or set chat_template = false",
        )
    return tokenizer


def clone_to(model: PreTrainedModel, device: torch.device, *, share: Collection[int] = ()) -> PreTrainedModel:
    """A deep copy of `model` whose tensors go straight to `device`; ties between weights stay ties.

    Args:
        model: the master copy.
        device: where the copy's tensors live.
        share: ids of parameters that are not copied but shared with the master (they are about to be replaced).
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        shared = id(parameter) in share
        memo[id(parameter)] = (
            parameter
            if shared
            else nn.Parameter(parameter.detach().to(device, copy=True), requires_grad=parameter.requires_grad)
        )
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach().to(device, copy=True)
    return copy.deepcopy(model, memo)


def _load_error(spec: BaseSpec, error: Exception) -> UserError:
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    where = f"base.model = {spec.model}"
    if "trust_remote_code" in str(error):
        return UserError(
            "this model runs code of its own from the hub, which is off",
            where=where,
            fix="read that code, then set base.trust_remote_code = true",
        )
    if "safetensors" in str(error):
        return UserError(
            f"no safetensors weights: {text}",
            where=where,
            fix="convert the model, or set base.allow_pickle = true if you trust its author",
        )
    return UserError(
        f"the model cannot be loaded: {text}",
        where=where,
        fix="give a local folder, smollm2-135m, or a hub id that this machine can reach (offline: only what is cached)",
    )
