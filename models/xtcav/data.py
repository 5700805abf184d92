"""Beam images of many HDF5 files as one data set: scanned, split, balanced, preprocessed, read as it is used.

What the rest of the family works with. The `data` block of a search space and its keys: see `options.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from models.xtcav.preprocess import Chain
from models.xtcav.rows import Batch, Rows

__all__ = ["Batch", "Chain", "Rows", "XtcavData", "fingerprint", "load", "open_for_prediction", "own_block"]

Task = Literal["classification", "regression"]


@dataclass(frozen=True)
class XtcavData:
    """A lazy handle: images are read as they are asked for.

    Attributes:
        task: what is learned.
        classes: how many labels there are (0..classes-1); 0 for regression.
        targets: names of the columns of `Rows.targets`.
        scalars: names of the columns of `Rows.scalars`.
        image_shape: (h, w) after preprocessing.
        chain: fitted on training rows only; `chain.state()` goes into each snapshot and preprocesses new files.
        files: the files, sorted.
        report: what the scan found, ready for JSON.
        train, val, test: the three parts. Training rows are cut to `ratio` where the block asks for it.
        eval: the rows that predictions are made for: `val` in phase "val", `test` in phase "test".
        source: where it comes from, for messages.
    """

    task: Task
    classes: int
    targets: tuple[str, ...]
    scalars: tuple[str, ...]
    image_shape: tuple[int, int]
    chain: Chain
    files: tuple[Path, ...]
    report: dict[str, Any]
    train: Rows
    val: Rows
    test: Rows
    eval: Rows
    source: str

    def counts(self, rows: Rows) -> np.ndarray:
        """(classes,) rows of each label."""
        return np.bincount(rows.labels[rows.labels >= 0], minlength=self.classes)

    def class_weights(self) -> np.ndarray:
        """(classes,) float32 inverse to the training counts; their mean over training rows is 1."""
        raise NotImplementedError

    def subset(self, samples: np.ndarray) -> XtcavData:
        """The same data with only these of the evaluated rows."""
        raise NotImplementedError

    def close(self) -> None:
        """Close files and end threads; the handle may be used again, it then opens them anew."""
        raise NotImplementedError


def own_block(path: str, block: Mapping[str, Any]) -> dict[str, Any]:
    """What `--data path` means: the block with the files that a glob, a folder, a list or a file name.

    Raises:
        BadInput: there is nothing.
    """
    raise NotImplementedError


def load(config: Mapping[str, Any], phase: str) -> XtcavData:
    """Scan, split, fit the preprocessing on training rows.

    Raises:
        BadInput: nothing usable, or (strict) anything unusable.
    """
    raise NotImplementedError


def fingerprint(config: Mapping[str, Any]) -> str:
    """A digest of the files that a block means (names, sizes, sampled content) and of what it makes of them."""
    raise NotImplementedError


def open_for_prediction(
    path: str,
    chain_state: Mapping[str, Any],
    *,
    image: str = "xtcavimg",
    label: str = "acq.peaksLabel",
    scalars: tuple[str, ...] = (),
    targets: tuple[str, ...] = (),
    classes: int = 0,
    task: Task = "classification",
) -> XtcavData:
    """All rows of new files (`eval`; labels where there are some), preprocessed by a stored chain.

    Raises:
        BadInput: nothing usable, or images of another shape than the chain was fitted on.
    """
    raise NotImplementedError
