"""What `phibench merge` is asked for, as an order: from an adapter and what is said beside it, or from a run's variant.

Needs no torch: whatever is wrong with the request is said before anything is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..adapters.adapter_files import AdapterFiles, base_of, find_adapter, training_record
from ..adapters.merge_record import MergeOrder
from ..adapters.publish import is_hub_id
from ..adapters.spec import AdapterSpec, Dtype, Merge, QuantizationSpec, is_local
from ..errors import UserError
from .measured import Measured, find_measured, split_reference

_INTO: dict[str, Merge] = {"merged": "base", "merged-dequantized": "dequantized", "merged-requantized": "requantized"}
QUANTIZATIONS: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "int8": {"load_in_8bit": True},
}


@dataclass(frozen=True)
class Said:
    """What the command line says beside the adapter; None where it says nothing."""

    into: Merge | None = None
    base: str | None = None
    revision: str | None = None
    dtype: Dtype | None = None
    quantization: str | None = None
    double_quant: bool | None = None
    compute_dtype: Dtype | None = None
    trust_remote_code: bool = False


def order_of(what: str, said: Said, *, offline: bool = False) -> tuple[MergeOrder, list[str]]:
    """The order for an adapter's folder or hub id, or for `RUN_DIR:VARIANT`.

    Returns:
        The order, and what was chosen for the user.

    Raises:
        UserError: when it names nothing, leaves something open, or contradicts itself.
    """
    if (reference := split_reference(what)) is not None:
        return _from_run(find_measured(*reference, offline=offline), said)
    if said.into is None:
        raise UserError(
            "what it is to be merged into is not said",
            where="--into",
            fix="base: its own precision; dequantized: what QLoRA saw; requantized: what a 4-bit server loads",
        )
    adapter = open_adapter(what, offline=offline)
    changes: dict[str, Any] = {"trust_remote_code": said.trust_remote_code, "dtype": said.dtype or "auto"}
    if said.revision is not None:
        changes["revision"] = said.revision
    base = base_of(adapter, said.base, **changes)
    chosen = [] if said.base else [f"base: {base.model}, named by the adapter"]
    if said.dtype is None:
        chosen.append("dtype: the base's own")
    quantization, how = _quantization(adapter, said)
    return MergeOrder(base, adapter, said.into, quantization), chosen + how


def open_adapter(what: str, *, offline: bool = False) -> AdapterFiles:
    """The adapter of a folder or hub id.

    Raises:
        UserError: when there is none, or it is a broken one.
    """
    is_folder = is_local(what) or Path(what).exists()
    if not is_folder and not is_hub_id(what):
        raise UserError(
            "there is no such folder, and it is no hub's id",
            where=what,
            fix="give the folder that peft's save_pretrained wrote, OWNER/NAME on the hub, or RUN_DIR:VARIANT",
        )
    spec = AdapterSpec(path=what) if is_folder else AdapterSpec(hub=what)
    return find_adapter("adapter", spec, offline=offline, place=what)


def order_of_measured(measured: Measured, *, trust_remote_code: bool = False) -> MergeOrder:
    """The order that makes a run's merged variant again.

    Args:
        measured: the variant.
        trust_remote_code: whether code that the base brings along may run. A run folder may be somebody else's, so
            what its suite allowed is not enough.

    Raises:
        UserError: for a variant that is not merged, or a base whose code was not allowed here.
    """
    variant, manifest = measured.variant, measured.manifest
    into = _INTO.get(variant.kind)
    if into is None:
        merged = [one.name for one in manifest.variants if one.kind in _INTO]
        raise UserError(
            f"this variant is not merged: it is {variant.kind}",
            where=f"{measured.run_dir}:{variant.name}",
            fix=f"name one of: {', '.join(merged)}" if merged else "name the adapter's own folder, and --into",
        )
    if measured.base.trust_remote_code and not trust_remote_code:
        raise UserError(
            "the run's base runs code of its own, which is off",
            where=f"base.model = {measured.base.model}",
            fix="read that code, then give --trust-remote-code",
        )
    device = manifest.hardware.get("device")
    return MergeOrder(
        measured.base, measured.adapter, into, measured.quantization, variant.parts, str(device) if device else None
    )


def _from_run(measured: Measured, said: Said) -> tuple[MergeOrder, list[str]]:
    order = order_of_measured(measured, trust_remote_code=said.trust_remote_code)
    flags = {"--base": said.base, "--revision": said.revision, "--dtype": said.dtype, **_quantization_flags(said)}
    given = [flag for flag, value in flags.items() if value is not None]
    if said.into not in (None, order.into):
        given.append("--into")
    if given:
        raise UserError(
            "the run says that already, for the variant that it measured",
            where=", ".join(given),
            fix="leave it out; or name the adapter's own folder to merge it in another way",
        )
    return order, []


def _quantization_flags(said: Said) -> dict[str, object]:
    return {
        "--quantization": said.quantization,
        "--double-quant": said.double_quant,
        "--compute-dtype": said.compute_dtype,
    }


def _quantization(adapter: AdapterFiles, said: Said) -> tuple[QuantizationSpec | None, list[str]]:
    """The quantisation asked for; else the one that the adapter was trained on; else NF4 as bitsandbytes has it."""
    given = [flag for flag, value in _quantization_flags(said).items() if value is not None]
    if said.into == "base":
        if given:
            raise UserError(
                "merging into the base quantises nothing",
                where=", ".join(given),
                fix="leave it out, or use --into dequantized or requantized",
            )
        return None, []
    recipe = (training_record(adapter.folder) or {}).get("recipe")
    trained_on = recipe.get("quantization") if isinstance(recipe, dict) else None
    if not given and isinstance(trained_on, dict):
        return QuantizationSpec.model_validate(trained_on), ["quantisation: the one that the adapter was trained on"]
    kind = said.quantization or "nf4"
    fields = dict(QUANTIZATIONS[kind])
    if kind == "int8" and len(given) > 1:
        raise UserError("this belongs to 4-bit quantisations", where=", ".join(given[1:]), fix="leave it out")
    if said.double_quant is not None:
        fields["bnb_4bit_use_double_quant"] = said.double_quant
    if said.compute_dtype is not None:
        fields["bnb_4bit_compute_dtype"] = said.compute_dtype
    spec = QuantizationSpec.model_validate(fields)
    if said.quantization is not None and (kind == "int8" or said.double_quant is not None):
        return spec, []
    twice = "with" if spec.bnb_4bit_use_double_quant else "without"
    return spec, [f"quantisation: {kind}" + ("" if kind == "int8" else f" {twice} double quantisation")]
