"""Images of many HDF5 files, row by row in any order, nearly as fast as the disk gives them.

Where the rows of a file lie uncompressed in one piece each, they are read past the HDF5 library at their offsets: that
takes half the time, and other threads go on meanwhile (the library holds Python's lock). All others are read through
the library, grouped by file and in contiguous runs.
"""

from __future__ import annotations

import errno
import os
import posixpath
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from ground.errors import BadInput
from ground.hdf5 import reading_hdf5

_OPEN = 64  # files that stay open


class ImageReader:
    """Rows of the images of several files. Any number of threads may read.

    Args:
        files: paths.
        name: the dataset of images, (leading axes..., H, W) in each.
        shape, dtype: of one image, in all of them (a file of another type is converted).
        groups: the HDF5 group of each file that has the dataset (default: the file itself).
    """

    def __init__(
        self,
        files: Sequence[Path],
        name: str,
        shape: tuple[int, int],
        dtype: np.dtype,
        groups: Sequence[str] | None = None,
    ) -> None:
        self.files, self.shape, self.dtype = tuple(files), shape, np.dtype(dtype)
        self.names = tuple(posixpath.join(group, name) for group in groups or [""] * len(self.files))
        self._lock = threading.Lock()
        self._open: OrderedDict[int, _Direct | _Library] = OrderedDict()

    @property
    def row_bytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def read(self, file: np.ndarray, row: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """(n, H, W) images of these rows (row[i] of the file number file[i]), in the order given.

        Args:
            out: where to read to.

        Raises:
            BadInput: a file is missing, no HDF5, or has changed its form.
            OSError: a file ends early or cannot be read.
        """
        out = np.empty((len(row), *self.shape), self.dtype) if out is None else out[: len(row)]
        order = np.lexsort((row, file))
        ends = np.flatnonzero(np.diff(file[order], append=-1)) + 1
        begin = 0
        for end in ends:
            group = order[begin:end]
            self._handle(int(file[group[0]])).read(row[group], out, group)
            begin = int(end)
        return out

    def _handle(self, number: int) -> _Direct | _Library:
        with self._lock:
            if number not in self._open:
                while len(self._open) >= _OPEN:
                    # whoever reads from it still holds it; it is closed when that ends
                    self._open.popitem(last=False)
                self._open[number] = _opened(self.files[number], self.names[number], self.shape, self.dtype)
            self._open.move_to_end(number)
            return self._open[number]

    def close(self) -> None:
        """Close all files; they are opened anew when needed."""
        with self._lock:
            self._open.clear()


class _Direct:
    """Rows at known offsets of an open file."""

    def __init__(self, path: Path, offsets: np.ndarray, row_bytes: int) -> None:
        self.path, self.offsets, self.row_bytes = path, offsets, row_bytes
        self.handle = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            os.close(self.handle)

    def read(self, rows: np.ndarray, out: np.ndarray, where: np.ndarray) -> None:
        if rows.max() >= len(self.offsets):
            raise BadInput(f"{self.path}: has {len(self.offsets)} shots now, row {rows.max()} is gone")
        at = self.offsets[rows]
        # one call for rows that follow each other in the file
        ends = np.flatnonzero(np.diff(at, append=-1) != self.row_bytes) + 1
        begin = 0
        for end in ends:
            for some in range(begin, int(end), 512):  # buffers that one call takes
                views = [memoryview(out[i]).cast("B") for i in where[some : min(int(end), some + 512)]]
                self._fill(views, int(at[some]))
            begin = int(end)

    def _fill(self, views: list[memoryview], offset: int) -> None:
        while views:
            got = os.preadv(self.handle, views, offset)
            if got == 0:
                raise OSError(errno.EIO, "the file ends before its last image", str(self.path))
            offset += got
            while views and got >= len(views[0]):
                got -= len(views.pop(0))
            if views and got:
                views[0] = views[0][got:]


class _Library:
    """Rows through h5py: compressed, cut into tiles, of another number type, or with several leading axes."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.lock = path, threading.Lock()
        with reading_hdf5(path):
            pass  # says in one line what is wrong with it
        self.file = h5py.File(path, "r")
        self.dataset = self.file[name]
        self.inner = int(np.prod(self.dataset.shape[1:-2]))
        self.chunk = self.dataset.chunks[0] if self.dataset.chunks else 1

    def __del__(self) -> None:
        if hasattr(self, "file"):
            self.file.close()

    def read(self, rows: np.ndarray, out: np.ndarray, where: np.ndarray) -> None:
        entries, shape = rows // self.inner, out.shape[1:]
        if entries.max() >= self.dataset.shape[0]:
            raise BadInput(f"{self.path}: has {self.dataset.shape[0]} shots now, row {rows.max()} is gone")
        # what lies in one chunk is unpacked once, so a gap within a chunk does not end a run
        ends = np.r_[np.flatnonzero(np.diff(entries) > self.chunk) + 1, len(rows)]
        begin = 0
        for end in ends:
            first, last = int(entries[begin]), int(entries[end - 1])
            with self.lock:
                run = self.dataset[first : last + 1].reshape(-1, *shape)
            out[where[begin:end]] = run[rows[begin:end] - first * self.inner]
            begin = int(end)


def _opened(path: Path, name: str, shape: tuple[int, int], dtype: np.dtype) -> _Direct | _Library:
    with reading_hdf5(path) as file:
        dataset = file.get(name)
        if not isinstance(dataset, h5py.Dataset) or dataset.shape[-2:] != shape:
            raise BadInput(f"{path}: {name} is gone or no longer of {shape[0]}x{shape[1]} pixels")
        offsets = _offsets(file, dataset) if dataset.ndim == 3 and dataset.dtype == dtype else None
    return _Library(path, name) if offsets is None else _Direct(path, offsets, int(np.prod(shape)) * dtype.itemsize)


def _offsets(file: h5py.File, dataset: h5py.Dataset) -> np.ndarray | None:
    """(shots,) int64 byte offsets of each image in the file; None where images do not lie there in one piece each."""
    if (
        not hasattr(os, "preadv")
        or file.userblock_size
        or dataset.is_virtual
        or dataset.external
        or not dataset.shape[0]
    ):
        return None
    row_bytes = int(np.prod(dataset.shape[1:])) * dataset.dtype.itemsize
    each = np.arange(dataset.shape[0])
    if dataset.chunks is None:
        start = dataset.id.get_offset()
        return None if start is None else start + each * row_bytes
    if dataset.chunks[1:] != dataset.shape[1:] or dataset.id.get_create_plist().get_nfilters():
        return None
    chunk = np.full(-(-dataset.shape[0] // dataset.chunks[0]), -1, np.int64)

    def note(info: h5py.h5d.StoreInfo) -> None:
        chunk[info.chunk_offset[0] // dataset.chunks[0]] = info.byte_offset

    dataset.id.chunk_iter(note)
    if (chunk < 0).any():
        return None  # some were never written: the library knows what to give for them
    found: np.ndarray = chunk[each // dataset.chunks[0]] + each % dataset.chunks[0] * row_bytes
    return found
