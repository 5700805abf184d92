"""Rows of the collection (shots) that belong together: the training, validation or test rows, read in batches."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from ground.ahead import ahead
from ground.errors import BadInput
from models.xtcav.split import balance, cap, weighted
from models.xtcav.store import ImageStore

Sampling = Literal["plain", "balanced", "weighted"]
_WINDOW = 64 * 2**20  # bytes of preprocessed images that are read together, grouped by file
_MOST = 8  # batches that are read together
_DEPTH = 4  # batches that wait for the step


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

    Args:
        store: where their images are.
        which: (n,) their numbers in the store's index.
        blocks: (n,) int64, the block of run and time, never split between train, validation and test.
        classes: how many labels there are.

    Attributes:
        labels: (n,) int64; -1 where unknown.
        targets: (n, T) float32, NaN where absent.
        scalars: (n, S) float32, standardised.
        ids: arrays of n: run, seconds, nanoseconds, fiducials, file (its number in `XtcavData.files`), row.
        waited: seconds that the consumers of `batches` have waited for a batch so far.
    """

    def __init__(self, store: ImageStore, which: np.ndarray, blocks: np.ndarray, classes: int) -> None:
        self.store, self.which, self.blocks, self.classes = store, which, blocks, classes
        index = store.index
        self.labels, self.targets = index.label[which], index.targets[which]
        self.scalars = store.chain.scalars(index.scalars[which])
        stamps = dict(zip(("seconds", "nanoseconds", "fiducials"), index.time[which].T, strict=True))
        self.ids: dict[str, np.ndarray] = {
            "run": index.run[which],
            **stamps,
            "file": index.file[which],
            "row": index.row[which],
        }
        self.waited = 0.0

    def __len__(self) -> int:
        return len(self.which)

    def take(self, samples: np.ndarray) -> Rows:
        """The same of some of the rows."""
        return Rows(self.store, self.which[samples], self.blocks[samples], self.classes)

    def images(self, samples: np.ndarray) -> np.ndarray:
        """(n, 1, h, w) float32 of these rows, preprocessed.

        Raises:
            BadInput, OSError: a file cannot be read any more.
        """
        return self.store.chain.batch(self.store.get(self.which[samples]))[:, None]

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
            BadInput: nothing to balance; a file is missing or has changed; an image with NaN.
            OSError: a file cannot be read any more.
        """
        order = self.order(seed, epoch, sampling)
        count = self.batch_count(batch_size, sampling, drop_last)
        parts = [order[n * batch_size : (n + 1) * batch_size] for n in range(start, count)]
        made = ahead(lambda stop: self._made(parts, stop), _DEPTH)
        try:
            while True:
                begun = time.perf_counter()
                batch = next(made, None)
                self.waited += time.perf_counter() - begun
                if batch is None:
                    return
                yield batch
        finally:
            made.close()

    def order(self, seed: int | None, epoch: int, sampling: Sampling = "plain") -> np.ndarray:
        """The rows of an epoch, in the order in which `batches` gives them."""
        if sampling != "plain" and not (self.labels >= 0).all():
            raise BadInput(f"sampling {sampling} needs a label for each row")
        rng = np.random.default_rng([seed or 0, epoch])
        rows = np.arange(len(self))
        if sampling == "balanced":
            rows = balance(self.labels, self.classes, 1.0, rng)
        elif sampling == "weighted":
            rows = weighted(self.labels, rng)
        return rows if seed is None else rng.permutation(rows)

    def batch_count(self, batch_size: int, sampling: Sampling = "plain", drop_last: bool = False) -> int:
        """How many batches an epoch has."""
        rows = len(self)
        if sampling == "balanced":
            rows = self.classes * cap(np.bincount(self.labels[self.labels >= 0], minlength=self.classes), 1.0)
        return rows // batch_size if drop_last else -(-rows // batch_size)

    def _made(self, parts: list[np.ndarray], stop: threading.Event) -> Iterator[Batch]:
        each = max(1, max((len(part) for part in parts), default=1) * int(np.prod(self.store.chain.output_shape)) * 4)
        most = max(1, min(_MOST, _WINDOW // each))
        begin, together = 0, 1  # the first batch at once, then more and more together
        while begin < len(parts) and not stop.is_set():
            window = parts[begin : begin + together]
            images = self.store.get(self.which[np.concatenate(window)], stop)
            if stop.is_set():
                return
            ends = np.cumsum([len(part) for part in window])
            for part, end in zip(window, ends, strict=True):
                yield self._batch(part, self.store.chain.batch(images[end - len(part) : end]))
            begin, together = begin + together, min(2 * together, most)

    def _batch(self, rows: np.ndarray, images: np.ndarray) -> Batch:
        return Batch(
            images=torch.from_numpy(images)[:, None],
            scalars=torch.from_numpy(self.scalars[rows]),
            labels=torch.from_numpy(self.labels[rows]),
            targets=torch.from_numpy(self.targets[rows]),
            rows=torch.from_numpy(rows),
        )
