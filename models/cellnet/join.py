"""The xy files of several TPCs as one: each shifted to where it stands in the detector."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from ground.errors import BadInput
from ground.files import read_json
from ground.schemas import Schema, checked
from models.cellnet import names, xy
from models.cellnet.geometry import Detector
from models.cellnet.process import MANIFEST, mark


def join(folder: Path, tpcs: Sequence[int], detector: Detector, say: Callable[[str], None] = print) -> list[Path]:
    """Write `..._xy-TPC159.npz` for each file that all the TPCs have, beside them; what is there stays.

    Args:
        folder: xy files of these TPCs with the same event type, index and batch.
        tpcs: the first one's coordinates are the joined file's.
        detector: where they stand.
        say: told what was done.

    Raises:
        BadInput: the TPCs have no file in common, or files that do not fit each other or the detector.
    """
    if len(set(tpcs)) < 2 or len(set(tpcs)) != len(tpcs):
        raise BadInput(f"--tpcs is {','.join(map(str, tpcs))}; it takes two or more different ones")
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder")
    downsample = _downsample(folder, detector)
    moves = [_move(detector, tpcs[0], tpc, downsample) for tpc in tpcs]
    groups: dict[tuple[str, int, int], dict[int | None, Path]] = defaultdict(dict)
    for path in sorted(folder.glob("*.npz")):
        if path.name.startswith("."):
            continue
        name = names.parse(path)
        if name.product == "xy" and name.tpc in tpcs:
            groups[name.event_type, name.index, -1 if name.batch is None else name.batch][name.tpc] = path
    whole = {key: files for key, files in groups.items() if set(files) == set(tpcs)}
    if not whole:
        raise BadInput(f"{folder}: there is no event type, index and batch that all of TPC {tpcs} have an xy file of")
    for files in (files for key, files in groups.items() if key not in whole):
        say(f"  {next(iter(files.values())).name}: other TPCs have no such file; left out")
    outputs = []
    for files in whole.values():
        output = folder / names.xy(files[tpcs[0]], names.joined(tpcs))
        if not output.exists():
            rows = _write(output, [xy.read(files[tpc]) for tpc in tpcs], moves)
            say(f"  {output.name}: {rows} active voxels of {len(tpcs)} TPCs")
        outputs.append(output)
    return outputs


class _Manifest(Schema):
    """What tiling says of the files of a folder."""

    detector: str
    downsample: Annotated[list[Annotated[int, Field(ge=1, le=1000)]], Field(min_length=3, max_length=3)]


def _downsample(folder: Path, detector: Detector) -> tuple[int, int, int]:
    manifest = read_json(folder / MANIFEST)
    if manifest is None:
        return 8, 4, 4
    told = checked(_Manifest, manifest, folder / MANIFEST)
    if told.detector != mark(detector):
        raise BadInput(f"{folder}: its files are of {told.detector}, not {mark(detector)} (--detector)")
    x, y, z = told.downsample
    return x, y, z


Move = tuple[np.ndarray, np.ndarray]
"""Sign and shift (3,) of voxels: sign · voxel + shift."""


def _move(detector: Detector, first: int, other: int, downsample: tuple[int, int, int]) -> Move:
    """From one TPC's voxels to the first one's. Drift runs the other way where the anode is at the other end."""
    size = np.multiply(detector.voxel, downsample)
    here, there = np.array(detector.tpc(first).corner), np.array(detector.tpc(other).corner)
    shift, sign = (there - here) / size, np.ones(3)
    from_low = detector.face(first).anode == "min"
    if detector.face(other).anode != detector.face(first).anode:
        sign[0] = -1
        shift[0] += (detector.box[0] if from_low else -detector.box[0]) / size[0]
    if not from_low:
        shift[0] = -shift[0]
    return sign, np.round(shift)


def _write(output: Path, files: list[xy.XY], moves: list[Move]) -> int:
    first = files[0]
    for file in files[1:]:
        if len(file.starts) != len(first.starts):
            raise BadInput(f"{file.path}: holds {len(file.starts)} events, {first.path.name} {len(first.starts)}")
        if (file.y is None) != (first.y is None) or bool(file.truth) != bool(first.truth):
            raise BadInput(f"{file.path}: has truth and {first.path.name} has not, or the other way round")
    order = np.argsort(np.concatenate([file.events for file in files]), kind="stable")
    x = np.concatenate([_moved(file.x, *move) for file, move in zip(files, moves, strict=True)])
    x[:, 3] = np.concatenate([file.events for file in files])
    counts = np.sum([file.counts for file in files], axis=0)
    if np.any(x[:, :3] < 0):
        raise BadInput(
            f"{output.parent}: joined in this order, {output.name} has voxels below 0; begin with another TPC"
        )
    y = None if first.y is None else np.concatenate([file.y for file in files if file.y is not None])[order]
    truth = [
        _stacked([_moved(file.truth[event], *move) for file, move in zip(files, moves, strict=True)])
        for event in range(len(first.truth))
    ]
    xy.write(output, x[order], np.cumsum(counts) - counts, y, truth)
    return len(x)


def _stacked(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([part for part in parts if len(part)] or parts[:1])


def _moved(rows: np.ndarray, sign: np.ndarray, shift: np.ndarray) -> np.ndarray:
    moved = rows.copy()
    moved[:, :3] = sign * rows[:, :3] + shift
    return moved
