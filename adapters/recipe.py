"""A recipe: how an adapter is trained, as a short TOML file; keys are the libraries' own. Imports no torch."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from ..errors import UserError
from .formats import FORMATS, PAIRS
from .spec import BaseSpec, Name, QuantizationSpec, Spec, broken_rule

RECIPES = Path(__file__).resolve().parent / "recipes"
DATA = Path(__file__).resolve().parent.parent / "suites" / "data"
_MOST_PARENTS = 8

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
    allow_nonfinite: bool = False  # go on after a loss or gradient that is not finite
    training: dict[str, Any] = Field(default_factory=dict)  # trl.SFTConfig or trl.DPOConfig

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if (self.method == "dpo") != (self.data.format in PAIRS):
            kinds = ", ".join(sorted(PAIRS if self.method == "dpo" else FORMATS))
            raise ValueError(f'method = "{self.method}" needs data.format to be one of {kinds}')
        if self.reference is not None and self.method != "dpo":
            raise ValueError('reference belongs to method = "dpo"')
        if self.reference == "frozen_adapter" and self.start is None:
            raise ValueError('reference = "frozen_adapter" needs start: the adapter that is copied')
        if self.reference == "adapters_off" and self.start is not None:
            raise ValueError(
                'reference = "adapters_off" is the base alone: drop start, or merge it and name the result'
            )
        if self.lora is not None and self.start is not None:
            raise ValueError("[lora] makes a new adapter, and start goes on with one: give only one of them")
        if self.quantization is not None and self.lora is None and self.start is None:
            raise ValueError("a quantised base needs [lora]: its own weights cannot be trained")
        return self


def find_recipe(name: str) -> Path:
    """The recipe file a suite names: a path, or one of ours by name.

    Raises:
        UserError: when there is neither.
    """
    if name.endswith(".toml"):
        if Path(name).is_file():
            return Path(name)
        raise UserError("there is no such recipe file", where=f"recipe = {name}")
    ours = {path.stem: path for path in sorted(RECIPES.glob("*.toml"))}
    if name in ours:
        return ours[name]
    near = difflib.get_close_matches(name, ours, n=1)
    hint = f'did you mean "{near[0]}"? ' if near else ""
    raise UserError("there is no such recipe", where=f"recipe = {name}", fix=f"{hint}there is: {', '.join(ours)}")


def read_recipe(path: Path, settings: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe, with what it extends.

    Args:
        path: its file.
        settings: changes, each as `table.key=value` with the value as TOML has it (a bare word is text).

    Raises:
        UserError: for the first fault, with its key.
    """
    table = _read(path)
    for setting in settings:
        _set(table, setting)
    try:
        recipe = Recipe.model_validate(table)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(broken_rule([first]), where=f"{path}: {key}" if key else str(path)) from None
    for rows in (recipe.data.train, recipe.data.eval):
        if rows is not None and rows.file is not None:
            data_file(rows.file, path)
    return recipe


def data_file(name: str, recipe: Path) -> Path:
    """A recipe's file of rows: beside the recipe, or among phibench's embedded data.

    Raises:
        UserError: when it is missing.
    """
    for folder in (recipe.parent, DATA):
        if (file := folder / name).is_file():
            return file
    raise UserError(f"there is no data file {name}", where=f"{recipe}: data")


def _read(path: Path, parents: int = 0) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"this is not TOML: {error}", where=str(path)) from None
    parent = table.pop("extends", None)
    if parent is None:
        return table
    if not isinstance(parent, str) or parents == _MOST_PARENTS:
        raise UserError("extends must name a recipe that does not extend this one", where=f"{path}: extends")
    beside = path.parent / f"{parent.removesuffix('.toml')}.toml"
    return _laid_over(_read(beside if beside.is_file() else find_recipe(parent), parents + 1), table)


# Tables that name one thing by several keys: given anew, they replace what the parent had.
_WHOLE = ("train", "eval", "quantization")


def _laid_over(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(found.get(key), dict) and key not in _WHOLE
        found[key] = _laid_over(found[key], value) if both else value
    for key in ("start", "lora", "quantization"):
        if found.get(key) in ("", {}):  # given empty, they take away what the parent had
            del found[key]
    if "eval" in over:
        found.pop("eval_fraction", None)
    if "eval_fraction" in over:
        found.pop("eval", None)
    return found


def _set(table: dict[str, Any], setting: str) -> None:
    """Change one key."""
    key, equals, text = setting.partition("=")
    names = [name.strip() for name in key.split(".")]
    if not equals or not all(names):
        raise UserError(f"this is no setting: {setting}", where="--set", fix="give --set training.max_steps=20")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    place = table
    for name in names[:-1]:
        place = place.setdefault(name, {})
        if not isinstance(place, dict):
            raise UserError(f"{name} is no table", where=f"--set {setting}")
    place[names[-1]] = value
