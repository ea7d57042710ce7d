"""A finished run of a tiny model, as if it had been evaluated: real identities, made-up answers."""

from __future__ import annotations

from pathlib import Path

from phibench.adapters.adapter_files import read_adapter
from phibench.adapters.spec import VariantSpec
from phibench.files import sha256_json
from phibench.harness.results import AdapterInfo, read_manifest
from support.models import NF4_DOUBLE, factory, load, lora, save_adapter, save_base, tiny_model
from support.run_folder import edit_manifest, write_run_folder

SPECS = {
    "base": VariantSpec(name="base"),
    "adapter-nf4": VariantSpec(name="adapter-nf4", adapter="summaries", quantization="nf4"),
    "merged": VariantSpec(name="merged", adapter="summaries", merge="base"),
}


def measured_folder(folder: Path) -> Path:
    """Write a base, an adapter that names it, and a run of both, each in a folder of its own."""
    model = save_base(folder / "base")
    adapted = tiny_model()
    adapted.name_or_path = str(model)
    save_adapter(adapted, folder / "adapter", lora())
    measured_run(folder / "run", model, folder / "adapter")
    return folder


def measured_run(run_dir: Path, base: Path, adapter: Path) -> Path:
    """Write a run of `base`, `adapter-nf4` and `merged` whose manifest names these folders."""
    write_run_folder(run_dir, items=12)
    made = factory(load(base), quantizations={"nf4": NF4_DOUBLE}, summaries=adapter)
    variants = []
    for variant in read_manifest(run_dir).variants:
        spec = SPECS[variant.name]
        parts = made.parts(spec)
        about = {"kind": spec.kind, "merge": spec.merge, "parts": parts, "identity": sha256_json(parts)}
        variants.append(variant.model_copy(update=about))
    found = read_adapter("summaries", adapter, str(adapter))
    info = AdapterInfo(
        name="summaries", source=str(adapter), method="LORA", sha256=found.sha256, parameters=found.parameters()
    )
    edit_manifest(
        run_dir,
        model=str(base),
        variants=variants,
        adapters=[info],
        hardware={"device": "cpu", "processor": "a processor"},
        suite={
            "name": "summaries",
            "base": {"model": str(base)},
            "quantizations": {"nf4": NF4_DOUBLE.model_dump()},
            "adapters": {"summaries": {"path": str(adapter)}},
        },
    )
    return run_dir
