"""`phibench synthesize`: training data made with a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ..errors import UserError
from .console import log_to, quieten, say, stoppable
from .options import Offline, Quiet

if TYPE_CHECKING:
    from ..adapters.synthesis.generator import TextGenerator
    from ..adapters.synthesis.settings import Settings

    Answering = Callable[[], tuple[TextGenerator, dict[str, Any]]]  # whoever answers, and the hardware it runs on


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
    offline: Offline = False,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests to a server that are under way together.")] = 8,
    timeout: Annotated[float, typer.Option(min=1.0, help="Seconds to wait for one answer of a server.")] = 300.0,
    quiet: Quiet = False,
) -> None:
    """Make training data with a model: expand seeds, answer each riddle, ask back like a child, answer again.

    Leaves train.jsonl and eval.jsonl (four messages a row), report.md and requests.jsonl.

    The report says what each rule removed and why, and what overlaps with the seeds and between the splits.

    A command that was stopped goes on when it is given again, and asks nothing twice.

    Example: phibench synthesize riddles --calls 6 --temperature 0.7

    Example: phibench synthesize riddles --endpoint http://localhost:8000/v1 --model NAME --calls 300 --out riddles
    """
    from ..adapters.synthesis.generator import Sampling
    from ..adapters.synthesis.kinds import find_kind
    from ..adapters.synthesis.seeds import embedded_seeds, read_seeds, refuse_too_few
    from ..adapters.synthesis.settings import Settings
    from ..harness.run_folder import RunFolder, disk_errors
    from ..harness.synthesis import refuse_foreign

    quieten(offline=offline)
    what = find_kind(kind)
    here = {"--revision": revision, "--dtype": dtype != "auto", "--device": device != "auto", "--offline": offline}
    there = {"--api-key-env": api_key_env, "--concurrency": concurrency != 8, "--timeout": timeout != 300.0}
    if endpoint is None:
        _refuse_idle(there, "a server is not asked")
        answering = _model(model, revision=revision, dtype=dtype, device=device, offline=offline)
    else:
        _refuse_idle(here, "a local model is not asked")
        answering = _server(endpoint, model, key_name=api_key_env, concurrency=concurrency, timeout=timeout)
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
    with folder.locked(), disk_errors(folder.path):
        log_to(folder.log, verbose=False)
        _make(settings, answering, folder.path, Console(quiet=quiet))


def _refuse_idle(given: dict[str, Any], why: str) -> None:
    """Refuse options that would do nothing."""
    if names := [name for name, value in given.items() if value]:
        raise UserError(f"{' and '.join(names)} would do nothing: {why}", fix="leave that out")


def _server(endpoint: str, model: str | None, **options: Any) -> Answering:
    if not model:
        raise UserError("a server needs the name of a model", where="--endpoint", fix="give --model as well")

    def answering() -> tuple[TextGenerator, dict[str, Any]]:
        from ..adapters.synthesis.endpoint import Endpoint

        return Endpoint(endpoint, model, **options), {}

    return answering


def _model(model: str | None, **options: Any) -> Answering:
    def answering() -> tuple[TextGenerator, dict[str, Any]]:
        from ..harness.generator import local_generator

        return local_generator(model, **options)

    return answering


def _make(settings: Settings, answering: Answering, folder: Path, console: Console) -> None:
    from ..harness.progress import RunProgress
    from ..harness.synthesis import synthesize as make
    from ..reports.synthesis import write_report

    with stoppable(f"goes on where this stopped (in {folder})"), RunProgress(console) as progress:
        with progress.bar("getting ready", None):
            generator, hardware = answering()
        results = make(settings, generator, hardware, folder, progress)
    report = write_report(folder)
    say(
        f"{results.lines} lines, {results.kept} riddles answered, {results.train + results.eval} conversations:"
        f" {results.train} in train.jsonl, {results.eval} in eval.jsonl",
        console,
    )
    say(report, console, style="bold")
    if not results.train:
        raise UserError(
            "no conversation came through all the rules",
            where=str(folder),
            fix="the report says what each rule dropped; a better model, or more --calls or --max-new-tokens, may help",
        )
