"""Saving a merged variant as an ordinary model folder, with a note of how it was made; read again before it is kept."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from .. import __version__
from ..errors import UserError
from ..files import level_modes, replace_folder, sha256_json, write_text
from .base import load_base, save_tokenizer
from .ends import ends_of
from .identity import other_parts, tokenizer_hash, version, weights_hash
from .merge_record import RECORD, MergeOrder, MergeRecord, public_name
from .variants import VariantFactory, model_bytes

SHARD = "5GB"
_SPARE = 2**26  # bytes beside the weights: tokenizer, configuration, the headers of the files
Said = Callable[[str], AbstractContextManager[object]]


def save_merged(
    order: MergeOrder,
    out: Path,
    device: torch.device,
    said: Said,
    *,
    shard: str = SHARD,
    force: bool = False,
    offline: bool = False,
) -> MergeRecord:
    """Make a merged variant as a suite makes it, and save it so that plain transformers loads the very same weights.

    The folder appears whole or not at all: it is written beside its place, read again with transformers, and moved
    there only if every tensor, the tokenizer and the ends of a text came back as they were.

    Args:
        order: what to merge.
        out: the folder to make.
        device: where the weights are merged. CPUs and GPUs round alike only almost.
        said: shows what is under way.
        shard: the largest file, such as 5GB.
        force: put it in the place of a folder that an earlier merge wrote.
        offline: use only what is on this machine.

    Raises:
        UserError: when the folder is taken or cannot be written, the adapter does not fit the base or cannot be
            merged, it would not be the variant that was measured, or it cannot be saved faithfully.
    """
    out = out.expanduser().resolve()
    check_shard(shard)
    check_free(out, force=force)
    with said(f"loading {public_name(order.base.model)}"):
        base = load_base(order.base, offline=offline)
        quantizations = {} if order.quantization is None else {"quantization": order.quantization}
        factory = VariantFactory(base, quantizations, {order.adapter.name: order.adapter}, device)
        parts = factory.parts(order.spec)
    _refuse_another(order, parts)
    with said(f"merging {order.adapter.name} into {order.into}"):
        variant = factory.make(order.spec)
    record = MergeRecord(
        phibench_version=__version__,
        into=order.into,
        base=public_name(order.base.model),
        revision=base.revision,
        adapter=public_name(order.adapter.source),
        method=order.adapter.method,
        adapter_sha256=order.adapter.sha256,
        quantization=order.quantization,
        device=str(device),
        identity=sha256_json(parts),
        parts=parts,
        tensors=tensors_hash(variant.model),
        bytes=variant.model_bytes,
        files="",
        versions={name: version(name) for name in ("torch", "transformers", "peft", "bitsandbytes", "safetensors")},
    )
    tokenizer, ends = variant.tokenizer, ends_of(variant.model)
    with _writing(out), replace_folder(out) as part:
        _check_room(out, variant.model)
        with said(f"saving {out.name}"):
            variant.model.save_pretrained(part, max_shard_size=shard)  # type: ignore[operator]
            save_tokenizer(tokenizer, part)
            level_modes(part)
        del variant, factory, base  # the check needs the room
        with said("reading it again with transformers"):
            _check_saved(part, record, tokenizer, ends, trust_remote_code=order.base.trust_remote_code)
        record = record.model_copy(update={"files": weights_hash(str(part))})
        write_text(part / RECORD, record.model_dump_json(indent=2) + "\n")
    return record


def tensors_hash(model: nn.Module) -> str:
    """The SHA-256 of every tensor of a model's state: name, precision, shape and bytes, however files divide them.

    A 4-bit layer's state has its packed weight and all that dequantising takes. An 8-bit layer's changes place at the
    first forward: hash before it.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def check_free(out: Path, *, force: bool = False) -> None:
    """Refuse a place that is taken; `force` gives up only what an earlier merge wrote.

    Raises:
        UserError: when it is a file, or a folder with something in it.
    """
    if not out.exists():
        above = next(folder for folder in out.absolute().parents if folder.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            raise UserError(f"nothing can be written to {above}", where=str(out), fix="give another folder with --out")
        return
    if not out.is_dir():
        raise UserError("this is a file, not a folder", where=str(out), fix="give another folder with --out")
    if not any(out.iterdir()):
        return
    if not (out / RECORD).is_file():
        raise UserError(
            "this folder is not empty, and no merge wrote it", where=str(out), fix="give another folder with --out"
        )
    if not force:
        raise UserError(
            "this folder holds a merged model already",
            where=str(out),
            fix="give another folder with --out, or --force to put the new one in its place",
        )


def check_shard(size: str) -> None:
    """Refuse a size of files that is none.

    Raises:
        UserError: when it is not a number of MB or GB.
    """
    if not re.fullmatch(r"[1-9]\d{0,5}(MB|GB)", size):
        raise UserError(
            f"a file's size is a whole number of MB or GB (it is {json.dumps(size)})",
            where="--max-shard-size",
            fix="for instance --max-shard-size 5GB",
        )


def _refuse_another(order: MergeOrder, parts: dict[str, str]) -> None:
    others = other_parts(order.measured, parts) if order.measured is not None else []
    if others:
        raise UserError(
            f"this would not be the variant that was measured: {', '.join(others)} of it changed since",
            where=f"{public_name(order.base.model)} and {order.adapter.source}",
            fix="run the suite again, or merge the adapter by its folder to have it as it is now",
        )


def _check_room(out: Path, model: nn.Module) -> None:
    needed, free = model_bytes(model) + _SPARE, shutil.disk_usage(out.parent).free
    if free < needed:
        raise UserError(
            f"the disk has {free / 2**30:.1f} GiB left, and the model takes {needed / 2**30:.1f} GiB",
            where=str(out),
            fix="make room, or give a folder on another disk with --out",
        )


def _check_saved(
    folder: Path,
    record: MergeRecord,
    tokenizer: PreTrainedTokenizerBase,
    ends: dict[str, Any],
    *,
    trust_remote_code: bool,
) -> None:
    """Read the folder as its users will; what comes back must be what was made."""
    common: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", use_safetensors=True, **common)
    found = AutoTokenizer.from_pretrained(folder, **common)
    wrong = []
    if tensors_hash(model) != record.tensors:
        wrong.append("weights")
    if (tokenizer_hash(found), found.chat_template) != (tokenizer_hash(tokenizer), tokenizer.chat_template):
        wrong.append("tokenizer")
    if ends_of(model) != ends:
        wrong.append("tokens that begin, end and fill a text")
    if wrong:
        raise UserError(
            f"what transformers reads back is not what was saved: other {' and '.join(wrong)}; nothing was kept",
            where=f"transformers {record.versions['transformers']}",
            fix="push or serve the adapter itself; this form of this model cannot be saved faithfully",
        )


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """What keeps a folder from being written is the user's to mend."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"the model cannot be written: {text}; nothing was kept",
            where=str(out),
            fix="make room, or give another folder with --out",
        ) from error
