"""The contract of an adapter: whether a suite asks it as it was trained to be asked. Imports no torch.

What an adapter says of its training is its `adapter_config.json` and, where phibench trained it, its training record
or its recipe. A breach is no reason to refuse a run, for measuring one may be the very purpose; it is told before any
item is asked, and stands in the report.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..adapters.adapter_files import training_record
from ..adapters.bundled import NAME as BUNDLED
from ..adapters.formats import CHAT_TEMPLATES, TEMPLATES
from ..adapters.recipe import USUAL_LENGTH, Recipe, read_recipe
from ..adapters.recipe_table import find_recipe
from ..adapters.spec import AdapterSpec, QuantizationSpec
from ..errors import UserError
from ..files import sha256_json
from .suite import Suite, TaskSpec

# What a suite's task may change of the prompt that a format has.
_PROMPT_KEYS = {"doc_to_text", "target_delimiter", "description"}
# A format -> the tasks that ask in its prompt, without `mini_` before their names and `_loss` behind them.
_ASKED_BY = {
    "webglm_qa": ("webglm_qa", "webglm_pairs"),
    "webglm_pairs": ("webglm_qa", "webglm_pairs"),
}


def suite_breaches(suite: Suite) -> list[str]:
    """What breaks the contract of the suite's adapters, as far as files on this machine say."""
    found = []
    for name, spec in suite.adapters.items():
        try:
            found += _breaches_of(suite, name, spec)
        except (UserError, OSError, ValueError):
            continue  # a fault, which is told as one
    return found


def _breaches_of(suite: Suite, name: str, spec: AdapterSpec) -> list[str]:
    if spec.recipe is not None:
        return breaches(suite, name, recipe=read_recipe(find_recipe(spec.recipe)))
    return folder_breaches(suite, name, Path(spec.path)) if spec.path is not None else []


def token_names(tokenizer: Any) -> dict[str, str | None]:
    """The tokens that begin, end and fill a text, by the names that a training record has for them."""
    return {"bos": tokenizer.bos_token, "eos": tokenizer.eos_token, "pad": tokenizer.pad_token}


def folder_breaches(
    suite: Suite,
    name: str,
    folder: Path,
    base: str | None = None,
    *,
    tokens: Mapping[str, str | None] | None = None,
    modules: Collection[str] | None = None,
    template: str | None = None,
    context: int | None = None,
) -> list[str]:
    """What breaks the contract of an adapter that is a folder.

    Args:
        suite: the suite.
        name: the adapter's name in it.
        folder: the adapter.
        base: what the suite's base is, as an identity has it, where that is known.
        tokens: those of the tokenizer that it is asked with, where it does not carry its own; None: not known.
        modules: the names of the base's modules, without what holds them; None: not known.
        template: the hash of the chat template that it will be asked in; None: not known, or in none.
        context: tokens that the model reads at most, where the suite does not say; None: not known.

    Raises:
        OSError: it has no adapter_config.json.
        ValueError: that is broken.
    """
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    record = training_record(folder) or {}
    try:
        recipe = Recipe.model_validate(record["recipe"], strict=False) if "recipe" in record else None
    except ValidationError:
        recipe = None  # another version's
    found = breaches(suite, name, config=config, recipe=recipe, parts=record.get("parts"), base=base)
    if recipe is not None:
        own = record["tokens"].get("chat_template") if isinstance(record.get("tokens"), Mapping) else None
        told = [*_template(recipe, template, trained=own), *_length(suite, recipe, context)]
        found += [what for each in told if (what := f"adapters.{name}: {each}") not in found]
    more = [*_tokens(record.get("tokens"), tokens), *_modules(config.get("target_modules"), modules)]
    return found + [f"adapters.{name}: {what}" for what in more]


