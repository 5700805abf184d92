"""From deposits over parsed files to xy files, by the verbs and by what physics says."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ground.errors import BadInput
from models.cellnet import edepsim, generate, parsed, process, xy
from models.cellnet.__main__ import main
from models.cellnet.deposits import Deposits, electrons
from models.cellnet.geometry import load
from models.cellnet.particles import RECIPES, Event
from models.cellnet.simulate import readout
from tests.conftest import ROOT, run
from tests.models.cellnet.small import tiled, written

FEW = {"files": 2, "events": 1, "types": "Mu"}


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    return written(tmp_path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two parsed files of TPC 1 with two events each, and their truth."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "parsed"
    for index in range(2):
        wires = [np.where(rng.random((8, 24)) < 0.6, 100.0, 0) for _ in range(2)]
        parsed.write(folder / f"reco_Pion_{index}_wire-TPC1.npz", wires)
        for product, columns in parsed.TRUTH.items():
            voxels = [rng.integers(0, 8, (9, columns)).astype(float) for _ in range(2)]
            parsed.write(folder / f"reco_Pion_{index}_{product}-TPC1.npz", voxels)
    return folder


def tile(source: Path, target: Path, detector: Path, *more: str) -> int:
    return main(["tile", str(source), str(target), "--tpc", "1", "--detector", str(detector), "--downsample", "4,2,2",
                 "--threads", "1", *more])  # fmt: skip


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_tile_writes_what_the_readout_and_the_truth_say(source: Path, detector: Path, tmp_path: Path) -> None:
    assert tile(source, tmp_path / "xy", detector, "--y", "depo,energy") == 0
    for index in range(2):
        found = xy.read(tmp_path / "xy" / f"reco_Pion_{index}_xy-TPC1.npz")
        assert len(found.starts) == 2
        for event in range(2):
            with np.load(source / f"reco_Pion_{index}_wire-TPC1.npz") as wires:
                wanted = tiled(wires[f"arr_{event}"], load(detector), 1, (4, 2, 2))
            rows = found.x[found.events == event]
            assert [tuple(v) for v in rows[:, :3].astype(int)] == sorted(wanted)
            assert rows[:, 4:] == pytest.approx(np.array([wanted[v] for v in sorted(wanted)]), rel=1e-5, abs=1e-4)
            with np.load(source / f"reco_Pion_{index}_depo-TPC1.npz") as depo:
                truth = depo[f"arr_{event}"]
            sums: dict[tuple[int, ...], float] = {}
            for x, y, z, value, *_ in truth:
                voxel = int(x // 4), int(y // 2), int(z // 2)
                sums[voxel] = sums.get(voxel, 0) + value
            assert found.truth[event].shape == (len(sums), 6)
            assert {tuple(v): s for *v, s in found.truth[event][:, :4].tolist()} == pytest.approx(sums)
            assert found.y is not None
            y = found.y[found.events == event, 0]
            assert y == pytest.approx([sums.get(tuple(v), 0) for v in rows[:, :3].astype(int)])
            assert (y > 0).any() and (y == 0).any()


def test_what_is_there_stays_and_what_is_lost_comes_back(source: Path, detector: Path, tmp_path: Path) -> None:
    target = tmp_path / "xy"
    assert tile(source, target, detector) == 0
    first, second = sorted(target.glob("*.npz"))
    whole, before = second.read_bytes(), first.stat().st_mtime_ns
    second.unlink()
    assert tile(source, target, detector, "--threads", "3") == 0
    assert first.stat().st_mtime_ns == before and second.read_bytes() == whole


def test_files_are_split_into_batches(source: Path, detector: Path, tmp_path: Path) -> None:
    assert tile(source, tmp_path / "whole", detector) == 0
    assert tile(source, tmp_path / "xy", detector, "--batch-size", "1") == 0
    names = sorted(path.name for path in (tmp_path / "xy").glob("*.npz"))
    assert names == [f"batch{batch}-reco_Pion_{index}_xy-TPC1.npz" for batch in range(2) for index in range(2)]
    whole = xy.read(tmp_path / "whole" / "reco_Pion_1_xy-TPC1.npz")
    second = xy.read(tmp_path / "xy" / "batch1-reco_Pion_1_xy-TPC1.npz")
    assert np.array_equal(second.x[:, [0, 1, 2, 4, 5, 6]], whole.x[whole.events == 1][:, [0, 1, 2, 4, 5, 6]])
    assert np.all(second.x[:, 3] == 0)


def test_an_event_without_active_voxels_stays_an_event(source: Path, detector: Path, tmp_path: Path) -> None:
    wires = [np.zeros((8, 24)), np.full((8, 24), 5.0), np.zeros((8, 24))]
    shutil.rmtree(source)
    parsed.write(source / "Mu_1_wire-TPC1.npz", wires)
    parsed.write(source / "Mu_1_depo-TPC1.npz", [np.zeros((0, 6))] * 3)
    assert tile(source, tmp_path / "xy", detector) == 0
    counts = xy.read(tmp_path / "xy" / "Mu_1_xy-TPC1.npz").counts
    assert list(counts > 0) == [False, True, False]


def test_a_file_without_any_active_voxel_is_said_and_not_written(
    source: Path, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parsed.write(source / "reco_Pion_0_wire-TPC1.npz", [np.zeros((8, 24))] * 2)
    assert tile(source, tmp_path / "xy", detector) == 0
    output = capsys.readouterr()
    assert "reco_Pion_0_xy-TPC1.npz: no active voxel" in output.err and output.out.startswith("1 xy files")
    assert not (tmp_path / "xy" / "reco_Pion_0_xy-TPC1.npz").exists()


def test_pixels_are_the_voxels_before_downsampling(source: Path, detector: Path, tmp_path: Path) -> None:
    assert tile(source, tmp_path / "xy", detector, "--y", "none", "--save-pix") == 0
    found = xy.read(tmp_path / "xy" / "reco_Pion_0_xy-TPC1.npz")
    assert found.y is None
    with np.load(source / "reco_Pion_0_pixel-TPC1.npz") as file:
        pixels, starts = file["pix"], file["starts"]
    assert pixels.dtype == np.float32 and starts[0] == 0 and np.all(pixels[starts[1] :, 3] == 1)
    parents = np.unique(pixels[: starts[1], :3] // [4, 2, 2], axis=0)
    assert np.array_equal(parents, found.x[: found.starts[1], :3])
    assert pixels[:, 4:].sum(0) == pytest.approx(found.x[:, 4:].sum(0), rel=1e-5)


def test_another_run_with_other_settings_is_refused(
    source: Path, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tile(source, tmp_path / "xy", detector) == 0
    assert tile(source, tmp_path / "xy", detector, "--downsample", "2,2,2") == 2
    assert "its files were made with downsample [4, 2, 2], not [2, 2, 2]; name another folder" in said(capsys)
    detector.write_text(detector.read_text().replace("pitch: 4.669", "pitch: 4.67"))
    assert tile(source, tmp_path / "xy", detector) == 2
    assert "detector small" in said(capsys)


def test_a_command_that_was_wrong_claims_nothing(source: Path, detector: Path, tmp_path: Path) -> None:
    assert tile(source, tmp_path / "xy", detector, "--batch-size", "3") == 2
    assert tile(source, tmp_path / "xy", detector, "--batch-size", "2") == 0
    assert len(list((tmp_path / "xy").glob("batch0-*.npz"))) == 2


def test_files_that_nobody_accounts_for_stay(
    source: Path, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "xy" / "reco_Pion_0_xy-TPC1.npz"
    there.parent.mkdir()
    there.write_bytes(b"somebody's")
    assert tile(source, there.parent, detector) == 0
    assert there.read_bytes() == b"somebody's" and xy.read(there.parent / "reco_Pion_1_xy-TPC1.npz").y is not None
    assert "has 1 files and no tile.json; those of the wanted names stay" in capsys.readouterr().err


BAD_ARGUMENTS = {
    "ticks that do not divide": (["--downsample", "3,2,2"], "the 8 ticks of small divide by the first"),
    "no downsampling": (["--downsample", "4,0,2"], "all are at least 1"),
    "two numbers": (["--downsample", "4,2"], "x,y,z such as 8,4,4"),
    "events that do not divide": (["--batch-size", "3"], "holds 2 events, which do not divide into files of 3"),
    "a batch of none": (["--batch-size", "0"], "at least 1 event"),
    "an unknown readout": (["--x", "wires"], "it takes wire or hit"),
    "no such readout": (["--x", "hit"], "holds no hit file of TPC 1"),
    "an unknown truth": (["--y", "energi"], "energy, depo, depoElectron or none"),
    "a TPC out of range": (["--tpc", "12"], "small has no TPC 12; it has 0, 1"),
    "a TPC without files": (["--tpc", "0"], "holds no wire file of TPC 0"),
    "no threads": (["--threads", "0"], "--threads is 0"),
    "the wrong detector": (["--detector", "mini"], r"shape (8, 24); mini TPC reads out (832, 664)"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments_are_refused_in_one_line(
    case: str, source: Path, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, wanted = BAD_ARGUMENTS[case]
    assert tile(source, tmp_path / "xy", detector, *arguments) == 2
    assert wanted in said(capsys)
    assert not list((tmp_path / "xy").glob("*.npz"))


def test_bad_files_are_refused_in_one_line(
    source: Path, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wire, depo = source / "reco_Pion_0_wire-TPC1.npz", source / "reco_Pion_0_depo-TPC1.npz"
    good = np.ones((8, 24))
    target = iter(range(100))

    def refused(*more: str) -> str:
        assert tile(source, tmp_path / f"xy{next(target)}", detector, "--y", "depo", *more) == 2
        line = said(capsys)
        assert line.startswith("models.cellnet: ") and str(source) in line
        return line

    np.savez(wire, X=good)
    assert "holds X; a parsed file holds arr_0" in refused()
    np.savez(wire, good, np.full((8, 24), np.nan))
    assert "arr_1 holds values that are not finite" in refused()
    np.savez(wire, np.array([{}]), good)
    assert "arr_0 has shape (1,)" in refused()
    np.savez(wire, np.full((8, 24), {}), good)
    assert "arr_0 holds objects" in refused()
    np.savez(wire, good)
    assert "depo-TPC1.npz: holds 2 events, the readout beside it 1" in refused()
    np.savez(wire, good, good)
    np.savez(depo, np.ones((3, 4)), np.ones((3, 4)))
    assert "depo takes (n, 6)" in refused()
    np.savez(depo, -np.ones((3, 6)), np.ones((3, 6)))
    assert "coordinates that are not whole numbers from 0" in refused()
    depo.unlink()
    assert "there is no depo file beside it (--y none: without truth)" in refused()
    wire.write_bytes(wire.read_bytes()[:-30])
    assert "not a whole npz file" in refused()
    wire.rename(source / "reco_Kaon_0_wire-TPC1.npz")
    assert "event type" in refused()
    shutil.rmtree(source)
    assert "no such folder" in refused()


def test_joined_tpcs_stand_where_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {}
    for tpc in (1, 5, 9, 2):
        x = np.zeros((3, 7), np.float32)
        x[:, :3] = np.random.default_rng(tpc).integers(0, 280, (3, 3))
        x[2, 3], x[:, 4] = 1, tpc
        rows[tpc] = x
        xy.write(
            tmp_path / f"batch0-Mu_3_xy-TPC{tpc}.npz", x, np.array([0, 2]), np.full((3, 1), tpc), [x[:2, :4], x[2:, :4]]
        )
    xy.write(tmp_path / "batch1-Mu_3_xy-TPC1.npz", rows[1], np.array([0, 2]), np.ones((3, 1)), [np.ones((1, 4))] * 2)
    assert main(["join", str(tmp_path), "--tpcs", "1,5,9"]) == 0
    assert "batch1-Mu_3_xy-TPC1.npz: other TPCs have no such file" in capsys.readouterr().err
    found = xy.read(tmp_path / "batch0-Mu_3_xy-TPC159.npz")
    assert list(found.starts) == [0, 6] and found.y is not None and np.array_equal(found.y[:, 0], found.x[:, 4])
    for tpc, shift in ((1, 0), (5, 290), (9, 580)):
        mine = found.x[found.x[:, 4] == tpc]
        assert np.array_equal(mine, rows[tpc] + [0, 0, shift, 0, 0, 0, 0])
    assert [len(t) for t in found.truth] == [6, 3]
    assert np.array_equal(found.truth[1][1, :3], rows[5][2, :3] + [0, 0, 290])
    # TPC 2 is read from the other side of the cathode
    assert main(["join", str(tmp_path), "--tpcs", "1,2"]) == 0
    mine = xy.read(tmp_path / "batch0-Mu_3_xy-TPC12.npz").x
    mine = mine[mine[:, 4] == 2]
    assert np.array_equal(mine[:, 0], round(7174 / 6.26) - rows[2][:, 0]) and np.array_equal(
        mine[:, 1:], rows[2][:, 1:]
    )


@settings(max_examples=30, deadline=None)
@given(
    st.floats(-3500, 3500),
    st.floats(100, 6000),
    st.floats(5, 2290),
    st.sampled_from([0, 4, 8]),
    st.sampled_from([1, 2]),
)
def test_joined_voxels_are_those_of_the_first_ones_coordinates(
    x: float, y: float, z: float, above: int, first: int
) -> None:
    from models.cellnet.join import _move

    detector = load("protodune")
    point = np.array([[x, y, z + 2320 * above // 4]])
    tpc = above + (1 if x < 0 else 2)
    step = np.multiply(detector.voxel, (8, 4, 4))
    local = detector.local(tpc, point)[0] - [391.25, 0, 0]
    sign, shift = _move(detector, first, tpc, (8, 4, 4))
    wanted = detector.local(first, point)[0] - [391.25, 0, 0]
    assert sign * local / step + shift == pytest.approx(wanted / step, abs=0.5 + 1e-6)


def test_joins_that_cannot_be_are_refused(
    source: Path, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "xy"
    assert tile(source, folder, detector) == 0
    for arguments, wanted in (
        (["--tpcs", "1"], "two or more different"),
        (["--tpcs", "1,b"], "takes numbers"),
        (["--tpcs", "1,5"], "its files are of small"),
        (["--tpcs", "1,0", "--detector", str(detector)], "no event type, index and batch"),
        (["--tpcs", "1,7", "--detector", str(detector)], "has no TPC 7"),
    ):
        assert main(["join", str(folder), *arguments]) == 2
        assert wanted in said(capsys)


@given(st.integers(0, 2**32), st.integers(0, 60))
def test_voxels_hold_sums_and_the_most_frequent_identities(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    position, value = rng.uniform(0, 3, (count, 3)), rng.random(count)
    identities = rng.integers(-2, 3, (count, 2))
    found = parsed.voxelise(position, (1, 1.5, 1), value, identities)
    wanted: dict[tuple[float, ...], list[int]] = {}
    for i, place in enumerate(np.floor(position / (1, 1.5, 1)).tolist()):
        wanted.setdefault(tuple(place), []).append(i)
    assert [tuple(row) for row in found[:, :3]] == sorted(wanted)
    for row in found:
        inside = wanted[tuple(row[:3])]
        assert row[3] == pytest.approx(value[inside].sum())
        for k in range(2):
            counts = {i: (identities[inside, k] == i).sum() for i in identities[inside, k]}
            assert row[4 + k] == min(i for i in counts if counts[i] == max(counts.values()))


def _point(position: list[float], energy: float = 1.0) -> Deposits:
    one = np.ones(1, np.int64)
    return Deposits(np.array([position]), np.array([energy]), np.array([2.1]), one, one)


def test_electrons_follow_birks() -> None:
    # 2.1 MeV/cm at .5 kV/cm: .8 / (1 + .0486 · 2.1 / (1.396 · .5)) = .698 of 42373 electrons
    assert electrons(np.array([1.0]), np.array([2.1]))[0] == pytest.approx(0.69797 * 42372.9, rel=1e-4)
    steep = electrons(np.ones(2), np.array([100.0, 1e6]))
    assert steep[0] == steep[1] == pytest.approx(0.8 / (1 + 0.0486 * 100 / 0.698) / 23.6e-6, rel=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.floats(30, 600), st.floats(20, 1230), st.floats(20, 610))
def test_the_wires_read_the_charge_where_and_when_it_arrives(x: float, y: float, z: float) -> None:
    mini = load("mini")
    local = mini.local(1, np.array([[x, y, z]]))[0][0]
    values = readout(_point(local.tolist(), 3.0), mini, 1, np.random.default_rng(0), roi=0.0)
    charge = 3 * 0.69797 * 42372.9 * np.exp(-(x / 1.565) / 10_400)
    for plane in mini.face(1).planes:
        read = values[:, plane.channels].astype(float)
        # four widths hold all but 1e-4 of a Gaussian
        assert read.sum() == pytest.approx(charge, rel=1e-3)
        tick = (read.sum(1) @ (np.arange(mini.ticks) + 0.5)) / read.sum()
        wire = (read.sum(0) @ np.arange(len(plane.channels))) / read.sum()
        cos, sin = plane.normal
        assert tick == pytest.approx(2 * (10 + x / 1.565), abs=0.05)
        assert wire == pytest.approx((z * cos + y * sin - plane.offset) / plane.pitch, abs=0.5)
        width = np.sqrt((read.sum(1) @ (np.arange(mini.ticks) + 0.5 - tick) ** 2) / read.sum())
        drift = x / 1.565
        assert width == pytest.approx(np.sqrt(2.65**2 + 2 * 4e-4 * drift / 0.7825**2 + 1 / 12), rel=0.02)


def test_what_is_too_faint_or_dead_reads_nothing() -> None:
    mini = load("mini")
    point = _point([300.0, 500, 300], 5.0)
    values = readout(point, mini, 1, np.random.default_rng(0), roi=700.0)
    assert values.max() > 700 and values[values > 0].min() >= 700
    noisy = readout(point, mini, 1, np.random.default_rng(0), roi=50.0, noise=100.0)
    # a Gaussian is above half its width in 31 of 100 cases
    assert np.mean(noisy > 0) == pytest.approx(0.3085, abs=0.01)
    dead = readout(point, mini, 1, np.random.default_rng(0), roi=50.0, noise=100.0, dead=0.2)
    assert np.mean(~dead.any(axis=0)) == pytest.approx(0.2, abs=0.05)


@pytest.mark.parametrize("energy", [30.0, 400.0])
def test_a_shower_leaves_all_its_energy_in_a_large_volume(energy: float) -> None:
    for seed in range(5):
        event = Event(np.random.default_rng(seed), [2e4] * 3)
        event.electron(np.full(3, 1e4), np.array([0.0, 0, 1]), energy)
        left = event.deposits()
        assert left.energy.sum() == pytest.approx(energy, rel=0.02)
        assert {11} <= set(left.pdg) <= {11, -11}
        assert energy < 100 or len(np.unique(left.track)) > 20
    # and most of it within some radiation lengths in front
    depth = np.average(left.position[:, 2] - 1e4, weights=left.energy)
    assert 0 < depth < 5 * 140


def test_heavy_particles_stop_where_their_range_says_and_brake_hardest_there() -> None:
    event = Event(np.random.default_rng(0), [4000.0] * 3)
    event.heavy(np.full(3, 1000.0), np.array([1.0, 0, 0]), 2212, 200.0)
    left = event.deposits()
    track = left.take(np.flatnonzero(left.track == 1))
    # the range of 200 MeV protons in liquid argon is 25 cm, to some per cent
    assert np.ptp(track.position[:, 0]) == pytest.approx(252, rel=0.05)
    assert track.energy.sum() == pytest.approx(200, rel=0.1)
    assert track.energy[-20:].mean() > 2 * track.energy[:20].mean()


@pytest.mark.parametrize("kind", RECIPES)
def test_every_kind_of_event_leaves_something_within_the_box(kind: str) -> None:
    box = np.array(load("mini").box)
    for seed in range(5):
        event = Event(np.random.default_rng(seed), box)
        RECIPES[kind](event)
        left = event.deposits()
        assert left.energy.sum() > 20 and left.energy.min() > 0
        assert np.all((left.position >= 0) & (left.position < box))


def segments(path: Path, events: int) -> Path:
    """A file like edep-sim's: a track of 9 cm and a point without length in each event."""
    names = ("x_start", "y_start", "z_start", "x_end", "y_end", "z_end", "dE")
    table = np.zeros(2 * events, [("eventID", "u4"), ("trackID", "u4"), ("pdgId", "i4"), *((n, "f4") for n in names)])
    table["eventID"] = np.repeat(np.arange(events), 2)
    table["trackID"], table["pdgId"] = np.tile([1, 2], events), np.tile([13, 11], events)
    table["x_end"] = np.tile([9, 0], events)
    table["y_start"] = table["y_end"] = np.tile([-4, 4], events)
    table["dE"] = np.tile([18, 1], events)
    with h5py.File(path, "w") as file:
        file["segments"] = table
    return path


