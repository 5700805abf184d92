"""Where a detector's wires, channels and TPCs are, read from a YAML file: another detector is another file.

Lengths are in mm, times in µs. A position is local to a TPC: x the drift distance from the anode (plus what drifts in
`t0`), y and z from the corner of the TPC's box. The common voxel is a tick of drift × 2 mm × 2 mm in ProtoDUNE.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ground.documents import read_yaml
from ground.errors import BadInput
from ground.paths import expanded

_BUNDLED = Path(__file__).parent / "detectors"
PLANES = 3


@dataclass(frozen=True)
class Plane:
    """Parallel wires.

    Attributes:
        angle: of the wires' normal in (z, y), degrees.
        offset: of wire 0's centre along that normal.
        pitch: between wires, which is also how wide the strip is that a wire reads.
        channels: of each wire, within the APA.
    """

    angle: float
    offset: float
    pitch: float
    channels: tuple[int, ...]

    @property
    def normal(self) -> tuple[float, float]:
        """(along z, along y), rounded to 6 decimals as where the wires' places were measured."""
        angle = math.radians(self.angle)
        return round(math.cos(angle), 6), round(math.sin(angle), 6)


@dataclass(frozen=True)
class Face:
    """One side of an APA: three planes in the order of their angles, and at which end of x it stands."""

    anode: str
    planes: tuple[Plane, ...]


@dataclass(frozen=True)
class Tpc:
    """A drift volume: whose face reads it, and the smallest x, y, z of its box."""

    face: int
    corner: tuple[float, float, float]


