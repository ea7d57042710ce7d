"""What a finished run measured, found again: the things a variant was made of, and the variants made of a thing.

For `phibench merge` and `phibench push`; needs no torch.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from ..adapters.adapter_files import AdapterFiles, find_adapter, read_adapter
from ..adapters.bundled import cache_dir
from ..adapters.identity import other_parts
from ..adapters.merge_record import MergeRecord
from ..adapters.spec import AdapterSpec, BaseSpec, QuantizationSpec, Spec
from ..errors import UserError
from .results import AdapterInfo, Manifest, VariantInfo, read_manifest
from .run_folder import MANIFEST

_S = TypeVar("_S", bound=Spec)


@dataclass(frozen=True)
class Measured:
    """A variant of a run, with what it was made of."""

    run_dir: Path
    manifest: Manifest
    variant: VariantInfo
    base: BaseSpec
    adapter: AdapterFiles
    quantization: QuantizationSpec | None


def split_reference(text: str) -> tuple[Path, str] | None:
    """The run folder and the variant's name in `RUN_DIR:VARIANT`; None for anything else."""
    folder, colon, name = text.rpartition(":")
    if not colon or Path(text).exists():
        return None
    return Path(folder).expanduser(), name


def find_variant(manifest: Manifest, name: str, where: str) -> VariantInfo:
    """A run's variant by its name.

    Raises:
        UserError: the run has none of this name; it tells the nearest one.
    """
    variants = {variant.name: variant for variant in manifest.variants}
    if name not in variants:
        near = difflib.get_close_matches(name, variants, n=1)
        raise UserError(
            "the run has no variant of this name",
            where=where,
            fix=f'did you mean "{near[0]}"?' if near else f"it has: {', '.join(variants)}",
        )
    return variants[name]


def find_measured(run_dir: Path, name: str, *, offline: bool = False) -> Measured:
    """Find a variant of a run again: its base, its quantisation, and its adapter as it was then.

    Raises:
        UserError: when the folder holds no run, the run did not make this variant, it has no adapter, or the adapter
            is gone or was changed.
    """
    manifest = read_manifest(run_dir)
    where = f"{run_dir}:{name}"
    variant = find_variant(manifest, name, where)
    made = [one.name for one in manifest.variants if one.adapter is not None and one.identity is not None]
    if variant.adapter is None or variant.identity is None:
        what = "this variant is the base, without an adapter" if variant.adapter is None else "it was never made"
        raise UserError(what, where=where, fix=f"name one of: {', '.join(made)}" if made else "run the suite again")
    suite = manifest.suite
    quantizations, adapters = suite.get("quantizations", {}), suite.get("adapters", {})
    return Measured(
        run_dir=run_dir,
        manifest=manifest,
        variant=variant,
        base=_read(run_dir, BaseSpec, suite.get("base")),
        adapter=_same_adapter(manifest, variant.adapter, adapters.get(variant.adapter), run_dir, offline=offline),
        quantization=(
            _read(run_dir, QuantizationSpec, quantizations.get(variant.quantization)) if variant.quantization else None
        ),
    )


def forms_of_adapter(manifest: Manifest, sha256: str) -> list[VariantInfo]:
    """The run's variants that are an adapter attached to a base; it is known by its hash, not by its name."""
    names = {info.name for info in manifest.adapters if info.sha256 == sha256}
    return [one for one in manifest.variants if one.adapter in names and one.merge == "none" and one.identity]


def forms_of_merged(manifest: Manifest, record: MergeRecord) -> list[VariantInfo]:
    """The run's variants that are this merged model: made of the same things, or of its folder as a base."""
    return [
        one
        for one in manifest.variants
        if one.parts
        and (
            not other_parts(one.parts, record.parts)
            or (one.parts.get("base") == record.files and one.adapter is None and one.quantization is None)
        )
    ]


def info_of(manifest: Manifest, name: str | None) -> AdapterInfo | None:
    """The manifest's entry of an adapter."""
    return next((info for info in manifest.adapters if info.name == name), None)


def _same_adapter(manifest: Manifest, name: str, entry: Any, run_dir: Path, *, offline: bool) -> AdapterFiles:
    """The adapter where the suite has it; one that was trained or drawn, in phibench's cache, known by its hash."""
    info = info_of(manifest, name)
    if info is None:
        raise UserError(f"manifest.json does not tell of the adapter {name}", where=str(run_dir))
    spec = _read(run_dir, AdapterSpec, entry)
    if spec.recipe is None and spec.null_of is None:
        found = find_adapter(name, spec, offline=offline)
        if found.sha256 == info.sha256:
            return found
        fix = "run the suite again, or name the adapter by its folder, to have it as it is now"
        raise UserError("the adapter is not the one that was measured: it changed since", where=found.source, fix=fix)
    for folder in sorted((cache_dir() / "adapters").glob("*")):
        if (folder / "adapter_config.json").is_file():
            try:
                found = read_adapter(name, folder, info.source)
            except UserError:
                continue  # a broken neighbour in the cache
            if found.sha256 == info.sha256:
                return found
    raise UserError(
        f"the adapter that this run made is no longer in the cache ({cache_dir() / 'adapters'})",
        where=f"adapters.{name} = {info.source}",
        fix="run the suite again: it makes the adapter anew",
    )


def _read(run_dir: Path, kind: type[_S], value: Any) -> _S:
    try:
        return kind.model_validate(value)
    except ValidationError:
        raise UserError(
            "the suite in manifest.json cannot be read",
            where=str(run_dir / MANIFEST),
            fix="use the phibench version that made the run",
        ) from None
