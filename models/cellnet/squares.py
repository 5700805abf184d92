"""How a face's planes are tiled: which wires each 2 mm square overlaps, and by how much."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from models.cellnet.geometry import PLANES, Detector


@dataclass(frozen=True)
class Tables:
    """Which wires the squares of a face overlap. A square is number y · squares[1] + z; `wires[p]` stands for none.

    Attributes:
        first, second: (3, squares) int16, the one or two wires of each plane (the same where it is one).
        area: (3, squares) float32, the share of the square that is the first wire's; the rest is the second's.
        wires: (3,) int64, how many each plane has.
        channels: (3, most wires + 1) int32, of each wire; -1 where there is none.
    """

    first: np.ndarray
    second: np.ndarray
    area: np.ndarray
    wires: np.ndarray
    channels: np.ndarray


@functools.lru_cache(maxsize=2)
def tables(detector: Detector, tpc: int) -> Tables:
    """The tables of the face that reads a TPC. Shares are rounded to 1e-3; one that rounds to 0 is no overlap."""
    planes = detector.face(tpc).planes
    count = math.prod(detector.squares)
    first, second = np.empty((2, PLANES, count), np.int16)
    area = np.empty((PLANES, count), np.float32)
    wires = np.array([len(plane.channels) for plane in planes])
    channels = np.full((PLANES, wires.max() + 1), -1, np.int32)
    y = detector.origin[0] + detector.voxel[1] * np.arange(detector.squares[0])[:, None]
    z = detector.origin[1] + detector.voxel[2] * np.arange(detector.squares[1])
    for p, plane in enumerate(planes):
        cos, sin = plane.normal
        # the square's corner that is lowest along the normal
        lowest = (z + detector.voxel[2] * (cos < 0)) * cos + (y + detector.voxel[1] * (sin < 0)) * sin
        low = np.floor((lowest - plane.offset) / plane.pitch + 0.5)
        edge = plane.offset + (low + 0.5) * plane.pitch - lowest
        share = np.round(_below(edge, abs(cos) * detector.voxel[2], abs(sin) * detector.voxel[1]), 3).ravel()
        low = low.ravel()
        one, other = np.where(share > 0, low, low + 1), np.where(share < 1, low + 1, low)
        for target, wire in ((first, one), (second, other)):
            target[p] = np.where((wire < 0) | (wire >= wires[p]), wires[p], wire)
        area[p] = np.where(share > 0, share, 1)
        channels[p, : wires[p]] = plane.channels
    return Tables(first, second, area, wires, channels)


def _below(edge: np.ndarray, a: float, b: float) -> np.ndarray:
    """The share of a rectangle below a line.

    Its points' heights along the line's normal, from the lowest corner, are sums of two uniform numbers in (0, a) and
    (0, b): their distribution function is a difference of four squares.
    """
    if min(a, b) < 1e-9:
        return np.clip(edge / max(a, b), 0, 1)

    def square(value: np.ndarray) -> np.ndarray:
        return np.square(np.maximum(value, 0))

    return np.clip((square(edge) - square(edge - a) - square(edge - b) + square(edge - a - b)) / (2 * a * b), 0, 1)
