"""Small file habits that every room shares: atomic writes and content hashes. Needs no torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import UserError

_PIECE = 2**26  # bytes


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on any error it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all."""
    with replace_file(path) as part:
        part.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def named_output(option: str, path: Path) -> Iterator[None]:
    """Turn whatever keeps a file that the user named from being written into the user's mistake that it is.

    Args:
        option: that named it.
        path: where it was to be.

    Raises:
        UserError: it cannot be written.
    """
    try:
        yield
    except OSError as error:
        what = f"this file cannot be written: {error.strerror}"
        raise UserError(what, where=f"{option} {path}", fix="give another file") from None


@contextlib.contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Yield a new, empty folder beside `path`; on success it takes the place of `path`, on any error it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part, old = (path.with_name(f".{path.name}.{os.getpid()}.{suffix}") for suffix in ("part", "old"))
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        if path.exists():
            path.rename(old)
        try:
            part.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def level_modes(folder: Path) -> None:
    """Give every file in a folder the mode that files written here have: safetensors leaves its own to the owner."""
    probe = folder / ".mode"
    probe.touch(0o666, exist_ok=False)
    mode = probe.stat().st_mode & 0o777
    probe.unlink()
    for path in folder.iterdir():
        if path.is_file():
            path.chmod(mode)


def sha256_file(path: Path) -> str:
    """The hex SHA-256 of a file's bytes.

    In large pieces: after each, a thread waits for the interpreter, which beside busy imports is 5 ms.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """The hex SHA-256 of a value's canonical JSON: sorted keys, UTF-8, `str()` of anything JSON lacks."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def hash_files(folder: Path, *, but: str) -> dict[str, str]:
    """The SHA-256 of every file below a folder, but those of one name, by path."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != but]
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def find_change(folder: Path, hashes: Mapping[str, str]) -> str | None:
    """The first file of :func:`hash_files` that is no more what it was, in a sentence; None where all are."""
    for name, digest in hashes.items():
        try:
            if sha256_file(folder / name) != digest:
                return f"{name} is not what was written"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None
