"""Settings that the libraries take and that would make another result than a recipe promises, each with the reason.

Apart from these there are the libraries' own rules (settings.py).
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from .recipe import Recipe, likely

# What would be written where others can read it, or has its own place.
_NOT_HERE = {
    "output_dir": "checkpoints have their own place: use --out for the result",
    "seed": "give the seed with --seed, or as a suite's seeds.training",
    "hub_token": "a token does not belong in a recipe: huggingface_hub finds its own",
    "push_to_hub_token": "a token does not belong in a recipe: huggingface_hub finds its own",
}
# What the libraries take and phibench has its own place for: it would change nothing. (Why, what to do instead.)
_OWN_RULE = "the end of text that is learned is the tokenizer's"
_SCRIPTS = "it is a flag of transformers' example scripts, and changes nothing"
_IGNORED = {
    "eos_token": (_OWN_RULE, "give it as tokenizer.eos_token"),
    "pad_token": ("padding is the tokenizer's", "give it as tokenizer.pad_token"),
    "resume_from_checkpoint": (
        "the same command goes on from its own last checkpoint",
        "drop it; to go on with an adapter, name it as start",
    ),
    "dataset_text_field": ("columns are read as data.format says", "drop it, or give another data.format"),
    "dataset_kwargs": ("rows are encoded by phibench, and the libraries get tokens", "drop it"),
    "dataset_num_proc": ("rows are encoded by phibench, and the libraries get tokens", "drop it"),
    "truncation_mode": (
        "rows are never cut: they are shortened by their format's own rule, or left out",
        "drop it; training.max_length says how long they may be",
    ),
    "assistant_only_loss": (
        "what is learned is told by data.format: of a conversation, what the assistant says",
        "drop it; training.completion_only_loss = false learns from all text",
    ),
    "model_init_kwargs": (
        "the base is loaded as [base] and [quantization] say",
        "give base.dtype, base.attn_implementation or base.revision",
    ),
    "trust_remote_code": ("the base is loaded as [base] says", "give base.trust_remote_code"),
    "do_train": (_SCRIPTS, "drop it"),
    "do_eval": (_SCRIPTS, "drop it; data.eval or data.eval_fraction holds rows out"),
    "do_predict": (_SCRIPTS, "drop it; a suite asks what a result writes"),
    **dict.fromkeys(
        ("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
        ("a training publishes nothing, and this would write to the hub", "drop it; trackio keeps its runs here"),
    ),
}
_PUBLISHING = ("hub_", "push_to_hub")  # how the keys begin that make a trainer write to the hub


@dataclass(frozen=True)
class _Rule:
    """A key's values that are refused."""

    bad: Callable[[Any], bool]
    why: str
    fix: str = "drop it"
    among: Callable[[Recipe], bool] = lambda recipe: True  # what else the recipe says, where that decides


def _yes(value: Any) -> bool:
    return value is True


def _any(value: Any) -> bool:
    return True


_SIGMOID = "phibench's trainer for preferences has the sigmoid loss against reverse KL, and nothing beside it"
_RULES = {
    "training.save_only_model": _Rule(
        _yes, "checkpoints without the optimizer cannot be gone on from: a stopped training would end elsewhere"
    ),
    "training.ignore_data_skip": _Rule(
        _yes, "a training that goes on would see rows anew that it had seen, and end elsewhere"
    ),
    "training.save_total_limit": _Rule(
        lambda value: value == 1,
        "where one checkpoint is kept, a kill while it is being written leaves none",
        "give 2 or more, or drop it",
    ),
    "training.max_steps": _Rule(
        lambda value: value == 0, "no step would be trained", "give at least 1, or -1 for whole epochs"
    ),
    "training.dataloader_drop_last": _Rule(
        _yes, "it also drops held-out rows: their loss would be that of a part of them"
    ),
    "training.eval_packing": _Rule(
        _yes,
        "without training.packing it lets held-out rows read one another: their loss would be another",
        "drop it; with training.packing held-out rows are packed as well, and rightly",
        among=lambda recipe: not recipe.training.get("packing"),
    ),
    "training.logging_nan_inf_filter": _Rule(_yes, "it shows the last finite loss in the place of one that is not"),
    "training.chat_template_path": _Rule(
        _any,
        "prompts are encoded as evaluation encodes them, and not by this template",
        "drop it; tokenizer.chat_template and base.chat_template are the recipe's own",
    ),
    "lora.init_lora_weights": _Rule(
        lambda value: value not in (True, False, "gaussian", "orthogonal"),
        "this start changes the base's weights or needs data: the saved adapter would not be what was trained",
        'give true, false, "gaussian" or "orthogonal"',
    ),
    "lora.kasa_config": _Rule(_any, "it changes the base's weights: the saved adapter would not be what was trained"),
    "lora.task_type": _Rule(lambda value: value != "CAUSAL_LM", 'phibench trains language models: "CAUSAL_LM"'),
    "lora.inference_mode": _Rule(_yes, "an adapter in inference mode has no weights that are trained"),
}
_DPO_RULES = {
    "training.precompute_ref_log_probs": _Rule(
        _yes,
        "where every weight is trained, trl then keeps no reference to measure held-out pairs by",
        'give reference = "model", or drop it',
        among=lambda recipe: recipe.lora is None and recipe.start is None and recipe.reference is None,
    ),
    "training.train_sampling_strategy": _Rule(
        lambda value: value == "group_by_length", "a pair has two lengths, and the libraries know neither"
    ),
    "training.f_divergence_type": _Rule(lambda value: value != "reverse_kl", _SIGMOID),
    "training.ld_alpha": _Rule(_any, _SIGMOID),
    "training.use_weighting": _Rule(_yes, _SIGMOID),
    "training.loss_weights": _Rule(_any, _SIGMOID),
    "training.label_smoothing": _Rule(lambda value: value != 0, _SIGMOID),
    "training.sync_ref_model": _Rule(_yes, "the reference stays as it was: a record says what it is by its hash"),
}

