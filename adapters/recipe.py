"""A recipe: how an adapter is trained, as a short TOML file; keys are the libraries' own. Imports no torch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PrivateAttr, ValidationError, model_validator
from pydantic_core import ErrorDetails

from ..errors import UserError
from .formats import FORMATS, PAIRS
from .recipe_table import Places, read_table
from .spec import BaseSpec, Name, QuantizationSpec, Spec, broken_rule, choices_of

DATA = Path(__file__).resolve().parent.parent / "suites" / "data"

Reference = Literal["model", "adapters_off", "frozen_adapter"]


class RowsSpec(Spec):
    """Where rows come from: a JSON Lines file, or a dataset by the names that `datasets.load_dataset` has for it."""

    file: str | None = None  # relative to the recipe's folder, or to phibench's embedded data
    path: str | None = None  # the dataset's hub id
    name: str | None = None  # its configuration
    split: str | None = None  # `datasets`' own notation, such as "train[5000:10000]"
    revision: str | None = None
    limit: Annotated[int, Field(ge=1)] | None = None  # the first so many rows

    @model_validator(mode="after")
    def _one_source(self) -> RowsSpec:
        if (self.file is None) == (self.path is None):
            raise ValueError("give exactly one source: file, or path with split")
        if self.path is not None and self.split is None:
            raise ValueError('a dataset needs its split, such as split = "train"')
        if self.file is not None and (self.name or self.split or self.revision):
            raise ValueError("name, split and revision belong to a dataset: give path, or drop them")
        return self


class DataSpec(Spec):
    """What is trained on, and what is held out."""

    format: Literal["webglm_qa", "dialogsum", "riddles", "instructions", "orca_dpo_pairs", "piqa_pairs", "webglm_pairs"]
    train: RowsSpec
    eval: RowsSpec | None = None
    eval_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None  # of train's rows, drawn by the seed

    @model_validator(mode="after")
    def _one_eval(self) -> DataSpec:
        if self.eval is not None and self.eval_fraction is not None:
            raise ValueError("give eval or eval_fraction, not both")
        return self


class TokenizerSpec(Spec):
    """What is changed of the base's tokenizer; the changed one is saved with the adapter."""

    add_tokens: list[str] = Field(default_factory=list)
    eos_token: str | None = None
    pad_token: str | None = None
    chat_template: bool = False  # take the format's own


USUAL_LENGTH = 1024  # trl's own max_length, where a recipe gives none


class Recipe(Spec):
    """A recipe file."""

    name: Name
    description: str = ""
    method: Literal["sft", "dpo"] = "sft"
    base: BaseSpec | None = None  # what `phibench train` trains; in a suite it is the suite's base
    data: DataSpec
    quantization: QuantizationSpec | None = None  # of the base while training: QLoRA
    tokenizer: TokenizerSpec = Field(default_factory=TokenizerSpec)
    lora: dict[str, Any] | None = None  # peft.LoraConfig; without it every weight is trained
    trainable_dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: as trl, bfloat16 on a 4-bit base
    start: str | None = None  # an adapter to go on from: its folder, or the recipe that makes it
    reference: Reference | None = None  # of DPO: what holds the policy that is compared with
    join_batches: bool = False  # a step's rows in one batch, or in as few as the memory holds; of sft
    allow_nonfinite: bool = False  # go on after a loss or gradient that is not finite
    training: dict[str, Any] = Field(default_factory=dict)  # trl.SFTConfig or trl.DPOConfig
    _places: Places | None = PrivateAttr(default=None)

    def where(self, key: str = "") -> str:
        """How an error names a key: the file that gave it, or the `--set`."""
        if self._places is not None:
            return self._places.where(key)
        return f"recipe {self.name}: {key}" if key else f"recipe {self.name}"

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if (self.method == "dpo") != (self.data.format in PAIRS):
            kinds = ", ".join(sorted(PAIRS if self.method == "dpo" else FORMATS))
            raise ValueError(f'method = "{self.method}" needs data.format to be one of {kinds}')
        if self.join_batches and self.method != "sft":
            raise ValueError('join_batches belongs to method = "sft"')
        if self.reference is not None and self.method != "dpo":
            raise ValueError('reference belongs to method = "dpo"')
        if self.reference == "frozen_adapter" and self.start is None:
            raise ValueError('reference = "frozen_adapter" needs start: the adapter that is copied')
        if self.reference == "adapters_off" and self.start is not None:
            raise ValueError(
                'reference = "adapters_off" is the base alone: drop start, or merge it and name the result'
            )
        if self.reference == "adapters_off" and self.lora is None:
            raise ValueError('reference = "adapters_off" needs [lora]: the adapter that is switched off')
        if self.lora is not None and self.start is not None:
            raise ValueError("[lora] makes a new adapter, and start goes on with one: give only one of them")
        if self.quantization is not None and self.lora is None and self.start is None:
            raise ValueError("a quantised base needs [lora]: its own weights cannot be trained")
        return self


