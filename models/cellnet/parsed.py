"""Parsed files: what a simulation or the detector gave, one unnamed array (arr_0, arr_1, ...) an event.

`wire` (deconvolved) and `hit` (ticks, channels of the APA) are readout. The others are truth in common voxels, local
to the TPC: `energy` (n, 4) x, y, z, MeV, summed over all channels, so that each deposit counts once a plane: three
times; `depo` (n, 6) x, y, z, MeV, track id, PDG code, and `depoElectron` (n, 4) x, y, z, electrons count it once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ground.errors import BadInput
from ground.files import atomic_path
from models.cellnet import names, npz
from models.cellnet.geometry import Detector

READOUT = ("wire", "hit")
TRUTH = {"energy": 4, "depo": 6, "depoElectron": 4}
"""Products that hold truth -> their columns."""


def files(folder: Path, product: str, tpc: int) -> list[Path]:
    """The files of a product for a TPC, sorted; a file whose name has no TPC is for any.

    Raises:
        BadInput: there is no such folder, or no such file in it.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder")
    found = []
    for path in sorted(folder.glob("*.npz")):
        if path.name.startswith("."):
            continue
        name = names.parse(path)
        if name.product == product and name.tpc in (None, tpc):
            found.append(path)
    if not found:
        raise BadInput(f"{folder}: holds no {product} file of TPC {tpc}")
    return found


def events(file: npz.Npz) -> int:
    """How many events a file holds.

    Raises:
        BadInput: its arrays are not arr_0, arr_1, ...
    """
    if sorted(file.names) != sorted(f"arr_{i}" for i in range(len(file.names))) or not file.names:
        shown = ", ".join(file.names[:6]) or "nothing"
        raise BadInput(f"{file.path}: holds {shown}; a parsed file holds arr_0, arr_1, ..., one an event")
    return len(file.names)


def readout(file: npz.Npz, event: int, detector: Detector) -> np.ndarray:
    """(ticks, channels) float32 of one event.

    Raises:
        BadInput: it is of another shape, too large, or not finite.
    """
    name, wanted = f"arr_{event}", (detector.ticks, detector.channels)
    shape = file.header(name)[0]
    if shape != wanted:
        raise BadInput(f"{file.path}: {name} has shape {shape}; {detector.name} reads out {wanted} (ticks, channels)")
    values = file.array(name).astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise BadInput(f"{file.path}: {name} holds values that are not finite")
    return values


def truth(file: npz.Npz, event: int, product: str) -> np.ndarray:
    """(n, 4 or 6) float64: common voxel x, y, z, value and identities of one event.

    Raises:
        BadInput: it is of another shape, not finite, or its coordinates are no voxels.
    """
    name = f"arr_{event}"
    voxels = file.array(name).astype(np.float64)
    if voxels.size == 0:
        return np.zeros((0, TRUTH[product]))
    if voxels.ndim != 2 or voxels.shape[1] != TRUTH[product]:
        raise BadInput(f"{file.path}: {name} has shape {voxels.shape}; {product} takes (n, {TRUTH[product]})")
    if not np.isfinite(voxels).all():
        raise BadInput(f"{file.path}: {name} holds values that are not finite")
    if np.any(voxels[:, :3] < 0) or np.any(voxels[:, :3] != np.floor(voxels[:, :3])):
        raise BadInput(f"{file.path}: {name} has coordinates that are not whole numbers from 0")
    return voxels


def write(path: Path, arrays: Iterator[np.ndarray] | Sequence[np.ndarray]) -> None:
    """A parsed file, whole or not at all."""
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, *arrays)


def voxelise(
    position: np.ndarray, step: Sequence[float], value: np.ndarray, identities: np.ndarray | None = None
) -> np.ndarray:
    """What lies in each voxel.

    Args:
        position: (N, 3), from 0.
        step: a voxel's sides, in the positions' unit.
        value: (N,) summed in each voxel.
        identities: (N, k) of which each voxel gets the most frequent, the smallest of equally frequent ones.

    Returns:
        (M, 4 + k) x, y, z, value, identities in the order of x, y, z; voxels that are counted from 0.
    """
    voxel = np.floor(position / np.asarray(step)).astype(np.int64)
    found, which = np.unique(voxel, axis=0, return_inverse=True)
    which = which.ravel()
    columns = [found, np.bincount(which, weights=value, minlength=len(found))[:, None]]
    for identity in np.asarray(identities).T if identities is not None else ():
        columns.append(_mode(which, identity)[:, None])
    return np.concatenate(columns, axis=1)


def _mode(group: np.ndarray, identity: np.ndarray) -> np.ndarray:
    """The most frequent identity of each group 0, 1, ..."""
    known, number = np.unique(identity, return_inverse=True)
    pair, count = np.unique(group * len(known) + number, return_counts=True)
    order = np.lexsort((pair, -count, pair // max(len(known), 1)))
    _, first = np.unique(pair[order] // max(len(known), 1), return_index=True)
    return known[pair[order][first] % max(len(known), 1)]
