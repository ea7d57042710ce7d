"""The front door: one thin function a command; heavy imports stay inside it."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from . import __version__
from .errors import Exit, SuiteFaults, UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .adapters.synthesis.settings import Settings
    from .harness.run_folder import RunFolder
    from .harness.suite_file import SuiteFile

_Precision = Literal["float32", "bfloat16", "float16"]
_EXIT_CODES = (
    "Exit codes: 0 done, 1 a gate failed, 2 a mistake to mend, 3 some cells failed (the rest is there),"
    " 130 interrupted."
)
_MAKING = "Exit codes: 0 done, 2 a mistake to mend, such as an adapter of another base, 130 interrupted."
app = typer.Typer(
    name="phibench",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="What did this adapter do to this model, in the form in which it will be shipped?\n\n"
    "Start with [bold]phibench run quickstart[/bold], or copy suites/quickstart.toml: its comments say what each key"
    f" does.\n\n{_EXIT_CODES}",
)
_out = Console()
_err = Console(stderr=True)


@app.callback(invoke_without_command=True)
def _version(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        _out.print(f"phibench {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise typer.Exit(Exit.USER_MISTAKE)


@app.command(epilog=_EXIT_CODES)
def run(
    suite: Annotated[str, typer.Argument(help="A suite file, or the name of one that comes with phibench.")],
    out: Annotated[
        Path | None,
        typer.Option(help="The run's folder. Default: a folder under the suite's output.dir, named by what it asks."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many items a task.")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Work on this variant or task only; give it several times for several."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; default: the suite's.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the hub; use what is on this machine.")] = False,
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume/--fresh",
            help="Go on in the folder (cells that are already there and unchanged are kept), or start over in it."
            " Default: go on when the folder holds the same suite.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before --fresh removes a run.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the libraries' own messages.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Run a suite: make every variant, ask every task, write the reports.

    A run that was stopped goes on where it stopped when the same command is given again.
    """
    from .harness.check import read_and_check
    from .harness.plan import RunOptions, select, suite_hash
    from .harness.run_folder import RunFolder, disk_errors
    from .harness.suite_file import find_suite

    options = RunOptions(limit=limit, only=tuple(only or ()), device=device, offline=offline)
    _quieten(offline=offline)
    file = read_and_check(find_suite(suite))
    select(file.suite, options.only)  # refuses unknown names before anything is written or loaded
    digest = suite_hash(file.suite, limit)
    folder = RunFolder(out or Path(file.suite.output.dir) / f"{file.suite.name}-{digest[:8]}")
    console = Console(quiet=quiet)
    with disk_errors(folder.path):
        _prepare(folder, digest, resume=resume, yes=yes)
    with folder.locked():
        if resume is False:
            folder.clear()
        _log_to(folder.log, verbose=verbose)
        _run_and_report(file, options, folder, console)


def _prepare(folder: RunFolder, digest: str, *, resume: bool | None, yes: bool) -> None:
    """Refuse to mix runs, and ask before removing one."""
    from .harness.results import read_manifest

    if not folder.path.exists() or not any(folder.path.iterdir() if folder.path.is_dir() else [folder.path]):
        return
    if not folder.manifest.exists():
        leftovers = {".lock", folder.log.name, "journal", "records"}
        if not folder.path.is_dir() or any(entry.name not in leftovers for entry in folder.path.iterdir()):
            raise UserError(
                "this is not an empty folder, nor a run's", where=str(folder.path), fix="give another folder with --out"
            )
        return
    if resume is False:
        if not yes and not _agrees(f"Remove the run in {folder.path} and start over?"):
            raise UserError("nothing was removed", where=str(folder.path), fix="leave out --fresh to go on with it")
        return
    if resume is None and (found := read_manifest(folder.path)).digest != digest:
        raise UserError(
            f"this folder holds a run of another suite or another --limit ({found.name})",
            where=str(folder.path),
            fix="give another --out; or --resume to keep the cells that are the same; or --fresh to start over",
        )


def _agrees(question: str) -> bool:
    """Ask; where nobody can answer, the answer is no."""
    try:
        return typer.confirm(question)
    except typer.Abort:
        return False


