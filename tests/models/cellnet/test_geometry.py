"""Detectors from files: wires, channels, TPCs, squares."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ground.errors import BadInput
from models.cellnet.geometry import Detector, load
from models.cellnet.squares import _below, tables
from tests.models.cellnet.small import SMALL, clipped, shares, surface, written

# (TPC's face, plane in the order of angles) -> channel of a wire
PROTODUNE: dict[tuple[int, int], Callable[[int], int]] = {
    (2, 0): lambda w: 400 + w if w < 400 else w - 400,
    (2, 1): lambda w: 2080 + w,
    (2, 2): lambda w: 1547 - w if w < 748 else 1599 - (w - 748),
    (1, 0): lambda w: 800 + w if w < 800 else w,
    (1, 1): lambda w: 1600 + w,
    (1, 2): lambda w: 347 - w if w < 348 else 799 - (w - 348),
}


@pytest.fixture
def small(tmp_path: Path) -> Detector:
    return load(written(tmp_path))


def test_protodune_has_the_channels_and_boxes_of_the_experiment() -> None:
    detector = load("protodune")
    for tpc in range(12):
        face, box = tpc % 2 + 1, detector.tpc(tpc)
        low = (-3587 if tpc // 2 % 2 == 0 else 3587) - (3587 if face == 1 else 0)
        assert (box.face, box.corner) == (face, (low, 76, 3 + 2320 * (tpc // 4)))
        planes = detector.face(tpc).planes
        assert [plane.angle for plane in planes] == [-35.7, 0, 35.7]
        for p, plane in enumerate(planes):
            assert list(plane.channels) == [PROTODUNE[face, p](w) for w in range(480 if p == 1 else 1148)]
    assert detector.grid == (6000, 2992, 1150)


def test_each_channel_of_protodune_is_read_on_the_same_plane_of_both_faces() -> None:
    faces = dict(load("protodune").faces)
    u, v = set(range(800)), set(range(800, 1600))
    assert [set(faces[1].planes[p].channels) for p in (0, 2)] == [v, u]
    assert [set(faces[2].planes[p].channels) for p in (0, 2)] == [u, v]


def test_positions_count_from_the_anode_and_the_start_of_the_readout() -> None:
    detector = load("protodune")
    points = np.array([[-3587.0, 76, 3], [-100.0, 3000, 1000], [-1.0, 80, 2400], [10.0, 80, 10]])
    local, inside = detector.local(1, points)
    assert local[0] == pytest.approx([1.565 * 250, 0, 0])
    assert local[1] == pytest.approx([3487 + 391.25, 2924, 997])
    assert list(inside) == [True, True, False, False]
    # face 1 looks the other way
    local, inside = detector.local(2, np.array([[3587.0, 76, 3], [87.0, 80, 10]]))
    assert local[:, 0] == pytest.approx([391.25, 3500 + 391.25])
    late, inside = detector.local(1, points[:2], time=np.array([2000.0, 1000.0]))
    assert late[0, 0] == pytest.approx(1.565 * 2250) and list(inside) == [True, False]
    assert not detector.local(1, points[:1], time=-260.0)[1].any()


@given(st.floats(0.05, 3), st.floats(0.05, 3), st.floats(-1, 7))
def test_the_share_below_a_line_is_that_of_the_clipped_rectangle(a: float, b: float, edge: float) -> None:
    # a rectangle whose sides are along a line of 45°: heights run from 0 to a + b
    rectangle = [(0.0, 0.0), (a, 0.0), (a, b), (0.0, b)]
    wanted = surface(clipped(rectangle, 1.0, 1.0, edge, below=True)) / (a * b)
    assert _below(np.array(edge), a, b) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("tpc", [0, 1])
def test_squares_overlap_the_wires_that_geometry_says(small: Detector, tpc: int) -> None:
    found, differ = tables(small, tpc), 0
    for p, plane in enumerate(small.face(tpc).planes):
        for y in range(small.squares[0]):
            for z in range(small.squares[1]):
                s = y * small.squares[1] + z
                mine = {}
                for wire, share in ((found.first[p, s], found.area[p, s]), (found.second[p, s], 1 - found.area[p, s])):
                    known = int(wire) if wire < found.wires[p] else -1
                    if share > 1e-6:
                        mine[known] = mine.get(known, 0) + float(share)
                wanted = shares(small, plane, y, z)
                assert mine.keys() == wanted.keys()
                assert mine == pytest.approx(wanted, abs=1.1e-3)
                differ += len(wanted) > 1
    assert differ > 60  # there were squares between two wires


def test_another_order_of_the_planes_in_the_file_is_the_same_detector(tmp_path: Path) -> None:
    turned = copy.deepcopy(SMALL)
    turned["faces"][1]["planes"].reverse()
    (tmp_path / "a").mkdir()
    assert load(written(tmp_path)) == load(written(tmp_path / "a", turned))


def _with(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    content = copy.deepcopy(SMALL)
    at = content
    for key in path[:-1]:
        at = at[key]
    if value is None:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return content


WRONG: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "no ticks": (("ticks",), None, "ticks is 'missing'"),
    "half a tick": (("ticks",), 8.5, "ticks is 8.5"),
    "two voxel sides": (("voxel",), [1, 2], "voxel is [1, 2]"),
    "a flat box": (("box",), [4, 0, 16], "box is [4, 0, 16]"),
    "half a square": (("squares",), [12, 8.5], "squares is [12, 8.5]"),
    "no drift": (("drift",), 0, "drift is 0"),
    "a TPC of no face": (("tpcs", 0, "face"), 7, "tpcs.0.face is 7"),
    "no TPC": (("tpcs",), {}, "tpcs is {}"),
    "two planes": (("faces", 1, "planes"), SMALL["faces"][1]["planes"][:2], "faces.1.planes is"),
    "an anode in the middle": (("faces", 1, "anode"), "middle", "faces.1.anode is 'middle'"),
    "a channel too many": (("faces", 1, "planes", 1, "channels"), [[5, 20, 1]], "faces.1.planes.1.channels"),
    "a channel of two planes": (("faces", 1, "planes", 1, "channels"), [[4, 8, 1]], "two planes read the same"),
    "squares over three wires": (("faces", 1, "planes", 0, "pitch"), 2.0, "overlap three wires"),
    "a word for an angle": (("faces", 1, "planes", 0, "angle"), "steep", "faces.1.planes.0.angle is 'steep'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_detector_is_refused_by_its_key(case: str, tmp_path: Path) -> None:
    path, value, said = WRONG[case]
    with pytest.raises(BadInput, match=r"small\.yaml") as error:
        load(written(tmp_path, _with(path, value)))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_detector_that_is_no_file_or_no_yaml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="bundled are mini, protodune"):
        load("protodun")
    (tmp_path / "a.yaml").write_text("a: [")
    with pytest.raises(BadInput, match="not valid YAML"):
        load(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("7")
    with pytest.raises(BadInput, match="expected a mapping"):
        load(tmp_path / "a.yaml")
    with pytest.raises(BadInput, match=r"has no TPC 12; it has 0, 1"):
        load("protodune").tpc(12)


@settings(max_examples=20)
@given(st.integers(0, 11), st.floats(0, 3587), st.floats(0, 5984), st.floats(0, 2300))
def test_a_point_in_a_box_is_inside_and_no_deeper_than_the_box(tpc: int, x: float, y: float, z: float) -> None:
    detector = load("protodune")
    point = np.add(detector.tpc(tpc).corner, (x, y, z))
    local, inside = detector.local(tpc, point[None])
    assert inside.all()
    assert 391.2 <= local[0, 0] <= 391.3 + 3587
    # y and z are exact where the box is, to rounding
    assert local[0, 1:] == pytest.approx([y, z], abs=1e-6)
