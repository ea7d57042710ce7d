"""A recipe: how an adapter is trained, as a short TOML file; keys are the libraries' own. Imports no torch."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from ..errors import UserError
from ..suites.tasks.dialogsum import prompt as dialogsum
from ..suites.tasks.webglm_qa import prompt as webglm_qa
from .spec import Name, QuantizationSpec, Spec, broken_rule

RECIPES = Path(__file__).resolve().parent / "recipes"
DATA = Path(__file__).resolve().parent.parent / "suites" / "data"


def _webglm_example(row: Mapping[str, object], name: str) -> tuple[str, str]:
    checked = webglm_qa.read_row(row, name)
    return webglm_qa.prompt(checked.question, checked.references), webglm_qa.completion(checked.answer)


def _dialogsum_example(row: Mapping[str, object], name: str) -> tuple[str, str]:
    checked = dialogsum.read_row(row, name)
    return dialogsum.prompt(checked.dialogue), dialogsum.completion(checked.summary)


# The tasks whose prompt training and evaluation share: a row -> (prompt, completion).
EXAMPLES: dict[str, Callable[[Mapping[str, object], str], tuple[str, str]]] = {
    "webglm_qa": _webglm_example,
    "dialogsum": _dialogsum_example,
}


class Recipe(Spec):
    """A recipe file."""

    name: Name
    description: str = ""
    task: str  # whose prompt the rows are put in: a key of EXAMPLES
    data: str  # JSON Lines, relative to the recipe's folder or to phibench's embedded data
    quantization: QuantizationSpec | None = None  # of the base while training: QLoRA
    lora: dict[str, Any] = Field(default_factory=dict)  # peft.LoraConfig
    training: dict[str, Any] = Field(default_factory=dict)  # trl.SFTConfig


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


def read_recipe(path: Path) -> Recipe:
    """Read and validate a recipe.

    Raises:
        UserError: for the first fault, with its key.
    """
    try:
        recipe = Recipe.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"this is not TOML: {error}", where=str(path)) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(broken_rule([first]), where=f"{path}: {key}") from None
    if recipe.task not in EXAMPLES:
        raise UserError(f'unknown task "{recipe.task}"', where=f"{path}: task", fix=f"one of {', '.join(EXAMPLES)}")
    data_file(recipe, path)
    return recipe


def data_file(recipe: Recipe, path: Path) -> Path:
    """The recipe's data file.

    Raises:
        UserError: when it is missing.
    """
    for folder in (path.parent, DATA):
        if (file := folder / recipe.data).is_file():
            return file
    raise UserError(f"there is no data file {recipe.data}", where=f"{path}: data")


def read_examples(recipe: Recipe, file: Path) -> list[dict[str, str]]:
    """The rows to train on, as prompts and completions.

    Raises:
        UserError: for a row that is not JSON or lacks a column, or when there is none.
    """
    example = EXAMPLES[recipe.task]
    rows = []
    try:
        # Not `splitlines`: Unicode's other line breaks are ordinary characters inside a JSON string.
        lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"this is not UTF-8 text: {error}", where=str(file)) from None
    for number, line in enumerate(lines if lines != [""] else [], 1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("a row must be a JSON object")
            prompt, completion = example(row, f"line {number}")
        except ValueError as error:
            raise UserError(str(error), where=f"{file}:{number}") from None
        rows.append({"prompt": prompt, "completion": completion})
    if not rows:
        raise UserError("the training data is empty", where=str(file))
    return rows
