"""The suite: what one TOML file may say, and what it means; for the checker, the planner and the runner.

Pure data, validated by pydantic; imports no torch and no lm-eval.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from ..adapters.spec import AdapterSpec, BaseSpec, Name, QuantizationSpec, Seed, Spec, VariantSpec, matrix_variants
from .gate.spec import GateSpec

Kind = Literal["base", "base-q", "adapter", "adapter-q", "merged", "merged-dequantized", "merged-requantized"]


class MatrixSpec(Spec):
    """The short form: every kind of every adapter named, with one quantisation."""

    adapter: str | Annotated[list[str], Field(min_length=1)]
    quantization: str | None = None
    kinds: Annotated[list[Kind], Field(min_length=1)] | None = (
        None  # default: all of them; "-q" stands for the quantised form
    )

    def variants(self) -> list[VariantSpec]:
        """The variants asked for; with several adapters their names start with the adapter's."""
        adapters = [self.adapter] if isinstance(self.adapter, str) else self.adapter
        found: dict[str, VariantSpec] = {}
        for adapter in adapters:
            prefix = f"{adapter}." if len(adapters) > 1 else ""
            for variant in matrix_variants(adapter, self.quantization, prefix=prefix):
                found.setdefault(variant.name, variant)
        wanted = None if self.kinds is None else set(self.kinds)
        return [v for v in found.values() if wanted is None or _generic_kind(v) in wanted]


def _generic_kind(variant: VariantSpec) -> str:
    quantised = variant.merge == "none" and variant.quantization is not None
    return variant.kind.split("-")[0] + "-q" if quantised else variant.kind


Text = Annotated[str, StringConstraints(min_length=1)]


class DivergenceSpec(Spec):
    """How far each variant's next-token distributions lie from one variant's, on a sample of a task's answers."""

    reference: str  # a variant's name
    items: Annotated[int, Field(ge=1)] = 64  # the task's first ones
    positions: Annotated[int, Field(ge=1)] = 8  # of each item's answer, evenly spread


class TaskSpec(Spec):
    """One task, by its lm-eval name, and what to change of it."""

    name: Text
    variants: Annotated[list[str], Field(min_length=1)] | None = None  # those that are asked; default: all
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    metrics: list[str] | None = None  # shown first, in this order; default: chosen from what the task measures
    override: dict[str, Any] = Field(default_factory=dict)  # lm-eval's own YAML keys
    metric_options: dict[str, Any] = Field(default_factory=dict)  # passed to the task's process_results
    divergence: DivergenceSpec | None = None  # for tasks of output type loglikelihood
    source: Text | None = None  # the field of an item that several made from one text share; those are one draw


class GenerationSpec(Spec):
    """Settings laid over every generate_until task's own; names are lm-eval's and transformers'."""

    until: list[str] | None = None
    max_gen_toks: Annotated[int, Field(ge=1)] | None = None
    do_sample: bool | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None


class SeedSpec(Spec):
    """Every seed of a run."""

    fewshot: Seed = 1234  # which examples are drawn: lm-eval's own default
    generation: Seed = 0  # sampled generations; an item's own seed is made from it
    training: Seed = 0  # laid over a recipe's own seed; an adapter's own is laid over this
    bootstrap: Seed = 0  # resampling in the statistics


class EngineSpec(Spec):
    """How the model is run. None of it changes what is asked."""

    device: str = "auto"  # auto | cpu | cuda | cuda:0 | mps
    batch_tokens: Annotated[int, Field(ge=1)] | None = None  # tokens of one forward; default: by free memory
    scoring: Literal["auto", "plain"] = "auto"  # auto: packed where that serves the model; texts too
    dequantize_once: bool = True  # on CUDA: the same numbers, and the real form's costs are measured first


class OutputSpec(Spec):
    """Where a run goes and what it keeps."""

    dir: str = "runs"
    prompts: bool = True  # keep prompts in the records (the report's examples need them)
    examples: Annotated[int, Field(ge=0)] = 3  # items shown per task in the report


class StatisticsSpec(Spec):
    """How comparisons are judged."""

    correction: Literal["holm", "fdr_bh", "none"] = "holm"  # for the number of comparisons in headline metrics
    slices: list[str] | None = None  # fields of items to look at; default: all that have few values or are numbers


class StatementSpec(Spec):
    """What a metric should show of a variant: against another on the same items, or against a number."""

    variant: str
    than: str | float  # another variant, or a value of the metric
    task: Text | Annotated[list[Text], Field(min_length=1)]  # of several, each must show it
    metric: str | None = None  # default: the task's first headline metric
    expect: Literal["better", "not worse", "same", "not better", "worse"]
    margin: Annotated[float, Field(ge=0)] = 0.0  # in the metric's own unit

    @model_validator(mode="after")
    def _decidable(self) -> StatementSpec:
        if self.expect == "same" and not self.margin:
            raise ValueError('expect = "same" needs a margin: nothing measured is the same to the last digit')
        return self

    @property
    def tasks(self) -> list[str]:
        """The tasks that should show it."""
        return [self.task] if isinstance(self.task, str) else self.task


class ClaimSpec(Spec):
    """Something that was asserted, and what would show it."""

    says: Text
    source: str = ""  # who said so
    holds: Annotated[list[StatementSpec], Field(min_length=1)]
    given: list[StatementSpec] = Field(default_factory=list)  # without these the claim is not put to the test


def statements(claims: Sequence[ClaimSpec]) -> Iterator[tuple[tuple[str | int, ...], StatementSpec]]:
    """Every statement of a suite's claims, with its keys in the suite."""
    for i, claim in enumerate(claims):
        for part, found in (("holds", claim.holds), ("given", claim.given)):
            for j, statement in enumerate(found):
                yield ("claims", i, part, j), statement


Files = str | Annotated[list[str], Field(min_length=1)]
DataSource = Files | Annotated[dict[str, Files], Field(min_length=1)]


class Suite(Spec):
    """A whole suite file."""

    name: Name
    description: str = ""
    base: BaseSpec
    quantizations: dict[Name, QuantizationSpec] = Field(default_factory=dict)
    adapters: dict[Name, AdapterSpec] = Field(default_factory=dict)
    variants: list[VariantSpec] = Field(default_factory=list)
    matrix: MatrixSpec | None = None
    baseline: str | None = None  # default: the first variant
    tasks: Annotated[list[TaskSpec], Field(min_length=1)]
    include: list[str] = Field(default_factory=list)  # folders with more lm-eval task YAML
    allow_code: bool = False  # run Python beside the YAML in `include`, and lm-eval tasks marked as unsafe
    data: dict[str, DataSource] = Field(default_factory=dict)
    claims: list[ClaimSpec] = Field(default_factory=list)
    statistics: StatisticsSpec = StatisticsSpec()
    gate: GateSpec | None = None
    generation: GenerationSpec = GenerationSpec()
    seeds: SeedSpec = SeedSpec()
    engine: EngineSpec = EngineSpec()
    output: OutputSpec = OutputSpec()

    def all_variants(self) -> list[VariantSpec]:
        """The variants to evaluate, in order: those of the matrix, then those spelt out."""
        return [*(self.matrix.variants() if self.matrix else []), *self.variants]

    def baseline_name(self) -> str:
        """The variant that every difference is taken to."""
        return self.baseline or self.all_variants()[0].name
