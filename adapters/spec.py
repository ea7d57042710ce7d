"""What a suite may say of models: base, quantisations, adapters, variants; for the suite, the recipes and this room.

Pure data, validated by pydantic; imports no torch. Field names are the libraries' own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import ErrorDetails

DTYPES = ("auto", "float32", "bfloat16", "float16")
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=80)]
Merge = Literal["none", "base", "dequantized", "requantized"]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what numpy, random and torch all take


class Spec(BaseModel):
    """A table of a suite or recipe: unknown keys are refused, values are neither converted nor changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


_WANTED = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "a string",
    "list_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
}
_BOUNDS = {
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be finite",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must be letters, digits and . _ + - only, the first a letter or digit:"
    " names become names of files",
}

_OTHERS = {"extra_forbidden": "there is no such key", "missing": "this key is missing"}


def is_wrong_type(detail: ErrorDetails) -> bool:
    """Whether a fault says no more than that a value is of another type than is wanted."""
    return detail["type"] in _WANTED


def broken_rule(details: Sequence[ErrorDetails]) -> str:
    """The rule that a value broke and what the value is, in the words of a person who wrote a TOML file.

    Args:
        details: pydantic's faults of this one value: several when it may take several forms.
    """
    got = details[0].get("input")
    told = [detail for detail in details if not is_wrong_type(detail)]
    if not told:
        wanted = list(dict.fromkeys(_WANTED[detail["type"]] for detail in details))
        return f"must be {', or '.join(wanted)}{_arrived(got)}"
    kind, context = told[0]["type"], told[0].get("ctx", {})
    if kind in _BOUNDS:
        numbers = {key: int(n) if isinstance(n, float) and n.is_integer() else n for key, n in context.items()}
        return _BOUNDS[kind].format(**numbers) + ("" if got in ("", [], {}) else _arrived(got))
    if kind == "literal_error":
        return f"must be one of {', '.join(choices_of(told[0]))}{_arrived(got)}"
    return _OTHERS.get(kind) or told[0]["msg"].removeprefix("Value error, ")


def choices_of(detail: ErrorDetails) -> list[str]:
    """The values that a choice allows."""
    return [option.strip(" '") for option in str(detail["ctx"]["expected"]).replace(" or ", ", ").split(",")]


def _arrived(value: Any) -> str:
    if isinstance(value, dict | list):
        return " (it is a table)" if isinstance(value, dict) else " (it is a list)"
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return f" (it is {shown})" if len(shown) <= 80 else f" (it is {shown[:77]}...)"


class BaseSpec(Spec):
    """The base model and how prompts are put to it."""

    model: Annotated[str, StringConstraints(min_length=1)]
    revision: str | None = None
    dtype: Dtype = "auto"
    trust_remote_code: bool = False
    allow_pickle: bool = False  # weights in other formats than safetensors
    attn_implementation: str | None = None
    chat_template: bool | str = False  # False: plain prompts; True: the tokenizer's own; "chatml"; a Jinja file
    system_instruction: str | None = None
    fewshot_as_multiturn: bool = False
    max_length: Annotated[int, Field(ge=8)] | None = None  # tokens; default: the model's own context

    @model_validator(mode="after")
    def _prompting(self) -> BaseSpec:
        if self.fewshot_as_multiturn and not self.chat_template:
            raise ValueError("fewshot_as_multiturn needs a chat template: set chat_template = true")
        return self


class QuantizationSpec(Spec):
    """One bitsandbytes quantisation: `BitsAndBytesConfig`'s fields under their own names."""

    load_in_4bit: bool = False
    load_in_8bit: bool = False
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "fp4"
    bnb_4bit_compute_dtype: Literal["float32", "bfloat16", "float16"] | None = None  # None: the base's own dtype
    bnb_4bit_use_double_quant: bool = False
    bnb_4bit_quant_storage: Literal["uint8", "float16", "float32", "bfloat16", "int8"] = "uint8"
    llm_int8_threshold: float = 6.0
    llm_int8_skip_modules: list[str] | None = None
    llm_int8_enable_fp32_cpu_offload: bool = False
    llm_int8_has_fp16_weight: bool = False

    @model_validator(mode="after")
    def _one_width(self) -> QuantizationSpec:
        if self.load_in_4bit == self.load_in_8bit:
            raise ValueError("set exactly one of load_in_4bit = true and load_in_8bit = true")
        return self


class AdapterSpec(Spec):
    """One adapter: a local folder, a hub repository, a recipe to train when it is missing, or a null control."""

    path: str | None = None
    hub: str | None = None
    revision: str | None = None
    recipe: str | None = None  # name of a recipe of ours, or a recipe's TOML file
    null_of: str | None = None  # another adapter of the suite: random directions with its norms (null.py)
    seed: Seed | None = None  # of a recipe's training (default: seeds.training) or of a null's directions (default: 0)
    allow_pickle: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> AdapterSpec:
        if sum(source is not None for source in (self.path, self.hub, self.recipe, self.null_of)) != 1:
            raise ValueError("give exactly one source: path, hub, recipe or null_of")
        if self.seed is not None and self.recipe is None and self.null_of is None:
            raise ValueError("seed belongs to what is trained or drawn: give recipe or null_of, or drop seed")
        if self.revision is not None and self.hub is None:
            raise ValueError("revision belongs to a hub repository: give hub, or drop revision")
        return self


class VariantSpec(Spec):
    """One form in which a model can ship."""

    name: Name
    quantization: str | None = None
    adapter: str | None = None
    merge: Merge = "none"

    @model_validator(mode="after")
    def _possible(self) -> VariantSpec:
        if self.merge != "none" and self.adapter is None:
            raise ValueError(f'merge = "{self.merge}" needs an adapter to merge')
        if self.merge == "base" and self.quantization is not None:
            raise ValueError(
                'merge = "base" keeps the base\'s own precision: drop quantization,'
                ' or use "requantized" or "dequantized"'
            )
        if self.merge in ("dequantized", "requantized") and self.quantization is None:
            raise ValueError(f'merge = "{self.merge}" needs a quantization')
        return self

    @property
    def kind(self) -> str:
        """The design's fixed term for this form, e.g. `base-nf4` or `merged-dequantized`."""
        if self.merge == "none":
            form = "adapter" if self.adapter else "base"
            return f"{form}-{self.quantization}" if self.quantization else form
        return {"base": "merged", "dequantized": "merged-dequantized", "requantized": "merged-requantized"}[self.merge]


def matrix_variants(adapter: str, quantization: str | None, *, prefix: str = "") -> list[VariantSpec]:
    """All seven kinds of one adapter and one quantisation (the three that need none, without one)."""
    rows: list[dict[str, Any]] = [{}]
    if quantization:
        rows.append({"quantization": quantization})
    rows.append({"adapter": adapter})
    if quantization:
        rows.append({"adapter": adapter, "quantization": quantization})
    rows.append({"adapter": adapter, "merge": "base"})
    if quantization:
        rows += [
            {"adapter": adapter, "quantization": quantization, "merge": merge}
            for merge in ("dequantized", "requantized")
        ]
    unnamed = [VariantSpec(name="x", **row) for row in rows]
    return [v.model_copy(update={"name": (prefix if v.adapter else "") + v.kind}) for v in unnamed]


def is_local(reference: str) -> bool:
    """Whether a model or adapter reference names a folder rather than a hub repository."""
    return reference.startswith((".", "/", "~")) or Path(reference).expanduser().is_dir()
