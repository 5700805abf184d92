"""`H5MiniBatchReader` of h5-mlearn-minibatch (2016) by its own options, for those who come from it.

Its order of operations, so that its counts come out: unique sorted files, labels of 0 and above, shuffle, balance,
shuffle, the first `validation_size` rows validate (not stratified), the rest trains, cut to whole batches. The rows
themselves differ: the original drew from numpy's global generator. What one should use today is `data.load`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ground.errors import BadInput
from models.xtcav.index import scan
from models.xtcav.options import Options
from models.xtcav.preprocess import Chain
from models.xtcav.reader import ImageReader
from models.xtcav.split import balance
from models.xtcav.store import ImageStore

_STEPS = {"log": "log", "mean": "parity_mean"}


@dataclass(frozen=True)
class MinibatchPlan:
    """Which rows do what.

    Attributes:
        counts: (classes,) usable rows of each label.
        total: rows left after balancing.
        validation, train: numbers of rows; `train` holds whole batches only.
        batches: minibatches an epoch.
        unused: rows of `total` that are neither.
    """

    counts: np.ndarray
    total: int
    validation: np.ndarray
    train: np.ndarray
    batches: int
    unused: int


def plan(
    labels: np.ndarray,
    minibatch_size: int,
    validation_size: int,
    ratio: float | None = None,
    number_of_batches: int | None = None,
    seed: int | None = None,
) -> MinibatchPlan:
    """Balance, split and cut rows of these labels (n,), all 0 or above, as the original does.

    Raises:
        BadInput: too few rows for what is asked, or a ratio that is not above 0.
    """
    rng = np.random.default_rng(seed)
    classes = int(labels.max(initial=-1)) + 1
    rows = rng.permutation(len(labels))
    if ratio is not None:
        rows = rng.permutation(rows[balance(labels[rows], classes, ratio, rng)])
    total = len(rows)
    if total <= validation_size:
        raise BadInput(f"{total} rows are not more than a validation_size of {validation_size}")
    validation, train = rows[:validation_size], rows[validation_size:]
    if len(train) <= minibatch_size:
        raise BadInput(f"{len(train)} training rows are not more than a minibatch_size of {minibatch_size}")
    batches = number_of_batches or len(train) // minibatch_size
    if batches * minibatch_size > len(train):
        raise BadInput(f"number_of_batches {batches} of {minibatch_size} need more than the {len(train)} training rows")
    used = batches * minibatch_size
    counts = np.bincount(labels, minlength=classes)
    return MinibatchPlan(counts, total, validation, train[:used], batches, len(train) - used)


class H5MiniBatchReader:
    """Minibatches and a validation set of images of many files.

    Args:
        h5files: paths; named twice, a file counts once.
        feature_dataset, label_dataset: root datasets, (n, H, W) and (n,).
        return_as_one_hot: labels as int32 (n, K) instead of (n,).
        number_of_batches: minibatches an epoch; None: all whole ones.
        feature_preprocess: "log", "mean" (of the array at hand: predictions then depend on batch mates), "float32",
            "float64", in order; "mean" comes after "log".
        class_labels_max_imbalance_ratio: at most this many times the rarest class's rows; below 1 it is inverted.
        max_mb_to_preload_all: keep the training rows in memory if they are of fewer MiB.
        cache_preprocess: keep them preprocessed; "mean" is then that of all training rows.
        random_seed: of shuffling and balancing.
        add_channel_to_2D: "row_column_channel" (n, H, W, 1) or "channel_row_column" (n, 1, H, W).

    Raises:
        BadInput: unusable files, or too few rows.
    """

    def __init__(
        self,
        h5files: Sequence[str | Path],
        minibatch_size: int,
        validation_size: int,
        feature_dataset: str = "features",
        label_dataset: str = "labels",
        return_as_one_hot: bool = False,
        number_of_batches: int | None = None,
        feature_preprocess: Sequence[str] | None = None,
        class_labels_max_imbalance_ratio: float | None = None,
        max_mb_to_preload_all: float | None = None,
        cache_preprocess: bool = False,
        random_seed: int | None = None,
        add_channel_to_2D: Literal["row_column_channel", "channel_row_column"] | None = None,
    ) -> None:
        asked = list(feature_preprocess or ())
        unknown = [name for name in asked if name not in (*_STEPS, "float32", "float64")]
        if unknown:
            raise BadInput(f"unknown feature_preprocess {unknown[0]}; there are log, mean, float32, float64")
        files = sorted({Path(path) for path in h5files})
        options = Options(path="-", image=feature_dataset, label=label_dataset, strict=True)
        index = scan(files, options)
        index = index.take(np.lexsort((index.row, index.file)))
        index = index.take(np.flatnonzero(index.label >= 0))
        self.index, self.minibatch_size, self.one_hot = index, minibatch_size, return_as_one_hot
        self.plan = plan(
            index.label,
            minibatch_size,
            validation_size,
            class_labels_max_imbalance_ratio,
            number_of_batches,
            random_seed,
        )
        self.channel, self.dtype = add_channel_to_2D, np.float64 if "float64" in asked else np.float32
        self.processed = bool(asked)
        chain = Chain([_STEPS[name] for name in asked if name in _STEPS], index.image_shape)
        reader = ImageReader(index.files, feature_dataset, index.image_shape, index.dtype)
        size = 4 if cache_preprocess else index.dtype.itemsize
        mib = len(self.plan.train) * int(np.prod(index.image_shape)) * size / 2**20
        preload = max_mb_to_preload_all is not None and mib < max_mb_to_preload_all
        kind = "float32" if cache_preprocess else "raw"
        self.store = ImageStore(index.take(self.plan.train), reader, chain, mib + 1 if preload else 0, kind)
        self._apart = ImageStore(index.take(self.plan.validation), reader, chain, 0)
        self._mean: np.ndarray | None = None
        if preload and cache_preprocess and chain.batch_dependent:
            rows = np.arange(len(self.plan.train))
            self._mean = self.store.get(rows).mean(0, dtype=np.float64).astype(np.float32)
        self._rng = np.random.default_rng([random_seed or 0, 1])
        self._waiting: list[np.ndarray] = []

    def get_next_minibatch(self) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels of the next minibatch; each row comes once an epoch, in a new order each time."""
        if not self._waiting:
            order = self._rng.permutation(len(self.plan.train))
            self._waiting = list(order.reshape(self.plan.batches, self.minibatch_size))
        rows = self._waiting.pop(0)
        images = self.store.get(rows)
        images = images - self._mean if self._mean is not None else self.store.chain.batch(images)
        return self._shaped(images, self.store.index.dtype), self._labels(self.store.index.label[rows])

    def get_validation_set(self) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
        """Images and labels of the validation rows; (None, None) where validation_size is 0."""
        if not len(self.plan.validation):
            return None, None
        images = self._apart.chain.batch(self._apart.get(np.arange(len(self.plan.validation))))
        return self._shaped(images, self._apart.index.dtype), self._labels(self._apart.index.label)

    def _shaped(self, images: np.ndarray, raw: np.dtype) -> np.ndarray:
        images = images.astype(self.dtype if self.processed else raw, copy=False)
        if self.channel is None:
            return images
        return images[..., None] if self.channel == "row_column_channel" else images[:, None]

    def _labels(self, labels: np.ndarray) -> np.ndarray:
        if self.one_hot:
            return np.eye(len(self.plan.counts), dtype=np.int32)[labels]
        return labels.astype(np.int32)
