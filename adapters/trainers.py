"""A recipe's trainer: its settings, its model with what is trained of it, and its rows as tokens."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..files import sha256_json
from .adapter_files import AdapterFiles
from .attach import attach
from .base import LoadedBase, save_tokenizer
from .encode import WHY, Encoded, encode_pairs, encode_rows
from .moved import saved_hash, start_hash
from .quantize import copy_of
from .recipe import Recipe
from .recipe_tokenizer import tokenizer_of
from .refusals import needs_reporters, refuse_unknown_modules
from .rows import Rows
from .settings import refuse_settings, refused
from .stop import Stop
from .watch import Step, Watch


@dataclass(frozen=True)
class Job:
    """A recipe to be trained."""

    recipe: Recipe
    base: LoadedBase
    device: torch.device
    seed: int
    rows: Rows
    held_out: Rows | None
    start: AdapterFiles | None  # the adapter to go on from
    scratch: Path  # for checkpoints, until it is done


@dataclass(frozen=True)
class Made:
    """A trainer that is ready to train."""

    job: Job
    trainer: Any
    watch: Watch
    tokenizer: Any
    train: Encoded
    held_out: Encoded | None
    reference: str | None  # the hash of a preference tuning's reference before training
    start: str  # the hash of the values that training starts from

    def refused(self) -> Any:
        """A context in which the libraries' refusals of a setting are the user's to mend."""
        return refused(self.job.recipe)

    def nonfinite(self) -> int:
        """How many of the trained tensors hold NaN or infinity; the last step's loss does not show what it made.

        Raises:
            UserError: for any, unless the recipe allows them.
        """
        trained = [(name, p) for name, p in self.trainer.model.named_parameters() if p.requires_grad]
        broken = [name for name, p in trained if not bool(torch.isfinite(p).all())]
        if broken and not self.job.recipe.allow_nonfinite:
            raise UserError(
                f"what was trained is not finite (NaN or infinity) in {len(broken)} of {len(trained)} tensors,"
                f" such as {broken[0]}; nothing is saved",
                where=self.job.recipe.where(),
                fix="lower learning_rate, train in bfloat16 or float32, or set allow_nonfinite = true",
            )
        return len(broken)

    def save(self, folder: Path) -> None:
        """Write the adapter, or the model; with the tokenizer where the recipe changed it or there is no adapter."""
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        if hasattr(model, "peft_config"):
            # The name that was given, rather than where this machine keeps it.
            model.peft_config["default"].base_model_name_or_path = self.job.base.spec.model
            model.save_pretrained(folder, selected_adapters=["default"])
        else:
            model.to(self.job.base.dtype)
            model.config.use_cache = self.job.base.model.config.use_cache
            model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)  # peft's, which is empty but for this machine's paths
        carried = self.job.start is not None and self.job.start.has_tokenizer
        if self.job.recipe.tokenizer.model_fields_set or carried or not hasattr(model, "peft_config"):
            save_tokenizer(self.tokenizer, folder)

    def facts(self) -> dict[str, Any]:
        """What else the record says: what was trained, and that a reference stayed as it was.

        Raises:
            RuntimeError: a reference moved.
        """
        model = self.trainer.model
        trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        found: dict[str, Any] = {
            "trainable_parameters": sum(p.numel() for p in trainable.values()),
            "trainable_dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in trainable.values()}),
            "tokens": {
                "bos": self.tokenizer.bos_token,
                "eos": self.tokenizer.eos_token,
                "pad": self.tokenizer.pad_token,
                "chat_template": sha256_json(self.tokenizer.chat_template) if self.tokenizer.chat_template else None,
            },
        }
        if self.reference is not None:
            after = reference_hash(self.trainer)
            if after != self.reference:
                raise RuntimeError("the reference changed while the policy was trained")
            found |= {"reference_hash": after, "held_out_margins": getattr(self.trainer, "pairs", None)}
        return found

    def notes(self) -> list[str]:
        """What a reader of the record should know of how it went."""
        most = self.trainer.rows_at_once
        if most is None:
            return []
        cut = f"there was room for no more than {most} rows at once: the loss is the same sum over a step's tokens"
        return [f"{cut}; dropout, where there is any, was drawn anew for the smaller batches"]

    def moved(self, folder: Path) -> tuple[dict[str, str], list[str]]:
        """The hashes of the values that training started from and of those that were saved; and a note where equal."""
        hashes = {"start_values": self.start, "saved_values": saved_hash(folder)}
        still = hashes["start_values"] == hashes["saved_values"]
        return hashes, ["nothing was learned: what is saved has the very values that it started from"] if still else []

    def evaluate_saved(self) -> dict[str, Any]:
        """Where the best checkpoint is kept rather than the last: which it is, and its own held-out measures."""
        state, args = self.trainer.state, self.trainer.args
        if not args.load_best_model_at_end or state.best_global_step is None:
            return {}
        found = self.trainer.evaluate(metric_key_prefix="saved")
        return {"saved_step": state.best_global_step, **found}


def sample_hash(recipe: Recipe, rows: Rows, tokenizer: Any) -> str:
    """The hash of the first rows as tokens: another prompt, mask or tokenizer makes another adapter."""
    few = Rows(rows.source, rows.sha256, rows.rows[:16])
    form = recipe.data.format
    if recipe.method == "dpo":
        return sha256_json(encode_pairs(few, form, max_length=None, tokenizer=tokenizer).rows)
    return sha256_json(encode_rows(few, form, tokenizer, max_length=None, learn_prompts=False).rows)


def needs_trl(recipe: Recipe) -> None:
    """Refuse to go on without trl, or without what the recipe asks for: DeepSpeed, a package that reports.

    Raises:
        UserError: when it is not installed.
    """
    import sys

    missing = sys.modules.get("trl", ...) is None or importlib.util.find_spec("trl") is None
    if missing:
        raise UserError("training needs trl", where=recipe.where(), fix='pip install "phibench[train]"')
    if "deepspeed" in recipe.training and importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            "it needs DeepSpeed", where=recipe.where("training.deepspeed"), fix='pip install "phibench[deepspeed]"'
        )
    needs_reporters(recipe)


def make_trainer(job: Job, on_step: Callable[[Step], None], stop: Stop | None = None) -> Made:
    """Everything up to the first step.

    Args:
        job: what is trained.
        on_step: called after every logged step.
        stop: what hears signals; None: nothing does.

    Raises:
        UserError: for settings that the libraries refuse, or rows of which none can be trained on.
    """
    from transformers import PrinterCallback

    recipe, stop = job.recipe, stop or Stop()
    refuse_settings(recipe)
    tokenizer = tokenizer_of(job.recipe, job.base, job.start)
    with refused(recipe):
        config = _config(job)
    train, held_out = _encoded(job, job.rows, tokenizer, config), None
    if job.held_out is not None:
        held_out = _encoded(job, job.held_out, tokenizer, config)
    watch = Watch(f"recipe {recipe.name}", on_step, allow_nonfinite=recipe.allow_nonfinite)
    torch.manual_seed(job.seed)
    with refused(recipe):
        trainer = _trainer(job, config, tokenizer, train, held_out, [watch, stop])
    trainer.hold()
    watch.trainer, trainer.stop = trainer, stop
    trainer.remove_callback(PrinterCallback)  # `on_step` shows the progress
    reference = reference_hash(trainer) if recipe.method == "dpo" else None
    return Made(job, trainer, watch, tokenizer, train, held_out, reference, start_hash(trainer.model))


def _config(job: Job) -> Any:
    """The libraries' own settings: ours first, and the recipe's over them."""
    from trl import DPOConfig, SFTConfig

    held_out = job.held_out is not None
    settings = {
        "output_dir": str(job.scratch / "trainer"),
        "seed": job.seed,
        "report_to": "none",
        "save_strategy": "steps",
        "save_steps": 0.2,  # of all steps
        "save_total_limit": 2,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # the library's filter would hide a loss of NaN
        "eval_strategy": "steps" if held_out else "no",
        "eval_steps": 0.2,
        "eval_on_start": held_out,
        "include_num_input_tokens_seen": "all",
        "disable_tqdm": True,
        "bf16": job.base.dtype == torch.bfloat16 and not job.recipe.training.get("fp16"),
        "fp16": False,
        "use_cpu": job.device.type == "cpu",
        "dataset_num_proc": None,
        "dataloader_pin_memory": job.device.type == "cuda",
        **job.recipe.training,
    }
    config = (DPOConfig if job.recipe.method == "dpo" else SFTConfig)(**settings)
    if job.recipe.join_batches:
        config.per_device_train_batch_size *= config.gradient_accumulation_steps
        config.gradient_accumulation_steps = 1
    return config


def _encoded(job: Job, rows: Rows, tokenizer: Any, config: Any) -> Encoded:
    form, most = job.recipe.data.format, config.max_length
    if job.recipe.method == "dpo":
        found = encode_pairs(rows, form, max_length=most, tokenizer=tokenizer)
    else:
        learn_prompts = config.completion_only_loss is False
        found = encode_rows(rows, form, tokenizer, max_length=most, learn_prompts=learn_prompts)
    if not found.rows:
        raise _no_rows(job.recipe, rows, found, most)
    return found


def _no_rows(recipe: Recipe, rows: Rows, found: Encoded, most: int | None) -> UserError:
    """The error of data of which nothing is left: the reason is that of most rows, and others are counted."""
    counts = sorted(((len(names), why) for why, names in found.left_out().items() if names), reverse=True)
    what, where, fix = {
        "dropped": (
            f"max_length = {most} leaves no room for any row",
            recipe.where("training.max_length"),
            "raise training.max_length",
        ),
        "special": (
            "every row spells a special token of the tokenizer, which would end or begin a turn there",
            rows.source,
            "give texts without the template's tokens: the format puts them in",
        ),
        "unpaired": ("no row makes a pair", rows.source, "give rows whose preferred answer is not the other one"),
        "empty": (
            "the answer of every row is empty",
            rows.source,
            "give rows with answers",
        ),
        "unsourced": ("no row has references", rows.source, "give rows with references to answer from"),
    }[counts[0][1]]
    others = ", ".join(f"{count} left out: {WHY[why]}" for count, why in counts)
    return UserError(
        what if len(counts) == 1 else f"no row is left of {len(rows.rows)}: {others}", where=where, fix=fix
    )


def _trainer(
    job: Job, config: Any, tokenizer: Any, train: Encoded, held_out: Encoded | None, callbacks: list[Any]
) -> Any:
    from datasets import Dataset
    from peft import LoraConfig

    recipe = job.recipe
    data = Dataset.from_list(train.rows)
    held = Dataset.from_list(held_out.rows) if held_out is not None else None
    model: Any = copy_of(job.base, recipe.quantization, job.device)
    if tokenizer.eos_token_id is not None and "eos_token" in recipe.tokenizer.model_fields_set:
        model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    options: dict[str, Any] = {}
    if job.start is not None:
        model = attach(model, job.start, trainable=True)
    elif recipe.lora is not None:
        refuse_unknown_modules(recipe, model)
        lora = LoraConfig(**{"task_type": "CAUSAL_LM", **recipe.lora})
        if recipe.reference == "model":
            from peft import get_peft_model

            model = get_peft_model(model, lora)
        else:
            options["peft_config"] = lora
    else:
        model.requires_grad_(True)
    if recipe.method == "dpo":
        from .dpo import PreferenceTrainer as Trainer

        if recipe.reference == "model":
            reference: Any = copy_of(job.base, recipe.quantization, job.device)
            if job.start is not None:  # trl patches the transformers model, in which peft has put the adapter's layers
                reference = attach(reference, job.start).get_base_model()
            options["ref_model"] = reference
    else:
        from .sft import CompletionTrainer as Trainer
    start = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad and job.start is not None}
    trainer = Trainer(
        model=model,
        args=config,
        train_dataset=data,
        eval_dataset=held,
        processing_class=tokenizer,
        callbacks=callbacks,
        **options,
    )
    _set_dtype(trainer.model, recipe.trainable_dtype, start)
    return trainer


def _set_dtype(model: Any, wanted: str, start: Mapping[str, torch.Tensor]) -> None:
    """Hold what is trained in a precision of its own, and with the values that it starts from.

    On a 4-bit base trl rounds what is trained to bfloat16: a policy would start away from its own reference.
    """
    if wanted != "auto":
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.data = start.get(name, parameter.data).to(parameter.device, getattr(torch, wanted))


def reference_hash(trainer: Any) -> str:
    """The hash of a preference tuning's reference: the second model's weights, the frozen adapter's, or the base's."""
    import hashlib

    model = trainer.ref_model if trainer.ref_model is not None else trainer.model
    frozen = ".ref." if trainer.ref_model is None and "ref" in getattr(model, "peft_config", {}) else None
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        own = frozen in name if frozen else ".default." not in name or trainer.ref_model is not None
        if own:
            digest.update(name.encode())
            digest.update(parameter.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