def test_steps_are_cut_and_their_steepness_recomputed(tmp_path: Path) -> None:
    first, second = edepsim.read(segments(tmp_path / "a.h5", 2))
    assert len(first) == len(second) == 91
    track = first.take(np.flatnonzero(first.pdg == 13))
    assert track.energy == pytest.approx(np.full(90, 0.2)) and track.steepness == pytest.approx(np.full(90, 2.0))
    assert sorted(track.position[:, 0]) == pytest.approx(np.arange(90) + 0.5, abs=1e-3)
    assert first.steepness.max() == 100 and first.position.min() == 0
    assert first.position[first.pdg == 11, 1] == pytest.approx(80)


def test_files_without_segments_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["other"] = 1
    with pytest.raises(BadInput, match="no dataset segments"):
        edepsim.read(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["segments"] = np.zeros(2, [("eventID", "u4")])
    with pytest.raises(BadInput, match="segments has no trackID"):
        edepsim.read(tmp_path / "a.h5")
    with pytest.raises(BadInput, match="no such file"):
        generate.demo({"deposits": str(tmp_path / "b.h5")})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.npz"))}


def test_generated_events_are_what_their_seed_says_and_a_killed_run_goes_on(home: Path) -> None:
    folder = generate.demo(FEW)
    assert sorted(path.name for path in folder.glob("*.npz")) == [f"reco_Mu_00{i}_xy-TPC1.npz" for i in range(2)]
    found = xy.read(folder / "reco_Mu_001_xy-TPC1.npz")
    assert found.y is not None and found.y.any() and len(found.truth) == 1 and found.truth[0].shape[1] == 6
    before = contents(folder.parent)
    assert len(before) == 2 * 5
    # what a kill in the middle would leave
    (folder.parent / "summary.json").unlink()
    (folder / "reco_Mu_001_xy-TPC1.npz").unlink()
    (folder.parent / "parsed" / "reco_Mu_001_wire-TPC1.npz").unlink()
    (folder.parent / "parsed" / ".tmp-half.npz").write_bytes(b"PK")
    assert generate.demo(FEW) == folder and contents(folder.parent) == before
    # whole as it is, nothing is done
    changed = folder / "reco_Mu_000_xy-TPC1.npz"
    changed.unlink()
    assert generate.demo(FEW) == folder and not changed.exists()
    assert generate.place({**FEW, "seed": 1}) != folder.parent == generate.place(FEW)


def test_the_truth_is_in_the_unit_that_is_asked_for(home: Path) -> None:
    sums = {}
    for truth in generate.TRUE:
        folder = generate.demo({**FEW, "files": 1, "truth": truth})
        sums[truth] = sum(t[:, 3].sum() for t in xy.read(next(folder.glob("*.npz"))).truth)
    assert sums["energy"] == pytest.approx(3 * sums["depo"], rel=1e-4)
    assert 0.6 < sums["depoElectron"] * 23.6e-6 / sums["depo"] < 0.75


def test_events_of_a_sample_are_not_shared_between_files(home: Path, tmp_path: Path) -> None:
    sample = segments(tmp_path / "sample.h5", 4)
    with h5py.File(sample, "r+") as file:
        table = file["segments"][:]
        table["dE"] = np.repeat([10, 20, 30, 40], 2)
        file["segments"][...] = table
    folder = generate.demo({"deposits": str(sample), "types": "Electron", "files": 2, "events": 6, "dead": 0})
    drawn = []
    for index in range(2):
        with np.load(folder.parent / "parsed" / f"reco_Electron_{index:03d}_depo-TPC1.npz") as file:
            drawn.append({round(float(file[name][:, 3].sum())) for name in file.files})
    assert drawn[0] <= {20, 60} and drawn[1] <= {40, 80} and len(drawn[0] | drawn[1]) > 2
    with pytest.raises(BadInput, match="holds 4 events for 5 files"):
        generate.demo({"deposits": str(sample), "types": "Electron", "files": 5})


def test_generated_events_are_like_the_simulated_detectors(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ghosts, tiling efficiency, and how well one feature by itself tells true voxels from ghosts."""
    from sklearn.metrics import average_precision_score

    folder = generate.demo({"files": 1, "events": 4, "types": "BeamCosmic"})
    files = sorted(folder.glob("*.npz"))
    row = generate.summary(files, 0.17)["BeamCosmic"]
    assert row["events"] == 4 and 2000 < row["active"] < 30_000
    assert 5 < row["ghosts"] < 25 and row["efficiency"] > 0.95
    assert f"{row['ghosts']:.1f} ghosts per true one" in capsys.readouterr().err
    found = xy.read(files[0])
    assert found.y is not None
    area = average_precision_score(found.y[:, 0] > 0.17, found.x[:, 4:].min(axis=1))
    assert 0.55 < area < 0.85


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"event": 3}, "unknown lartpc option event"),
        ({"events": 0}, "events is 0; it must be at least 1"),
        ({"files": 1.5}, "whole number"),
        ({"types": "Muon"}, "some of Mu, Electron"),
        ({"types": "Pion"}, "without deposits it takes"),
        ({"truth": "hit"}, "one of depo, energy, depoElectron"),
        ({"dead": 1.0}, "dead is 1.0; it must be"),
        ({"detector": "dune"}, "no such detector file"),
        ({"tpc": 2}, "mini TPC has no TPC 2"),
        ({"downsample": "7,4,4"}, "the 832 ticks"),
        ({"roi": "high"}, "roi is 'high'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], wanted: str, home: Path) -> None:
    with pytest.raises(BadInput, match=wanted):
        generate.demo(options)
    assert not home.exists()


def test_options_may_be_lists_as_yaml_reads_them(home: Path) -> None:
    text = generate.checked({"types": "Mu,Electron", "downsample": "8,4,4"})
    assert generate.checked({"types": ["Mu", "Electron"], "downsample": [8, 4, 4]}) == text


def test_the_verbs_as_a_user_runs_them(home: Path, tmp_path: Path) -> None:
    done = run("-m", "models.cellnet", "generate", *(f"--set={k}={v}" for k, v in FEW.items()), "--threads", "1")
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert folder.is_relative_to(home) and "2 of 2 files" in done.stderr and "expected: " in done.stderr
    source = folder.parent / "parsed"
    again = run(
        "-m", "models.cellnet", "tile", source, tmp_path / "xy", "--tpc", 1, "--detector", "mini", "--y", "depo"
    )
    assert again.returncode == 0 and again.stdout.startswith("2 xy files"), again.stderr
    assert contents(tmp_path / "xy") == contents(folder)
    described = run("-m", "models.cellnet", "describe", tmp_path / "xy" / "reco_Mu_000_xy-TPC1.npz")
    assert "ghosts per true active voxel" in described.stdout
    wrong = run("-m", "models.cellnet", "describe", ROOT / "README.md")
    assert wrong.returncode == 2 and "not a whole npz file" in wrong.stderr and "Traceback" not in wrong.stderr


def test_the_family_can_be_looked_at_without_compiling_anything() -> None:
    done = run("-c", "import sys, models.cellnet.generate, models.cellnet.xy; print('numba' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr


def test_edep_sim_deposits_of_the_sample_become_events(shared: Path, home: Path) -> None:
    folder = generate.demo({"deposits": str(shared / "data/lartpc/edepsim_segments.h5"), "types": "BeamCosmic",
                            "files": 1, "events": 4})  # fmt: skip
    row = generate.summary(sorted(folder.glob("*.npz")), 0.17)["all"]
    assert 4 < row["ghosts"] < 25 and row["efficiency"] > 0.95


def test_the_manifest_says_how_the_files_were_made(source: Path, detector: Path, tmp_path: Path) -> None:
    made = process.Settings(load(detector), (4, 2, 2), y=("energy",))
    files = process.process(source, tmp_path / "xy", 1, made, say=lambda _: None)
    assert [path.name for path in files] == ["reco_Pion_0_xy-TPC1.npz", "reco_Pion_1_xy-TPC1.npz"]
    manifest = (tmp_path / "xy" / process.MANIFEST).read_text()
    assert '"detector": "small (' in manifest and '"energy"' in manifest
