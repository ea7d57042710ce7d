"""trl's SFTTrainer with a lighter loss: only tokens that are learned go through the LM head.

With a prompt four times as long as its completion, trl's own loss (which puts every position through the head, and
counts entropy and accuracy besides) takes about half of a step on a CPU; this one gives the same loss in half the time.
"""

from __future__ import annotations

from typing import Any

import torch
from trl import SFTTrainer

_IGNORED = -100  # transformers' label of a token that is not learned


class CompletionTrainer(SFTTrainer):
    """Supervised fine-tuning by token-weighted cross-entropy, in float32, of the labelled tokens."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The summed loss of the labelled tokens over their number (of the whole step, where that is given).

        Args:
            model: the model, or its PEFT wrapper.
            inputs: a batch: input_ids, attention_mask and labels, each [rows, length].
            return_outputs: whether the model's outputs are wanted too.
            num_items_in_batch: labelled tokens of the whole step, over all its micro-batches.
        """
        labels = inputs["labels"]
        # Positions whose next token is learned in any row of the batch.
        positions = (labels[:, 1:] != _IGNORED).any(dim=0).nonzero().squeeze(1)
        rest = {key: value for key, value in inputs.items() if key != "labels"}
        outputs = model(**rest, logits_to_keep=positions)
        targets = labels[:, positions + 1]
        learned = targets != _IGNORED
        total = torch.nn.functional.cross_entropy(outputs.logits[learned].float(), targets[learned], reduction="sum")
        loss = total / (learned.sum() if num_items_in_batch is None else num_items_in_batch)
        return (loss, outputs) if return_outputs else loss
