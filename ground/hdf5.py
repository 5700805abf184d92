"""HDF5 files from outside, opened so that what is wrong with one is said in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import h5py

from ground.errors import BadInput


@contextlib.contextmanager
def reading_hdf5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file of a user's, open for reading.

    Raises:
        BadInput: it is missing, or cannot be read (also in the course of the block).
    """
    try:
        with h5py.File(path, "r") as file:
            yield file
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except OSError as error:
        line = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise BadInput(f"{path}: not a readable HDF5 file ({line})") from None
