"""What a cell's items were answered, as columns: log-likelihoods and texts. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from .stats.interval import Floats


@dataclass(frozen=True)
class Answers:
    """The responses of a cell's rows.

    Attributes:
        starts: (rows + 1,) where each row's responses begin.
        loglikelihoods: (responses,) in nats; NaN for texts.
        tokens: (responses,) scored or generated.
        texts: (responses,) None for log-likelihoods.
    """

    starts: NDArray[np.int64]
    loglikelihoods: Floats
    tokens: NDArray[np.int64]
    texts: pa.Array

    def sums(self, values: Floats) -> Floats:
        """(rows,) the sum of each row's `values` (responses,)."""
        total = np.concatenate([[0.0], np.cumsum(values)])
        return np.asarray(total[self.starts[1:]] - total[self.starts[:-1]])

    def likeliest(self) -> NDArray[np.int64]:
        """(rows,) the position of each row's likeliest response; -1 for texts."""
        counts = np.diff(self.starts)
        rows = np.repeat(np.arange(len(counts)), counts)
        places = np.arange(len(rows)) - self.starts[:-1][rows]
        table = np.full((len(counts), max(int(counts.max(initial=0)), 1)), -np.inf)
        table[rows, places] = np.where(np.isnan(self.loglikelihoods), -np.inf, self.loglikelihoods)
        return np.where(np.isinf(table).all(axis=1), -1, table.argmax(axis=1)).astype(np.int64)


def read_answers(path: Path) -> Answers:
    """Read the responses of a cell's records.

    Raises:
        OSError, pyarrow.ArrowException: they cannot be read.
    """
    responses = pq.read_table(path, columns=["responses"])["responses"].combine_chunks()
    flat = responses.flatten()
    starts = np.concatenate([[0], np.cumsum(responses.value_lengths().to_numpy())])
    return Answers(
        starts.astype(np.int64),
        flat.field("loglikelihood").to_numpy(zero_copy_only=False).astype(np.float64),
        flat.field("tokens").to_numpy(zero_copy_only=False).astype(np.int64),
        flat.field("text"),
    )
