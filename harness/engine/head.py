"""The language model head over chosen positions, in chunks: no logits of a whole batch ever exist."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from .shape import to_device
from .tree import Forward, Ints

_CHUNK_BYTES = {"cuda": 2**29, "cpu": 2**26}  # of one chunk's float32 log-probabilities


class Head:
    """A causal model's head, with whatever the model does to its logits (scaling, soft-capping) kept.

    Args:
        causal: a transformers causal LM whose decoder gives the hidden states.
    """

    def __init__(self, causal: Any) -> None:
        self._causal = causal
        self._rows_of: int | None = None

    @torch.inference_mode()
    def score(self, hidden: torch.Tensor, forward: Forward, output: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Score the targets of a forward.

        Args:
            hidden: [T, width], the decoder's last hidden states.
            forward: says which positions and targets.
            output: what the decoder returned; the head is given the same kind.

        Returns:
            [P] log-probabilities in nats, float32, and [P] whether the target is the most likely token; both on the
            device, in the order of :func:`by_row`.
        """
        order = by_row(forward)
        sorted_rows = forward.target_row[order]
        arrays = (forward.rows, sorted_rows, forward.targets[order])
        rows, places, targets = (to_device(array, hidden.device) for array in arrays)
        chosen = hidden[rows]
        found, best = [], []
        with self.fed(output) as logits_of:
            step = self._rows_of or self._chunk(logits_of, chosen)
            for start in range(0, len(chosen), step):
                logits = logits_of(chosen[start : start + step])
                first, last = np.searchsorted(sorted_rows, [start, start + step])
                here, wanted = places[first:last] - start, targets[first:last]
                log_probs = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
                found.append(log_probs[here, wanted])
                best.append(logits.argmax(dim=-1)[here] == wanted)
        return torch.cat(found), torch.cat(best)

    def _chunk(self, logits_of: Callable[[torch.Tensor], torch.Tensor], chosen: torch.Tensor) -> int:
        vocabulary = logits_of(chosen[:1]).shape[-1]
        self._rows_of = max(1, _CHUNK_BYTES.get(chosen.device.type, 2**26) // (4 * vocabulary))
        return self._rows_of

    @contextmanager
    def fed(self, output: Any) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
        """Hidden states [n, width] -> logits [n, vocabulary]: the model's own forward, its decoder answering with them.

        Args:
            output: what the decoder returned before; it is made to return the same kind.
        """
        decoder = self._causal.get_decoder()
        given: list[torch.Tensor] = []
        decoder.forward = lambda *args, **kwargs: type(output)(last_hidden_state=given[0][None])

        def logits_of(rows: torch.Tensor) -> torch.Tensor:
            given[:] = [rows]
            return torch.as_tensor(self._causal(inputs_embeds=rows[None], use_cache=False).logits[0])

        try:
            yield logits_of
        finally:
            del decoder.forward  # the class's own shows again


def by_row(forward: Forward) -> Ints:
    """The order in which :class:`Head` scores a forward's targets: by the position that says them."""
    return np.argsort(forward.target_row, kind="stable")
