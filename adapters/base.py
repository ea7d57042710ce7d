"""Loading the base model and its tokenizer: once a run, in its own precision, on the host."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..errors import UserError
from ..files import write_text
from .bundled import NAME as BUNDLED
from .bundled import ensure_bundled
from .formats import TEMPLATES
from .identity import hash_ahead
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
    weights: Future[str | None] | None = None  # the hash of its files, being made beside the loading

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


def load_base(spec: BaseSpec, *, offline: bool = False, weights: Future[str | None] | None = None) -> LoadedBase:
    """Read the base model and its tokenizer onto the host.

    Args:
        spec: what the suite says of it.
        offline: use only what is on this machine.
        weights: the hash of a local folder's files, where it is being made already.

    Raises:
        UserError: when the model cannot be found or read, is already quantised, or needs what the suite forbids.
    """
    source = base_source(spec)
    if weights is None or source != str(Path(spec.model).expanduser()):  # the bundled model stands elsewhere
        weights = hash_ahead(source)
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
        model, report = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype=spec.dtype if spec.dtype == "auto" else getattr(torch, spec.dtype),
            attn_implementation=spec.attn_implementation,
            use_safetensors=None if spec.allow_pickle else True,
            output_loading_info=True,
            **common,
        )
        _refuse_missing(spec, report["missing_keys"])
        tokenizer = load_tokenizer(source, spec, offline=offline)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # whatever a library raises over files that it did not write
        raise _load_error(spec, error) from error
    model.eval()
    model.requires_grad_(False)
    return LoadedBase(spec, source, getattr(model.config, "_commit_hash", None), model, tokenizer, weights)


def load_tokenizer(source: str, spec: BaseSpec, *, offline: bool = False) -> PreTrainedTokenizerBase:
    """Load a tokenizer for evaluation: with a padding token, and never one that ends every prompt with EOS."""
    tokenizer = AutoTokenizer.from_pretrained(
        source,
        revision=spec.revision if source == spec.model else None,
        trust_remote_code=spec.trust_remote_code,
        local_files_only=offline,
    )
    _end_no_prompt(tokenizer, source)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
        raise UserError(
            "the tokenizer has no end-of-sequence token",
            where=f"the tokenizer of {source}",
            fix="name the token that ends a text as eos_token in its tokenizer_config.json",
        )
    if isinstance(spec.chat_template, str):
        tokenizer.chat_template = TEMPLATES.get(spec.chat_template) or _read_template(spec.chat_template)
    if spec.chat_template and tokenizer.chat_template is None:
        raise UserError(
            "the tokenizer has no chat template of its own",
            where="base.chat_template",
            fix='set chat_template = "chatml" or name a Jinja file, or set it to false',
        )
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save a tokenizer as others will load it: without transformers' notes on where this machine loaded it from."""
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if key not in ("is_local", "local_files_only")}
    write_text(file, json.dumps(kept, indent=2, ensure_ascii=False) + "\n")


def _end_no_prompt(tokenizer: PreTrainedTokenizerBase, source: str) -> None:
    """Stop a tokenizer from putting EOS after every prompt: the model would answer nothing.

    Recipes set add_eos_token for training. transformers 5 saves it as a part of tokenizer.json and then forgets the
    setting, so what counts is what an encoded text ends in.
    """

    def ends() -> bool:
        bare, whole = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
        return len(whole) > len(bare) and whole[-1] == tokenizer.eos_token_id

    if not ends():
        return
    starts = tokenizer.encode("a")[0] == tokenizer.bos_token_id
    tokenizer.add_eos_token = False
    if starts != (tokenizer.encode("a")[0] == tokenizer.bos_token_id):
        tokenizer.add_bos_token = starts
    if ends():
        raise UserError(
            "the tokenizer ends every text with its end-of-sequence token, and cannot be told not to",
            where=f"the tokenizer of {source}",
            fix="save it with add_eos_token = false",
        )


def _read_template(name: str) -> str:
    try:
        return Path(name).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(
            f"the chat template cannot be read: {text}",
            where=f"base.chat_template = {name}",
            fix="name a Jinja file, or set chat_template = true for the tokenizer's own",
        ) from None


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
            else nn.Parameter(
                parameter.detach().to(device, copy=True, non_blocking=True), requires_grad=parameter.requires_grad
            )
        )
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach().to(device, copy=True)
    return copy.deepcopy(model, memo)


def pin_ahead(model: PreTrainedModel) -> Future[None]:
    """Move a model in host memory to page-locked pages, in a thread: copies to a CUDA device go far faster.

    Without room the model stays as it is. Copies may be made meanwhile: they read the old pages or the new.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="pin")
    pinned = thread.submit(_pin, model)
    thread.shutdown(wait=False)
    return pinned


def _pin(model: PreTrainedModel) -> None:
    parameters = [p for p in model.parameters() if p.device.type == "cpu" and not p.is_pinned()]
    needed = sum(p.numel() * p.element_size() for p in parameters)
    if needed * 1.5 > psutil.virtual_memory().available:
        return
    try:
        for parameter in parameters:
            parameter.data = parameter.data.pin_memory()
    except RuntimeError:  # the system allows less than there is
        _log.info("host memory could not be page-locked")


def _refuse_missing(spec: BaseSpec, missing: Collection[str]) -> None:
    if missing:
        raise UserError(
            f"{len(missing)} weights are not in its files, such as {min(missing)}: they would be drawn at random",
            where=f"base.model = {spec.model}",
            fix="name a causal language model whose files and config.json belong together",
        )


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
