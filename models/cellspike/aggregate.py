"""Many cells' packs in one shuffled file with equally many rows of each, and the meta file of a training.

    {train,val,test}_frames (N, bins, probes), _unitStar_par (N, K), _cell (N,) int32: place in cellNameList
    meta.JSON  cellNameList, globalTrainSamples, h5name, numInpFiles; and what a reader needs of the cells' meta
               files: dataInfo, conductName, probeNamePerCell, utrans_bias of each cell, seed

The order is a permutation drawn from the seed. Rows are gathered block by block, so that neither a cell nor the result
need fit into memory; a killed run goes on with the block it was at.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ground import hdf5
from ground.errors import BadInput
from ground.hdf5 import reading_hdf5
from ground.locks import alone
from models.cellspike.unfinished import KEY, Unfinished, finished
from models.cellspike.yamls import entry, read_yaml, write_yaml

SPLITS = ("train", "val", "test")
EIGHTH = 8  # validation and test rows are as many as training rows over this
_BLOCK = 256 << 20  # bytes of frames gathered at once


@dataclass(frozen=True)
class PackFile:
    """A cell's pack and its meta file.

    Attributes:
        path: the HDF5 file.
        cell: whose.
        meta: what the meta file says.
        rows: of each split.
        shape: (bins, probes) of a frame.
        stamp: what its content is known by.
    """

    path: Path
    cell: str
    meta: dict[str, Any]
    rows: dict[str, int]
    shape: tuple[int, int]
    stamp: str

    @classmethod
    def of(cls, path: Path) -> PackFile:
        """Read a pack's sizes and its meta file.

        Raises:
            BadInput: either is missing, or they contradict each other.
        """
        beside = _beside(path)
        if not path.name.endswith(".data.h5") or "_" not in path.name.split(".cellSpike")[0]:
            raise BadInput(f"{path}: a pack of one cell is called <cell>_<kind>.cellSpike_….data.h5")
        meta = read_yaml(beside)
        names = entry(meta, "dataInfo.parName", beside, list)
        conduct = entry(meta, "packInfo.conductName", beside, list)
        if [row[1] for row in conduct] != names:
            raise BadInput(f"{beside}: packInfo.conductName and dataInfo.parName name different parameters")
        sizes, shapes = entry(meta, "dataInfo.splitIdx", beside, dict), set()
        with reading_hdf5(path) as file:
            rows = {}
            for split in SPLITS:
                for name in ("frames", "unitStar_par"):
                    if f"{split}_{name}" not in file:
                        raise BadInput(f"{path}: has no {split}_{name}")
                frames = hdf5.described(file, path, f"{split}_frames", kinds="iuf", rank=3)
                star = hdf5.described(file, path, f"{split}_unitStar_par", rank=2)
                rows[split] = frames.shape[0]
                shapes.add(frames.shape[1:])
                if sizes.get(split) != frames.shape[0] or star.shape != (frames.shape[0], len(names)):
                    raise BadInput(
                        f"{path}: {split} has frames {frames.shape} and parameters {star.shape}; {beside.name} says"
                        f" {sizes.get(split)} rows and {len(names)} parameters"
                    )
            wanted = (
                entry(meta, "dataInfo.numTimeBin", beside, int),
                len(entry(meta, "packInfo.probeName", beside, list)),
            )
            if shapes != {wanted}:
                raise BadInput(f"{path}: frames are {sorted(shapes)}; {beside.name} says {wanted}")
            made_from = str(file.attrs.get(KEY, path.stat().st_mtime_ns))
        cell = path.name.split(".cellSpike")[0].rsplit("_", 1)[0]
        return cls(path, cell, meta, rows, wanted, made_from)


def packs_of(places: Sequence[Path]) -> list[PackFile]:
    """The packs that are given, or lie in folders that are given; in the order of the cells' names.

    Raises:
        BadInput: none, two of one cell, or packs that do not belong together.
    """
    files = [found for place in places for found in (sorted(place.glob("*.data.h5")) if place.is_dir() else [place])]
    # in a folder there may be files of many cells, too, which have no meta file beside them
    files = [path for path in files if path in places or _beside(path).exists()]
    packs = sorted(map(PackFile.of, files), key=lambda pack: pack.cell)
    if not packs:
        raise BadInput(f"no packs (*.data.h5 with a .meta.yaml) in {', '.join(map(str, places))}")
    for one, other in itertools.pairwise(packs):
        if one.cell == other.cell:
            raise BadInput(f"cell {one.cell} is in {one.path} and in {other.path}")
    first = packs[0]
    for other in packs[1:]:
        for key in ("packInfo.conductName", "dataInfo.featureName", "dataInfo.featureType"):
            part, name = key.split(".")
            if first.meta[part].get(name) != other.meta[part].get(name):
                raise BadInput(f"packs of {first.cell} and {other.cell} differ in {key}: they mean different things")
        if first.shape != other.shape:
            raise BadInput(f"packs of {first.cell} and {other.cell} have frames {first.shape} and {other.shape}")
    return packs


def _beside(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".data.h5") + ".meta.yaml")


def each(packs: Sequence[PackFile], samples: int | None) -> dict[str, int]:
    """Rows of each split that every cell gives.

    Args:
        samples: training rows of all cells together (None: as many as the smallest cell has).

    Raises:
        BadInput: a cell has too few.
    """
    least = {split: min(pack.rows[split] for pack in packs) for split in SPLITS}
    train = least["train"] if samples is None else samples // len(packs)
    if train < 1:
        raise BadInput(f"--samples {samples}: fewer than one of each of {len(packs)} cells")
    if train > least["train"]:
        poor = min(packs, key=lambda pack: pack.rows["train"])
        raise BadInput(f"--samples {samples}: {train} of each cell, but {poor.cell} has {poor.rows['train']}")
    eighth = max(1, train // EIGHTH)
    return {"train": train, "val": min(eighth, least["val"]), "test": min(eighth, least["test"])}


def aggregate(
    packs: Sequence[PackFile], out: Path, name: str, samples: int | None = None, seed: int = 0, dtype: str = "f4"
) -> list[str]:
    """Write the file of many cells; nothing where it is there already. A line on stderr for each block.

    Args:
        name: of the set, as in practice50c.
        samples: training rows in all.
        dtype: of the frames, "f4" or "f2".

    Returns:
        Lines for people.

    Raises:
        BadInput: too few rows, or another file is there.
    """
    count = each(packs, samples)
    about = [name, [(pack.cell, pack.stamp, pack.rows) for pack in packs], count, seed, dtype]
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    lines = [f"{split}: {rows} rows of each of {len(packs)} cells" for split, rows in count.items()]
    wanted = max(1, count["train"] // EIGHTH)
    lines += [
        f"{s}: fewer than an eighth of train ({wanted}): no cell has more" for s in SPLITS[1:] if count[s] < wanted
    ]
    with alone(out):
        if finished(out, key):
            print(f"  {out.name}: there already", file=sys.stderr)
            return lines
        work = Unfinished(out, key)
        _write(packs, work, count, seed, dtype, described(packs, name, out.name, count, seed))
        work.finish()
    return lines


def described(packs: Sequence[PackFile], name: str, h5name: str, count: dict[str, int], seed: int) -> dict[str, Any]:
    """`meta.JSON`."""
    first = packs[0].meta
    kept = ("featureName", "featureType", "numFeature", "numPar", "parName", "numTimeBin", "dataNormalized")
    return {
        "cellNameList": [pack.cell for pack in packs],
        "globalTrainSamples": count["train"] * len(packs),
        "h5name": h5name,
        "numInpFiles": len(packs),
        "shortName": name,
        "seed": seed,
        "dataInfo": {
            **{key: first["dataInfo"][key] for key in kept if key in first["dataInfo"]},
            "ustarTransform": True,
        },
        "timeAxis": first["rawInfo"].get("timeAxis"),
        "conductName": first["packInfo"]["conductName"],
        "probeNamePerCell": {pack.cell: pack.meta["packInfo"]["probeName"] for pack in packs},
        "utrans_bias": {pack.cell: pack.meta["packInfo"]["utrans_bias"] for pack in packs},
    }


def _write(
    packs: Sequence[PackFile], work: Unfinished, count: dict[str, int], seed: int, dtype: str, meta: dict[str, Any]
) -> None:
    shape, parameters = packs[0].shape, len(packs[0].meta["dataInfo"]["parName"])
    arrays: dict[str, tuple[tuple[int, ...], str]] = {}
    for split, rows in count.items():
        total = rows * len(packs)
        arrays[f"{split}_frames"] = ((total, *shape), dtype)
        arrays[f"{split}_unitStar_par"] = ((total, parameters), "f4")
        arrays[f"{split}_cell"] = ((total,), "i4")
    work.lay_out(arrays, {"meta.JSON": json.dumps(meta)})
    size = max(1, _BLOCK // (4 * shape[0] * shape[1]))
    blocks = [(s, k, min(k + size, n * len(packs))) for s, n in count.items() for k in range(0, n * len(packs), size)]
    orders: dict[str, np.ndarray] = {}
    for number, (split, low, high) in enumerate(blocks[work.done :], work.done):
        begun = time.perf_counter()
        if split not in orders:
            orders = {split: order(packs, split, count[split], seed)}
        chosen = orders[split][low:high]
        frames, star = np.empty((high - low, *shape), dtype), np.empty((high - low, parameters), np.float32)
        for place in np.unique(chosen[:, 0]):
            at = np.flatnonzero(chosen[:, 0] == place)
            at = at[np.argsort(chosen[at, 1])]
            with reading_hdf5(packs[place].path) as file:
                frames[at] = file[f"{split}_frames"][chosen[at, 1]]
                star[at] = file[f"{split}_unitStar_par"][chosen[at, 1]]
        if not np.isfinite(frames).all():
            where = packs[chosen[np.argwhere(~np.isfinite(frames))[0][0], 0]].path
            raise BadInput(f"{where}: {split}_frames are not finite (or too large for {dtype})")
        with work.piece() as file:
            file[f"{split}_frames"][low:high] = frames
            file[f"{split}_unitStar_par"][low:high] = star
            file[f"{split}_cell"][low:high] = chosen[:, 0]
        took = time.perf_counter() - begun
        print(f"  {work.path.name}: block {number + 1} of {len(blocks)}, {took:.1f} s", file=sys.stderr, flush=True)


def order(packs: Sequence[PackFile], split: str, rows: int, seed: int) -> np.ndarray:
    """(rows · cells, 2) int: of each row of the result the cell's place and its row, as the seed shuffles them."""
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    pairs = np.empty((rows * len(packs), 2), np.int32)
    pairs[:, 0] = np.repeat(np.arange(len(packs)), rows)
    # which rows of a cell that has more is drawn, too
    pairs[:, 1] = np.concatenate([rng.permutation(pack.rows[split])[:rows] for pack in packs])
    return pairs[rng.permutation(len(pairs))]


