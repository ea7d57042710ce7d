"""What is merged into what, and the note beside a merged model's weights that says so; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import UserError
from .adapter_files import AdapterFiles
from .spec import BaseSpec, Merge, QuantizationSpec, VariantSpec, is_local

RECORD = "phibench_merge.json"


@dataclass(frozen=True)
class MergeOrder:
    """What is merged into what: all that decides the weights, but for the device they are made on."""

    base: BaseSpec
    adapter: AdapterFiles
    into: Merge
    quantization: QuantizationSpec | None = None
    measured: Mapping[str, str] | None = None  # the parts of the identity of a run's variant that this is to be
    device: str | None = None  # where the run made it

    @property
    def spec(self) -> VariantSpec:
        """The variant that this makes."""
        quantization = None if self.quantization is None else "quantization"
        return VariantSpec(name="merged", adapter=self.adapter.name, merge=self.into, quantization=quantization)


class MergeRecord(BaseModel):
    """How a merged model was made. It is published with it, so it names no folder of the machine it was made on."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal["1"] = "1"
    phibench_version: str
    into: Merge
    base: str  # a hub id, or a local folder's own name
    revision: str | None  # the hub commit of the base
    adapter: str  # as the base
    method: str  # peft's name of the adapter's method
    adapter_sha256: str
    quantization: QuantizationSpec | None
    device: str  # where it was merged
    identity: str  # of the variant that a suite makes of the same things
    parts: dict[str, str]  # what the identity is the hash of
    tensors: str  # hash of every tensor, the same for the variant and for what transformers loads
    bytes: int  # of the weights
    files: str  # what `parts.base` is in a run that has this folder as its base
    versions: dict[str, str]


def read_record(folder: Path) -> MergeRecord:
    """Read the note of a folder that `phibench merge` wrote.

    Raises:
        UserError: when there is none, or it cannot be read.
    """
    try:
        return MergeRecord.model_validate_json((folder / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"this folder has no {RECORD}", where=str(folder), fix="give a folder that `phibench merge` wrote"
        ) from None
    except (ValidationError, UnicodeDecodeError, OSError):
        raise UserError(f"{RECORD} is broken", where=str(folder), fix="merge the adapter again") from None


def public_name(name: str) -> str:
    """A model's name without the folders above it: those of one machine mean nothing on another, and may tell much."""
    if is_local(name) or name.count("/") > 1 or "\\" in name:
        return Path(name.replace("\\", "/")).expanduser().resolve().name or "model"
    return name
