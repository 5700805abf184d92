"""Predictions as files: one HDF5 table of all voxels, and beside it an inference array (yinf) for each xy file."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ground import hdf5
from ground.errors import BadInput
from ground.files import atomic_path, sync_tree
from ground.hdf5 import reading_hdf5
from models.base import Prediction
from models.cellnet.data import CellData
from models.cellnet.names import renamed

SUFFIXES = (".h5", ".hdf5", ".hdf")
TABLE = "predictions.h5"
_VALUES = ("probability", "charge")
_OPTIONAL = (*_VALUES, "decision")
_NEEDED = ("voxel", "event")


def write(predicted: Iterable[tuple[CellData, Prediction]], out: Path, about: Mapping[str, Any]) -> str:
    """Write predictions, part by part.

    The table has a row for each row of X: `probability` (and `decision`) or `charge`, `voxel` (N, 3), `event` (its
    number among all events) and `file`, its place in `files`. A yinf file is (1, N, 1) float32, rows as X.

    Args:
        out: an HDF5 file, with the arrays in a folder `<name>_yinf` beside it; or, without such a suffix, a folder for
            both.
        about: attributes of the table.

    Raises:
        BadInput: the arrays' folder is there already, and the table is not.
    """
    if out.suffix not in SUFFIXES:
        if out.exists():
            raise BadInput(f"{out}: is there already; a folder is not replaced")
        with _whole(out) as folder:
            told = _write(predicted, folder.path / TABLE, folder.path, about)
        return f"{out}: {told}"
    arrays = out.parent / f"{out.stem}_yinf"
    if arrays.exists() and not out.exists():
        raise BadInput(f"{arrays}: is there already, and {out.name} is not: move it away")
    with _whole(arrays) as folder, atomic_path(out) as temporary:
        told = _write(predicted, temporary, folder.path, about)
    return f"{out}: {told}, as arrays in {arrays.name}"


class _whole:
    """A folder that takes its place when the block ends well, in place of one that was there."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __enter__(self) -> _whole:
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.path = Path(tempfile.mkdtemp(dir=self.target.parent, prefix=".tmp-"))
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            if kind is None:
                self.path.chmod(0o755)
                sync_tree(self.path)
                if self.target.exists():
                    shutil.rmtree(self.target)
                os.replace(self.path, self.target)
        finally:
            shutil.rmtree(self.path, ignore_errors=True)


def _write(
    predicted: Iterable[tuple[CellData, Prediction]], table: Path, arrays: Path, about: Mapping[str, Any]
) -> str:
    files: list[str] = []
    names: set[str] = set()
    rows = 0
    with h5py.File(table, "w") as file:
        file.attrs.update(dict(about))
        for part, prediction in predicted:
            begin = 0
            of_row = np.zeros(len(prediction["event"]), np.int32)
            for one in part.eval.files:
                count = _rows(part, one)
                of_row[begin : begin + count] = len(files)
                name = renamed(one.path, "yinf")
                if name in names:  # of files of one name in different folders
                    name = f"{one.path.parent.name}-{name}"
                names.add(name)
                value = next(prediction[key] for key in _VALUES if key in prediction)[begin : begin + count]
                np.save(arrays / name, np.asarray(value, np.float32).reshape(1, -1, 1), allow_pickle=False)
                files.append(str(one.path))
                begin += count
            rows += begin
            for key, array in {**prediction, "file": of_row}.items():
                _append(file, key, array)
        file.create_dataset("files", data=np.array(files, dtype=h5py.string_dtype()))
        columns = ", ".join(key for key in file if key != "files")
    return f"{rows} voxels of {len(files)} files ({columns})"


def _rows(part: CellData, file: Any) -> int:
    return file.voxels if file.chosen is None else len(part.eval.voxels(file).event)


def _append(file: h5py.File, name: str, array: np.ndarray) -> None:
    if name not in file:
        file.create_dataset(name, data=array, compression="gzip", maxshape=(None, *array.shape[1:]), chunks=True)
        return
    rows = file[name].shape[0]
    file[name].resize(rows + array.shape[0], axis=0)
    file[name][rows:] = array


def read(path: Path, parts: Iterable[CellData]) -> Iterator[tuple[CellData, Prediction]]:
    """The predictions of a file that `write` wrote, for the same events in the same order.

    Raises:
        BadInput: it is none, or its voxels are others.
    """
    begin = 0
    with reading_hdf5(path) as file:
        for name in _NEEDED:
            if name not in file:
                raise BadInput(f"{path}: has no {name}: it is no file of predictions")
        rows = hdf5.described(file, path, "event", rank=1).shape[0]
        hdf5.described(file, path, "voxel", shape=(rows, 3))
        for name in _OPTIONAL:
            if name in file:
                hdf5.described(file, path, name, shape=(rows,))
        names = [name for name in itertools.chain(_NEEDED, _OPTIONAL) if name in file]
        for part in parts:
            (one,) = part.eval.files
            voxels = part.eval.voxels(one)
            end = begin + len(voxels.event)
            found = {name: file[name][begin:end] for name in names}
            if not np.array_equal(found["voxel"], voxels.coords):
                raise BadInput(f"{path}: its rows from {begin} on are not the voxels of {one.path}")
            yield part, found
            begin = end
        if begin != len(file["event"]):
            raise BadInput(f"{path}: has {len(file['event'])} rows, the events {begin}")
