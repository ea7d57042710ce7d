"""What the synthesis imports: nothing from a floor above it, and no torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from phibench.adapters import synthesis


def test_the_synthesis_needs_neither_the_harness_nor_torch(tmp_path: Path) -> None:
    modules = sorted(path.stem for path in Path(str(synthesis.__file__)).parent.glob("[a-z]*.py"))
    assert "pipeline" in modules
    code = (
        "import importlib, sys\n"
        f"for name in {modules}:\n    importlib.import_module('phibench.adapters.synthesis.' + name)\n"
        "above = ('phibench.harness', 'phibench.reports', 'phibench.cli', 'torch', 'transformers')\n"
        "print([name for name in sys.modules if name.startswith(above)])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.stdout == "[]\n", ended.stderr
