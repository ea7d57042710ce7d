"""A LoRA's pairs of matrices as its file has them, and whether they are all that it does to a weight.

For what looks at an adapter's weights without a model around them. Imports no torch until it reads them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .adapter_files import AdapterFiles

if TYPE_CHECKING:
    import torch

PREFIX = "base_model.model."  # what peft puts before the base's own names
_A = re.compile(rf"{re.escape(PREFIX)}(.+)\.lora_A\.weight")
# Keys of peft's LoraConfig that make the change of a weight another function of the matrices than scaling * B A.
_OTHER_FUNCTIONS = (
    "use_dora",
    "use_bdlora",
    "use_qalora",
    "target_parameters",
    "layer_replication",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
)
_STARTS = ("gaussian", "orthogonal", "eva")  # values of init_lora_weights that leave the base as it is


@dataclass(frozen=True)
class LoraPair:
    """What a LoRA adds to the weight of one linear layer: scaling * B A."""

    module: str  # as the base calls it
    a: torch.Tensor  # (rank, inputs)
    b: torch.Tensor  # (outputs, rank)
    scaling: float

    def update(self, device: torch.device) -> torch.Tensor:
        """The change of the weight: (outputs, inputs), float32."""
        return (self.b.to(device).float() @ self.a.to(device).float()) * self.scaling


def not_plain_lora(config: Mapping[str, Any]) -> str | None:
    """Why an adapter changes weights otherwise than by scaling * B A; None where it does not.

    Args:
        config: its `adapter_config.json`, or the [lora] table of a recipe with its method as `peft_type`.
    """
    if config.get("peft_type") != "LORA":
        return f"its method is {config.get('peft_type')}"
    for key in _OTHER_FUNCTIONS:
        if config.get(key):
            return f"with {key} it is more than the product of two matrices"
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start not in _STARTS:
        return f'its start (init_lora_weights = "{start}") changes the base\'s own weights'
    return None


def null_fault(config: Mapping[str, Any]) -> str | None:
    """Why no null can be drawn of an adapter; None where one can, as far as its `adapter_config.json` tells."""
    return None if config.get("peft_type") == "IA3" else not_plain_lora(config)


def lora_pairs(adapter: AdapterFiles) -> list[LoraPair]:
    """The pairs of a plain LoRA's linear layers, in the order of their names; those of embeddings are left out.

    Raises:
        UserError: when the file cannot be read.
        KeyError: when it has an A without its B.
    """
    tensors = adapter.tensors()
    found = []
    for name in sorted(tensors):
        if (match := _A.fullmatch(name)) is not None:
            a, b = tensors[name], tensors[f"{PREFIX}{match[1]}.lora_B.weight"]
            found.append(LoraPair(match[1], a, b, _scaling(adapter.config, match[1], a.shape[0])))
    return found


def _scaling(config: Mapping[str, Any], module: str, rank: int) -> float:
    """What peft multiplies the product by; patterns of names are matched by peft's own rule."""
    from peft.utils.other import get_pattern_key

    pattern = config.get("alpha_pattern") or {}
    alpha = float(pattern.get(get_pattern_key(pattern, module), config["lora_alpha"]))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
