"""HDF5 files from outside, opened so that what is wrong with one is said in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import h5py

from ground.documents import regular
from ground.errors import BadInput

_LOOKED_AT: set[tuple[int, int, int, int]] = set()


def _refuse_elsewhere(path: Path, file: h5py.File) -> None:
    """A file may name others on the machine of who opens it: none of them is read."""

    def look(name: str, link: object) -> str | None:
        if isinstance(link, h5py.ExternalLink):
            return f"{name} is a link into another file"
        if isinstance(link, h5py.HardLink):
            found = file[name]
            if isinstance(found, h5py.Dataset) and (found.external or found.is_virtual):
                return f"{name} has its values in other files"
        return None

    reason = file.visititems_links(look)
    if reason:
        raise BadInput(f"{path}: {reason}; that is not followed")


@contextlib.contextmanager
def reading_hdf5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file of a user's, open for reading.

    Raises:
        BadInput: it is missing, cannot be read (also in the course of the block), or keeps its data in other files.
    """
    try:
        about = regular(path)
        version = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)
        with h5py.File(path, "r") as file:
            if version not in _LOOKED_AT:  # once a file: it takes longer than opening it
                _refuse_elsewhere(path, file)
                _LOOKED_AT.add(version)
            yield file
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except OSError as error:
        line = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise BadInput(f"{path}: not a readable HDF5 file ({line})") from None
