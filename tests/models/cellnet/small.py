"""A detector of 96 squares whose first plane wraps, and what tiling means on it, in plain Python."""

from __future__ import annotations

import functools
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from models.cellnet import geometry

SMALL: dict[str, Any] = {
    "name": "small",
    "ticks": 8,
    "channels": 24,
    "voxel": [0.5, 2, 2],
    "drift": 1.5,
    "t0": 0,
    "squares": [12, 8],
    "origin": [3, 5],
    "box": [4, 24, 16],
    "faces": {
        1: {
            "anode": "max",
            "planes": [
                {"angle": -35.7, "offset": -10.1, "pitch": 4.669, "channels": [[3, 2, -1], [3, 0, 1]]},
                {"angle": 0, "offset": 6.3011, "pitch": 4.7937, "channels": [[4, 16, 1]]},
                {"angle": 35.7, "offset": 9.0, "pitch": 4.669, "channels": [[5, 8, 1]]},
            ],
        },
        2: {
            "anode": "min",
            "planes": [
                {"angle": 30.0, "offset": 8.7, "pitch": 3.9, "channels": [[6, 8, 1]]},
                {"angle": -30.0, "offset": -9.3, "pitch": 3.9, "channels": [[4, 3, -1], [3, 3, -1]]},
                {"angle": 90.0, "offset": 4.1, "pitch": 3.1, "channels": [[7, 16, 1]]},
            ],
        },
    },
    "tpcs": {0: {"face": 1, "corner": [0, 0, 0]}, 1: {"face": 2, "corner": [4, 0, 0]}},
}


def written(folder: Path, content: dict[str, Any] = SMALL) -> Path:
    """The detector's file."""
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def clipped(
    points: list[tuple[float, float]], cos: float, sin: float, edge: float, below: bool
) -> list[tuple[float, float]]:
    """A polygon's part on one side of the line z · cos + y · sin = edge."""
    found = []
    sign = 1 if below else -1
    for (z0, y0), (z1, y1) in itertools.pairwise([*points, points[0]]):
        d0, d1 = (sign * (edge - z * cos - y * sin) for z, y in ((z0, y0), (z1, y1)))
        if d0 >= 0:
            found.append((z0, y0))
        if d0 * d1 < 0:
            part = d0 / (d0 - d1)
            found.append((z0 + part * (z1 - z0), y0 + part * (y1 - y0)))
    return found


def surface(points: list[tuple[float, float]]) -> float:
    if len(points) < 3:
        return 0.0
    return abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in itertools.pairwise([*points, points[0]]))) / 2


def shares(detector: geometry.Detector, plane: geometry.Plane, y: int, z: int) -> dict[int, float]:
    """Wire -> share of a square that it reads; -1 is the part that no wire reads."""
    cos, sin = round(math.cos(math.radians(plane.angle)), 6), round(math.sin(math.radians(plane.angle)), 6)
    low_y, low_z = detector.origin[0] + y * detector.voxel[1], detector.origin[1] + z * detector.voxel[2]
    high_y, high_z = low_y + detector.voxel[1], low_z + detector.voxel[2]
    square = [(low_z, low_y), (high_z, low_y), (high_z, high_y), (low_z, high_y)]
    found: dict[int, float] = {}
    for wire in range(-3, len(plane.channels) + 3):
        edges = plane.offset + (wire - 0.5) * plane.pitch, plane.offset + (wire + 0.5) * plane.pitch
        inside = clipped(square, cos, sin, edges[0], below=False)
        inside = clipped(inside, cos, sin, edges[1], below=True) if inside else []
        share = round(surface(inside) / (detector.voxel[1] * detector.voxel[2]), 3)
        if share > 0:
            known = wire if 0 <= wire < len(plane.channels) else -1
            found[known] = found.get(known, 0) + share
    return found


@functools.cache
def overlaps(detector: geometry.Detector, tpc: int) -> list[dict[tuple[int, int], dict[int, float]]]:
    """Of each plane: square -> `shares`."""
    squares = list(itertools.product(*map(range, detector.squares)))
    return [{square: shares(detector, plane, *square) for square in squares} for plane in detector.face(tpc).planes]


def tiled(
    values: np.ndarray, detector: geometry.Detector, tpc: int, downsample: tuple[int, int, int]
) -> dict[tuple[int, ...], np.ndarray]:
    """Active voxel -> charge of each plane, square by square."""
    planes = detector.face(tpc).planes
    squares = list(itertools.product(*map(range, detector.squares)))
    overlap = overlaps(detector, tpc)
    found: dict[tuple[int, ...], np.ndarray] = {}
    for tick in range(detector.ticks):
        active = [
            square
            for square in squares
            if all(
                any(wire == -1 or values[tick, plane.channels[wire]] > 1e-3 for wire in overlap[p][square])
                for p, plane in enumerate(planes)
            )
        ]
        for p, plane in enumerate(planes):
            area: dict[int, float] = {}
            for square in active:
                for wire, share in overlap[p][square].items():
                    if wire >= 0:
                        area[plane.channels[wire]] = area.get(plane.channels[wire], 0) + share
            for y, z in active:
                voxel = tick // downsample[0], y // downsample[1], z // downsample[2]
                charge = found.setdefault(voxel, np.zeros(3))
                for wire, share in overlap[p][y, z].items():
                    if wire >= 0:
                        channel = plane.channels[wire]
                        charge[p] += values[tick, channel] / area[channel] * share
    return found