def _run_and_report(file: SuiteFile, options: Any, folder: RunFolder, console: Console) -> None:
    from .adapters.identity import hash_ahead

    # Threads that mostly wait for a disk or a device take turns with one that computes: by Python's default each turn
    # waits 5 ms, thousands of times.
    sys.setswitchinterval(0.0005)
    weights = hash_ahead(file.suite.base.model)  # torch is not imported yet: that takes as long

    from .harness.progress import RunProgress
    from .harness.runner import Runner
    from .reports.report import write_reports
    from .reports.terminal import results_table

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill loses no more than Ctrl-C
    interrupted = False
    outcome = None
    try:
        with RunProgress(console) as progress:
            outcome = Runner(file, options, folder, progress, weights).run()
    except KeyboardInterrupt:
        interrupted = True
    if folder.results.exists():
        written = write_reports(folder.path)
        console.print(results_table(folder.path, console.width))
        for path in written:
            console.print(str(path), style="bold", highlight=False, soft_wrap=True)
    if interrupted:
        _err.print(f"interrupted; the same command goes on where this stopped (in {folder.path})", highlight=False)
        raise typer.Exit(Exit.INTERRUPTED)
    if outcome is not None and outcome.failed:
        _err.print(
            f"{outcome.failed} {'cell' if outcome.failed == 1 else 'cells'} failed; see the report and {folder.log}",
            style="red",
            highlight=False,
        )
        raise typer.Exit(Exit.SOME_CELLS_FAILED)


@app.command(epilog="Exit codes: 0 trained, or found, 2 a mistake to mend, 130 interrupted.")
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of one that comes with phibench.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a key, such as training.max_steps=20; give it several times for several."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Copy the result to this folder, which must not be there. Default: the cache.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the order of rows, dropout and first weights.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto: the GPU where there is one.")] = "auto",
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the hub; use what is on this machine.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the libraries' own messages.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the result's folder.")] = False,
) -> None:
    """Train a recipe on the base it names; what was trained before is found again.

    A training that was stopped goes on from its last checkpoint when the same command is given again. A suite that
    names the recipe and has the same base finds the result, too.
    """
    from .adapters.recipe import find_recipe, read_recipe

    _quieten(offline=offline)
    path = find_recipe(recipe)
    read = read_recipe(path, settings or [])
    if out is not None and out.exists():
        raise UserError("there is something already", where=f"--out {out}", fix="give another folder")
    logging.captureWarnings(True)
    if not verbose:
        logging.getLogger().setLevel(logging.ERROR)
        logging.getLogger("py.warnings").addHandler(logging.NullHandler())

    from .harness.progress import RunProgress
    from .harness.training import train_recipe

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with RunProgress(Console(quiet=quiet)) as progress:
            folder = train_recipe(read, path, progress, out=out, seed=seed, device=device, offline=offline)
    except KeyboardInterrupt:
        _err.print("interrupted; the same command goes on from the last checkpoint", highlight=False)
        raise typer.Exit(Exit.INTERRUPTED) from None
    _out.print(str(folder), highlight=False, soft_wrap=True)


@app.command(epilog="Exit codes: 0 no fault, 2 faults to mend.")
def check(
    suite: Annotated[str, typer.Argument(help="A suite file, or the name of one that comes with phibench.")],
) -> None:
    """Validate a suite: every fault at once, with key and line. Loads no model and no dataset."""
    from .harness.check import read_and_check
    from .harness.contract import suite_breaches
    from .harness.suite_file import find_suite

    _quieten(offline=True)
    file = read_and_check(find_suite(suite))
    for breach in suite_breaches(file.suite):
        _out.print(f"warning: {breach}", style="yellow", highlight=False, soft_wrap=True, markup=False)
    variants = file.suite.all_variants()
    _out.print(
        f"{file.path}: no fault found; {len(variants)} variants x {len(file.suite.tasks)} tasks,"
        f" baseline {file.suite.baseline_name()}",
        highlight=False,
        soft_wrap=True,
    )


