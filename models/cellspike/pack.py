"""Raw cells become ONTRA packs: chosen probes, fewer bins, normalised, parameters as u*.

    <cell>_excite.cellSpike_4prB8kHz.data.h5   {train,val,test}_frames (N, bins, probes) f4, _unitStar_par and
                                               _phys_par (N, K) f4
    <cell>_excite.cellSpike_4prB8kHz.meta.yaml

Memory holds one shard of the chosen probes. A run that was killed goes on with the shard it was at.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ground.errors import BadInput
from ground.locks import alone
from models.cellspike.calibrate import Conf, short
from models.cellspike.cells import Cell, Shard, fixed
from models.cellspike.unfinished import Unfinished, finished
from models.cellspike.units import Units
from models.cellspike.yamls import write_yaml

SPLITS = ("test", "val", "train")
"""In the order of their rows in the cell."""
MEANED = 5
"""Bins that become one: 40 kHz become 8 kHz."""
_OFF = 1e-3  # decades by which stored conductances may differ from their unit parameters (float32 needs 1e-6)


@dataclass(frozen=True)
class Plan:
    """What a cell's pack will be.

    Attributes:
        cell, conf: of which cell, by which conf.
        shards: its files.
        probes: places of the chosen ones.
        kept: (K,) places of the packed parameters.
        units: of the packed parameters.
        meaned: bins that become one.
        word: what the pack's name says of probes and bins, such as 4prB8kHz.
    """

    cell: Cell
    conf: Conf
    shards: list[Shard]
    probes: list[int]
    kept: list[int]
    units: Units
    meaned: int
    word: str

    @property
    def stem(self) -> str:
        return f"{self.cell.name}_{self.conf.kind}.cellSpike_{self.word}"

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each split: a tenth for test and for validation."""
        total = sum(len(shard.kept) for shard in self.shards)
        tenth = max(1, int(0.1 * total))
        return {"train": total - 2 * tenth, "val": tenth, "test": tenth}

    @property
    def key(self) -> str:
        """A digest of all that the pack is made from."""
        about = [
            self.cell.meta,
            self.conf.goals,
            self.conf.probes[self.cell.name],
            self.conf.conduct,
            [shard.digest for shard in self.shards],
            self.meaned,
        ]
        return hashlib.sha256(json.dumps(about, default=str, sort_keys=True).encode()).hexdigest()[:16]


def plan(cell: Cell, conf: Conf, meaned: int = MEANED) -> Plan:
    """Read all of a cell but its frames, and check that everything agrees.

    Raises:
        BadInput: cell and conf disagree, bins do not divide, a shard is missing or truncated, unit parameters are
            outside [−1, 1] or conductances are not base · 10^u, or too few rows.
    """
    if cell.name not in conf.probes:
        raise BadInput(f"{conf.path}: probeNamePerCell has no cell {cell.name}")
    probes = [int(row[0]) for row in conf.probes[cell.name]]
    for place, name, *_ in conf.probes[cell.name]:
        if not 0 <= place < len(cell.probes) or cell.probes[place] != name:
            found = cell.probes[place] if 0 <= place < len(cell.probes) else "none"
            raise BadInput(f"{conf.path}: probe {place} of cell {cell.name} is {name}, but its meta file says {found}")
    for index, name, *_ in conf.conduct:
        found = short(cell.names[index]) if 0 <= index < len(cell.names) else "none"
        if found != name:
            raise BadInput(f"{conf.path}: conductName {index} is {name}, but physRange of cell {cell.name} has {found}")
        if fixed(cell.names[index]):
            raise BadInput(f"{conf.path}: conductName {index}, {name}, is held by the simulation of cell {cell.name}")
    if meaned < 1 or cell.bins % meaned:
        raise BadInput(f"cell {cell.name}: {cell.bins} bins cannot be averaged by {meaned}")
    kept = [row[0] for row in conf.conduct]
    columns = [[row[k] for row in conf.conduct] for k in (2, 3)]
    try:
        units = Units.ontra([row[1] for row in conf.conduct], cell.ranges[kept], *columns)
    except BadInput as error:
        raise BadInput(f"cell {cell.name}: {error}") from None
    shards = [cell.shard(number) for number in range(cell.shards)]
    for shard in shards:
        _agree(shard, units, kept)
    found_plan = Plan(cell, conf, shards, probes, kept, units, meaned, "")
    if min(found_plan.sizes.values()) < 1:
        raise BadInput(f"cell {cell.name}: {sum(found_plan.sizes.values())} good rows are too few to be split")
    kilohertz = 1 / (cell.step * meaned)
    return Plan(cell, conf, shards, probes, kept, units, meaned, f"{len(probes)}prB{kilohertz:.3g}kHz")


def _agree(shard: Shard, units: Units, kept: list[int]) -> None:
    u, p = shard.unit[:, kept], shard.physical[:, kept]
    for table, wrong, says in (
        ("unit_par", ~(np.abs(u) <= 1 + 1e-6), "is outside [−1, 1]"),
        ("phys_par", ~(np.isfinite(p) & (p > 0)), "is no conductance"),
    ):
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            value = (u if table == "unit_par" else p)[row, column]
            raise BadInput(f"{shard.path}: {table} of row {shard.kept[row]}, {units.names[column]}, {says}: {value:g}")
    off = np.abs(units.from_physical(p) - u)
    if (off > _OFF).any():
        row, column = np.argwhere(off > _OFF)[0]
        raise BadInput(
            f"{shard.path}: phys_par of row {shard.kept[row]}, {units.names[column]}, is {p[row, column]:g}, but"
            f" physRange and unit_par say {units.physical(u)[row, column]:g}"
        )