# What a report goes through: the modules of which one is needed, and what is installed.
_REPORTERS = {
    "azure_ml": (("azureml",), "azureml-core"),
    "clearml": (("clearml",), "clearml"),
    "codecarbon": (("codecarbon",), "codecarbon"),
    "comet_ml": (("comet_ml",), "comet-ml"),
    "dagshub": (("dagshub",), "dagshub"),
    "dvclive": (("dvclive",), "dvclive"),
    "flyte": (("flytekit",), "flytekit"),
    "mlflow": (("mlflow",), "mlflow"),
    "neptune": (("neptune",), "neptune"),
    "swanlab": (("swanlab",), "swanlab"),
    "tensorboard": (("tensorboard", "tensorboardX"), "tensorboard"),
    "trackio": (("trackio",), "trackio"),
    "wandb": (("wandb",), "wandb"),
}


def refuse_places(recipe: Recipe) -> None:
    """Refuse keys that a recipe is no place for, whatever they say.

    Raises:
        UserError: for the first, with who gave it.
    """
    for key in recipe.training:
        why, fix = _IGNORED.get(key) or (_NOT_HERE.get(key), "drop it")
        if why is None and key.startswith(_PUBLISHING):
            why, fix = "a training publishes nothing", "drop it; publishing is `phibench push`'s"
        if why is not None:
            raise UserError(why, where=recipe.where(f"training.{key}"), fix=fix)


def refuse_values(recipe: Recipe) -> None:
    """Refuse values of the right type with which the result would be another than the recipe promises.

    Raises:
        UserError: for the first, with who gave it.
    """
    tables: dict[str, Mapping[str, Any]] = {"training": recipe.training, "lora": recipe.lora or {}}
    for name, rule in (_RULES | (_DPO_RULES if recipe.method == "dpo" else {})).items():
        table, _, key = name.partition(".")
        if key in tables[table] and rule.bad(tables[table][key]) and rule.among(recipe):
            raise UserError(rule.why, where=recipe.where(name), fix=rule.fix)


def needs_reporters(recipe: Recipe) -> None:
    """Refuse to report through a package that is not installed.

    Raises:
        UserError: for the first that is missing.
    """
    asked = recipe.training.get("report_to") or []
    for name in [asked] if isinstance(asked, str) else asked:
        where = recipe.where("training.report_to")
        if name == "kubeflow" and "KUBEFLOW_TRAINER_SERVER_URL" not in os.environ:
            raise UserError("kubeflow is reported to from its own jobs alone", where=where, fix="drop it")
        if name not in _REPORTERS:
            continue  # "none", "all", or none that the libraries have, which they tell
        modules, package = _REPORTERS[name]
        if all(importlib.util.find_spec(module) is None for module in modules):
            raise UserError(f"{name} is not installed", where=where, fix=f"pip install {package}, or drop report_to")


def refuse_unknown_modules(recipe: Recipe, model: Any) -> None:
    """Refuse to train modules, whole or by an adapter, by names that match none, which peft passes over.

    Args:
        recipe: what it says.
        model: the base.

    Raises:
        UserError: for the first.
    """
    names = [name for name, _ in model.named_modules() if name]
    last = list(dict.fromkeys(part for name in names if not (part := name.rpartition(".")[2]).isdigit()))
    for key in ("modules_to_save", "target_modules"):
        listed = (recipe.lora or {}).get(key) or []
        for wanted in listed if isinstance(listed, list) else []:  # else a pattern, which peft reads
            tail = str(wanted) if key == "modules_to_save" else f".{wanted}"  # as peft matches them
            if not any(name == wanted or name.endswith(tail) for name in names):
                where = recipe.where(f"lora.{key}")
                raise UserError(f"the base has no module {wanted}", where=where, fix=likely(str(wanted), last))
