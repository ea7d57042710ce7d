"""A null control of an adapter: one of the same shape and the same norms, with random directions.

It says how much a random nudge of the adapter's size does to a model, so that a report can tell whether training did
more. What is drawn, by the kind of tensor in the adapter's file:

- A pair (A, B) of a LoRA, of a linear layer or an embedding: Gaussian matrices, scaled so that A has the norm of the
  adapter's A and the product B A that of its product, which is the size of the nudge. Both cannot hold with the norm of
  B as well: B takes the slack. The product's norm spreads evenly over the rank, where training often favours a few
  directions.
- Biases that a LoRA adds (`lora_bias`): a Gaussian vector of the same norm, for they are changes themselves.
- IA3's vectors, which multiply: one plus a Gaussian vector with the norm of the adapter's distance from one.
- Whole weights of the base (`modules_to_save`, embeddings, `bias`): the base's weight plus a Gaussian matrix with the
  norm of the adapter's distance from it; what training left alone stays so. Rows of tokens that the base does not have
  are drawn with the norm that they have together.

Others are refused: DoRA's magnitudes and the like stand for what the base's and the adapter's weights make together,
and a prompt is no change of weights. Norms are Frobenius's; matrices that are drawn are in float32, in which peft has
adapters whatever they were saved in.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from ..errors import UserError
from ..files import find_change, hash_files, replace_folder, sha256_file, sha256_json, write_text
from .adapter_files import CONFIG, TOKENIZER, WEIGHTS, AdapterFiles, read_adapter
from .base import LoadedBase
from .bundled import cache_dir
from .identity import base_parts
from .lora import PREFIX, null_fault

RECORD = "phibench_null.json"  # how a null was drawn
_FORMAT = 1  # of how they are drawn: another number, other bytes
_BLOCK = 2**20  # numbers that are held in float64 at once
_WRAPPER = re.compile(r"\.(token_adapter|base_layer|original_module|modules_to_save)(?=\.)")
_log = logging.getLogger(__name__)
Array = np.ndarray[Any, np.dtype[np.float32]]


def ensure_null(name: str, source: AdapterFiles, base: LoadedBase, *, seed: int) -> AdapterFiles:
    """The null control of an adapter: from phibench's cache, or drawn now.

    Args:
        name: the null's name in the suite.
        source: the adapter that it has the shape and the norms of.
        base: the base, for whole weights of it that the adapter carries.
        seed: of the directions; with the same adapter and base it gives the same bytes on every machine.

    Raises:
        UserError: when no null can be drawn of the adapter, or it cannot be written.
    """
    where = f"adapters.{name} = null of {source.name}"
    if fault := null_fault(source.config):
        raise UserError(f"no null can be drawn of {source.name}: {fault}", where=where, fix="drop this adapter")
    copied = [source.folder / file for file in (CONFIG, *TOKENIZER) if (source.folder / file).is_file()]
    made_on = base_parts(base)
    parts = {
        "format": _FORMAT,
        "source": source.sha256,
        "seed": seed,
        "files": {file.name: sha256_file(file) for file in copied},
        "base": [made_on["base"], made_on["dtype"]],
    }
    folder = cache_dir() / "adapters" / f"null-{sha256_json(parts)[:16]}"
    if not _stands(folder):
        try:
            with replace_folder(folder) as part:
                weights = _drawn(source, base, seed, where)
                save_file(weights, part / WEIGHTS, metadata={"format": "pt"})
                for file in copied:
                    shutil.copyfile(file, part / file.name)
                record = {"null_of": source.sha256, "seed": seed, "parts": parts}
                record["files"] = hash_files(part, but=RECORD)
                write_text(part / RECORD, json.dumps(record, indent=2) + "\n")
        except (OSError, SafetensorError) as error:
            what = f"the null cannot be written: {getattr(error, 'strerror', None) or error}"
            raise UserError(what, where=str(folder), fix="make room, or set PHIBENCH_CACHE elsewhere") from error
    return read_adapter(name, folder, f"null of {source.name}, seed {seed}")


def _stands(folder: Path) -> bool:
    """Whether a null is there and still what was written."""
    if not (folder / RECORD).is_file():
        return False
    try:
        fault = find_change(folder, json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"])
    except (ValueError, KeyError, TypeError, AttributeError):
        fault = f"{RECORD} cannot be read"
    if fault is not None:
        _log.warning("%s: what was drawn before is not used: %s", folder.name, fault)
    return fault is None


def _drawn(source: AdapterFiles, base: LoadedBase, seed: int, where: str) -> dict[str, torch.Tensor]:
    """The weights of a null, by the names of its source's."""
    tensors = source.tensors()
    whole = dict(base.model.state_dict(keep_vars=True))
    drawn: dict[str, Array] = {}
    for name in sorted(tensors):
        if name in drawn:
            continue
        saved, draw = _array(tensors[name]), _Draw(source.sha256, seed)
        own = whole.get(_WRAPPER.sub("", name.removeprefix(PREFIX)))
        other = name.replace(".lora_A.", ".lora_B.").replace(".lora_embedding_A", ".lora_embedding_B")
        if other != name and other in tensors and saved.ndim == tensors[other].ndim == 2:
            drawn[name], drawn[other] = _pair(saved, _array(tensors[other]), draw, name, other)
        elif name.endswith(".lora_B.bias"):
            drawn[name] = _of_norm(draw(name, saved.shape), _norm(saved))
        elif name.endswith(".ia3_l"):
            drawn[name] = 1 + _of_norm(draw(name, saved.shape), _norm(saved - 1))
        elif own is not None and own.shape[1:] == saved.shape[1:]:
            # By its bytes, not by its name: ends of a tie, which the file may have twice, stay the same.
            drawn[name] = _nudged(saved, _array(own), draw(_bytes_hash(saved), saved.shape))
        else:
            raise UserError(
                f"no null can be drawn of {source.name}: it is not known what {name} changes",
                where=where,
                fix="drop this adapter",
            )
    broken = [name for name, array in drawn.items() if not np.isfinite(array).all()]
    if broken:
        what = f"{source.name} has weights that are not finite (NaN or infinity): {broken[0]}"
        raise UserError(f"no null can be drawn: {what}", where=where, fix="train it again")
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in drawn.items()}


