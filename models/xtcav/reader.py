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
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np

from ground.errors import BadInput
from ground.hdf5 import reading_hdf5

_OPEN = 64  # files that stay open
_AT_ONCE, _UNPACKED = 2**20, 2**23  # bytes that are read at once, at their offsets and through the library


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
        self._memory = threading.local()
        self._open: OrderedDict[int, _Direct | _Library] = OrderedDict()

    @property
    def row_bytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def read(self, file: np.ndarray, row: np.ndarray) -> np.ndarray:
        """(n, H, W) images of these rows (row[i] of the file number file[i]), in the order given.

        Raises: as `portions`.
        """
        out = np.empty((len(row), *self.shape), self.dtype)
        for which, images in self.portions(file, row):
            out[which] = images
        return out

    def portions(self, file: np.ndarray, row: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The images of these rows as they lie in the files, some at a time: (their places in `row`, (m, H, W) images).

        Images stay until the next ones are asked for: they are read to the same memory, small enough for the
        processor's cache, where whoever works on them finds them. Fresh memory costs as much as reading.

        Raises:
            BadInput: a file is missing, no HDF5, or has changed its form.
            OSError: a file ends early or cannot be read.
        """
        order = np.lexsort((row, file))
        ends = np.flatnonzero(np.diff(file[order], append=-1)) + 1
        for group in np.split(order, ends[:-1]) if len(order) else ():
            handle = self._handle(int(file[group[0]]))
            buffer = self._buffer(max(1, handle.portion // self.row_bytes))
            begin = 0
            for count in handle.fill(row[group], buffer):
                yield group[begin : begin + count], buffer[:count]
                begin += count

    def _buffer(self, rows: int) -> np.ndarray:
        """Memory of this thread's own."""
        held: np.ndarray | None = getattr(self._memory, "buffer", None)
        if held is None or len(held) < rows:
            held = self._memory.buffer = np.empty((rows, *self.shape), self.dtype)
        return held[:rows]

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

    portion = _AT_ONCE

    def __init__(self, path: Path, offsets: np.ndarray, row_bytes: int) -> None:
        self.path, self.offsets, self.row_bytes = path, offsets, row_bytes
        self.handle = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            os.close(self.handle)

    def fill(self, rows: np.ndarray, buffer: np.ndarray) -> Iterator[int]:
        """Read these rows (ascending) to the buffer, again and again from its beginning; how many are there now."""
        if rows[-1] >= len(self.offsets):
            raise BadInput(f"{self.path}: has {len(self.offsets)} shots now, row {rows[-1]} is gone")
        at, memory = self.offsets[rows].tolist(), buffer.data.cast("B")
        for begin in range(0, len(at), len(buffer)):
            some = at[begin : begin + len(buffer)]
            first = 0
            for n in range(1, len(some) + 1):
                # one call for rows that follow each other in the file
                if n == len(some) or some[n] - some[n - 1] != self.row_bytes:
                    self._load(memory[first * self.row_bytes : n * self.row_bytes], some[first])
                    first = n
            yield len(some)

    def _load(self, memory: memoryview, offset: int) -> None:
        while memory:
            got = os.preadv(self.handle, [memory], offset)
            if got == 0:
                raise OSError(errno.EIO, "the file ends before its last image", str(self.path))
            memory, offset = memory[got:], offset + got


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
        # a chunk that lies in several portions is unpacked for each
        self.portion = max(_UNPACKED, self.chunk * int(np.prod(self.dataset.shape[1:])) * self.dataset.dtype.itemsize)

    def __del__(self) -> None:
        if hasattr(self, "file"):
            self.file.close()

    def fill(self, rows: np.ndarray, buffer: np.ndarray) -> Iterator[int]:
        """As `_Direct.fill`."""
        if rows[-1] // self.inner >= self.dataset.shape[0]:
            raise BadInput(f"{self.path}: has {self.dataset.shape[0]} shots now, row {rows[-1]} is gone")
        for start in range(0, len(rows), len(buffer)):
            some = rows[start : start + len(buffer)]
            entries = some // self.inner
            # what lies in one chunk is unpacked once, so a gap within a chunk does not end a run
            ends = np.r_[np.flatnonzero(np.diff(entries) > self.chunk) + 1, len(some)]
            begin = 0
            for end in ends:
                first, last = int(entries[begin]), int(entries[end - 1])
                with self.lock:
                    run = self.dataset[first : last + 1].reshape(-1, *buffer.shape[1:])
                buffer[begin:end] = run[some[begin:end] - first * self.inner]
                begin = int(end)
            yield len(some)


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