def breaches(
    suite: Suite,
    name: str,
    *,
    config: Mapping[str, Any] | None = None,
    recipe: Recipe | None = None,
    parts: Mapping[str, str] | None = None,
    base: str | None = None,
) -> list[str]:
    """Each difference between how an adapter was trained and how a suite asks it, in a sentence.

    Args:
        suite: the suite.
        name: the adapter's name in it.
        config: the adapter's `adapter_config.json`; None: it is trained for this suite.
        recipe: the recipe that it was made by; None: not known.
        parts: what it was made of, as its training record has it.
        base: what the suite's base is, as an identity has it; None: not known.
    """
    trained_on = (parts or {}).get("base")
    if trained_on is not None and base is not None and ("@" in trained_on) == ("@" in base):
        found = [] if trained_on == base else [f"it was trained on other weights than those of {suite.base.model}"]
    else:
        found = [] if config is None else _base(suite, config)  # without one it is trained on the suite's own base
    if recipe is not None:
        found += [*_prompts(suite, recipe), *_quantization(suite, name, recipe), *_length(suite, recipe)]
    dtype = (parts or {}).get("dtype")
    if dtype is not None and suite.base.dtype not in ("auto", dtype):
        found.append(f"it was trained on a base in {dtype}; base.dtype is {suite.base.dtype}")
    return [f"adapters.{name}: {what}" for what in found]


def _tokens(trained: Any, asked: Mapping[str, str | None] | None) -> list[str]:
    """Tokens that training had otherwise. Padding is masked on both sides: another padding token breaks nothing."""
    if not isinstance(trained, Mapping) or asked is None:
        return []
    return [
        f"it was trained with {trained[key]!r} {what}; the tokenizer that it is asked with has {asked[key]!r}"
        for key, what in (("bos", "before a text"), ("eos", "at the end of a text"))
        if key in trained and trained[key] != asked[key]
    ]


def _modules(targets: Any, known: Collection[str] | None) -> list[str]:
    if not isinstance(targets, list) or known is None:
        return []  # a pattern, or a word that stands for all of them
    missing = sorted(str(target) for target in targets if str(target).rpartition(".")[2] not in known)
    return [f"it targets {', '.join(missing)}, of which the base has no module"] if missing else []


def _base(suite: Suite, config: Mapping[str, Any]) -> list[str]:
    asked = suite.base.model
    trained, revision = config.get("base_model_name_or_path"), config.get("revision")
    if isinstance(trained, str) and trained and not _same_model(trained, asked):
        return [f"it was made for the base {trained}; base.model is {asked}"]
    if isinstance(revision, str) and suite.base.revision is not None and revision != suite.base.revision:
        return [f"it was made for revision {revision} of the base; base.revision is {suite.base.revision}"]
    return []


def _same_model(one: str, other: str) -> bool:
    """Whether two names may be one model's: a local copy has the name, but not the owner."""
    owners, names = zip(*(_owner_and_name(model) for model in (one, other)), strict=True)
    return names[0] == names[1] and (None in owners or owners[0] == owners[1])


def _owner_and_name(model: str) -> tuple[str | None, str]:
    snapshot = re.search(r"models--([^/]+)--([^/]+)/snapshots/", model)  # a folder of the hub's cache
    if snapshot:
        return snapshot[1].lower(), snapshot[2].lower()
    name = model.rstrip("/").rpartition("/")[2].lower()
    name = re.sub(rf"^(smollm2-135m-instruct|{BUNDLED}-[0-9.]+)$", BUNDLED, name)  # the bundled model's other names
    is_hub_id = re.fullmatch(r"[\w.-]+/[\w.-]+", model) is not None and not model.startswith(".")
    return (model.partition("/")[0].lower() if is_hub_id and name != BUNDLED else None), name


