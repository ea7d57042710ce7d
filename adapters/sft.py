"""trl's SFTTrainer with a lighter loss, and an evaluation that weighs every token alike.

With a prompt four times as long as its completion, trl's own loss (which puts every position through the head, and
counts entropy and accuracy besides) takes about half of a step on a CPU; this one gives the same loss in half the time.
"""

from __future__ import annotations

from typing import Any

import torch
from trl import SFTTrainer

from .encode import IGNORED
from .watch import Measured


class CompletionTrainer(Measured, SFTTrainer):
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
        total, count, outputs = self._summed(model, inputs)
        loss = total / (count if num_items_in_batch is None else num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The mean loss of the labelled tokens, in nats: the sum over all of them, over their number.

        transformers' own is a mean over batches of their means, and so depends on the batch size.
        """
        loader = self.get_eval_dataloader(eval_dataset)
        model = self.model
        was_training = model.training
        model.eval()
        total, tokens = 0.0, 0
        with torch.no_grad():
            for batch in loader:
                with self.compute_loss_context_manager():
                    loss, count, _ = self._summed(model, self._prepare_inputs(batch))
                total += float(loss)
                tokens += int(count)
        model.train(was_training)
        metrics = {f"{metric_key_prefix}_loss": total / max(tokens, 1), f"{metric_key_prefix}_tokens": float(tokens)}
        return self.told(metrics)

    @staticmethod
    def _summed(model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """(summed loss of a batch's labelled tokens, their number, the model's outputs)."""
        labels = inputs["labels"]
        # Positions whose next token is learned in any row of the batch.
        positions = (labels[:, 1:] != IGNORED).any(dim=0).nonzero().squeeze(1)
        rest = {key: value for key, value in inputs.items() if key != "labels"}
        outputs = model(**rest, logits_to_keep=positions)
        targets = labels[:, positions + 1]
        learned = targets != IGNORED
        total = torch.nn.functional.cross_entropy(outputs.logits[learned].float(), targets[learned], reduction="sum")
        return total, learned.sum(), outputs