_TABLES: dict[str, type[BaseModel]] = {
    "": Recipe,
    "base": BaseSpec,
    "data": DataSpec,
    "data.train": RowsSpec,
    "data.eval": RowsSpec,
    "quantization": QuantizationSpec,
    "tokenizer": TokenizerSpec,
}
_WRITTEN = {
    "bool_type": "write true or false, without quotes",
    "int_type": "write a number without a point, and without quotes",
    "float_type": "write a number, without quotes",
    "string_type": "write it in quotes",
    "dict_type": "write it as a [table] with keys below",
    "model_type": "write it as a [table] with keys below",
    "list_type": 'write a list, such as ["one", "two"]',
}


def read_recipe(path: Path, settings: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe, with what it extends.

    Its data files, its base and the folder or recipe that it starts from count from its own folder; those that a
    setting names, from the working folder.

    Args:
        path: its file.
        settings: changes, each as `table.key=value` with the value as TOML has it (a bare word is text).

    Raises:
        UserError: for the first fault, with its key and who gave it.
    """
    table, places = read_table(path, settings)
    try:
        recipe = Recipe.model_validate(table)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(broken_rule([first]), where=places.where(key), fix=what_to_do(first)) from None
    recipe._places = places
    for key, rows in (("data.train.file", recipe.data.train), ("data.eval.file", recipe.data.eval)):
        if rows is not None and rows.file is not None:
            data_file(rows.file, path, where=places.where(key))
    return recipe


def what_to_do(detail: ErrorDetails) -> str | None:
    """How to mend a fault that pydantic found in a recipe; None where the rule says it."""
    kind, loc = detail["type"], [str(part) for part in detail["loc"]]
    if kind == "missing":
        return "add it"
    if kind == "extra_forbidden" and (model := _TABLES.get(".".join(loc[:-1]))) is not None:
        return likely(loc[-1], model.model_fields)
    if kind == "literal_error" and isinstance(detail["input"], str):
        near = difflib.get_close_matches(detail["input"], choices_of(detail), n=1)
        return f'did you mean "{near[0]}"?' if near else "write one of them, in quotes"
    return _WRITTEN.get(kind)


def likely(key: str, known: Iterable[str], *, all_of_them: str = "") -> str:
    """What somebody may have meant by a key that there is not.

    Args:
        key: the key.
        known: those that there are.
        all_of_them: where they are told, where they are too many for a line.
    """
    names = [name for name in known if not name.startswith("_")]
    near = difflib.get_close_matches(key, names, n=1)
    return f'did you mean "{near[0]}"?' if near else all_of_them or f"the keys here are: {', '.join(names)}"


def data_file(name: str, recipe: Path, *, where: str | None = None) -> Path:
    """A recipe's file of rows: beside the recipe, or among phibench's embedded data.

    Args:
        name: its path.
        recipe: the recipe's file.
        where: the key that names it.

    Raises:
        UserError: when it is missing.
    """
    for folder in (recipe.parent, DATA):
        if (file := folder / name).is_file():
            return file
    counts = f"the recipe's own folder, {recipe.parent.resolve()}"
    if where is not None and where.startswith("--set "):
        counts = f"the working folder, {Path.cwd()}"
    raise UserError(
        f"there is no data file {name}",
        where=where or f"{recipe}: data",
        fix=f"a relative path counts from {counts}",
    )
