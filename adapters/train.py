"""Training the adapter of a suite's recipe: trl's SFTTrainer on the (quantised) base, found again by its hash."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..files import sha256_file, sha256_json, write_text
from .adapter_files import AdapterFiles, read_adapter
from .base import LoadedBase
from .bundled import cache_dir
from .identity import base_parts, tokenizer_hash, version
from .quantize import copy_of
from .recipe import Recipe, data_file, find_recipe, read_examples, read_recipe

_log = logging.getLogger(__name__)
RECORD = "phibench_training.json"


@dataclass(frozen=True)
class Step:
    """One logged step of training."""

    step: int
    steps: int
    loss: float


def ensure_trained(
    name: str,
    recipe_name: str,
    base: LoadedBase,
    device: torch.device,
    *,
    seed: int,
    on_step: Callable[[Step], None],
) -> tuple[AdapterFiles, dict[str, Any]]:
    """The adapter of a recipe: from phibench's cache, or trained now.

    Args:
        name: the adapter's name in the suite.
        recipe_name: the recipe, by name or file.
        base: the base to train on.
        device: where to train.
        seed: of the order of rows, dropout and the adapter's first weights.
        on_step: called after every logged step.

    Returns:
        The adapter and how it was made (recipe, data hash, versions, loss curve, seconds).

    Raises:
        UserError: for a recipe or data that cannot be used, or a loss that is not finite.
    """
    path = find_recipe(recipe_name)
    recipe = read_recipe(path)
    data = data_file(recipe, path)
    parts = {
        "recipe": sha256_json(recipe.model_dump(exclude={"name", "description"})),
        "data": sha256_file(data),
        "seed": str(seed),
        "device": device.type,
        "tokenizer": tokenizer_hash(base.tokenizer),
        **base_parts(base),
        **{f"version:{package}": version(package) for package in ("peft", "trl", "bitsandbytes")},
    }
    folder = cache_dir() / "adapters" / f"{recipe.name}-{sha256_json(parts)[:16]}"
    if not (folder / RECORD).is_file():
        rows = read_examples(recipe, data)
        _log.info("training %s on %d rows", recipe.name, len(rows))
        _train_into(folder, recipe, rows, base, device, seed=seed, parts=parts, on_step=on_step)
        gc.collect()  # a trainer is full of cycles: its model and optimizer would stay on the device
    adapter = read_adapter(name, folder, f"recipe {recipe.name}")
    return adapter, json.loads((folder / RECORD).read_text(encoding="utf-8"))


def _train_into(
    folder: Path,
    recipe: Recipe,
    rows: list[dict[str, str]],
    base: LoadedBase,
    device: torch.device,
    *,
    seed: int,
    parts: dict[str, str],
    on_step: Callable[[Step], None],
) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        started = time.perf_counter()
        trainer, curve = _trainer(recipe, rows, base, device, seed=seed, scratch=part, on_step=on_step)
        dropped = None if trainer.args.packing else len(rows) - len(trainer.train_dataset)
        if dropped:
            _log.warning("%s: %d of %d rows are cut before their completion begins", recipe.name, dropped, len(rows))
        with _refused(recipe):
            trainer.train()
        trainer.model.save_pretrained(part / "adapter")
        record = {
            "recipe": recipe.model_dump(mode="json"),
            "rows": len(rows),
            "rows_dropped": dropped,  # max_length leaves nothing of their completion
            "seed": seed,
            "device": str(device),
            "seconds": round(time.perf_counter() - started, 1),
            "parts": parts,
            "curve": curve,
        }
        write_text(part / "adapter" / RECORD, json.dumps(record, indent=2) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        (part / "adapter").rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _trainer(
    recipe: Recipe,
    rows: list[dict[str, str]],
    base: LoadedBase,
    device: torch.device,
    *,
    seed: int,
    scratch: Path,
    on_step: Callable[[Step], None],
) -> tuple[Any, list[dict[str, Any]]]:
    try:
        from trl import SFTConfig

        from .sft import CompletionTrainer
    except ImportError:
        raise UserError(
            "training needs trl", where=f"recipe {recipe.name}", fix='pip install "phibench[train]"'
        ) from None
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback, TrainerCallback

    curve: list[dict[str, Any]] = []

    class Watch(TrainerCallback):
        """Hands every logged loss on, and stops at one that is not finite."""

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            if logs is None or "loss" not in logs:
                return
            loss = float(logs["loss"])
            if not math.isfinite(loss):
                raise UserError(
                    f"the loss is {loss} at step {state.global_step}",
                    where=f"recipe {recipe.name}",
                    fix="lower learning_rate, or train in bfloat16 or float32 rather than float16",
                )
            curve.append({"step": state.global_step, "loss": loss, "eval_loss": None})
            on_step(Step(state.global_step, state.max_steps, loss))

    settings = {
        "output_dir": str(scratch / "trainer"),
        "seed": seed,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # the library's filter would hide a loss of NaN
        "disable_tqdm": True,
        "bf16": base.dtype == torch.bfloat16,
        "fp16": False,
        "use_cpu": device.type == "cpu",
        "dataset_num_proc": None,
        "dataloader_pin_memory": device.type == "cuda",
        **recipe.training,
    }
    with _refused(recipe):
        config = SFTConfig(**settings)
        lora = LoraConfig(**{"task_type": "CAUSAL_LM", **recipe.lora})
    model = copy_of(base, recipe.quantization, device)
    torch.manual_seed(seed)
    with _refused(recipe):
        trainer = CompletionTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=base.tokenizer,
            peft_config=lora,
            callbacks=[Watch()],
        )
    if len(trainer.train_dataset) == 0:
        raise UserError(
            f"max_length = {config.max_length} cuts every row before its completion begins",
            where=f"recipe {recipe.name}",
            fix="raise training.max_length",
        )
    trainer.remove_callback(PrinterCallback)  # `on_step` shows the progress
    return trainer, curve


@contextlib.contextmanager
def _refused(recipe: Recipe) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError) as error:
        text = " ".join(str(error).split())[:300]
        raise UserError(f"the libraries refuse its settings: {text}", where=f"recipe {recipe.name}") from error
