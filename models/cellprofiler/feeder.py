"""Training batches: shuffled, each class as often as the others, from disk."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ground.errors import BadInput
from models.cellprofiler.stream import Cells, batches, in_order


@dataclass(frozen=True)
class Batch:
    """What a step works on.

    Attributes:
        crops: (n, C, box, box) as stored.
        targets: (n,) int64 classes.
    """

    crops: Tensor
    targets: Tensor


class Feeder:
    """Epochs of training cells; the order depends on the seed and the epoch alone, so training goes on anywhere in one.

    Args:
        cells: where crops are.
        rows: (n,) the training cells, rows of the table.
        targets: (n,) their classes, 0 or above.
        batch: cells a step.
        seed: of the draw and the order.
        balance: whether each epoch has as many cells of each class: the median of the classes' counts, drawn anew,
            with replacement where a class has fewer.

    Raises:
        BadInput: there is no training cell.
    """

    def __init__(
        self, cells: Cells, rows: np.ndarray, targets: np.ndarray, batch: int, seed: int, balance: bool
    ) -> None:
        if not len(rows):
            raise BadInput("there is no training cell")
        self.cells, self.rows, self.targets, self.seed = cells, rows, targets, seed
        self._members = [np.flatnonzero(targets == c) for c in np.unique(targets)]
        self.each = int(np.median([len(some) for some in self._members])) if balance else 0
        """Cells of each class in an epoch; 0: all as they are."""
        self.size = self.each * len(self._members) if balance else len(rows)
        """Cells of an epoch."""
        self.batch = min(batch, self.size)
        # one left-over cell would have no batch statistics
        self.steps = self.size // self.batch + (self.size % self.batch > 1)
        """Batches of an epoch."""

    def order(self, epoch: int) -> np.ndarray:
        """(size,) the cells of an epoch, as places in `rows`."""
        rng = np.random.default_rng([self.seed, epoch])
        if not self.each:
            return rng.permutation(len(self.rows))
        drawn = [rng.choice(some, self.each, replace=len(some) < self.each) for some in self._members]
        return rng.permutation(np.concatenate(drawn))

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        """The batches of an epoch from the one numbered `start` on; closing the generator ends the reading.

        Raises:
            BadInput, OSError: a file cannot be read any more.
        """
        parts = in_order(self.order(epoch), self.batch)[start : self.steps]
        crops = batches(self.cells, [self.rows[part] for part in parts])
        try:
            for part, some in zip(parts, crops, strict=False):
                yield Batch(some, torch.from_numpy(self.targets[part]))
        finally:
            crops.close()
