"""`phibench merge` and `push`: a variant as a model of its own, and an adapter or model on the hub."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .console import ERR, OUT, polite_kill, quieten, say
from .options import Offline, Precision, TrustRemoteCode


def merge(
    adapter: Annotated[str, typer.Argument(help="An adapter's folder or hub id; or RUN_DIR:VARIANT, a run's variant.")],
    out: Annotated[Path, typer.Option(help="The folder to make. It appears whole or not at all.")],
    into: Annotated[
        Literal["base", "dequantized", "requantized"] | None,
        typer.Option(
            help="base: the base in its own precision. dequantized: the quantised base, dequantised, which is what"
            " QLoRA saw. requantized: as base, then quantised again, which is what a 4-bit server loads."
            " A run's variant says it itself."
        ),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The base: a folder, a hub id or smollm2-135m. Default: the one it names.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="The base's branch, tag or commit on the hub.")] = None,
    dtype: Annotated[Precision | None, typer.Option(help="The precision to merge in. Default: the base's own.")] = None,
    quantization: Annotated[
        Literal["nf4", "fp4", "int8"] | None,
        typer.Option(help="For dequantized and requantized. Default: the one it was trained on, where known, or nf4."),
    ] = None,
    double_quant: Annotated[
        bool | None, typer.Option("--double-quant/--no-double-quant", help="Quantise the 4-bit scales as well, or not.")
    ] = None,
    compute_dtype: Annotated[
        Precision | None,
        typer.Option(help="What 4-bit layers compute in, once loaded. Default: the base's precision."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Where to merge: cpu, cuda, ... Default: as the run did, or the fastest.")
    ] = None,
    max_shard_size: Annotated[str, typer.Option(help="The largest file of weights, such as 500MB or 5GB.")] = "5GB",
    trust_remote_code: TrustRemoteCode = False,
    force: Annotated[bool, typer.Option("--force", help="Put it in the place of an earlier merged model.")] = False,
    offline: Offline = False,
) -> None:
    """Merge an adapter, exactly as a suite's merged variants are made, and save it for plain transformers.

    The folder holds safetensors, tokenizer, settings, and phibench_merge.json, which says how it was made.

    Before it is kept, transformers reads it again, and every tensor must come back bit for bit.

    Example: phibench merge out/checkpoint-1000 --into requantized --out merged

    Example: phibench merge runs/mine-1a2b3c4d:merged-dequantized --out merged
    """
    from ..harness.merging import Said, order_of

    quieten(offline=offline)
    asked = Said(
        into=into,
        base=base,
        revision=revision,
        dtype=dtype,
        quantization=quantization,
        double_quant=double_quant,
        compute_dtype=compute_dtype,
        trust_remote_code=trust_remote_code,
    )
    order, chosen = order_of(adapter, asked, offline=offline)
    for line in chosen:
        say(f"chosen for you: {line}")

    from ..adapters.save import save_merged
    from ..harness.environment import choose_device
    from ..harness.progress import RunProgress

    where = choose_device(device or order.device or "auto")
    warnings.filterwarnings("ignore", category=FutureWarning)  # the libraries' notes on each other
    polite_kill()
    with RunProgress(OUT) as progress:

        def said(what: str) -> Any:
            return progress.bar(what, None)

        record = save_merged(order, out, where, said, shard=max_shard_size, force=force, offline=offline)
    say(out, style="bold")
    say(f"{record.bytes / 2**20:,.1f} MiB of weights, read again bit for bit; identity {record.identity[:12]}")


def push(
    what: Annotated[
        str,
        typer.Argument(
            help="An adapter's folder, a folder that phibench merge wrote, or RUN_DIR:VARIANT: a run's adapter variant"
            " (its adapter is published) or merged variant (it is made again first)."
        ),
    ],
    repo: Annotated[str, typer.Option(help="OWNER/NAME of the repository; it is made if it is not there.")],
    run: Annotated[
        Path | None, typer.Option(help="The run that measured it, for the card; RUN_DIR:VARIANT names it itself.")
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Only for you: refused where the repository is public already.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the files and the card; needs no token and uploads nothing.")
    ] = False,
    base: Annotated[
        str | None, typer.Option(help="The base's hub id, where the adapter names a folder of this machine.")
    ] = None,
    license: Annotated[
        str | None, typer.Option("--license", help="The licence to state on the card, by its hub name.")
    ] = None,
    dataset: Annotated[
        list[str] | None, typer.Option(help="Hub id of a dataset that it was trained on; repeatable.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="The branch to commit to. Default: the main one.")] = None,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Open a pull request on a repository that is there.")
    ] = False,
    commit_message: Annotated[str, typer.Option(help="What the commit says.")] = "",
    trust_remote_code: TrustRemoteCode = False,
    device: Annotated[
        str | None, typer.Option(help="Where a merged variant is made: cpu, cuda, ... Default: as the run did.")
    ] = None,
) -> None:
    """Publish an adapter or a merged model on the hub, with its tokenizer and a card that shows what was measured.

    One commit holds safetensors weights, configuration, tokenizer and README.md, and nothing else.

    The token is huggingface_hub's own: HF_TOKEN, or what `hf auth login` keeps.

    Example: phibench push runs/mine-1a2b3c4d:adapter-nf4 --repo me/phi-2-mine --dry-run

    Example: phibench push merged --run runs/mine-1a2b3c4d --repo me/phi-2-mine --private
    """
    quieten(offline=False)
    from ..adapters.publish import Target
    from ..adapters.publish import push as upload
    from ..harness.progress import RunProgress
    from ..reports.publication import Request, prepared

    warnings.filterwarnings("ignore", category=FutureWarning)  # the libraries' notes on each other
    polite_kill()
    target = Target(repo, private=private, revision=revision, create_pr=create_pr, message=commit_message)
    request = Request(what, target, run, base, license, tuple(dataset or ()), trust_remote_code, device)
    with RunProgress(ERR) as progress:

        def said(text: str) -> Any:
            return progress.bar(text, None)

        with prepared(request, said) as publication:
            for file in publication.files:
                progress.say(f"{file.size:>15,} bytes  {file.name}")
            total = sum(file.size for file in publication.files)
            if not dry_run:
                with said(f"uploading {total / 2**20:,.1f} MiB to {repo}"):
                    address = upload(target, publication.files)
    if dry_run:  # not before: while bars are shown, the terminal's library takes what is printed
        print(publication.card, end="")
    else:
        say(address, style="bold")
