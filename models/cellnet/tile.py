"""Wire readout into voxels: at each tick, the squares where the planes' active wires cross.

A channel is active at a tick where its value is above THRESHOLD. A square is active where it overlaps an active
channel in every plane; the part of a square that is beyond a plane's wires counts as active. A channel's value is
spread evenly over all the area that it has in active squares, on every stretch of a wrapped wire, so each plane's
charge is kept, but for channels without any active square. Most active squares saw no charge: ghosts.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numba
import numpy as np

from models.cellnet.geometry import PLANES, Detector
from models.cellnet.squares import Tables, tables

THRESHOLD = np.float32(1e-3)
_TAKEN = 6  # stretches of ticks per thread, so that no thread ends long before the others
_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """`function`, compiled when first called; the machine code is kept between processes. Threads run side by side."""
    try:
        return cast("_Function", numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:  # there is nowhere to keep it
        return cast("_Function", numba.njit(nogil=True)(function))


@dataclass(frozen=True)
class Crossings:
    """A face ready for tiling.

    Attributes:
        tables: its squares.
        a, b, c: the planes in the order they are looked at; `a` and `b` are crossed wire by wire.
        members: squares, by the pair of wires of planes `a` and `b` that they overlap.
        starts: (pairs + 1) where those of pair wire_a · (wires of b + 1) + wire_b begin; the last wire stands for none.
    """

    tables: Tables
    a: int
    b: int
    c: int
    members: np.ndarray
    starts: np.ndarray


_kept: dict[tuple[Detector, int], Crossings] = {}


def crossings(detector: Detector, tpc: int) -> Crossings:
    """The crossings of the face that reads a TPC; those of the last face are kept."""
    key = (detector, detector.tpc(tpc).face)
    if key not in _kept:
        found = tables(detector, tpc)
        # the plane with the fewest wires first: there are fewer pairs
        a, b, c = (int(plane) for plane in np.argsort(found.wires, kind="stable"))
        members, starts = _by_pair(found.first, found.second, a, b, found.wires[a] + 1, found.wires[b] + 1)
        _kept.clear()
        _kept[key] = Crossings(found, a, b, c, members, starts)
    return _kept[key]


@compiled
def _by_pair(
    first: np.ndarray, second: np.ndarray, a: int, b: int, wires_a: int, wires_b: int
) -> tuple[np.ndarray, np.ndarray]:
    """Counting sort of the squares by the pairs of wires that they overlap, each pair once."""
    starts = np.zeros(wires_a * wires_b + 1, np.int64)
    members = np.empty(0, np.int32)
    for turn in range(2):
        for s in range(first.shape[1]):
            for i in range(1 + (first[a, s] != second[a, s])):
                for j in range(1 + (first[b, s] != second[b, s])):
                    wire_a = first[a, s] if i == 0 else second[a, s]
                    wire_b = first[b, s] if j == 0 else second[b, s]
                    pair = np.int64(wire_a) * wires_b + wire_b
                    if turn == 0:
                        starts[pair + 1] += 1
                    else:
                        members[starts[pair]] = s
                        starts[pair] += 1
        if turn == 0:
            starts = np.cumsum(starts)
            members = np.empty(starts[-1], np.int32)
    # filling moved each start to where the next one was
    starts[1:] = starts[:-1].copy()
    starts[0] = 0
    return members, starts


def tile(
    values: np.ndarray, detector: Detector, tpc: int, downsample: tuple[int, int, int] = (1, 1, 1), threads: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The active voxels of one event.

    Args:
        values: (ticks, channels of the APA), finite.
        detector, tpc: whose wires they are.
        downsample: common voxels along x, y and z that are summed into one; ticks must divide by the first.
        threads: that work at the same time.

    Returns:
        Voxels (N, 3) int32 in the order of x, y, z; and the charge (N, 3) float64 of each plane, by angle, in them.
    """
    cross, values = crossings(detector, tpc), np.ascontiguousarray(values, np.float32)
    blocks = detector.ticks // downsample[0]
    squares_y, squares_z = detector.squares
    y, z = np.divmod(np.arange(squares_y * squares_z, dtype=np.int32), np.int32(squares_z))
    across = -(-squares_z // downsample[2])
    cells = -(-squares_y // downsample[1]) * across
    cell = y // downsample[1] * across + z // downsample[2]
    edges = np.linspace(0, blocks, min(blocks, threads * _TAKEN) + 1).astype(int)

    def stretch(i: int) -> tuple[np.ndarray, np.ndarray]:
        t = cross.tables
        planes = (cross.a, cross.b, cross.c)
        return _tile(values, THRESHOLD, t.first, t.second, t.area, t.wires, t.channels, planes,
                     cross.members, cross.starts, cell, cells, edges[i], edges[i + 1], downsample[0])  # fmt: skip

    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(stretch, range(len(edges) - 1)))
    place = np.concatenate([part[0] for part in parts])
    voxels = np.stack([place[:, 0], place[:, 1] // across, place[:, 1] % across], axis=1).astype(np.int32)
    return voxels, np.concatenate([part[1] for part in parts])


@compiled
def _tile(
    values: np.ndarray,
    threshold: np.float32,
    first: np.ndarray,
    second: np.ndarray,
    area: np.ndarray,
    wires: np.ndarray,
    channels: np.ndarray,
    planes: tuple[int, int, int],
    members: np.ndarray,
    starts: np.ndarray,
    cell: np.ndarray,
    cells: int,
    begin: int,
    end: int,
    ticks: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Blocks `begin` to `end` of `ticks` ticks: (block, cell) and charge of every active cell, in order."""
    a, b, c = planes
    active = np.zeros((PLANES, channels.shape[1]), np.bool_)
    hit = np.empty((PLANES, channels.shape[1]), np.int32)
    hits = np.zeros(PLANES, np.int64)
    squares = np.empty(first.shape[1], np.int32)
    total, density = np.zeros(values.shape[1]), np.zeros(values.shape[1])
    charge, stamp = np.zeros((cells, PLANES)), np.full(cells, -1, np.int32)
    touched = np.empty(cells, np.int32)
    place, found, filled = np.empty((1024, 2), np.int32), np.empty((1024, PLANES)), 0
    for block in range(begin, end):
        count = 0
        for tick in range(block * ticks, (block + 1) * ticks):
            for p in range(PLANES):
                hits[p] = 0
                for w in range(wires[p] + 1):
                    active[p, w] = w == wires[p] or values[tick, channels[p, w]] > threshold
                    if active[p, w]:
                        hit[p, hits[p]] = w
                        hits[p] += 1
            n = 0
            for i in range(hits[a]):
                for j in range(hits[b]):
                    wa, wb = hit[a, i], hit[b, j]
                    pair = wa * (wires[b] + 1) + wb
                    for m in range(starts[pair], starts[pair + 1]):
                        s = members[m]
                        # of two active wires the first one takes the square
                        if wa != first[a, s] and active[a, first[a, s]]:
                            continue
                        if wb != first[b, s] and active[b, first[b, s]]:
                            continue
                        if active[c, first[c, s]] or active[c, second[c, s]]:
                            squares[n] = s
                            n += 1
            if n == 0:
                continue
            total[:] = 0
            for q in range(n):
                s = squares[q]
                for p in range(PLANES):
                    one, other, share = first[p, s], second[p, s], np.float64(area[p, s])
                    if one < wires[p]:
                        total[channels[p, one]] += share
                    if other != one and other < wires[p]:
                        total[channels[p, other]] += 1 - share
            for k in range(len(total)):
                density[k] = values[tick, k] / total[k] if total[k] > 0 else 0.0
            for q in range(n):
                s = squares[q]
                at = cell[s]
                if stamp[at] != block:
                    stamp[at] = block
                    touched[count] = at
                    count += 1
                    charge[at, :] = 0
                for p in range(PLANES):
                    one, other, share = first[p, s], second[p, s], np.float64(area[p, s])
                    if one < wires[p]:
                        charge[at, p] += share * density[channels[p, one]]
                    if other != one and other < wires[p]:
                        charge[at, p] += (1 - share) * density[channels[p, other]]
        if filled + count > len(place):
            room = max(2 * len(place), filled + count)
            old, old_found = place, found
            place, found = np.empty((room, 2), np.int32), np.empty((room, PLANES))
            place[:filled], found[:filled] = old[:filled], old_found[:filled]
        order = np.sort(touched[:count])
        for k in range(count):
            place[filled + k, 0], place[filled + k, 1] = block, order[k]
            found[filled + k] = charge[order[k]]
        filled += count
    return place[:filled].copy(), found[:filled].copy()
