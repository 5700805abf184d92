"""Wells, and the profile of a well made of the features of its cells."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

AGGREGATES = ("mean", "median")


@dataclass(frozen=True)
class Wells:
    """Some wells: arrays of equal length, a row a well.

    Attributes:
        plate, well, label: text.
        target: class of the label, int64; -1 where it is no known class.
        control: whether it is a control well.
        cells: how many evaluated cells it has, int64.
    """

    plate: np.ndarray
    well: np.ndarray
    label: np.ndarray
    target: np.ndarray
    control: np.ndarray
    cells: np.ndarray

    def __post_init__(self) -> None:
        lengths = {field.name: len(getattr(self, field.name)) for field in fields(self)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"arrays of different lengths: {lengths}")

    def __len__(self) -> int:
        return len(self.plate)

    def take(self, rows: np.ndarray) -> Wells:
        """Some of them: indices or a mask."""
        return Wells(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    @property
    def keys(self) -> np.ndarray:
        """(n,) text plate/well."""
        return np.array([f"{plate}/{well}" for plate, well in zip(self.plate, self.well, strict=True)], dtype=str)


def profiles(features: np.ndarray, well_of: np.ndarray, count: int, how: str = "mean") -> np.ndarray:
    """What is typical of a well's cells.

    Args:
        features: (cells, d).
        well_of: (cells,) the well of each cell, 0 … count - 1.
        count: of wells.
        how: "mean" or "median", over all cells of a well.

    Returns:
        (count, d) float32; rows of wells without cells are NaN.

    Raises:
        ValueError: another word than those two.
    """
    if how not in AGGREGATES:
        raise ValueError(f"{how}: a profile is one of {', '.join(AGGREGATES)}")
    features, well_of = np.asarray(features), np.asarray(well_of)
    out = np.full((count, features.shape[1]), np.nan, np.float32)
    order = np.argsort(well_of, kind="stable")
    ends = np.cumsum(np.bincount(well_of, minlength=count))
    start = 0
    for well, end in enumerate(ends):
        if end > start:
            cells = features[order[start:end]]
            out[well] = np.median(cells, axis=0) if how == "median" else cells.mean(0, dtype=np.float64)
        start = end
    return out
