"""Simulated cells in the Blue Brain layout: a folder of HDF5 shards and a meta file.

<cell>/meta.cellSpike.yaml           what the parameters and probes are
<cell>/stim.<stimName>.yaml          the stimulus
<cell>/<cell>.cellSpike.data_<k>.h5  shard k: `frames` (N, bins, probes) int16 or float, `unit_par` and
                                     `phys_par` (N, P), sometimes `binQA` (N,), 0 for a bad simulation
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ground import hdf5
from ground.errors import BadInput
from ground.files import atomic_path
from ground.hdf5 import reading_hdf5
from models.cellspike.yamls import entry, read_yaml, write_yaml

META = "meta.cellSpike.yaml"
_BLOCK = 64 << 20  # bytes of frames read at once


@dataclass(frozen=True)
class Shard:
    """What a shard holds beside its frames.

    Attributes:
        path: the file.
        kept: (n,) int, its rows that are not marked as bad.
        bad: how many are.
        unit, physical: (n, P) float64 of the kept rows.
        digest: of the file's shapes and parameters.
    """

    path: Path
    kept: np.ndarray
    bad: int
    unit: np.ndarray
    physical: np.ndarray
    digest: int


@dataclass(frozen=True)
class Cell:
    """A raw cell: its meta file, read and checked; frames are read when asked for.

    Attributes:
        folder: where it is.
        name: its type and clone, such as bbp0541; the folder and the shards are called so.
        meta: the meta file's content.
        names: (P,) of the parameters, those that are fixed among them.
        ranges: (P, 2) physical lo and hi.
        probes: names.
        distances: µm of each probe from the soma, where the meta file knows.
        bins: of a frame.
        step: ms.
        shards: how many files.
    """

    folder: Path
    name: str
    meta: dict[str, Any]
    names: tuple[str, ...]
    ranges: np.ndarray
    probes: tuple[str, ...]
    distances: np.ndarray | None
    bins: int
    step: float
    shards: int

    @classmethod
    def of(cls, folder: Path) -> Cell:
        """The cell in a folder.

        Raises:
            BadInput: no meta file, or one that is incomplete or contradicts itself.
        """
        path = (folder if folder.name == META else folder / META).resolve()
        if not path.is_file():
            raise BadInput(f"{folder}: holds no {META}")
        meta = read_yaml(path)
        rows = entry(meta, "dataInfo.physRange", path, list)
        names = tuple(str(name) for name in entry(meta, "dataInfo.parName", path, list))
        try:
            ranges = np.array([[float(row[1]), float(row[2])] for row in rows]).reshape(-1, 2)
            listed = tuple(str(row[0]) for row in rows)
        except (TypeError, ValueError, IndexError):
            raise BadInput(f"{path}: dataInfo.physRange is not rows of [name, lo, hi]") from None
        if listed != names:
            raise BadInput(f"{path}: dataInfo.parName and dataInfo.physRange name different parameters")
        probes = tuple(str(name) for name in entry(meta, "rawInfo.probeName", path, list))
        told = meta["rawInfo"].get("probeDistance")
        if told is not None and (not isinstance(told, list) or len(told) != len(probes)):
            raise BadInput(f"{path}: rawInfo.probeDistance does not have one number for each of {len(probes)} probes")
        step = float(entry(meta, "rawInfo.timeAxis.step", path, (int, float)))
        return cls(
            folder=path.parent,
            name=path.parent.name,
            meta=meta,
            names=names,
            ranges=ranges,
            probes=probes,
            distances=None if told is None else np.array(told, np.float64),
            bins=int(entry(meta, "dataInfo.numTimeBin", path, int)),
            step=step,
            shards=int(entry(meta, "dataInfo.numDataFiles", path, int)),
        )

    def path(self, shard: int) -> Path:
        """The file of a shard."""
        return self.folder / f"{self.name}.cellSpike.data_{shard}.h5"

    def shard(self, number: int) -> Shard:
        """Parameters of a shard, and which rows are good.

        Raises:
            BadInput: missing, truncated, or not what the meta file says.
        """
        path = self.path(number)
        with reading_hdf5(path) as file:
            frames = self._frames(file, path)
            rows, count = frames.shape[0], len(self.names)
            tables = []
            for name in ("unit_par", "phys_par"):
                meant = f"not {(rows, count)} as frames and {META} say"
                tables.append(hdf5.array(file, path, name, shape=(rows, count), meant=meant))
            quality = np.ones(rows, bool)
            if "binQA" in file:
                quality = hdf5.array(file, path, "binQA")
                if quality.shape[:1] != (rows,):
                    raise BadInput(f"{path}: binQA has shape {quality.shape} of {rows} frames")
                quality = np.asarray(quality.reshape(rows, -1).all(1))
        digest = zlib.crc32(f"{path.name} {rows} {self.bins} {len(self.probes)}".encode())
        for table in (*tables, quality):
            digest = zlib.crc32(table.tobytes(), digest)
        kept = np.flatnonzero(quality)
        unit, physical = (table[kept].astype(np.float64) for table in tables)
        return Shard(path, kept, rows - len(kept), unit, physical, digest)

    def blocks(self, shard: Shard, probes: Sequence[int]) -> Iterator[np.ndarray]:
        """The good frames of some probes, (n, bins, len(probes)) float32 block by block, as they are stored.

        Raises:
            BadInput: the file is truncated, or a frame is not finite.
        """
        with reading_hdf5(shard.path) as file:
            frames = self._frames(file, shard.path)
            rows = max(1, _BLOCK // (self.bins * len(self.probes) * 4))
            for start in range(0, frames.shape[0], rows):
                kept = shard.kept[(shard.kept >= start) & (shard.kept < start + rows)]
                if not len(kept):
                    continue
                block = frames[start : start + rows][kept - start][:, :, list(probes)].astype(np.float32)
                if not np.isfinite(block).all():
                    row, _, probe = np.argwhere(~np.isfinite(block))[0]
                    name = self.probes[probes[probe]]
                    raise BadInput(f"{shard.path}: frames of row {kept[row]}, probe {name}, are not finite")
                yield block

    def _frames(self, file: h5py.File, path: Path) -> Any:
        if "frames" not in file:
            raise BadInput(f"{path}: has no frames")
        frames = hdf5.described(file, path, "frames")
        if frames.ndim != 3 or frames.shape[1:] != (self.bins, len(self.probes)):
            raise BadInput(
                f"{path}: frames are {frames.shape}; {META} says {self.bins} bins and {len(self.probes)} probes"
            )
        return frames


def find(places: Sequence[Path]) -> list[Cell]:
    """The cells of folders: a cell's own, or one that holds cells.

    Raises:
        BadInput: there is none, or two of one name.
    """
    folders: list[Path] = []
    for place in places:
        inside = sorted(path.parent for path in place.glob(f"*/{META}")) if place.is_dir() else []
        folders += [place] if (place / META).exists() or not inside else inside
    cells = [Cell.of(folder) for folder in folders]
    if not cells:
        raise BadInput("no cells")
    for name in {cell.name for cell in cells}:
        same = [str(cell.folder) for cell in cells if cell.name == name]
        if len(same) > 1:
            raise BadInput(f"cell {name} is in {same[0]} and in {same[1]}")
    return cells


def fixed(name: str) -> bool:
    """Whether a parameter is none: the simulation holds it."""
    return "fixed" in name or "const" in name


def write_meta(
    folder: Path,
    *,
    kind: str,
    clone: int,
    ranges: Sequence[tuple[str, float, float]],
    probes: Sequence[tuple[str, float]],
    stim: str,
    step: float,
    bins: int,
    rows: Sequence[int],
    about: Mapping[str, Any],
) -> None:
    """The meta file of a cell that is being simulated.

    Args:
        ranges: (name, lo, hi) of each parameter.
        probes: (name, µm from the soma).
        stim: name of the stimulus.
        step: ms.
        rows: of each shard.
        about: further records.
    """
    names = [name for name, _, _ in ranges]
    shards = list(range(len(rows)))
    tenth = max(1, len(shards) // 10)
    write_yaml(
        folder / META,
        {
            "dataInfo": {
                "physRange": [list(row) for row in ranges],
                "parName": names,
                "numPar": len(names),
                "numIcedPar": sum(map(fixed, names)),
                "h5nameTemplate": f"{kind}{clone}.cellSpike.data_*.h5",
                "numDataFiles": len(shards),
                # few shards cannot be split: then every part is all there is
                "splitIdx": {
                    "train": shards[2 * tenth :] or shards,
                    "val": shards[tenth : 2 * tenth] or shards,
                    "test": shards[:tenth],
                },
                "numTimeBin": bins,
            },
            "rawInfo": {
                "bbpId": kind,
                "bbpName": f"{kind}_{clone}",
                "cloneId": clone,
                "probeName": [name for name, _ in probes],
                "probeDistance": [round(float(distance), 1) for _, distance in probes],
                "num_probes": len(probes),
                "stimName": stim,
                "timeAxis": {"step": step, "unit": "ms"},
                "varParL": [name for name in names if not fixed(name)],
                **about,
            },
        },
    )


def write_stim(folder: Path, name: str, step: float, current: np.ndarray) -> None:
    """The stimulus of a cell: nA at each bin."""
    content = {
        "stimName": name,
        "timeAxis": {"step": step, "unit": "ms", "numBin": len(current)},
        "stimUnit": "nA",
        "stimFunc": [round(float(value), 5) for value in current],
    }
    write_yaml(folder / f"stim.{name}.yaml", content)


def write_shard(path: Path, frames: np.ndarray, unit: np.ndarray, physical: np.ndarray, scale: float) -> None:
    """A shard, whole or absent.

    Args:
        frames: (N, bins, probes) int16 in units of `scale` mV, which an attribute records.
        unit, physical: (N, P).
    """
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file["frames"] = frames
        file["frames"].attrs["mV_per_count"] = scale
        file["unit_par"], file["phys_par"] = unit.astype(np.float32), physical.astype(np.float32)