def training_meta(packs: Sequence[PackFile], witness: Sequence[str], name: str = "") -> dict[str, Any]:
    """`meta.cellSpike_<probeType>.yaml`: which cells to train on and which to keep for the test of generalisation.

    Args:
        witness: cells never trained on; the others are practice.

    Raises:
        BadInput: a witness that has no pack, or nobody left to practise.
    """
    cells = [pack.cell for pack in packs]
    for cell in witness:
        if cell not in cells:
            raise BadInput(f"witness cell {cell} has no pack; there are {', '.join(cells[:8])}")
    practice = [cell for cell in cells if cell not in set(witness)]
    if not practice:
        raise BadInput("every cell is a witness; none is left to train on")
    data = packs[0].meta["dataInfo"]
    keys = ("dataNormalized", "ustarTransform", "featureName", "featureType", "numFeature", "numPar", "numTimeBin")
    kind = str(data["featureType"]).removeprefix("probes_")
    return {
        "dataInfo": {
            "fullName": f"{name or 'cells'}_{kind}",
            "shortName": name or kind,
            "h5nameTemplate": data["h5nameTemplate"],
            **{key: data[key] for key in keys},
            "parName": data["parName"],
            "cellSplit": {"practice": practice, "witness": [cell for cell in cells if cell in set(witness)]},
            "conductName": packs[0].meta["packInfo"]["conductName"],
        }
    }


def write_training_meta(packs: Sequence[PackFile], folder: Path, witness: Sequence[str], name: str = "") -> Path:
    """Write it into a folder, by the name that the packs' kind of probes gives it."""
    content = training_meta(packs, witness, name)
    path = folder / f"meta.cellSpike_{str(content['dataInfo']['featureType']).removeprefix('probes_')}.yaml"
    if not path.exists() or read_yaml(path) != content:
        if path.exists():
            raise BadInput(f"{path} is there already and says otherwise; delete it or give another folder")
        write_yaml(path, content)
    return path
