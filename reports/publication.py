"""What `phibench push` publishes: the files of an adapter or merged model, and the card with what a run measured."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..adapters.adapter_files import AdapterFiles, base_of, training_record
from ..adapters.bundled import cache_dir
from ..adapters.merge_record import RECORD, MergeRecord, read_record
from ..adapters.publish import CARD, PublishedFile, Target, adapter_files, check_target, is_hub_id, model_files
from ..adapters.spec import BaseSpec
from ..errors import UserError
from ..harness.measured import (
    Measured,
    find_measured,
    forms_of_adapter,
    forms_of_merged,
    info_of,
    split_reference,
)
from ..harness.merging import open_adapter, order_of_measured
from ..harness.results import Manifest, VariantInfo, read_manifest
from . import format as fmt
from .model_card import Evidence, Subject, gather_evidence, model_card

Said = Callable[[str], AbstractContextManager[object]]


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    what: str  # an adapter, a merged folder, or RUN_DIR:VARIANT
    target: Target
    run_dir: Path | None = None
    base: str | None = None  # the hub id that others know the base by
    license: str | None = None
    datasets: tuple[str, ...] = ()
    trust_remote_code: bool = False
    device: str | None = None  # where a run's merged variant is made again; default: as in the run


@dataclass(frozen=True)
class Publication:
    """What is published, card included."""

    files: list[PublishedFile]
    card: str


@dataclass(frozen=True)
class _Thing:
    """An adapter or merged model as found, with what is known of it."""

    files: list[PublishedFile]
    base_name: str
    method: str
    adapter_sha256: str
    merged: MergeRecord | None = None
    training: dict[str, Any] | None = None
    own_tokenizer: bool = False


@contextmanager
def prepared(request: Request, said: Said) -> Iterator[Publication]:
    """Gather the files and write the card; what had to be made for it is there for as long as the context.

    Args:
        request: what the command line asks for.
        said: shows what is under way.

    Raises:
        UserError: when there is nothing to publish, or the run measured something else.
    """
    check_target(request.target)
    if request.base is not None and not is_hub_id(request.base):
        raise UserError(
            "this is no hub's id of a model", where=f"--base {request.base}", fix="give OWNER/NAME as the hub has it"
        )
    reference = split_reference(request.what)
    if reference is not None and request.run_dir is not None:
        raise UserError("the variant names its run already", where="--run", fix="leave it out")
    measured = find_measured(*reference) if reference is not None else None
    cache_dir().mkdir(parents=True, exist_ok=True)  # a merged model may be too large for the system's own folder
    with tempfile.TemporaryDirectory(prefix=".push-", dir=cache_dir()) as scratch:
        if measured is not None and measured.variant.merge != "none":
            thing = _merged_again(measured, request, Path(scratch), said)
        elif measured is not None:
            thing = _adapter(measured.adapter, measured.base, request, Path(scratch), said)
        elif (Path(request.what) / RECORD).is_file():
            thing = _merged_folder(Path(request.what))
        else:
            thing = _adapter(_open(request.what), None, request, Path(scratch), said)
        evidence, manifest = _evidence(request, measured, thing, said)
        card = model_card(_subject(request, thing, evidence, manifest), evidence)
        yield Publication([PublishedFile(CARD, card.encode()), *thing.files], card)


def _open(what: str) -> AdapterFiles:
    folder = Path(what).expanduser()
    if (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
        raise UserError(
            f"this is a whole model that `phibench merge` did not write: it has no {RECORD}",
            where=what,
            fix="give an adapter, a folder that `phibench merge` wrote, or RUN_DIR:VARIANT",
        )
    return open_adapter(what)


def _adapter(adapter: AdapterFiles, base: BaseSpec | None, request: Request, scratch: Path, said: Said) -> _Thing:
    from ..adapters.finite import refuse_nonfinite

    with said("looking at its weights"):
        refuse_nonfinite(adapter)
    tokenizer = adapter.folder
    if not adapter.has_tokenizer:
        tokenizer = scratch / "tokenizer"
        with said("reading the base's tokenizer"):
            found = base or _base_here(adapter, request.base)
            _save_tokenizer(found, tokenizer, trust_remote_code=request.trust_remote_code)
    return _Thing(
        files=adapter_files(adapter, request.base, tokenizer),
        base_name=base.model if base is not None else str(adapter.config.get("base_model_name_or_path")),
        method=adapter.method,
        adapter_sha256=adapter.sha256,
        training=training_record(adapter.folder),
        own_tokenizer=adapter.has_tokenizer,
    )


def _base_here(adapter: AdapterFiles, base: str | None) -> BaseSpec:
    """The base that the adapter names, if it is here; else the one that the user names."""
    try:
        return base_of(adapter)
    except UserError:
        if base is None:
            raise
        return base_of(adapter, base)


def _save_tokenizer(base: BaseSpec, folder: Path, *, trust_remote_code: bool) -> None:
    from ..adapters.base import base_source, load_tokenizer, save_tokenizer

    source = base_source(base)
    base = base.model_copy(update={"trust_remote_code": trust_remote_code})
    try:
        tokenizer = load_tokenizer(source, base)
    except UserError:
        raise
    except Exception as error:  # whatever a library raises over files that it did not write
        raise UserError(
            f"the base's tokenizer cannot be loaded: {' '.join(str(error).split())[:300]}",
            where=base.model,
            fix="save the tokenizer into the adapter's folder, or give --base",
        ) from error
    save_tokenizer(tokenizer, folder)


def _merged_again(measured: Measured, request: Request, scratch: Path, said: Said) -> _Thing:
    from ..adapters.save import save_merged
    from ..harness.environment import choose_device

    order = order_of_measured(measured, trust_remote_code=request.trust_remote_code)
    device = choose_device(request.device or order.device or "auto")
    folder = scratch / "merged"
    record = save_merged(order, folder, device, said)
    return _of_record(record, folder, training_record(measured.adapter.folder))


def _merged_folder(folder: Path) -> _Thing:
    return _of_record(read_record(folder), folder, None)


def _of_record(record: MergeRecord, folder: Path, training: dict[str, Any] | None) -> _Thing:
    return _Thing(
        files=model_files(folder),
        base_name=record.base,
        method=record.method,
        adapter_sha256=record.adapter_sha256,
        merged=record,
        training=training,
    )


def _evidence(
    request: Request, measured: Measured | None, thing: _Thing, said: Said
) -> tuple[Evidence | None, Manifest | None]:
    """The run's comparison, if a run is named; one that measured something else is refused."""
    forms: list[VariantInfo]
    if measured is not None:
        run_dir, manifest, forms = measured.run_dir, measured.manifest, [measured.variant]
    elif request.run_dir is not None:
        run_dir, manifest = request.run_dir, read_manifest(request.run_dir)
        forms = (
            forms_of_merged(manifest, thing.merged)
            if thing.merged is not None
            else forms_of_adapter(manifest, thing.adapter_sha256)
        )
    else:
        return None, None
    if not forms and any(info.sha256 == thing.adapter_sha256 for info in manifest.adapters) and thing.merged is None:
        raise UserError(
            "this run measured the adapter only in merged forms",
            where=f"--run {run_dir}",
            fix="publish one of those with RUN_DIR:VARIANT, or leave out --run to publish without results",
        )
    if not forms:
        raise UserError(
            f"none of this run's variants is {request.what}: its results belong to other weights",
            where=f"--run {run_dir}",
            fix="give the run that measured it, or leave out --run to publish without results",
        )
    with said("comparing the run's variants"):
        return gather_evidence(run_dir, forms, forms[0].adapter), manifest


def _subject(request: Request, thing: _Thing, evidence: Evidence | None, manifest: Manifest | None) -> Subject:
    base = request.base or (thing.base_name if is_hub_id(thing.base_name) else None)
    info = info_of(manifest, evidence.forms[0].adapter) if manifest is not None and evidence is not None else None
    return Subject(
        repo=request.target.repo,
        base=base,
        base_name=base or thing.base_name,
        method=thing.method,
        adapter_sha256=thing.adapter_sha256,
        merged=thing.merged,
        training=thing.training or (info.training if info is not None else None),
        license=fmt.one_line(request.license) if request.license else None,
        datasets=tuple(map(fmt.one_line, request.datasets)),
        own_tokenizer=thing.own_tokenizer,
    )
