"""Attaching an adapter to a base, and refusing one that does not fit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from ..errors import UserError
from .adapter_files import AdapterFiles


def attach(model: PreTrainedModel, adapter: AdapterFiles, *, trainable: bool = False) -> Any:
    """Attach `adapter` to `model` (changed in place) and return the `PeftModel`, in evaluation mode.

    Args:
        model: the base.
        adapter: what to attach.
        trainable: whether its weights take gradients.

    Raises:
        UserError: when the adapter was made for another base (other target modules, shapes or layers), or its method
            does not work on this one's quantised layers.
    """
    from peft import PeftModel, PeftType
    from peft.utils.save_and_load import get_peft_model_state_dict

    if adapter.method not in PeftType.__members__:
        raise _misfit(model, adapter, f"the installed peft has no method {adapter.method}")
    saved = adapter.shapes()
    embeddings = _embedding_weights(model, saved)
    _resize_embeddings(model, adapter, {name: shape for name, shape in saved.items() if name in embeddings})
    # Random values that the file's replace would take a second for a model like Phi-2. (peft's own low_cpu_mem_usage
    # keeps the file's dtype, which is not what peft does by default.)
    with _refused(model, adapter), no_init_weights() if _is_plain_lora(adapter, saved) else nullcontext():
        peft_model = PeftModel.from_pretrained(
            model, str(adapter.folder), is_trainable=trainable, torch_device=str(model.device)
        ).eval()
        expected = get_peft_model_state_dict(peft_model, save_embedding_layers=False)
    missing = sorted(set(expected) - set(saved))
    strange = sorted(set(saved) - set(expected) - embeddings)
    if missing or strange:
        what = f"{len(missing)} weights it needs are not in the adapter" if missing else ""
        extra = f"{len(strange)} weights of the adapter have no place in this base" if strange else ""
        text = "; ".join(part for part in (what, extra) if part)
        raise _misfit(model, adapter, f"{text} (such as {(missing or strange)[0]})")
    if getattr(model, "is_quantized", False) or peft_model.active_peft_config.is_prompt_learning:
        with _refused(model, adapter):
            _try_out(peft_model)
    return peft_model


def _is_plain_lora(adapter: AdapterFiles, saved: Iterable[str]) -> bool:
    """Whether it is matrices beside linear layers and nothing else: peft need not draw random ones before it reads."""
    drawn = isinstance(adapter.config.get("init_lora_weights", True), bool)
    return adapter.method == "LORA" and drawn and all(re.search(r"\.lora_[AB]\.weight$", name) for name in saved)


@contextmanager
def _refused(model: PreTrainedModel, adapter: AdapterFiles) -> Iterator[None]:
    """Whatever a library raises over a file that it did not write is the adapter's fault."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise _misfit(model, adapter, text if " " in text else f"{type(error).__name__}: {text}") from error


def _misfit(model: PreTrainedModel, adapter: AdapterFiles, why: str) -> UserError:
    form = "the quantised form of this base" if getattr(model, "is_quantized", False) else "this base"
    made_for = adapter.config.get("base_model_name_or_path")
    if made_for == model.config.name_or_path:
        fix = "its adapter_config.json and its weights do not belong together: save the adapter again"
    else:
        fix = f"use the base that it was trained on{f': it names {made_for}' if made_for else ''}"
    if getattr(model, "is_quantized", False):
        fix += f", or drop the variants with {adapter.method} on a quantised base if peft cannot do that"
    return UserError(f"the adapter does not fit {form}: {why}", where=adapter.where, fix=fix)


def _embedding_weights(model: PreTrainedModel, saved: dict[str, tuple[int, ...]]) -> set[str]:
    """The base's own embedding and head weights among an adapter's: peft saves them when rows were added or trained."""
    names = "|".join(re.escape(name) for name in _embedding_names(model))
    wrapped = r"(\.token_adapter)?(\.base_layer|\.original_module|\.modules_to_save)?\.(weight|bias)"
    tied = r"(\.token_adapter)?\.trainable_tokens_delta"  # written for both ends of a tie, read for one
    pattern = re.compile(rf"base_model\.model\.({names})({wrapped}|{tied})")
    return {name for name in saved if pattern.fullmatch(name)}


def _embedding_names(model: PreTrainedModel) -> list[str]:
    layers = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    return [name for name, module in model.named_modules() if id(module) in layers]


def _resize_embeddings(model: PreTrainedModel, adapter: AdapterFiles, saved: dict[str, tuple[int, ...]]) -> None:
    """Give the base as many embedding rows as the adapter's own full embedding matrices have, if it carries any."""
    width = model.get_input_embeddings().weight.shape[1]
    full = {name: shape for name, shape in saved.items() if len(shape) == 2 and shape[1] == width}
    full = {name: shape for name, shape in full.items() if not name.endswith("trainable_tokens_delta")}
    rows = {shape[0] for shape in full.values()}
    present = model.get_input_embeddings().weight.shape[0]
    if len(rows) != 1 or (wanted := rows.pop()) == present:
        return
    head = model.get_output_embeddings()
    is_tied = head is None or head.weight is model.get_input_embeddings().weight
    for name in [] if is_tied or wanted < present else _embedding_names(model):
        if not any(key.startswith(f"base_model.model.{name}.") for key in full):
            raise _misfit(model, adapter, f"it adds {wanted - present} tokens but does not carry their rows of {name}")
    # Rows beyond the base's come from the adapter; what is drawn here is overwritten, but must not move the seeds.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.resize_token_embeddings(wanted, mean_resizing=False)


@torch.no_grad()
def _try_out(peft_model: Any) -> None:
    """One small forward, for what peft checks no earlier: virtual tokens of another width, layers it cannot wrap."""
    config = peft_model.active_peft_config
    if config.is_prompt_learning and config.task_type != "CAUSAL_LM":  # without one peft leaves the tokens out
        raise ValueError(f"the task_type of its virtual tokens is {config.task_type}, and has to be CAUSAL_LM")
    layers = peft_model.get_base_model().config.get_text_config().num_hidden_layers
    made_for = getattr(config, "num_layers", None)
    if config.is_prompt_learning and made_for is not None and made_for != layers:
        raise ValueError(f"its virtual tokens were made for {made_for} layers, and the base has {layers}")
    peft_model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=peft_model.device))
