"""The tables of a recipe whose keys are the libraries' own: each value held to the library's rule before it is used.

The libraries look at few of their settings, and tell of none by the name of the file that it stands in.
"""

from __future__ import annotations

import functools
import operator
import re
import traceback
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from ..errors import UserError
from .recipe import Recipe, likely, what_to_do
from .refusals import refuse_places, refuse_values
from .renames import RENAMED
from .spec import broken_rule

_OURS = {Path(__file__).with_name(f"{name}.py") for name in ("sft", "dpo", "watch")}

# Numbers that the libraries take and then fail at, or train nothing with.
_BOUNDS: dict[str, Any] = {
    "r": Field(ge=1),
    "lora_alpha": Field(gt=0),
    "lora_dropout": Field(ge=0, lt=1),
    "max_steps": Field(ge=-1),
    "num_train_epochs": Field(gt=0),
    "per_device_train_batch_size": Field(ge=1),
    "per_device_eval_batch_size": Field(ge=1),
    "gradient_accumulation_steps": Field(ge=1),
    "max_length": Field(ge=1),
    "learning_rate": Field(ge=0),
    "warmup_steps": Field(ge=0),
    "weight_decay": Field(ge=0),
    "max_grad_norm": Field(ge=0),
    "beta": Field(gt=0),
    "logging_steps": Field(gt=0),
    "eval_steps": Field(gt=0),
    "save_steps": Field(gt=0),
    "save_total_limit": Field(ge=1),
}


def refuse_settings(recipe: Recipe) -> None:
    """Refuse a setting that the libraries do not have or take, or that our trainers do not do.

    Raises:
        UserError: for the first, with who gave it.
    """
    from peft import LoraConfig
    from trl import DPOConfig, SFTConfig

    refuse_places(recipe)
    _hold(recipe, "training", recipe.training, DPOConfig if recipe.method == "dpo" else SFTConfig)
    _hold(recipe, "lora", recipe.lora or {}, LoraConfig)
    ours: dict[str, tuple[Any, ...]] = {
        "label_smoothing_factor": (0, 0.0),
        "loss_type": ("sigmoid", ["sigmoid"]) if recipe.method == "dpo" else ("nll",),
        "packing_strategy": ("bfd", "bfd_split"),
    }
    for key, allowed in ours.items():
        if key in recipe.training and recipe.training[key] not in allowed:
            text = f"{recipe.training[key]!r} is not what phibench's trainer does; it does {allowed[0]!r}"
            raise UserError(text, where=recipe.where(f"training.{key}"), fix="drop it")
    refuse_values(recipe)


@contextmanager
def refused(recipe: Recipe) -> Iterator[None]:
    """Take the libraries' complaints for the recipe's mistakes, but not what goes wrong in our own trainers."""
    try:
        yield
    except (TypeError, ValueError, ImportError, KeyError, ZeroDivisionError) as error:
        if {Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)} & _OURS:
            raise
        text = " ".join(str(error).split())[:300]
        where = recipe.where(key) if (key := _blamed(recipe, text)) else f"{recipe.where()}: [training] or [lora]"
        trainer = "trl.DPOConfig" if recipe.method == "dpo" else "trl.SFTConfig"
        raise UserError(
            f"the libraries refuse its settings: {text}",
            where=where,
            fix=f"change it; the rules are those of {trainer} for [training], and of peft.LoraConfig for [lora]",
        ) from error


def _hold(recipe: Recipe, table: str, given: Mapping[str, Any], config: type) -> None:
    """Hold a table to the types that a library's class of settings has."""
    hints = get_type_hints(config)
    known = {each.name: hints[each.name] for each in fields(config) if each.init}
    for key, value in given.items():
        where = recipe.where(f"{table}.{key}")
        if key not in known:
            theirs = f"the keys of [{table}] are those of {config.__module__.partition('.')[0]}.{config.__name__}"
            instead = RENAMED.get(key) if table == "training" else None
            fix = instead or likely(key, known, all_of_them=theirs)
            raise UserError("there is no such key", where=where, fix=fix)
        rules = [_rule(known[key])]
        if key in _BOUNDS and isinstance(value, int | float):
            rules.append(Annotated[int if isinstance(value, int) else float, _BOUNDS[key]])
        for rule in rules:
            try:
                TypeAdapter(rule, config=ConfigDict(strict=True, allow_inf_nan=False)).validate_python(value)
            except ValidationError as error:
                details = error.errors(include_url=False)
                fix = what_to_do(details[0]) or "give another number"
                raise UserError(broken_rule(details), where=where, fix=fix) from None


def _rule(hint: Any) -> Any:
    """What TOML can give of a type: a choice for an enumeration, the tables and lists of others as they are."""
    options = list(get_args(hint)) if get_origin(hint) in (Union, types.UnionType) else [hint]
    choices: list[Any] = []
    for option in options:
        if isinstance(option, type) and issubclass(option, Enum):
            choices += [str(member.value) for member in option]
        elif get_origin(option) is Literal and not any("[" in str(one) for one in get_args(option)):
            choices.extend(get_args(option))
        elif get_origin(option) is Literal:  # with a placeholder in it
            options.append(str)
    plain = [option for option in options if option in (bool, int, float, dict, list, type(None))]
    if str in options and not choices:  # beside an enumeration it means the enumeration's values
        plain.append(str)
    plain += {get_origin(option) for option in options} & {dict, list}
    if choices:
        plain.append(Literal[tuple(choices)])
    return functools.reduce(operator.or_, plain) if set(plain) - {type(None)} else Any


def _blamed(recipe: Recipe, text: str) -> str | None:
    """The key that a library's complaint is about, as far as its words tell."""
    words = re.sub(r"[^a-z0-9]+", " ", text.lower())
    given = [(table, key) for table in ("training", "lora") for key in getattr(recipe, table) or {}]
    named = [(table, key) for table, key in given if re.search(rf"\b{key.replace('_', ' ')}\b", words)]
    table, key = max(named, key=lambda pair: len(pair[1]), default=("", ""))
    return f"{table}.{key}" if key else None
