"""The two JSON files of a run folder: `manifest.json` (what was run, on what) and `results.json` (what came out).

Needs no torch. Both carry a schema version and describe themselves by these models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import UserError
from ..files import write_text

SCHEMA_VERSION = "1"
# Our own metrics.
STOPPED = "stopped"  # the share of generations that the model ended by itself, with its EOS
MARGIN = "loglikelihood_margin"  # nats: of a right choice over the likeliest wrong one
KL_DIVERGENCE = "kl_divergence"  # nats: of next-token distributions, from a reference variant's to this one's
SAME_TOP_TOKEN = "same_top_token"  # the share of positions at which both find the same token likeliest
# Metrics that lie between 0 and 1 on every item; a task's `metadata.shares` names others.
SHARES = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", STOPPED, SAME_TOP_TOKEN)
_T = TypeVar("_T", bound=BaseModel)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FileHash(_Model):
    """A file that took part in a run: its path as the user named it, and the SHA-256 of its bytes."""

    path: str
    sha256: str


class RealForm(_Model):
    """What scoring took of a variant whose 4-bit weights were then dequantised once: the form that is shipped."""

    tokens_in: int
    seconds: float
    peak_memory_bytes: int | None = None


class WeightError(_Model):
    """How far a layer's weight in a variant is from what it is on the quantised base (adapters/weight_error.py)."""

    module: str  # as the base calls it
    relative_to_update: float  # norm of the difference, in norms of what the adapter adds to the weight
    relative_to_weight: float  # the same, in norms of the weight itself


class VariantInfo(_Model):
    """One variant: what it is made of, and the content hash that stands for it."""

    name: str
    kind: str  # the design's fixed terms: base, base-nf4, adapter, ..., merged-requantized
    adapter: str | None = None
    quantization: str | None = None
    merge: str = "none"
    identity: str | None = None  # None until the variant was made
    parts: dict[str, str] = Field(default_factory=dict)  # what the identity is the hash of
    model_bytes: int | None = None  # weights and buffers in the variant's real form, quantisation state included
    load_seconds: float | None = None  # to derive the variant from the loaded base
    scoring: str | None = None  # how log-likelihoods were computed, and why that way if not by prefix trees
    generation: str | None = None  # how texts were generated, and why that way if not by our own steps
    real_form: RealForm | None = None  # set where scoring ran on weights that were dequantised once
    weight_error: list[WeightError] = Field(default_factory=list)  # of the adapter's layers; empty: not known
    error: str | None = None  # why it could not be made


class Contamination(_Model):
    """How a task's items overlap the rows that an adapter was trained on."""

    task: str
    words: int  # in a row that count as an overlap
    rows: int  # training rows, all of them looked at
    items: int
    items_checked: int  # the others have too few words to tell
    overlapping_items: int = 0
    item_ids: list[str] = Field(default_factory=list)  # the first of them
    overlapping_rows: int = 0
    row_names: list[str] = Field(default_factory=list)  # the first of them
    longest: int = 0  # words of the longest run that both have
    example: str = ""  # that run, or its beginning, as compared: in lower case, without punctuation


class AdapterInfo(_Model):
    """One adapter: where it came from and, when this run trained it, how."""

    name: str
    source: str
    method: str  # peft's own name: LORA, IA3, ...
    sha256: str
    parameters: int
    seed: int | None = None  # of its training, or of a null's directions; None: it was neither trained nor drawn
    null_of: str | None = None  # the adapter that it has the norms of, with random directions (adapters/null.py)
    training: dict[str, Any] | None = None
    contamination: list[Contamination] = Field(default_factory=list)  # by task; empty: not known, not checked
    unknown_start: str | None = None  # the ready-made adapter that it was trained on from, whose rows are not known


class MetricInfo(_Model):
    """How a metric of a task is put together from its items."""

    name: str
    filter: str
    aggregation: str
    higher_is_better: bool | None  # None: neither direction is better
    # A mean of values that lie between 0 and 1 by what they are, whatever was seen of them; runs of before do not say.
    share: bool = Field(default_factory=lambda told: told["aggregation"] == "mean" and told["name"] in SHARES)

    @property
    def key(self) -> tuple[str, str]:
        """What a cell's values know it by: its name and filter."""
        return self.name, self.filter

    def is_named(self, name: str | None) -> bool:
        """Whether a rule that names this means the metric: by its name, by name and filter, or (None) any."""
        return name in (None, self.name, f"{self.name},{self.filter}")


def metric_names(metrics: Iterable[MetricInfo]) -> list[str]:
    """What metrics can be named by: their names, and with the filter ("exact_match,strict-match") where several share
    a name."""
    listed = list(metrics)
    names = Counter(metric.name for metric in listed)
    return [*names, *(f"{one.name},{one.filter}" for one in listed if names[one.name] > 1)]


