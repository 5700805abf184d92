"""Preprocessed images by their number in an index, from memory where they have been read before."""

from __future__ import annotations

import threading

import numpy as np

from ground.errors import BadInput
from models.xtcav.index import Index
from models.xtcav.preprocess import Chain
from models.xtcav.reader import ImageReader

_PORTION = 8 * 2**20  # bytes of raw images in memory that are preprocessed at once


class ImageStore:
    """Images of an index through a chain, and a memory of `cache_mb` MiB for them.

    What does not fit into the memory is read each time; what a row's image is never depends on that.

    Args:
        kind: "float32" or "float16" keeps preprocessed images, "raw" those of the files.
    """

    def __init__(self, index: Index, reader: ImageReader, chain: Chain, cache_mb: float, kind: str = "float32") -> None:
        self.index, self.reader, self.chain, self.kind = index, reader, chain, kind
        shape, dtype = (reader.shape, reader.dtype) if kind == "raw" else (chain.output_shape, np.dtype(kind))
        self.capacity = min(len(index), int(cache_mb * 2**20 // max(1, int(np.prod(shape)) * dtype.itemsize)))
        self._shape, self._dtype = shape, dtype
        self._memory: np.ndarray | None = None
        self._slot = np.full(len(index), -1, np.int64)
        self._used = 0
        self._lock = threading.Lock()

    @property
    def cached(self) -> int:
        """Rows in memory."""
        return self._used

    def get(self, which: np.ndarray, stop: threading.Event | None = None) -> np.ndarray:
        """(n, h, w) float32 of these numbers of the index; `Chain.batch` is not applied.

        Args:
            stop: gives up early (the rest is undefined) when set.

        Raises:
            BadInput, OSError: as `ImageReader.read`; BadInput for an image with NaN or infinite pixels.
        """
        out = np.empty((len(which), *self.chain.output_shape), np.float32)
        slot = self._slot[which]
        here = np.flatnonzero(slot >= 0)
        if len(here):
            assert self._memory is not None
            # in portions, so that raw images do not fill the memory
            for some in np.array_split(here, -(-len(here) * self.reader.row_bytes // _PORTION)):
                kept = self._memory[slot[some]]
                out[some] = self.chain.rows(kept) if self.kind == "raw" else kept
        absent = np.flatnonzero(slot < 0)
        if len(absent):
            self._read(which, absent, out, stop)
        return out

    def _read(self, which: np.ndarray, absent: np.ndarray, out: np.ndarray, stop: threading.Event | None) -> None:
        # a row that is drawn twice is read once
        rows, inverse = np.unique(which[absent], return_inverse=True)
        rows_of = np.argsort(inverse, kind="stable")
        ends = np.searchsorted(inverse[rows_of], np.arange(len(rows) + 1))
        for some, raw in self.reader.portions(self.index.file[rows], self.index.row[rows]):
            if stop is not None and stop.is_set():
                return
            if raw.dtype.kind == "f" and not np.isfinite(raw).all():
                bad = some[np.flatnonzero(~np.isfinite(raw).all((1, 2)))[0]]
                path, row = self.reader.files[self.index.file[rows[bad]]], self.index.row[rows[bad]]
                raise BadInput(f"{path}: image {row} has pixels that are not numbers")
            images = self.chain.rows(raw)
            if self.kind == "float16":
                images = images.astype(np.float16)
            self._keep(rows[some], raw if self.kind == "raw" else images)
            for n, image in zip(some, images, strict=True):
                out[absent[rows_of[ends[n] : ends[n + 1]]]] = image

    def _keep(self, rows: np.ndarray, images: np.ndarray) -> None:
        with self._lock:
            fresh = np.flatnonzero(self._slot[rows] < 0)[: self.capacity - self._used]
            if not len(fresh):
                return
            if self._memory is None:
                self._memory = np.empty((self.capacity, *self._shape), self._dtype)
            slots = np.arange(self._used, self._used + len(fresh))
            self._memory[slots] = images[fresh]
            self._used += len(fresh)
            # last: another thread may read as soon as it sees the slot
            self._slot[rows[fresh]] = slots

    def close(self) -> None:
        """Close the files; what is in memory stays."""
        self.reader.close()
