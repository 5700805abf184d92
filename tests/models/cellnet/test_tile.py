"""Tiling, against squares counted one by one and by what it must conserve."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.cellnet.geometry import Detector, load
from models.cellnet.tile import tile
from tests.models.cellnet.small import overlaps, tiled, written


@functools.cache
def small() -> Detector:
    with tempfile.TemporaryDirectory() as folder:
        return load(written(Path(folder)))


def readout(seed: int, share: float) -> np.ndarray:
    """Charge on some of the channels at some of the ticks, some of it below the threshold or negative."""
    rng = np.random.default_rng(seed)
    values = np.where(rng.random((8, 24)) < share, rng.gamma(2, 300, (8, 24)), 0)
    faint = rng.random((8, 24)) < 0.1
    return np.where(faint, rng.uniform(-1e-3, 1e-3, (8, 24)), values).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32),
    st.floats(0.05, 1),
    st.sampled_from([0, 1]),
    st.sampled_from([(1, 1, 1), (8, 4, 4), (2, 5, 3)]),
)
def test_it_is_what_counting_square_by_square_gives(
    seed: int, share: float, tpc: int, downsample: tuple[int, int, int]
) -> None:
    values = readout(seed, share)
    voxels, charge = tile(values, small(), tpc, downsample)
    wanted = tiled(values, small(), tpc, downsample)
    assert list(map(tuple, voxels.tolist())) == sorted(wanted)
    for voxel, found in zip(voxels.tolist(), charge, strict=True):
        assert found == pytest.approx(wanted[tuple(voxel)], rel=1e-5, abs=0.02 * 1e-3)


def test_the_reference_sees_ghosts_wrapped_wires_and_the_edge() -> None:
    # what the comparison above would not show if its cases were too simple
    values = readout(1, 0.3)
    found = tiled(values, small(), 0, (1, 1, 1))
    assert 0 < len(found) < 8 * 96
    channels = small().face(0).planes[0].channels
    assert len(set(channels)) < len(channels)
    silent = tiled(np.zeros((8, 24)), small(), 0, (1, 1, 1))
    assert not silent


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.1, 1), st.sampled_from([(1, 1, 1), (8, 4, 4), (4, 4, 2)]))
def test_charge_is_kept_in_each_plane(seed: int, share: float, downsample: tuple[int, int, int]) -> None:
    values = np.where(np.random.default_rng(seed).random((8, 24)) < share, readout(seed, 1.0), 0).astype(np.float32)
    _, charge = tile(values, small(), 0, downsample)
    squares = tiled(values, small(), 0, (1, 1, 1))
    for p, plane in enumerate(small().face(0).planes):
        # a channel without an active square loses its own
        kept = np.array([[_reaches(squares, t, p, c) for c in range(24)] for t in range(8)])
        wanted = values[kept & np.isin(np.arange(24), plane.channels)].sum(dtype=float)
        assert charge[:, p].sum() == pytest.approx(wanted, rel=1e-6, abs=1e-6)


def _reaches(squares: dict[tuple[int, ...], np.ndarray], tick: int, plane: int, channel: int) -> bool:
    channels, overlap = small().face(0).planes[plane].channels, overlaps(small(), 0)[plane]
    return any(
        any(wire >= 0 and channels[wire] == channel for wire in overlap[y, z]) for t, y, z in squares if t == tick
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.1, 0.8))
def test_coarse_voxels_are_sums_of_fine_ones_whoever_computes(seed: int, share: float) -> None:
    values = readout(seed, share)
    fine, charge = tile(values, small(), 0)
    coarse, total = tile(values, small(), 0, (4, 3, 2), threads=3)
    again = tile(values, small(), 0, (4, 3, 2))
    assert np.array_equal(coarse, again[0]) and np.array_equal(total, again[1])
    parents, which = np.unique(fine // [4, 3, 2], axis=0, return_inverse=True)
    assert np.array_equal(coarse, parents)
    for p in range(3):
        assert total[:, p] == pytest.approx(np.bincount(which.ravel(), charge[:, p]), rel=1e-9, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_more_active_channels_never_take_a_voxel_away(seed: int) -> None:
    some = np.abs(readout(seed, 0.3))
    more = np.maximum(some, np.abs(readout(seed + 1, 0.3)))
    fewer, all_of = (set(map(tuple, tile(values, small(), 1)[0].tolist())) for values in (some, more))
    assert fewer <= all_of


def test_doubling_the_charge_doubles_it_everywhere() -> None:
    values = np.abs(readout(5, 0.5))
    values[values < 1] = 0
    (voxels, charge), (same, double) = tile(values, small(), 0), tile(2 * values, small(), 0)
    assert np.array_equal(voxels, same)
    assert double == pytest.approx(2 * charge)


def test_a_wire_crossing_is_found_where_it_is() -> None:
    """Charge at one point of ProtoDUNE-like planes activates the voxel that holds the point."""
    detector = load("mini")
    y, z, tick = 613.0, 307.0, 400
    values = np.zeros((detector.ticks, detector.channels), np.float32)
    for plane in detector.face(1).planes:
        cos, sin = np.cos(np.radians(plane.angle)), np.sin(np.radians(plane.angle))
        values[tick, plane.channels[round((z * cos + y * sin - plane.offset) / plane.pitch)]] = 900
    voxels, charge = tile(values, detector, 1, (8, 4, 4))
    assert [tick // 8, int(y // 8), int(z // 8)] in voxels.tolist()
    assert charge.sum(0) == pytest.approx([900, 900, 900], rel=1e-6)
    # the three wires cross nowhere else
    assert np.ptp(voxels, axis=0).max() <= 2


@pytest.mark.slow
@pytest.mark.parametrize("tpc", [1, 2])
def test_full_size_events_keep_their_charge(tpc: int) -> None:
    detector = load("protodune")
    rng = np.random.default_rng(0)
    planes = [np.array(sorted(set(plane.channels))) for plane in detector.face(tpc).planes]
    for p in range(3):
        values = np.zeros((detector.ticks, detector.channels), np.float32)
        for _ in range(20):
            begin, wire = rng.integers(0, 40), rng.integers(0, len(planes[p]))
            values[begin : begin + 40, planes[p][wire : wire + 8]] += rng.gamma(2, 500)
        # every wire of one plane crosses some of the others', which are all active
        for other in {0, 1, 2} - {p}:
            values[:80, planes[other]] = 1
        voxels, charge = tile(values, detector, tpc, (8, 4, 4), threads=2)
        assert charge[:, p].sum() == pytest.approx(values[:, planes[p]].sum(dtype=float), rel=1e-6)
        assert np.all(voxels.max(0) < [750, 748, 288])