@app.command("list", epilog="Exit codes: 0 done, 2 a mistake to mend, such as a list that there is not.")
def list_names(
    what: Annotated[str, typer.Argument(help="tasks, suites or recipes")],
    part: Annotated[str, typer.Argument(help="Only names that contain this.")] = "",
) -> None:
    """Show what can be named in a suite: tasks, suites or recipes."""
    from .harness.listing import listing

    rows = listing(what, part)
    table = Table(show_header=True, header_style="bold", box=None, pad_edge=False)
    for heading in ("name", "kind", "what it is"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    # A file or a pipe gets each name on one line.
    console = _out if _out.is_terminal else Console(width=400)
    console.print(table if rows else f'nothing here has "{escape(part)}" in its name')


@app.command(epilog="Exit codes: 0 done, 2 a mistake to mend, 130 interrupted; the same command then goes on.")
def synthesize(
    kind: Annotated[str, typer.Argument(help="What to make: riddles.")],
    out: Annotated[Path | None, typer.Option(help="The data set's folder. Default: runs/KIND.")] = None,
    seeds: Annotated[
        Path | None,
        typer.Option(
            help='Seeds to expand: JSON Lines with a column "riddle", or a .txt file with one a line.'
            " Default: the 42 that come with phibench.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A local folder, a hub id, or smollm2-135m (the default, to try it out: too small for good data);"
            " with --endpoint, the model's name there.",
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(help="Ask an OpenAI-compatible server, not a local model: its address up to and including /v1."),
    ] = None,
    api_key_env: Annotated[
        str | None,
        typer.Option(
            help="The environment variable that holds the server's key, which is written nowhere."
            " Default: PHIBENCH_API_KEY, if it is set.",
        ),
    ] = None,
    calls: Annotated[
        int,
        typer.Option(
            min=1,
            help="Calls that ask for new riddles; the published recipe made 300. Raise it later in the same folder,"
            " and only what is new is asked.",
        ),
    ] = 30,
    per_call: Annotated[int, typer.Option(min=1, help="Seeds shown, and riddles asked for, in each call.")] = 10,
    limit: Annotated[int | None, typer.Option(min=1, help="Have at most this many riddles answered.")] = None,
    eval_share: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="The share of the conversations held out in eval.jsonl.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="All chance comes from it: seeds shown, texts, split.")] = 0,
    temperature: Annotated[float, typer.Option(min=0.0, help="Of sampling; 0 always takes the likeliest token.")] = 1.0,
    top_p: Annotated[float, typer.Option(min=0.01, max=1.0, help="Sample from this share of the probability.")] = 1.0,
    top_k: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Sample from so many likeliest tokens; 0 from all. Default: 50 for a local model, as transformers has"
            " it; a server is told only what is given here.",
        ),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens of one text at most; an answer that is cut there is dropped.")
    ] = 500,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")] = None,
    dtype: Annotated[str, typer.Option(help="A local model's: auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="A local model's: auto, cpu, cuda, cuda:1, ...")] = "auto",
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the hub; use what is on this machine.")] = False,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests to a server that are under way together.")] = 8,
    timeout: Annotated[float, typer.Option(min=1.0, help="Seconds to wait for one answer of a server.")] = 300.0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Make training data with a model: expand seeds, answer each riddle, ask back like a child, answer again.

    Leaves train.jsonl and eval.jsonl (four messages a row), report.md and requests.jsonl.

    The report says what each rule removed and why, and what overlaps with the seeds and between the splits.

    A command that was stopped goes on when it is given again, and asks nothing twice.

    Example: phibench synthesize riddles --calls 6 --temperature 0.7

    Example: phibench synthesize riddles --endpoint http://localhost:8000/v1 --model NAME --calls 300 --out riddles
    """
    from .adapters.synthesis.generator import Sampling
    from .adapters.synthesis.kinds import find_kind
    from .adapters.synthesis.seeds import embedded_seeds, read_seeds, refuse_too_few
    from .adapters.synthesis.settings import Settings
    from .harness.run_folder import RunFolder, disk_errors
    from .harness.synthesis import refuse_foreign

    _quieten(offline=offline)
    what = find_kind(kind)
    here = {"--revision": revision, "--dtype": dtype != "auto", "--device": device != "auto", "--offline": offline}
    there = {"--api-key-env": api_key_env, "--concurrency": concurrency != 8, "--timeout": timeout != 300.0}
    _refuse_misplaced(here if endpoint else there, "a local model" if endpoint else "a server", model, endpoint)
    found = embedded_seeds(what.seeds, what.column) if seeds is None else read_seeds(seeds, what.column)
    refuse_too_few(found, per_call)
    settings = Settings(
        what,
        found,
        calls=calls,
        per_call=per_call,
        limit=limit,
        eval_share=eval_share,
        seed=seed,
        sampling=Sampling(temperature, top_p, 50 if top_k is None and endpoint is None else top_k, max_new_tokens),
    )
    folder = RunFolder(out or Path("runs") / what.name)
    with disk_errors(folder.path):
        refuse_foreign(folder.path)

    def generator() -> tuple[Any, dict[str, Any]]:
        if endpoint is not None:
            from .adapters.synthesis.endpoint import Endpoint

            name = str(model)
            return Endpoint(endpoint, name, key_name=api_key_env, concurrency=concurrency, timeout=timeout), {}
        from .harness.generator import local_generator

        return local_generator(model, revision=revision, dtype=dtype, device=device, offline=offline)

    with folder.locked(), disk_errors(folder.path):
        _log_to(folder.log, verbose=False)
        _synthesize(settings, generator, folder.path, Console(quiet=quiet))


def _refuse_misplaced(given: dict[str, Any], whose: str, model: str | None, endpoint: str | None) -> None:
    """Refuse options that would do nothing, and a server without the name of a model."""
    if names := [name for name, value in given.items() if value]:
        raise UserError(f"{' and '.join(names)} would do nothing: {whose} is not asked", fix="leave that out")
    if endpoint is not None and not model:
        raise UserError("a server needs the name of a model", where="--endpoint", fix="give --model as well")


def _synthesize(
    settings: Settings, generator: Callable[[], tuple[Any, dict[str, Any]]], folder: Path, console: Console
) -> None:
    from .harness.progress import RunProgress
    from .harness.synthesis import synthesize as make
    from .reports.synthesis import write_report

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill loses no more than Ctrl-C
    try:
        with RunProgress(console) as progress:
            with progress.bar("getting ready", None):
                answering, hardware = generator()
            results = make(settings, answering, hardware, folder, progress)
    except KeyboardInterrupt:
        _err.print(f"interrupted; the same command goes on where this stopped (in {folder})", highlight=False)
        raise typer.Exit(Exit.INTERRUPTED) from None
    report_path = write_report(folder)
    console.print(
        f"{results.lines} lines, {results.kept} riddles answered, {results.train + results.eval} conversations:"
        f" {results.train} in train.jsonl, {results.eval} in eval.jsonl",
        highlight=False,
        soft_wrap=True,
    )
    console.print(str(report_path), style="bold", highlight=False, soft_wrap=True)
    if not results.train:
        raise UserError(
            "no conversation came through all the rules",
            where=str(folder),
            fix="the report says what each rule dropped; a better model, or more --calls or --max-new-tokens, may help",
        )


@app.command(epilog="Exit codes: 0 done, 2 a mistake to mend, such as a folder that holds no run.")
def report(
    run_dir: Annotated[Path, typer.Argument(help="The folder of a finished or half-finished run.")],
) -> None:
    """Make the reports of a run again. Needs no model and no GPU."""
    from .harness.run_folder import disk_errors
    from .reports.report import write_reports

    with disk_errors(run_dir):
        for path in write_reports(run_dir):
            _out.print(str(path), highlight=False, soft_wrap=True)


@app.command(epilog=_MAKING)
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
    dtype: Annotated[
        _Precision | None, typer.Option(help="The precision to merge in. Default: the base's own.")
    ] = None,
    quantization: Annotated[
        Literal["nf4", "fp4", "int8"] | None,
        typer.Option(help="For dequantized and requantized. Default: the one it was trained on, where known, or nf4."),
    ] = None,
    double_quant: Annotated[
        bool | None, typer.Option("--double-quant/--no-double-quant", help="Quantise the 4-bit scales as well, or not.")
    ] = None,
    compute_dtype: Annotated[
        _Precision | None,
        typer.Option(help="What 4-bit layers compute in, once loaded. Default: the base's precision."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Where to merge: cpu, cuda, ... Default: as the run did, or the fastest.")
    ] = None,
    max_shard_size: Annotated[str, typer.Option(help="The largest file of weights, such as 500MB or 5GB.")] = "5GB",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that the base brings along. Read it first.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Put it in the place of an earlier merged model.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the hub; use what is on this machine.")] = False,
) -> None:
    """Merge an adapter, exactly as a suite's merged variants are made, and save it for plain transformers.

    The folder holds safetensors, tokenizer, settings, and phibench_merge.json, which says how it was made.

    Before it is kept, transformers reads it again, and every tensor must come back bit for bit.

    Example: phibench merge out/checkpoint-1000 --into requantized --out merged

    Example: phibench merge runs/mine-1a2b3c4d:merged-dequantized --out merged
    """
    from .harness.merging import Said, order_of

    _quieten(offline=offline)
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
        _out.print(f"chosen for you: {escape(line)}", highlight=False, soft_wrap=True)

    from .adapters.save import save_merged
    from .harness.environment import choose_device
    from .harness.progress import RunProgress

    where = choose_device(device or order.device or "auto")
    warnings.filterwarnings("ignore", category=FutureWarning)  # the libraries' notes on each other
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill leaves no half-written folder
    with RunProgress(_out) as progress:

        def said(what: str) -> Any:
            return progress.bar(what, None)

        record = save_merged(order, out, where, said, shard=max_shard_size, force=force, offline=offline)
    _out.print(str(out), style="bold", highlight=False, soft_wrap=True)
    _out.print(
        f"{record.bytes / 2**20:,.1f} MiB of weights, read again bit for bit; identity {record.identity[:12]}",
        highlight=False,
        soft_wrap=True,
    )


@app.command(
    epilog="Exit codes: 0 done, 2 a mistake to mend, such as no token or another's repository, 130 interrupted."
)
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
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that the base brings along. Read it first.")
    ] = False,
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
    _quieten(offline=False)
    from .adapters.publish import Target
    from .adapters.publish import push as upload
    from .harness.progress import RunProgress
    from .reports.publication import Request, prepared

    warnings.filterwarnings("ignore", category=FutureWarning)  # the libraries' notes on each other
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    target = Target(repo, private=private, revision=revision, create_pr=create_pr, message=commit_message)
    request = Request(what, target, run, base, license, tuple(dataset or ()), trust_remote_code, device)
    with RunProgress(_err) as progress:

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
        _out.print(address, style="bold", highlight=False, soft_wrap=True)


@app.command(epilog="Exit codes: 0 all that is needed is here, 2 something is missing.")
def doctor() -> None:
    """Show versions, devices, memory, which attention and quantisation backends work here, and what to install."""
    from .harness.doctor import examine

    _quieten(offline=True)
    table = Table(show_header=True, header_style="bold", box=None, pad_edge=False)
    for heading in ("", "what", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    marks = {"ok": "[green]✓[/green]", "missing": "[red]✗[/red]", "optional": "[yellow]-[/yellow]"}
    findings = examine()
    for finding in findings:
        table.add_row(marks[finding.state], escape(finding.what), escape(finding.found), escape(finding.fix))
    _out.print(table)
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(Exit.USER_MISTAKE)


def _quieten(*, offline: bool) -> None:
    """Set how libraries behave: no bars, no chatter, threads that share the machine; before they are imported."""
    for name, value in {
        "TQDM_DISABLE": "1",
        "HF_HUB_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "DATASETS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "BITSANDBYTES_NOWELCOME": "1",
        # Waiting threads soon sleep: where other work shares the cores, spinning ones make each step wait for a time
        # slice (docs/performance.md). GNU's OpenMP spins for a few microseconds before it does.
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "3000",
    }.items():
        os.environ.setdefault(name, value)
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _log_to(path: Path, *, verbose: bool) -> None:
    """Send every library's log to the run's log file, and to the terminal with -v."""
    logging.captureWarnings(True)
    if not verbose:
        warnings.simplefilter("default")
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    written = logging.FileHandler(path, encoding="utf-8")
    written.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(written)
    if verbose:
        from rich.logging import RichHandler

        root.addHandler(RichHandler(console=_err, show_path=False))
    for name in ("httpx", "httpcore", "urllib3", "filelock", "fsspec"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _complain(error: UserError) -> None:
    faults = error.faults if isinstance(error, SuiteFaults) else [error]
    for fault in faults:
        place = f"{fault.where}: " if fault.where else ""
        _err.print(f"[red]error:[/red] {escape(place)}{escape(fault.what)}", highlight=False, soft_wrap=True)
        if fault.fix:
            _err.print(f"  -> {escape(fault.fix)}", style="cyan", highlight=False, soft_wrap=True)
    if isinstance(error, SuiteFaults):
        _err.print(escape(error.what), highlight=False)


def main() -> NoReturn:
    """Run the command line; a user's mistake shows no traceback, a bug always does."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a log of a long run shows each cell as it ends
    try:
        app()
    except UserError as error:
        _complain(error)
        sys.exit(Exit.USER_MISTAKE)
    except KeyboardInterrupt:
        _err.print("interrupted")
        sys.exit(Exit.INTERRUPTED)
    sys.exit(Exit.DONE)