@dataclass(frozen=True)
class Detector:
    """A detector; the keys of its file are explained in `detectors/protodune.yaml`.

    Attributes:
        squares: 2 mm squares along y and z on which the planes are tiled.
        origin: y, z where square (0, 0) starts, in the wires' coordinates.
        faces, tpcs: by number.
    """

    name: str
    ticks: int
    channels: int
    voxel: tuple[float, float, float]
    drift: float
    t0: float
    squares: tuple[int, int]
    origin: tuple[float, float]
    box: tuple[float, float, float]
    faces: tuple[tuple[int, Face], ...]
    tpcs: tuple[tuple[int, Tpc], ...]

    def tpc(self, number: int) -> Tpc:
        """A TPC by its number.

        Raises:
            BadInput: there is none.
        """
        known = dict(self.tpcs)
        if number not in known:
            raise BadInput(f"{self.name} has no TPC {number}; it has {', '.join(map(str, known))}")
        return known[number]

    def face(self, tpc: int) -> Face:
        """The face that reads a TPC."""
        return dict(self.faces)[self.tpc(tpc).face]

    def local(self, tpc: int, position: np.ndarray, time: np.ndarray | float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Positions (N, 3) in a TPC's coordinates, and which of them are inside its box and readout.

        Args:
            tpc: its number.
            position: x, y, z in the detector.
            time: (N,) when the charge was set free; later charge looks farther away.
        """
        corner = np.asarray(self.tpc(tpc).corner)
        inside = np.all((position >= corner) & (position <= corner + self.box), axis=1)
        local = position - corner
        if self.face(tpc).anode == "max":
            local[:, 0] = self.box[0] - local[:, 0]
        local[:, 0] += self.drift * (time + self.t0)
        return local, inside & (local[:, 0] >= 0) & (local[:, 0] < self.ticks * self.voxel[0])

    @property
    def grid(self) -> tuple[int, int, int]:
        """Common voxels along x, y and z."""
        return self.ticks, *self.squares


def load(detector: str | Path) -> Detector:
    """A detector by the name of a bundled file (`protodune`, `mini`) or by its own YAML file.

    Raises:
        BadInput: there is no such file, or what it says makes no detector.
    """
    name = str(detector)
    path = _BUNDLED / f"{name}.yaml" if (_BUNDLED / f"{name}.yaml").exists() else expanded(name)
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in _BUNDLED.glob("*.yaml")))
        raise BadInput(f"{path}: no such detector file; bundled are {known}")
    return _detector(_Reader(path, "", read_yaml(path)))


class _Reader:
    """A mapping of the file, whose values are asked for by name and kind."""

    def __init__(self, path: Path, where: str, content: Any) -> None:
        if not isinstance(content, Mapping):
            raise BadInput(f"{path}: {where or 'the file'} is {content!r:.60}; it takes a mapping")
        self.path, self.where, self.content = path, where, content

    def error(self, key: Any, takes: str) -> BadInput:
        value = self.content.get(key, "missing")
        return BadInput(f"{self.path}: {self.where}{key} is {value!r:.60}; it takes {takes}")

    def number(self, key: str, least: float | None = None) -> float:
        value = self.content.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.error(key, "a number")
        if least is not None and value <= least:
            raise self.error(key, f"a number above {least:g}")
        return float(value)

    def count(self, key: str) -> int:
        value = self.content.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.error(key, "a whole number above 0")
        return value

    def numbers(self, key: str, length: int, kind: type = float) -> tuple[Any, ...]:
        value = self.content.get(key)
        if (
            not isinstance(value, list)
            or len(value) != length
            or any(isinstance(v, bool) or not isinstance(v, (int, float)) or v != kind(v) for v in value)
        ):
            raise self.error(key, f"a list of {length} {'whole ' * (kind is int)}numbers")
        return tuple(kind(v) for v in value)

    def below(self, key: str) -> list[tuple[int, _Reader]]:
        """The mappings below, by their number."""
        value = self.content.get(key)
        if not isinstance(value, Mapping) or not value or any(not isinstance(k, int) or k < 0 for k in value):
            raise self.error(key, "a mapping from numbers")
        return [(k, _Reader(self.path, f"{self.where}{key}.{k}.", v)) for k, v in value.items()]


def _detector(file: _Reader) -> Detector:
    channels = file.count("channels")
    found = Detector(
        name=str(file.content.get("name", file.path.stem)),
        ticks=file.count("ticks"),
        channels=channels,
        voxel=file.numbers("voxel", 3),
        drift=file.number("drift", 0),
        t0=file.number("t0"),
        squares=file.numbers("squares", 2, int),
        origin=file.numbers("origin", 2),
        box=file.numbers("box", 3),
        faces=tuple((number, _face(face, channels)) for number, face in file.below("faces")),
        tpcs=tuple((number, Tpc(tpc.count("face"), tpc.numbers("corner", 3))) for number, tpc in file.below("tpcs")),
    )
    for key in ("voxel", "squares", "box"):
        if min(getattr(found, key)) <= 0:
            raise file.error(key, "numbers above 0")
    faces = dict(found.faces)
    for number, tpc in found.tpcs:
        if tpc.face not in faces:
            raise BadInput(f"{file.path}: tpcs.{number}.face is {tpc.face}; there are {', '.join(map(str, faces))}")
    for number, face in found.faces:
        for plane in face.planes:
            cos, sin = plane.normal
            widest = found.voxel[2] * abs(cos) + found.voxel[1] * abs(sin)
            if plane.pitch < widest:
                raise BadInput(
                    f"{file.path}: faces.{number}: a square is {widest:.3g} wide along the normal of the plane at "
                    f"{plane.angle:g}°, more than its pitch: it would overlap three wires"
                )
    return found


def _face(face: _Reader, channels: int) -> Face:
    anode = face.content.get("anode")
    if anode not in ("min", "max"):
        raise face.error("anode", "min or max")
    planes = face.content.get("planes")
    if not isinstance(planes, list) or len(planes) != PLANES:
        raise face.error("planes", f"a list of {PLANES} planes")
    made = [_plane(_Reader(face.path, f"{face.where}planes.{i}.", plane), channels) for i, plane in enumerate(planes)]
    for i, one in enumerate(made):
        for other in made[i + 1 :]:
            if set(one.channels) & set(other.channels):
                raise BadInput(f"{face.path}: {face.where}planes: two planes read the same channel")
    return Face(anode, tuple(sorted(made, key=lambda plane: plane.angle)))


def _plane(plane: _Reader, channels: int) -> Plane:
    runs = plane.content.get("channels")
    if not isinstance(runs, list) or not runs:
        raise plane.error("channels", "a list of [wires, first channel, step]")
    wires: list[int] = []
    for run in runs:
        if (
            not isinstance(run, list)
            or len(run) != 3
            or any(not isinstance(v, int) or isinstance(v, bool) for v in run)
        ):
            raise plane.error("channels", "a list of [wires, first channel, step]")
        wires += [run[1] + run[2] * i for i in range(run[0])]
    if not wires or not 0 <= min(wires) <= max(wires) < channels or len(wires) >= 2**15:
        raise plane.error("channels", f"wires of channels 0 to {channels - 1}")
    return Plane(plane.number("angle"), plane.number("offset"), plane.number("pitch", 0), tuple(wires))
