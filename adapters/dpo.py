"""trl's DPOTrainer with each of three ways to hold the reference, and an evaluation pair by pair.

Direct preference optimisation: Rafailov et al. 2023, arXiv 2305.18290. The reward of an answer is beta times the
log-probability that the policy gives it beyond what the reference gives it; a pair is right when the preferred answer
has the higher reward.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from trl import DPOTrainer
from trl.trainer.utils import use_adapter

from .watch import Measured, nothing_held_out


class PreferenceTrainer(Measured, DPOTrainer):
    """Preference tuning; evaluated by the mean over pairs, whatever the batch size.

    trl counts a tie as wrong, so that it reports 0 before the first step, where policy and reference are the same; here
    a tie counts half.
    """

    pairs: list[float]  # the margin of each held-out pair, in nats, as last evaluated

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Loss, share of pairs that are right, and mean margin of rewards, over the held-out pairs.

        Raises:
            UserError: where there are none.
        """
        loader = self.get_eval_dataloader(eval_dataset)
        model = self.model
        was_training = model.training
        model.eval()
        margins: list[float] = []
        with torch.no_grad():
            for batch in loader:
                inputs = self._prepare_inputs(batch)
                with self.compute_loss_context_manager():
                    policy = _log_probs(model, inputs)
                    with self._as_reference() as reference:
                        held = _log_probs(reference, inputs)
                chosen, rejected = (policy - held).chunk(2)
                margins += (self.beta * (chosen - rejected)).tolist()
        model.train(was_training)
        if not margins:
            raise nothing_held_out("there are no held-out pairs")
        self.pairs = margins
        found = torch.tensor(margins, dtype=torch.float64)
        metrics = {
            f"{metric_key_prefix}_loss": float(-torch.nn.functional.logsigmoid(found).mean()),
            f"{metric_key_prefix}_accuracy": float(((found > 0).double() + 0.5 * (found == 0).double()).mean()),
            f"{metric_key_prefix}_margin": float(found.mean()),
        }
        return self.told(metrics)

    @contextmanager
    def _as_reference(self) -> Iterator[Any]:
        """The reference model, for as long as the context lasts."""
        if self.ref_model is not None:
            yield self.ref_model
            return
        own = self.accelerator.unwrap_model(self.model)
        with use_adapter(own, adapter_name="ref" if "ref" in own.peft_config else None):
            yield own


def _log_probs(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """The log-probability of each completion, [rows], in nats."""
    tokens, mask, completion = inputs["input_ids"], inputs["attention_mask"], inputs["completion_mask"]
    logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits[:, :-1]
    targets = tokens[:, 1:]
    found = torch.log_softmax(logits.float(), dim=-1).gather(-1, targets[:, :, None])[:, :, 0]
    return (found * (completion[:, 1:] * mask[:, 1:])).sum(dim=-1)