class TaskInfo(_Model):
    """One task as it was asked."""

    name: str
    output_type: str
    version: str
    num_fewshot: int
    items: int
    requests: int
    dataset: str
    config_hash: str
    data_files: list[FileHash] = Field(default_factory=list)
    metrics: list[MetricInfo] = Field(default_factory=list)
    headline: list[str] = Field(default_factory=list)  # metrics shown first in a report
    variants: list[str] | None = None  # those that are asked; None: all
    source: str | None = None  # the field of an item that tells what it was made from

    def asks(self, variant: str) -> bool:
        """Whether the task is asked of a variant."""
        return self.variants is None or variant in self.variants


class Manifest(_Model):
    """What was run: the suite as run, what it names, seeds, versions, hardware, and what was chosen for the user."""

    schema_version: str = SCHEMA_VERSION
    phibench_version: str
    name: str
    description: str = ""
    model: str = ""  # the base, as the suite names it
    suite: dict[str, Any]
    suite_file: FileHash | None = None
    digest: str = ""  # of what the run asks: suite and --limit; a folder goes on only with the same
    options: dict[str, Any] = Field(default_factory=dict)
    baseline: str
    started: str  # ISO 8601, UTC
    finished: str | None = None
    status: Literal["running", "done", "incomplete", "interrupted"] = "running"
    seeds: dict[str, int] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    hardware: dict[str, Any] = Field(default_factory=dict)
    variants: list[VariantInfo] = Field(default_factory=list)
    adapters: list[AdapterInfo] = Field(default_factory=list)
    tasks: list[TaskInfo] = Field(default_factory=list)
    chosen: list[str] = Field(default_factory=list)  # what was chosen for the user: device, batch budget, ...
    warnings: list[str] = Field(default_factory=list)


class Score(_Model):
    """One metric of one cell, as lm-eval aggregates it."""

    metric: str
    filter: str
    value: float | None
    stderr: float | None
    higher_is_better: bool | None  # None: neither direction is better
    aggregation: str
    items: int


class CellResult(_Model):
    """One cell: its state, its scores and what it cost."""

    variant: str
    task: str
    status: Literal["pending", "done", "failed"] = "pending"
    error: str | None = None
    cell_hash: str | None = None  # of variant identity, task and settings: what a resumed run looks up
    records: str | None = None  # path of the Parquet file, relative to the run folder
    items: int = 0
    stopped_early: bool = False  # items were asked in random order, until the gate's rules were decided
    requests: int = 0
    tokens_in: int = 0  # tokens fed to the model, padding not counted
    tokens_out: int = 0  # tokens scored or generated
    truncated_items: int = 0  # items whose prompt was cut from the left to fit the context
    truncated_tokens: int = 0
    stops: dict[str, int] = Field(default_factory=dict)  # eos | stop_string | length -> generations that ended so
    seconds: float = 0.0  # model time of the whole cell
    peak_memory_bytes: int | None = None
    scores: list[Score] = Field(default_factory=list)


class Results(_Model):
    """What came out: one entry a cell, in the suite's order."""

    schema_version: str = SCHEMA_VERSION
    cells: list[CellResult] = Field(default_factory=list)

    def cell(self, variant: str, task: str) -> CellResult | None:
        """The cell of a variant and a task, or None."""
        return next((c for c in self.cells if (c.variant, c.task) == (variant, task)), None)


def write_model(path: Path, model: BaseModel) -> None:
    """Write a manifest or results file, whole or not at all."""
    write_text(path, model.model_dump_json(indent=2) + "\n")


def read_manifest(run_dir: Path) -> Manifest:
    """Read `manifest.json` of a run folder.

    Raises:
        UserError: when the folder holds no run, or one of another schema.
    """
    return _read(run_dir / "manifest.json", Manifest)


def read_results(run_dir: Path) -> Results:
    """Read `results.json` of a run folder (an empty one when the run did not get that far)."""
    path = run_dir / "results.json"
    return _read(path, Results) if path.exists() else Results()


def _read(path: Path, model: type[_T]) -> _T:
    try:
        return model.model_validate_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            "this is not a run folder: it has no " + path.name,
            where=str(path.parent),
            fix="give the folder that `phibench run` wrote (see its last line)",
        ) from None
    except ValidationError as error:
        raise UserError(
            f"{path.name} does not fit schema version {SCHEMA_VERSION}: {error.error_count()} fields differ",
            where=str(path),
            fix="make the run again, or read it with the phibench version that wrote it",
        ) from None
