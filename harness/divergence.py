"""How far a variant's next-token distributions lie from a reference's, on a sample of positions of a task's answers.

The measure is the Kullback-Leibler divergence KL(reference || variant) in nats (Kullback and Leibler 1951): how much
likelier, in the mean, what the reference says is to itself than to the variant. 0 where both say the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from ..errors import UserError
from .engine.base import Engine
from .records import MetricValue
from .results import KL_DIVERGENCE, SAME_TOP_TOKEN
from .suite import DivergenceSpec
from .tasks import BuiltTask


@dataclass
class References:
    """What the references' distributions were, for as long as a run needs them: some 100 kB a position."""

    logits: dict[str, dict[int, torch.Tensor]] = field(default_factory=dict)  # task -> item -> [positions, vocabulary]

    def keep(self, engine: Engine, built: BuiltTask) -> None:
        """Take the distributions of a task's reference.

        Args:
            engine: around the reference's model.
            built: the task; its suite entry has a `divergence`.
        """
        self.logits[built.info.name] = dict(_sampled(engine, built, _spec(built)))

    def metrics(self, engine: Engine, built: BuiltTask, variant: str) -> Mapping[int, list[MetricValue]]:
        """The divergence of each sampled item, by its index: means over its positions.

        Args:
            engine: around the variant's model.
            built: the task; its suite entry has a `divergence`.
            variant: the variant's name. Of the reference itself the distributions are kept.

        Raises:
            UserError: the reference's are not there, since it could not be made.
        """
        spec = _spec(built)
        if variant == spec.reference:
            self.keep(engine, built)
        held = self.logits.get(built.info.name)
        if held is None:
            raise UserError(
                f"there is nothing to measure the divergence from: {spec.reference} could not be made",
                where=f"tasks: {built.info.name}.divergence",
            )
        own = held.items() if variant == spec.reference else _sampled(engine, built, spec)
        name = built.info.metrics[0].filter
        found = {}
        for index, logits in own:
            kl, same = divergence(held[index], logits)
            found[index] = [MetricValue(KL_DIVERGENCE, name, kl), MetricValue(SAME_TOP_TOKEN, name, same)]
        return found


def divergence(reference: torch.Tensor, variant: torch.Tensor) -> tuple[float, float]:
    """(mean divergence in nats, share of positions with the same likeliest token) of two sets of distributions.

    Args:
        reference: [positions, vocabulary] logits.
        variant: likewise. Where a model's head has more rows than the other's, these are left out: no token is theirs.
    """
    rows = min(reference.shape[-1], variant.shape[-1])
    log_p, log_q = (torch.log_softmax(logits[:, :rows].double(), dim=-1) for logits in (reference, variant))
    kl = (log_p.exp() * (log_p - log_q)).sum(dim=-1).clamp(min=0.0)
    return float(kl.mean()), float((log_p.argmax(dim=-1) == log_q.argmax(dim=-1)).double().mean())


def _spec(built: BuiltTask) -> DivergenceSpec:
    if built.spec.divergence is None:
        raise ValueError(f"{built.info.name} asks for no divergence")
    return built.spec.divergence


@torch.inference_mode()
def _sampled(engine: Engine, built: BuiltTask, spec: DivergenceSpec) -> Iterator[tuple[int, torch.Tensor]]:
    """(item's index, [positions, vocabulary] logits on the host, in the model's own precision), one item at a time."""
    items = built.items[: spec.items]
    asked = engine.prepare("loglikelihood", [item.instances[0].args for item in items]).items
    for item, request in zip(items, asked, strict=True):
        count = len(request.targets)
        picks = np.unique(np.linspace(0, count - 1, min(spec.positions, count)).round().astype(int)) - count
        tokens = torch.tensor([list(request.inputs)], device=engine.device)
        yield item.index, engine.model(input_ids=tokens, use_cache=False).logits[0, picks.tolist()].cpu()
