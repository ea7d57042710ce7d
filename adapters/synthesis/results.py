"""The JSON files of a data set's folder: `manifest.json` (what was asked, of whom) and `results.json` (what came out).

Needs no torch. Both carry a schema version.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ...errors import UserError
from ...files import write_text

SCHEMA_VERSION = "synthesis-1"
MANIFEST = "manifest.json"
RESULTS = "results.json"
TRAIN = "train.jsonl"
EVAL = "eval.jsonl"
_T = TypeVar("_T", bound=BaseModel)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Manifest(_Model):
    """What was asked for, and of whom."""

    schema_version: str = SCHEMA_VERSION
    kind: str  # what is synthesised, such as riddles
    digest: str  # of all that decides the answers to requests: what stands up to `prompts`
    identity: dict[str, str]  # of whoever answers
    sampling: dict[str, Any]
    seed: int
    per_call: int
    seeds_source: str
    seeds_sha256: str
    seeds_count: int
    prompts: dict[str, str]
    calls: int
    limit: int | None
    eval_share: float
    versions: dict[str, str]
    hardware: dict[str, Any]


class StageCount(_Model):
    """The requests of one stage."""

    stage: str
    requests: int
    stopped: int  # texts that the model ended by itself
    tokens_in: int | None  # None where an endpoint does not count
    tokens_out: int | None


class RuleOutcome(_Model):
    """What one rule did at one stage."""

    stage: str
    rule: str
    why: str
    dropped: int
    changed: int
    examples: list[tuple[str, str | None]]


class Pair(_Model):
    """Two texts and how alike they are."""

    text: str
    other: str
    likeness: float


class Overlap(_Model):
    """What texts have in common with others."""

    what: str
    texts: int
    others: int
    shared: dict[str, int]  # words in a row -> texts that share such a run
    closest: list[Pair]


class Lengths(_Model):
    """Lengths in words of one of the four messages."""

    message: str
    least: int
    median: float
    most: int
    mean: float


class Results(_Model):
    """What came out."""

    schema_version: str = SCHEMA_VERSION
    seconds: float  # of the last command that asked anything
    stages: list[StageCount]
    rules: list[RuleOutcome]
    lines: int  # riddles as the calls gave them, before any rule
    kept: int  # riddles that were answered
    train: int
    eval: int
    groups: int  # of kin, in which the split was drawn
    largest_group: int
    lengths: list[Lengths]
    overlaps: list[Overlap]
    generated: str  # how the texts of that command came about
    answered_by: dict[str, int]  # model as the endpoint calls it -> answers
    sha256: dict[str, str]  # of the two data files


def write_model(path: Path, model: BaseModel) -> None:
    """Write a manifest or results, whole or not at all."""
    write_text(path, model.model_dump_json(indent=2) + "\n")


def read_manifest(folder: Path) -> Manifest:
    """Read a folder's manifest.

    Raises:
        UserError: when there is none, or it cannot be read.
    """
    return _read(folder / MANIFEST, Manifest)


def read_results(folder: Path) -> Results:
    """Read a folder's results.

    Raises:
        UserError: when there are none, or they cannot be read.
    """
    return _read(folder / RESULTS, Results)


def _read(path: Path, model: type[_T]) -> _T:
    try:
        return model.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError("there is no such file", where=str(path), fix="name the folder of a synthesis") from None
    except (ValidationError, UnicodeDecodeError):
        raise UserError(
            "this file is not a synthesis's, or of another version of phibench",
            where=str(path),
            fix="give another folder with --out",
        ) from None