class _Draw:
    """Gaussian numbers of an adapter's null, each tensor's from a generator of its own.

    Args:
        source: the hash of the adapter: nulls of two adapters have nothing in common.
        seed: the null's.
    """

    def __init__(self, source: str, seed: int) -> None:
        self._seed = (seed, int(source, 16))

    def __call__(self, name: str, shape: tuple[int, ...]) -> Array:
        """A tensor of standard normal numbers. PCG64 by its name: numpy's default may become another."""
        words = (*self._seed, int.from_bytes(hashlib.sha256(name.encode()).digest(), "big"))
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))
        numbers = np.empty(int(np.prod(shape)), np.float32)
        for block in _blocks(numbers):
            block[:] = generator.standard_normal(block.size)
        return numbers.reshape(shape)


def _pair(a: Array, b: Array, draw: _Draw, name_a: str, name_b: str) -> tuple[Array, Array]:
    """Matrices (rank, inputs) and (outputs, rank): the first of the norm of `a`, their product of that of `b a`."""
    new_a = _of_norm(draw(name_a, a.shape), _norm(a))
    new_b = draw(name_b, b.shape)
    return new_a, _scaled(new_b, _product_norm(b, a), _product_norm(new_b, new_a))


def _nudged(saved: Array, own: Array, directions: Array) -> Array:
    """A whole weight as far from the base's own as the saved one is, row for row of tokens that both have."""
    rows = min(len(saved), len(own))
    change = _norm(saved[:rows] - own[:rows])
    known = own[:rows] + _of_norm(directions[:rows], change) if change else saved[:rows]
    return np.concatenate([known, _of_norm(directions[rows:], _norm(saved[rows:]))])


def _of_norm(directions: Array, norm: float) -> Array:
    return _scaled(directions, norm, _norm(directions))


def _scaled(directions: Array, wanted: float, present: float) -> Array:
    """Scaled from one norm to another; by a factor in float32, so that the last bits of a norm, in which the machines'
    libraries differ, do not come through."""
    return directions * np.float32(wanted / present if present else 0.0)


def _norm(array: Array) -> float:
    return float(np.sqrt(sum(float(np.square(block, dtype=np.float64).sum()) for block in _blocks(array.reshape(-1)))))


def _product_norm(b: Array, a: Array) -> float:
    """The norm of `b a` by way of the rank's own width: its square is the trace of (b'b)(aa')."""
    left, right = b.astype(np.float64), a.astype(np.float64)
    return float(np.sqrt(max(0.0, float(((left.T @ left) * (right @ right.T)).sum()))))


def _blocks(flat: Array) -> Iterator[Array]:
    return (flat[start : start + _BLOCK] for start in range(0, flat.size, _BLOCK))


def _array(tensor: torch.Tensor) -> Array:
    return np.asarray(tensor.detach().float().numpy())


def _bytes_hash(array: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