def pack(cell: Cell, conf: Conf, out: Path | None = None, meaned: int = MEANED) -> Path:
    """Write the pack of a cell; nothing where it is there already. A line on stderr for each shard.

    Args:
        out: the folder (None: the conf's outPath).

    Raises:
        BadInput: as `plan`; frames that are not finite; a probe that never changes; another pack of this name.
    """
    made = plan(cell, conf, meaned)
    path = (conf.out if out is None else out) / f"{made.stem}.data.h5"
    with alone(path):
        if finished(path, made.key):
            print(f"  {path.name}: there already", file=sys.stderr)
            return path
        work = Unfinished(path, made.key)
        try:
            _write(made, work)
        except BadInput:
            work.discard()
            raise
        # first the meta file: a pack without one is never seen
        write_yaml(path.with_name(f"{made.stem}.meta.yaml"), describe(made, path.name, work.notes))
        work.finish()
    return path


def _write(made: Plan, work: Unfinished) -> None:
    sizes, bins = made.sizes, made.cell.bins // made.meaned
    shapes = {"frames": (bins, len(made.probes)), "unitStar_par": (len(made.kept),), "phys_par": (len(made.kept),)}
    work.lay_out({f"{split}_{name}": ((sizes[split], *of), "f4") for split in SPLITS for name, of in shapes.items()})
    for number, shard in enumerate(made.shards[work.done :], work.done):
        begun = time.perf_counter()
        frames = _frames(made, shard)
        if number == 0:
            mean, std = _measured(made, frames)
        else:
            mean, std = np.array(work.notes["mean"]), np.array(work.notes["std"])
        frames -= mean.astype(np.float32)
        frames /= std.astype(np.float32)
        first = sum(len(other.kept) for other in made.shards[:number])
        star = made.units.star(shard.unit[:, made.kept])
        tables = {"frames": frames, "unitStar_par": star, "phys_par": shard.physical[:, made.kept]}
        with work.piece(mean=mean.tolist(), std=std.tolist()) as file:
            start = 0
            for split in SPLITS:
                # rows of the cell that this shard and the split share
                low, high = max(first, start), min(first + len(frames), start + sizes[split])
                if low < high:
                    for name, table in tables.items():
                        file[f"{split}_{name}"][low - start : high - start] = table[low - first : high - first]
                start += sizes[split]
        dropped = f", {shard.bad} bad ones dropped" if shard.bad else ""
        took = time.perf_counter() - begun
        print(
            f"  {made.stem}: shard {number + 1} of {len(made.shards)}, {len(frames)} rows{dropped}, {took:.1f} s",
            file=sys.stderr,
            flush=True,
        )


def _frames(made: Plan, shard: Shard) -> np.ndarray:
    """(n, bins, probes) float32 of a shard, bins averaged, as stored otherwise."""
    shape = (made.cell.bins // made.meaned, len(made.probes))
    frames = np.empty((len(shard.kept), *shape), np.float32)
    done = 0
    for block in made.cell.blocks(shard, made.probes):
        meaned = block.reshape(len(block), shape[0], made.meaned, shape[1]).mean(2, dtype=np.float32)
        frames[done : done + len(block)] = meaned
        done += len(block)
    return frames


def _measured(made: Plan, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (probes,) over samples and time, in float64."""
    if not len(frames):
        raise BadInput(f"{made.shards[0].path}: has no good row, and the others are normalised by it")
    mean, std = (
        np.array([f(frames[:, :, k], dtype=np.float64) for k in range(frames.shape[2])]) for f in (np.mean, np.std)
    )
    for name, deviation in zip(made.conf.probes[made.cell.name], std, strict=True):
        if not deviation > 0:
            raise BadInput(f"{made.shards[0].path}: probe {name[1]} never changes (std {deviation:g})")
    return mean, std


def describe(made: Plan, h5name: str, notes: dict[str, Any]) -> dict[str, Any]:
    """The pack's meta file.

    Args:
        notes: `mean` and `std` a probe.
    """
    raw = made.cell.meta
    data = {k: v for k, v in raw["dataInfo"].items() if k not in ("physRange", "numIcedPar", "numDataFiles")}
    khz = made.word.split("B")[-1]
    data |= {
        "numTimeBin": made.cell.bins // made.meaned,
        "featureName": list(made.conf.goals),
        "featureType": f"probes_{made.word}",
        "numFeature": len(made.probes),
        "numPar": len(made.kept),
        "parName": list(made.units.names),
        "h5nameTemplate": template(made.conf.kind, made.word),
        "h5name": h5name,
        "dataNormalized": True,
        "ustarTransform": True,
        "splitIdx": made.sizes,
    }
    axis = raw["rawInfo"]["timeAxis"]
    of_cell = raw["rawInfo"] | {
        # by their short names: readers look conductName up in it
        "physRange": [[short(str(row[0])), *row[1:]] for row in raw["dataInfo"]["physRange"]],
        "parName": [short(name) for name in made.cell.names],
        "numIcedPar": raw["dataInfo"].get("numIcedPar", sum(map(fixed, made.cell.names))),
        "stimName": f"{raw['rawInfo'].get('stimName', '')}_{khz}",
        "timeAxis": {**axis, "step": round(made.cell.step * made.meaned, 9)},
    }
    packed = {
        "probeName": made.conf.probes[made.cell.name],
        "conductName": made.conf.conduct,
        "utrans_bias": made.units.bias.tolist(),
        "utrans_scale": made.units.scale.tolist(),
        "fnorm_mean": notes["mean"],
        "fnorm_std": notes["std"],
    }
    return {"dataInfo": data, "rawInfo": of_cell, "packInfo": packed}


def template(kind: str, word: str) -> str:
    """The names of packs, `*` for the cell's."""
    return f"*_{kind}.cellSpike_{word}.data.h5"
