"""Crops read from disk ahead of who needs them, some batches together so that reads are long and in order."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Sequence
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ground.ahead import ahead

_WINDOW = 64 * 2**20  # bytes of crops that are read together
_MOST = 8  # batches that are read together
_DEPTH = 2  # batches that wait
_READING = threading.Lock()  # training may have its reader waiting while wells are judged: stores have one set of files


class Cells(Protocol):
    """Cells whose crops can be read: a `store.CropStore`, or a project's images (`sites.SiteCells`).

    Attributes:
        channels: their names.
        box: side of a crop.
        dtype: of pixels.
        classes: names of `Target` in the table.
        table: a row a cell; see `store.CropStore`.
    """

    @property
    def channels(self) -> tuple[str, ...]: ...
    @property
    def box(self) -> int: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def table(self) -> pd.DataFrame: ...

    def read(self, rows: np.ndarray) -> np.ndarray:
        """(n, C, box, box) crops of rows of the table, in any order."""
        ...


def batches(cells: Cells, parts: Sequence[np.ndarray]) -> Generator[Tensor, None, None]:
    """The crops (n, C, box, box) of each part (rows of the table), in order, read in the background.

    Closing the generator ends the reading.

    Raises:
        BadInput, OSError: a file cannot be read any more.
    """
    return ahead(lambda stop: _read(cells, parts, stop), _DEPTH)


def _read(cells: Cells, parts: Sequence[np.ndarray], stop: threading.Event) -> Iterator[Tensor]:
    crop = len(cells.channels) * cells.box**2 * np.dtype(cells.dtype).itemsize
    largest = max((len(part) for part in parts), default=1)
    most = max(1, min(_MOST, _WINDOW // max(1, largest * crop)))
    begin, together = 0, 1  # the first batch at once, then more and more together
    while begin < len(parts) and not stop.is_set():
        window = parts[begin : begin + together]
        with _READING:
            crops = torch.from_numpy(cells.read(np.concatenate(window)))
        yield from crops.split([len(part) for part in window])
        begin, together = begin + together, min(2 * together, most)


def in_order(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Rows in parts of `size`, the last one with what is left."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]
