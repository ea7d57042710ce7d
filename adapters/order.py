"""The order of rows grouped by their length, made again from the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler


class ByLength(LengthGroupedSampler):
    """transformers' sampler with a generator of its own for each epoch.

    transformers' draws from the chance that dropout draws from, which a training that goes on in the middle of an epoch
    has no more as it was at the epoch's begin: it would go on with other rows.

    Args:
        like: what transformers made.
        seed: the training's.
    """

    def __init__(self, like: LengthGroupedSampler, seed: int) -> None:
        super().__init__(like.batch_size, lengths=like.lengths)
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Be asked for the order of another epoch."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(self._seed + self._epoch)
        return super().__iter__()
