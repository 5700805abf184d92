"""Energy deposits of Geant4 (edep-sim) from an HDF5 file: dataset `segments`, a row a step, lengths in cm."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from ground import hdf5
from ground.errors import BadInput
from ground.hdf5 import reading_hdf5
from models.cellnet.deposits import STEEPEST, Deposits

LONGEST = 1.0  # mm: steps are cut into pieces no longer than this
_COLUMNS = ("eventID", "trackID", "pdgId", "dE", "x_start", "y_start", "z_start", "x_end", "y_end", "z_end")


def read(path: Path) -> list[Deposits]:
    """The events of a file, each shifted so that the sample's smallest coordinates are 0. x is the drift's.

    Raises:
        BadInput: it is missing, damaged or has no such dataset.
    """
    with reading_hdf5(path) as file:
        table = file.get("segments")
        if not isinstance(table, h5py.Dataset) or table.dtype.names is None:
            raise BadInput(f"{path}: has no dataset segments: it is no file of edep-sim's deposits")
        hdf5.described(file, path, "segments", kinds="V", rank=1)
        lacking = [name for name in _COLUMNS if name not in table.dtype.names]
        if lacking:
            raise BadInput(f"{path}: segments has no {lacking[0]}")
        odd = next((name for name in _COLUMNS if table.dtype[name].kind not in "iuf"), None)
        if odd is not None:
            raise BadInput(f"{path}: segments.{odd} holds {table.dtype[odd]}, not numbers")
        steps = {name: np.asarray(table[name]) for name in _COLUMNS}
    start, end = (10 * np.stack([steps[f"{a}_{which}"] for a in "xyz"], 1).astype(float) for which in ("start", "end"))
    energy = steps["dE"].astype(float)
    if not (np.isfinite(start).all() and np.isfinite(end).all() and np.isfinite(energy).all()):
        raise BadInput(f"{path}: segments holds values that are not finite")
    corner = np.minimum(start, end).min(0, initial=np.inf)
    length = np.linalg.norm(end - start, axis=1)
    # the file's own dE/dx overflows where a step has no length
    steepness = np.minimum(energy / np.maximum(length / 10, 1e-6), STEEPEST)
    pieces = np.maximum(np.ceil(length / LONGEST).astype(int), 1)
    row = np.repeat(np.arange(len(energy)), pieces)
    along = (np.arange(len(row)) - np.repeat(np.cumsum(pieces) - pieces, pieces) + 0.5) / pieces[row]
    position = start[row] + along[:, None] * (end - start)[row] - corner
    cut = Deposits(
        position,
        energy[row] / pieces[row],
        steepness[row],
        steps["trackID"][row].astype(np.int64),
        steps["pdgId"][row].astype(np.int64),
    )
    numbers = steps["eventID"][row]
    return [cut.take(np.flatnonzero((numbers == event) & (cut.energy > 0))) for event in np.unique(numbers)]