def _prompts(suite: Suite, recipe: Recipe) -> list[str]:
    found = []
    form = recipe.data.format
    in_chat = recipe.tokenizer.chat_template or form in CHAT_TEMPLATES
    if in_chat and not suite.base.chat_template:
        found.append(
            f'it was trained on {form} in a chat template ("chatml"); base.chat_template = false asks it plain prompts'
        )
    if isinstance(suite.base.chat_template, str):
        found += _template(recipe, _hash_of(suite.base.chat_template))
    if not in_chat and suite.base.chat_template:
        found.append(f"it was trained on plain prompts ({form}); base.chat_template wraps what it is asked")
    if suite.base.system_instruction:
        found.append("it was trained without a system instruction; base.system_instruction is put before its prompts")
    for task in suite.tasks:
        if _form_of(task) in _ASKED_BY.get(form, (form,)):
            found += _changes(task, form)
    return found


def _form_of(task: TaskSpec) -> str:
    """The name of what a task asks in: `mini_` is another set of items, `_loss` another way to look at the answer."""
    return task.name.removeprefix("mini_").removesuffix("_loss")


def _changes(task: TaskSpec, form: str) -> list[str]:
    """How a task departs from the prompt of the format that was trained on."""
    changed = sorted(_PROMPT_KEYS & task.override.keys())
    found = [f"it was trained on the prompt of {form}; tasks.{task.name}.override changes {key}" for key in changed[:1]]
    shots = task.override.get("num_fewshot") if task.num_fewshot is None else task.num_fewshot
    if shots:
        found.append(f"it was trained without examples before a prompt; tasks.{task.name} puts {shots} there")
    return found


def _hash_of(template: str) -> str | None:
    """The hash of the template that `base.chat_template` names; None where its file cannot be read."""
    try:
        return sha256_json(TEMPLATES.get(template) or Path(template).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None  # a fault, which is told as one


def _template(recipe: Recipe, asked: str | None, *, trained: str | None = None) -> list[str]:
    """Whether prompts are wrapped in another chat template than in training.

    Args:
        recipe: what it was trained by.
        asked: the hash of the template that it is asked in.
        trained: the hash of its tokenizer's own, which is that of training only where the recipe says so.
    """
    own = CHAT_TEMPLATES.get(recipe.data.format)
    if asked is None or own is None:
        return []
    was = trained if recipe.tokenizer.chat_template and trained is not None else sha256_json(own)
    if asked == was:
        return []
    return ['it was trained in another chat template than it is asked in; base.chat_template = "chatml" is the one']


def _quantization(suite: Suite, name: str, recipe: Recipe) -> list[str]:
    asked = [variant for variant in suite.all_variants() if variant.adapter == name]
    used = {variant.quantization for variant in asked if variant.quantization}
    if recipe.quantization is None:
        return ["it was trained on a base that is not quantised"] if used else []
    found = ["it was trained on a quantised base, and no variant asks it on one"] if asked and not used else []
    for quantization in sorted(used & suite.quantizations.keys()):
        keys = _differing(recipe.quantization, suite.quantizations[quantization])
        if keys:
            found.append(f"it was trained on another quantisation than quantizations.{quantization}: {', '.join(keys)}")
    return found


def _differing(trained: QuantizationSpec, asked: QuantizationSpec) -> list[str]:
    """The keys that differ, but for a compute dtype that one of them leaves to the base's."""
    ours, theirs = trained.model_dump(), asked.model_dump()
    return [key for key in ours if ours[key] != theirs[key] and None not in (ours[key], theirs[key])]


def _length(suite: Suite, recipe: Recipe, context: int | None = None) -> list[str]:
    told, asked = recipe.training.get("max_length"), suite.base.max_length
    trained = told if isinstance(told, int) else USUAL_LENGTH
    if asked is not None and asked != trained:
        does = "asks it more" if asked > trained else "cuts longer prompts"
        return [f"it was trained on at most {trained} tokens; base.max_length = {asked} {does}"]
    if asked is None and context is not None and context < trained and told is not None:
        return [f"it was trained on at most {trained} tokens; the model reads {context}, and longer prompts are cut"]
    return []
