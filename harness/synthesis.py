"""One synthesis in its folder: the manifest, the journal, the stages, the data set."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ..adapters.synthesis.dataset import write_dataset
from ..adapters.synthesis.generator import TextGenerator
from ..adapters.synthesis.journal import NAME as JOURNAL
from ..adapters.synthesis.journal import Journal
from ..adapters.synthesis.pipeline import Synthesis
from ..adapters.synthesis.results import (
    EVAL,
    MANIFEST,
    RESULTS,
    TRAIN,
    Results,
    read_manifest,
    read_results,
    write_model,
)
from ..adapters.synthesis.settings import Settings, refuse_mixing
from ..errors import UserError
from .environment import versions
from .progress import RunProgress

REPORT = "report.md"
_LEFT_BY_A_STOP = {".lock", "log.txt", JOURNAL}


def refuse_foreign(folder: Path) -> None:
    """Refuse a folder that holds other things than a synthesis.

    Raises:
        UserError: for a folder that is neither empty nor a synthesis's.
    """
    if not folder.exists() or (folder / MANIFEST).exists():
        return
    if not folder.is_dir() or any(entry.name not in _LEFT_BY_A_STOP for entry in folder.iterdir()):
        raise UserError(
            "this is not an empty folder, nor a synthesis's",
            where=str(folder),
            fix="give another folder with --out",
        )


def synthesize(
    settings: Settings, generator: TextGenerator, hardware: dict[str, Any], folder: Path, progress: RunProgress
) -> Results:
    """Make the data set, or go on with it.

    Args:
        settings: what is asked for.
        generator: whoever answers.
        hardware: what it runs on; for the manifest.
        folder: where everything stands; it is there, and nobody else writes it.
        progress: the terminal.

    Raises:
        UserError: when the folder holds another data set, or for what keeps answers from coming.
    """
    started = time.perf_counter()
    manifest = settings.manifest(generator.identity(), versions(), hardware)
    if (folder / MANIFEST).exists():
        found = read_manifest(folder)
        refuse_mixing(found, manifest, str(folder))
        if (found.calls, found.limit, found.eval_share) != (manifest.calls, manifest.limit, manifest.eval_share):
            for name in (RESULTS, REPORT, TRAIN, EVAL):  # of other settings than the manifest now says
                (folder / name).unlink(missing_ok=True)
    write_model(folder / MANIFEST, manifest)
    with Journal(folder / JOURNAL) as journal:
        synthesis = Synthesis(settings, generator, journal, progress)
        conversations = synthesis.run()
    results = write_dataset(folder, settings, synthesis, conversations, time.perf_counter() - started)
    if synthesis.asked == 0 and (folder / RESULTS).exists():  # how it came about is what an earlier command knows
        earlier = read_results(folder)
        results = results.model_copy(update={"seconds": earlier.seconds, "generated": earlier.generated})
    write_model(folder / RESULTS, results)
    return results
