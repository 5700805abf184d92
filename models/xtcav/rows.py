"""Rows of the collection (shots) that belong together: the training, validation or test rows, read in batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

Sampling = Literal["plain", "balanced", "weighted"]


@dataclass(frozen=True)
class Batch:
    """What one step works on.

    Attributes:
        images: (n, 1, h, w) float32, preprocessed.
        scalars: (n, S) float32, standardised; S may be 0.
        labels: (n,) int64; -1 where unknown.
        targets: (n, T) float32, in the file's units, NaN where absent; T may be 0.
        rows: (n,) int64, the index of each within its `Rows`.
    """

    images: torch.Tensor
    scalars: torch.Tensor
    labels: torch.Tensor
    targets: torch.Tensor
    rows: torch.Tensor


class Rows:
    """Some shots of the collection.

    Attributes:
        labels: (n,) int64; -1 where unknown.
        targets: (n, T) float32, NaN where absent.
        scalars: (n, S) float32, standardised.
        ids: arrays of n: run, seconds, nanoseconds, fiducials, file (its number in `XtcavData.files`), row.
        blocks: (n,) int64, the block of run and time, never split between train, validation and test.
        waited: seconds that the consumers of `batches` have waited for a batch so far.
    """

    labels: np.ndarray
    targets: np.ndarray
    scalars: np.ndarray
    ids: dict[str, np.ndarray]
    blocks: np.ndarray
    waited: float

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, samples: np.ndarray) -> Rows:
        """The same of some of the rows."""
        raise NotImplementedError

    def images(self, samples: np.ndarray) -> np.ndarray:
        """(n, 1, h, w) float32 of these rows, preprocessed.

        Raises:
            BadInput, OSError: a file cannot be read any more.
        """
        raise NotImplementedError

    def batches(
        self,
        batch_size: int,
        *,
        seed: int | None = None,
        epoch: int = 0,
        start: int = 0,
        sampling: Sampling = "plain",
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        """One epoch, read ahead in the background; closing the iterator ends the reading.

        Args:
            batch_size: rows a batch; the last one may be smaller.
            seed: None reads in order. Otherwise the order depends on (seed, epoch) alone.
            start: how many batches to skip (to go on within an epoch); nothing is read for them.
            sampling: plain: each row once. balanced: each class as often as the rarest, a new draw each epoch.
                weighted: as many draws as rows, with replacement, each class equally likely.
            drop_last: leave out a last batch that is not whole.

        Raises:
            BadInput, OSError: a file cannot be read any more.
        """
        raise NotImplementedError

    def batch_count(self, batch_size: int, sampling: Sampling = "plain", drop_last: bool = False) -> int:
        """How many batches an epoch has."""
        raise NotImplementedError
