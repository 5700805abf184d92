"""HDF5 files that take long to write: what a killed run finished is kept, what it had in hand is written again.

All space is laid out first, so that later writes touch numbers only. A journal beside the file says how many pieces
are on disk; it is written after them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from ground.errors import BadInput
from ground.files import read_json, sync_folder, write_json

Arrays = Mapping[str, tuple[tuple[int, ...], str]]
KEY = "made_from"
"""The attribute that says from what a finished file was made."""


class Unfinished:
    """A file in the making.

    Attributes:
        done: pieces that are on disk.
        notes: what earlier pieces left for later ones, JSON values.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self._key = path, key
        self.part = path.with_name(f".{path.name}.part")
        self._journal = path.with_name(f".{path.name}.json")
        journal = read_json(self._journal) or {}
        goes_on = self.part.exists() and journal.get("key") == key
        self.done: int = journal["done"] if goes_on else 0
        self.notes: dict[str, Any] = journal["notes"] if goes_on else {}

    def lay_out(self, arrays: Arrays, texts: Mapping[str, str] | None = None) -> None:
        """Begin, unless a killed run goes on.

        Args:
            arrays: name -> (shape, dtype) of every dataset.
            texts: name -> content of datasets (1,) of text.
        """
        if self.done:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        with h5py.File(self.part, "w") as file:
            for name, (shape, dtype) in arrays.items():
                file.create_dataset(name, shape, dtype, dcpl=early)
            for name, text in (texts or {}).items():
                file.create_dataset(name, data=[text], dtype=h5py.string_dtype())
            file.attrs[KEY] = self._key

    @contextmanager
    def piece(self, **notes: Any) -> Iterator[h5py.File]:
        """Write the next piece; it counts once it is on disk, with notes for later ones."""
        with h5py.File(self.part, "r+") as file:
            yield file
        with open(self.part, "rb") as raw:
            os.fsync(raw.fileno())
        self.done += 1
        self.notes.update(notes)
        write_json(self._journal, {"key": self._key, "done": self.done, "notes": self.notes})

    def finish(self) -> None:
        """The file takes its name."""
        # killed in between there is a rest without a journal, which is begun anew
        self._journal.unlink(missing_ok=True)
        os.replace(self.part, self.path)
        sync_folder(self.path.parent)

    def discard(self) -> None:
        """Nothing of it is worth keeping."""
        self.part.unlink(missing_ok=True)
        self._journal.unlink(missing_ok=True)


def finished(path: Path, key: str) -> bool:
    """Whether `path` is there, made from the same.

    Raises:
        BadInput: it is there, made from something else.
    """
    if not path.exists():
        return False
    try:
        with h5py.File(path, "r") as file:
            same = file.attrs.get(KEY) == key
    except OSError:
        same = False
    if not same:
        raise BadInput(f"{path} is there already, made from other data or with other options; give another place")
    return True


def write_once(path: Path, write: Callable[[Path], None]) -> None:
    """Write what is not there yet.

    Raises:
        BadInput: it is.
    """
    if path.exists():
        raise BadInput(f"{path} is there already; give another name, or delete it")
    write(path)
