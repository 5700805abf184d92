"""Small HDF5 files in the experiment's format, with images that tell which row they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

SHAPE = (6, 5)


def image(number: int, dtype: Any = np.int16) -> np.ndarray:
    """(6, 5), each pixel different, no two numbers alike."""
    return (100 * number + np.arange(30).reshape(SHAPE)).astype(dtype)


def write(path: Path, labels: np.ndarray, first: int = 0, run: int | None = 70, **more: Any) -> Path:
    """A file of `len(labels)` shots, numbered from `first`; `more` are further datasets (None leaves one out)."""
    count = len(labels)
    columns: dict[str, Any] = {
        "xtcavimg": np.stack([image(first + n) for n in range(count)]),
        "acq.peaksLabel": np.asarray(labels, np.int32),
        "evt.seconds": first + np.arange(count),
        "evt.nanoseconds": np.zeros(count, int),
        "evt.fiducials": 3 * np.arange(count),
    }
    if run is not None:
        columns["run"] = np.full(count, run)
    for name, values in more.items():
        columns[name.replace("__", ".")] = values
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            if values is not None:
                file[name] = values
    return path


def numbers(images: np.ndarray) -> np.ndarray:
    """Which shots these raw images (n, 6, 5) are."""
    found: np.ndarray = images.reshape(len(images), -1)[:, 0].astype(int) // 100
    return found
