"""One HDF5 file of voltage traces, whichever program packed it, behind one face.

`open_pack` (in `worlds.py`) says what is in a file; a `Pack` reads it. Nothing is held in memory here.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from ground.errors import BadInput
from ground.hdf5 import reading_hdf5, refuse_too_large
from models.cellspike.units import Units

World = Literal["ontra", "mlpack1", "experiment"]
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
UNKNOWN = -1
"""The cell of a row in a pack of many that does not say."""
_EDGE = 1e-3  # how far half-precision rounding may carry a unit parameter beyond one


_OPEN = threading.local()


@contextlib.contextmanager
def kept_open(paths: Iterable[Path]) -> Iterator[None]:
    """Files that this thread reads many small parts of: opening one takes as long as reading a megabyte.

    Raises:
        BadInput: one is missing or cannot be read.
    """
    files, datasets = getattr(_OPEN, "files", {}), getattr(_OPEN, "datasets", {})
    with contextlib.ExitStack() as stack:
        _OPEN.files = files | {path: stack.enter_context(reading_hdf5(path)) for path in set(paths) - files.keys()}
        _OPEN.datasets = dict(datasets)
        try:
            yield
        finally:
            _OPEN.files, _OPEN.datasets = files, datasets


@contextlib.contextmanager
def _dataset(path: Path, name: str) -> Iterator[h5py.Dataset]:
    """A dataset; of a file that is kept open it is looked up once."""
    file = getattr(_OPEN, "files", {}).get(path)
    if file is None:
        with reading_hdf5(path) as opened:
            yield opened[name]
        return
    if (path, name) not in _OPEN.datasets:
        _OPEN.datasets[path, name] = file[name]
    yield _OPEN.datasets[path, name]


@dataclass(frozen=True)
class Pack:
    """What one file holds.

    Attributes:
        path: the file.
        world: whose format it has: "ontra" (one network for many cells), "mlpack1" (BBP3) or "experiment" (sweeps).
        names: the parameters, in the order of the columns.
        probes, stims: where was recorded, and under which stimuli.
        named: whether the file or its meta names the probes; else they are only numbered.
        bins: time bins of a trace as it is stored.
        step_ms: milliseconds of a bin.
        units: what unit parameters mean; None where nothing says.
        cell_names: of the cells in it, one or more.
        whole_units: whether `units` knows the cell's own u; else u* alone (and u is u* there).
        sizes: rows of each split that it has.
        keys: dataset names by split: frames, and where there are some unit, star, phys, cell, efel, stim.
        dtype: of the frames as stored.
        witness: cells that its meta keeps out of training.
    """

    path: Path
    world: World
    names: tuple[str, ...]
    probes: tuple[str, ...]
    stims: tuple[str, ...]
    named: bool
    bins: int
    step_ms: float
    units: Units | None
    cell_names: tuple[str, ...]
    whole_units: bool
    sizes: Mapping[Split, int]
    keys: Mapping[Split, Mapping[str, str]]
    dtype: np.dtype[Any]
    witness: tuple[str, ...] = ()

    def rows(self, split: Split) -> int:
        """How many rows a split has (0: it has no such split)."""
        return self.sizes.get(split, 0)

    @property
    def starred(self) -> bool:
        """Whether it has u*, stored or by its meta: parameters that mean the same in every cell."""
        stored = any("star" in keys for keys in self.keys.values())
        moved = self.units is not None and not (np.all(self.units.bias == 0) and np.all(self.units.scale == 1))
        return stored or (self.world == "ontra" and moved)

    # ---- reading

    def frames(self, split: Split, rows: slice = slice(None)) -> np.ndarray:
        """(n, bins, probes, stims) float32 of consecutive rows."""
        return self.raw(split, rows).astype(np.float32)

    def raw(
        self,
        split: Split,
        rows: slice = slice(None),
        probes: Sequence[int] | None = None,
        stims: Sequence[int] | None = None,
        into: np.ndarray | None = None,
    ) -> np.ndarray:
        """(n, bins, probes, stims) of consecutive rows in the type they are stored in (double becomes single).

        Args:
            probes, stims: which, by position, in the order wanted (None: all).
            into: the result's place, contiguous and of its shape and type (None: a new array).

        Raises:
            BadInput: the file is gone or damaged.
        """
        start, stop, _ = rows.indices(self.rows(split))
        some_probes = probes is not None and list(probes) != list(range(len(self.probes)))
        some_stims = stims is not None and list(stims) != list(range(len(self.stims)))
        with _dataset(self.path, self.keys[split]["frames"]) as dataset:
            shape = (max(0, stop - start), *dataset.shape[1:])
            whole = into is None or some_probes or some_stims
            out = np.empty(shape, self.dtype) if whole or into is None else into.reshape(shape)
            if out.size:
                dataset.read_direct(out, np.s_[start:stop])
        out = out.reshape(len(out), self.bins, len(self.probes), len(self.stims))
        if some_probes and probes is not None:
            out = out[:, :, list(probes)]
        if some_stims and stims is not None:
            out = out[..., list(stims)]
        if into is None or not whole:
            return out
        into[...] = out
        return into

    def _stored(self, split: Split, what: str, rows: slice = slice(None)) -> np.ndarray | None:
        name = self.keys.get(split, {}).get(what)
        if name is None:
            return None
        with _dataset(self.path, name) as dataset:
            refuse_too_large(self.path, name, math.prod(dataset.shape[1:]) * self.rows(split) * dataset.dtype.itemsize)
            return np.asarray(dataset[rows])

    def unit(self, split: Split, rows: slice = slice(None)) -> np.ndarray | None:
        """(n, P) float32 unit parameters u of the cell's own ranges; None where they cannot be known.

        Raises:
            BadInput: one is not a number within [−1, 1].
        """
        found = self._stored(split, "unit", rows)
        if found is not None:
            return self._checked(found, split, "unit")
        star = self.star(split, rows)
        if star is None or self.units is None or not self.whole_units:
            return None
        return self.units.unit(star.astype(np.float64)).astype(np.float32)

    def star(self, split: Split, rows: slice = slice(None)) -> np.ndarray | None:
        """(n, P) float32 rescaled parameters u*, which mean the same in every cell; None where they cannot be known.

        Raises:
            BadInput: as `unit`.
        """
        found = self._stored(split, "star", rows)
        if found is not None:
            return self._checked(found, split, "star")
        unit = self._stored(split, "unit", rows)
        if unit is None or self.units is None:
            return None
        return self.units.star(self._checked(unit, split, "unit").astype(np.float64)).astype(np.float32)

    def physical(self, split: Split, rows: slice = slice(None)) -> np.ndarray | None:
        """(n, P) float64 conductances (and what else is varied) in physical units."""
        found = self._stored(split, "phys", rows)
        if found is not None:
            return found.astype(np.float64)
        unit = self.unit(split, rows) if self.whole_units else self.star(split, rows)
        return None if unit is None or self.units is None else self.units.physical(unit.astype(np.float64))

    def cells(self, split: Split, rows: slice = slice(None)) -> np.ndarray:
        """(n,) int32 position in `cell_names` of each row's cell; `UNKNOWN` where the pack does not say."""
        found = self._stored(split, "cell", rows)
        if found is not None:
            if len(found) and not (found.min() >= 0 and found.max() < len(self.cell_names)):
                raise BadInput(f"{self.path}: {self.keys[split]['cell']} names a cell that meta.JSON does not list")
            return found.astype(np.int32)
        start, stop, _ = rows.indices(self.rows(split))
        return np.full(max(0, stop - start), 0 if len(self.cell_names) == 1 else UNKNOWN, np.int32)

    def extras(
        self, split: Split, rows: slice, what: Sequence[str], probes: Sequence[int], stims: Sequence[int]
    ) -> np.ndarray:
        """(n, stims, F) float32 numbers that go in beside the traces.

        Args:
            what: "efel" (features of the spikes, of each chosen probe) and "stim" (how each stimulus was adjusted).

        Raises:
            BadInput: the file has none.
        """
        parts = []
        for name in what:
            found = self._stored(split, name, rows)
            if found is None:
                raise BadInput(f"{self.path}: has no {name} features of its {split} rows")
            found = found.astype(np.float32)
            if name == "efel":  # (n, probes, stims, F)
                found = found[:, list(probes)][:, :, list(stims)].transpose(0, 2, 1, 3)
            else:  # (n, 2, stims)
                found = found[:, :, list(stims)].transpose(0, 2, 1)
            parts.append(found.reshape(len(found), len(stims), -1))
        return np.concatenate(parts, 2)

    def _checked(self, found: np.ndarray, split: Split, what: str) -> np.ndarray:
        bad = ~(np.abs(found.astype(np.float32)) <= 1 + _EDGE)
        if bad.any():
            row, column = (int(i) for i in np.argwhere(bad)[0])
            raise BadInput(
                f"{self.path}: {self.keys[split][what]} row {row}, {self.names[column]}, is {found[row, column]}; "
                "a unit parameter lies within [-1, 1]"
            )
        return found.astype(np.float32)

    # ---- choosing

    def positions(self, what: Literal["probes", "stims"], wanted: Sequence[str | int]) -> list[int]:
        """Where the wanted probes or stimuli are, by name or index (none named: all).

        Raises:
            BadInput: there is no such one, or one is named twice.
        """
        there = getattr(self, what)
        found = []
        for item in wanted:
            if isinstance(item, str) and item in there:
                found.append(there.index(item))
            elif isinstance(item, int) and not isinstance(item, bool) and 0 <= item < len(there):
                found.append(item)
            else:
                raise BadInput(f"{self.path}: has no {what[:-1]} {item!r}; there are {', '.join(there)}")
        if len(set(found)) < len(found):
            raise BadInput(f"{self.path}: {what} {list(wanted)} names one twice")
        return found or list(range(len(there)))


def constant_channel(pack: Pack, split: Split, probes: Sequence[int], stims: Sequence[int], rows: int = 32) -> None:
    """Refuse a pack in which a chosen channel never moves, in the first rows of a split.

    Raises:
        BadInput: it names the channel.
    """
    found = pack.raw(split, slice(0, rows), probes, stims).astype(np.float32)
    flat = np.ptp(found, axis=(0, 1)) == 0 if len(found) else np.zeros(1, bool)
    for probe, stim in np.argwhere(flat):
        raise BadInput(
            f"{pack.path}: {pack.keys[split]['frames']} of probe {pack.probes[probes[probe]]} under "
            f"{pack.stims[stims[stim]]} is constant: it tells nothing (data keys probes, stims leave it out)"
        )


def dataset_of(file: h5py.File, name: str) -> h5py.Dataset | None:
    """A dataset of that name, if there is one."""
    found = file.get(name)
    return found if isinstance(found, h5py.Dataset) else None
