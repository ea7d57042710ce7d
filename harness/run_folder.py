"""The run folder: where it is, who may write it, and what stands in it."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import UserError
from ..files import sha256_json
from .results import read_manifest

MANIFEST = "manifest.json"
RESULTS = "results.json"
LOG = "log.txt"
GATE = "gate.json"
_NO_ROOM = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
_NO_WAY = {errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG}


class DiskError(UserError):
    """A disk that is full or cannot be written: nothing else in the run would fare better."""


class RunFolder:
    """One run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def manifest(self) -> Path:
        return self.path / MANIFEST

    @property
    def results(self) -> Path:
        return self.path / RESULTS

    @property
    def gate(self) -> Path:
        """What the suite's gate said at the end of the run."""
        return self.path / GATE

    @property
    def log(self) -> Path:
        return self.path / LOG

    def records(self, variant: str, task: str) -> Path:
        """The Parquet file of a cell's records."""
        return self.path / "records" / variant / f"{_safe(task)}.parquet"

    def journal(self, variant: str, task: str) -> Path:
        """The journal of a cell under way."""
        return self.path / "journal" / variant / f"{_safe(task)}.jsonl"

    def drop_journals(self) -> None:
        """Remove the journals' folders once they are empty."""
        root = self.path / "journal"
        if root.is_dir() and not any(path.is_file() for path in root.rglob("*")):
            shutil.rmtree(root)

    def relative(self, path: Path) -> str:
        """A path of this folder, as the results name it."""
        return path.relative_to(self.path).as_posix()

    def clear(self) -> None:
        """Remove what a run wrote, and nothing else."""
        for name in ("records", "journal"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in (MANIFEST, RESULTS, LOG, GATE, "report.md", "report.html"):
            (self.path / name).unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and hold it against other runs.

        Raises:
            UserError: when it cannot be written, or another run is at work in it.
        """
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".phibench-probe"
            probe.write_text("x", encoding="utf-8")
            probe.unlink()
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                "another run is at work in this folder", where=str(self.path), fix="wait for it, or give another --out"
            ) from None
        try:
            yield
        finally:
            lock.release()
            (self.path / ".lock").unlink(missing_ok=True)


def refuse_mixing(folder: RunFolder, digest: str, *, resume: bool | None, agrees: Callable[[str], bool]) -> None:
    """Refuse a folder that holds something else than this run, and ask before a run in it is removed.

    Args:
        folder: where the run is to stand.
        digest: of what it asks.
        resume: whether to go on with what is there, or to start over; None: go on when it is the same.
        agrees: asks the user.

    Raises:
        UserError: for a folder of other things or of another run, or a run that is not to be removed.
    """
    if not folder.path.exists() or not any(folder.path.iterdir() if folder.path.is_dir() else [folder.path]):
        return
    if not folder.manifest.exists():
        leftovers = {".lock", folder.log.name, "journal", "records"}
        if not folder.path.is_dir() or any(entry.name not in leftovers for entry in folder.path.iterdir()):
            raise UserError(
                "this is not an empty folder, nor a run's", where=str(folder.path), fix="give another folder with --out"
            )
        return
    if resume is False and not agrees(f"Remove the run in {folder.path} and start over?"):
        raise UserError("nothing was removed", where=str(folder.path), fix="leave out --fresh to go on with it")
    if resume is None and (found := read_manifest(folder.path)).digest != digest:
        raise UserError(
            f"this folder holds a run of another suite or another --limit ({found.name})",
            where=str(folder.path),
            fix="give another --out; or --resume to keep the cells that are the same; or --fresh to start over",
        )


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or unwritable disk into the user's error that it is."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise DiskError(
                f"{_NO_ROOM[error.errno]}; what was finished is kept",
                where=str(path),
                fix="make room, then run the same command again: it goes on where it stopped",
            ) from error
        if error.errno in _NO_WAY and _concerns(error, path):
            raise DiskError(
                f"this folder cannot be written: {error.strerror}",
                where=str(path),
                fix="give another folder with --out",
            ) from error
        raise


def _concerns(error: OSError, path: Path) -> bool:
    """Whether the error is about `path`, something in it, or a folder above it."""
    name = str(error.filename)
    return error.filename is None or name.startswith(str(path)) or str(path).startswith(name)


def _safe(task: str) -> str:
    """A task's name as a file name (lm-eval allows `::` and `/`): names that differ never share a file."""
    plain = "".join(c if c.isalnum() or c in "._-+" else "_" for c in task)
    return plain if plain == task == task.lower() else f"{plain}-{sha256_json(task)[:8]}"
