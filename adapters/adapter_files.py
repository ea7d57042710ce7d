"""Finding an adapter and reading its folder; loads no weights and imports no torch until asked for them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..files import sha256_file, sha256_json
from .spec import AdapterSpec, BaseSpec, is_local

if TYPE_CHECKING:
    import torch

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
TOKENIZER = (  # files that a tokenizer may be saved in
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
)
TRAINING = "phibench_training.json"  # how it was trained, where phibench trained it
LEFT_OUT = "phibench_left_out.json"  # names of the rows that it was not trained on, why by why
_PICKLE = "adapter_model.bin"


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter's folder as found on disk."""

    name: str  # as the suite calls it
    folder: Path
    source: str  # what the suite named: a path, hub id and commit, or recipe
    config: dict[str, Any]
    weights: Path
    sha256: str  # of the weights and the configuration's meaning
    has_tokenizer: bool
    place: str | None = None  # what named it, where that is no suite

    @property
    def where(self) -> str:
        """How an error names it: the suite's key, or what named it instead."""
        return self.place or f"adapters.{self.name} = {self.source}"

    @property
    def method(self) -> str:
        """peft's name of the method: LORA, IA3, ..."""
        return str(self.config["peft_type"])

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every saved weight, by name.

        Raises:
            UserError: when the file is cut short or not what its name says.
        """
        if self.weights.suffix != ".safetensors":
            return {name: tuple(tensor.shape) for name, tensor in self.tensors().items()}
        with _readable(self):
            from safetensors import safe_open

            with safe_open(self.weights, framework="pt") as file:
                return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every saved weight, by name, on the host and in the precision it was saved in.

        Raises:
            UserError: when the file is cut short or not what its name says.
        """
        with _readable(self):
            if self.weights.suffix == ".safetensors":
                from safetensors.torch import load_file

                return load_file(self.weights)
            import torch

            return dict(torch.load(self.weights, map_location="cpu", weights_only=True))

    def parameters(self) -> int:
        """How many numbers the adapter's file holds."""
        return sum(math.prod(shape) for shape in self.shapes().values())


def find_adapter(name: str, spec: AdapterSpec, *, offline: bool = False, place: str | None = None) -> AdapterFiles:
    """Find the adapter that `spec` names by path or hub id, and read its description.

    Args:
        name: the adapter's name.
        spec: where it is.
        offline: use only what is on this machine.
        place: how an error names it; None: as a key of a suite.

    Raises:
        UserError: when the folder is missing or broken, or its weights are pickled and that was not allowed.
    """
    if spec.path is not None:
        return read_adapter(name, Path(spec.path).expanduser(), spec.path, allow_pickle=spec.allow_pickle, place=place)
    if spec.hub is None:
        raise ValueError("a recipe's adapter is trained first, then read by read_adapter")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["adapter_*", "*.json", "*.jinja", "*.model", "*.txt"]
    try:
        folder = snapshot_download(spec.hub, revision=spec.revision, allow_patterns=patterns, local_files_only=offline)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"the adapter cannot be fetched: {_first_line(error)}",
            where=place or f"adapters.{name}.hub = {spec.hub}",
            fix="check the name and your access (huggingface-cli login), or give a local folder under path",
        ) from error
    source = f"{spec.hub}@{Path(folder).name}"
    return read_adapter(name, Path(folder), source, allow_pickle=spec.allow_pickle, place=place)


def read_adapter(
    name: str, folder: Path, source: str, *, allow_pickle: bool = False, place: str | None = None
) -> AdapterFiles:
    """Read an adapter folder's description; loads no weights.

    Args:
        name: the adapter's name.
        folder: where it is.
        source: what named it.
        allow_pickle: whether weights may be a pickle.
        place: how an error names it; None: as a key of a suite.

    Raises:
        UserError: when it is not an adapter folder, or is a broken one.
    """
    where = place or f"adapters.{name} = {source}"
    if not folder.is_dir():
        raise UserError("there is no such folder", where=where, fix="give the folder that peft's save_pretrained wrote")
    config_file = folder / CONFIG
    if not config_file.is_file():
        merged = (folder / "config.json").is_file()
        what = "this is a whole model, not an adapter" if merged else "the folder has no adapter_config.json"
        raise UserError(what, where=where, fix="give the folder that peft's save_pretrained wrote")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
        if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
            raise ValueError("it has no peft_type")
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"adapter_config.json is broken: {error}", where=where, fix="save the adapter again") from None
    weights = folder / WEIGHTS
    if not weights.is_file():
        if not (folder / _PICKLE).is_file():
            raise UserError(f"the folder has no {WEIGHTS}", where=where, fix="save the adapter again")
        if not allow_pickle:
            raise UserError(
                f"the weights are a pickle ({_PICKLE}), which can run code when it is read",
                where=where,
                fix="save it again as safetensors"
                + ("" if place else f", or set adapters.{name}.allow_pickle = true if you trust its author"),
            )
        weights = folder / _PICKLE
    digest = sha256_json({"weights": sha256_file(weights), "config": _meaning(config)})
    has_tokenizer = (folder / "tokenizer_config.json").is_file()
    return AdapterFiles(name, folder, source, config, weights, digest, has_tokenizer, place)


def base_of(adapter: AdapterFiles, model: str | None = None, **changes: Any) -> BaseSpec:
    """The base an adapter goes on: the one that is named, else the one that its configuration names.

    Args:
        adapter: the adapter.
        model: what the user calls the base, if anything.
        changes: other fields of the base, such as its revision.

    Raises:
        UserError: when nobody names a base, or the one in the configuration was a folder that is not here.
    """
    named = adapter.config.get("base_model_name_or_path")
    where = adapter.where
    if model is None:
        if not isinstance(named, str) or not named:
            raise UserError("its adapter_config.json names no base", where=where, fix="name the base with --base")
        if named.startswith((".", "/", "~")) and not Path(named).expanduser().is_dir():
            raise UserError(
                f"its adapter_config.json names a base that is not on this machine: {named}",
                where=where,
                fix="name the base with --base: a folder or a hub id",
            )
        trained_on = adapter.config.get("revision")
        changes.setdefault("revision", trained_on if isinstance(trained_on, str) and not is_local(named) else None)
    return BaseSpec(model=model or str(named), **changes)


def training_record(folder: Path) -> dict[str, Any] | None:
    """How phibench trained the adapter of a folder, or None where it did not, or the note cannot be read."""
    try:
        record = json.loads((folder / TRAINING).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


# Keys of adapter_config.json that do not change what the adapter computes.
_BOOKKEEPING = ("base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _meaning(config: dict[str, Any]) -> dict[str, Any]:
    """What of adapter_config.json decides what the adapter computes; peft writes sets in an order of the moment."""
    kept = {key: value for key, value in config.items() if key not in _BOOKKEEPING}
    for key in ("target_modules", "exclude_modules"):
        if isinstance(kept.get(key), list):
            kept[key] = sorted(kept[key], key=str)
    return kept


@contextmanager
def _readable(adapter: AdapterFiles) -> Iterator[None]:
    """Whatever a library raises over a file that it did not write is the file's fault."""
    try:
        yield
    except Exception as error:
        raise UserError(
            f"{adapter.weights.name} cannot be read: {_first_line(error)}",
            where=adapter.where,
            fix="the file is cut short or not what its name says; copy or save the adapter again",
        ) from error
