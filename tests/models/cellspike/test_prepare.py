"""Raw cells become packs and files of many cells: what arrives is what was simulated, also after a kill -9."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

from ground.errors import BadInput
from models.cellspike.__main__ import main
from models.cellspike.aggregate import PackFile, aggregate, each, packs_of, write_training_meta
from models.cellspike.calibrate import Conf, calibrate, choose, conductances, short
from models.cellspike.cells import META, Cell, find, write_meta, write_shard, write_stim
from models.cellspike.pack import pack
from models.cellspike.yamls import read_yaml
from tests.conftest import ROOT

BINS, PROBES = 40, [("soma_0", 0.0), ("axon_0", 40.0), ("axon_1", 160.0), ("apic_0", 130.0), ("apic_1", 400.0),
                    ("dend_0", 20.0), ("dend_1", 55.0)]  # fmt: skip
NAMES = [
    "gNaTs2_tbar_NaTs2_t_apical",
    "g_pas_fixed_axonal",
    "gNaTa_tbar_NaTa_t_axonal",
    "gIhbar_Ih_dend",
    "gIhbar_Ih_somatic",
]
VARIED = [0, 2, 3, 4]
STEM = "{}_excite.cellSpike_4prB8kHz"


def ranges(clone: int, width: float = 1.0) -> list[tuple[str, float, float]]:
    bases = {0: 0.02, 2: 1.0, 3: 1e-4, 4: 3e-5}
    rows = []
    for k, name in enumerate(NAMES):
        base = bases.get(k, 0) * 10 ** (0.2 * clone * (k + 1))
        rows.append((name, base / 10**width, base * 10**width) if k in VARIED else (name, -1.0, -1.0))
    return rows


def write_cell(
    raw: Path, clone: int = 1, rows: tuple[int, ...] = (12, 9), names: list[tuple[str, float, float]] | None = None
) -> Path:
    """A cell of random traces: where they come from does not matter here."""
    folder, told = raw / f"bbp054{clone}", names or ranges(clone)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(clone)
    write_stim(folder, "noise", 0.025, rng.normal(size=BINS))
    write_meta(
        folder, kind="bbp054", clone=clone, ranges=told, probes=PROBES, stim="noise", step=0.025, bins=BINS, rows=rows,
        about={"job": "by hand"},
    )  # fmt: skip
    for k, count in enumerate(rows):
        unit = rng.uniform(-1, 1, (count, len(told)))
        base = np.array([np.sqrt(lo * hi) for _, lo, hi in told])
        frames = rng.integers(-9000, 4000, (count, BINS, len(PROBES)), np.int16)
        write_shard(folder / f"bbp054{clone}.cellSpike.data_{k}.h5", frames, unit, base * 10**unit, 0.01)
    return folder


def conf_of(raw: Path, out: Path) -> Conf:
    calibrate(find([raw]), out / "set.conf.yaml", out / "packs")
    return Conf.of(out / "set.conf.yaml")


def arrays(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: dataset[()] for name, dataset in file.items()}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for clone in (1, 2, 3):
        write_cell(tmp_path / "raw", clone)
    return tmp_path / "raw"


def change(path: Path, edit: Callable[[Any], None]) -> None:
    with h5py.File(path, "r+") as file:
        edit(file)


def rewrite(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    content = yaml.safe_load(path.read_text())
    edit(content)
    path.write_text(yaml.safe_dump(content))


# ---- calibration


def test_calibration_is_the_facts(raw: Path, tmp_path: Path) -> None:
    conf = conf_of(raw, tmp_path)
    assert [row[:2] for row in conf.conduct] == [
        [0, "gNaTs2.tbar.NaTs2.t.api"], [2, "gNaTa.tbar.NaTa.t.axn"], [3, "gIhbar.Ih.den"], [4, "gIhbar.Ih.som"],
    ]  # fmt: skip
    logs = np.log10([[np.sqrt(lo * hi) for _, lo, hi in np.array(ranges(c), dtype=object)[VARIED]] for c in (1, 2, 3)])
    assert [row[2] for row in conf.conduct] == pytest.approx((logs.max(0) + logs.min(0)) / 2)
    assert [row[3] for row in conf.conduct] == pytest.approx((logs.max(0) - logs.min(0)) / 2 + 1)
    assert conf.probes["bbp0542"] == [
        [0, "soma_0", 0.0],
        [2, "axon_1", 160.0],
        [3, "apic_0", 130.0],
        [6, "dend_1", 55.0],
    ]
    assert (conf.inp, conf.out, conf.kind) == (raw.resolve(), (tmp_path / "packs").resolve(), "excite")
    picture = (tmp_path / "set.conf.ranges.html").read_text()
    assert "gIhbar.Ih.som" in picture and "bbp0543" in picture and 'src="http' not in picture


def test_bases_need_not_span_two_decades(tmp_path: Path) -> None:
    """The base is the middle of the range, not ten times its lower end."""
    write_cell(tmp_path / "wide", names=ranges(1, 1.5))
    write_cell(tmp_path / "usual", names=ranges(1, 1.0))
    rows = [conductances(find([tmp_path / name]))[0] for name in ("wide", "usual")]
    assert [row[2] for row in rows[0]] == pytest.approx([row[2] for row in rows[1]])


@pytest.mark.parametrize(
    ("long", "brief"),
    [
        ("gNaTs2_tbar_NaTs2_t_apical", "gNaTs2.tbar.NaTs2.t.api"),
        ("gSKv3_1bar_SKv3_1_somatic", "gSKv3.1bar.SKv3.1.som"),
        ("gNap_Et2bar_Nap_Et2_axonal", "gNap.Et2bar.Nap.Et2.axn"), ("gIhbar_Ih_dend", "gIhbar.Ih.den"),
        ("gIhbar.Ih.den", "gIhbar.Ih.den"), ("cm_all", "cm.all"),
    ],
)  # fmt: skip
def test_short_names(long: str, brief: str) -> None:
    assert short(long) == brief


def test_cells_that_disagree_are_named(raw: Path, tmp_path: Path) -> None:
    write_cell(tmp_path / "other", 4, names=[*ranges(4)[:-1], ("gK_Pstbar_K_Pst_axonal", 1.0, 100.0)])
    with pytest.raises(BadInput, match=r"bbp0541 and bbp0544.*gIhbar\.Ih\.som.*gK\.Pstbar"):
        conductances(find([raw, tmp_path / "other"]))


def test_distances_from_a_file(raw: Path, tmp_path: Path) -> None:
    rewrite(raw / "bbp0541" / META, lambda meta: meta["rawInfo"].pop("probeDistance"))
    cell = Cell.of(raw / "bbp0541")
    with pytest.raises(BadInput, match="--probes"):
        choose(cell, ["soma"])
    told = {name: distance + 100 for name, distance in PROBES if name != "axon_1"}
    assert choose(cell, ["axon_150um"], told) == [[1, "axon_0", 140.0]]
    (tmp_path / "d.yaml").write_text(yaml.safe_dump({"bbp0541": told, "bbp0542": {"ax_9": 3}, "bbp0543": told}))
    with pytest.raises(BadInput, match="bbp0542: has no probe ax_9"):
        calibrate(find([raw]), tmp_path / "c.yaml", tmp_path, probes=tmp_path / "d.yaml")


@pytest.mark.parametrize(
    ("goals", "says"),
    [
        (["soma", "tuft_300um"], "no tuft probe"), (["soma", "axon_far"], "axon_far"),
        (["axon_150um", "axon_160um"], "same probe"),
    ],
)  # fmt: skip
def test_goals_without_a_probe(raw: Path, goals: list[str], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        choose(Cell.of(raw / "bbp0541"), goals)


def test_a_base_that_is_none(tmp_path: Path) -> None:
    told = ranges(1)
    write_cell(tmp_path / "raw", names=[*told[:-1], (NAMES[-1], 0.0, 1.0)])
    with pytest.raises(BadInput, match=r"bbp0541: .*gIhbar_Ih_somatic.*\[0, 1\]"):
        conductances(find([tmp_path / "raw"]))


def test_a_conf_is_not_overwritten(raw: Path, tmp_path: Path) -> None:
    conf_of(raw, tmp_path)
    before = (tmp_path / "set.conf.yaml").read_bytes()
    assert main(["calibrate", str(raw), "-o", str(tmp_path / "set.conf.yaml")]) == 2
    assert (tmp_path / "set.conf.yaml").read_bytes() == before


# ---- packing


def test_a_pack_is_the_facts(raw: Path, tmp_path: Path) -> None:
    conf = conf_of(raw, tmp_path)
    cell = Cell.of(raw / "bbp0542")
    path = pack(cell, conf)
    assert path == (tmp_path / "packs" / (STEM.format("bbp0542") + ".data.h5")).resolve()
    found = arrays(path)
    assert {name: (a.shape, a.dtype.str) for name, a in found.items()} == {
        **{f"{s}_frames": ((n, 8, 4), "<f4") for s, n in (("train", 17), ("val", 2), ("test", 2))},
        **{f"{s}_{k}": ((n, 4), "<f4") for s, n in (("train", 17), ("val", 2), ("test", 2))
           for k in ("unitStar_par", "phys_par")},
    }  # fmt: skip
    shards = [arrays(cell.path(k)) for k in range(2)]
    meaned = [s["frames"][:, :, [0, 2, 3, 6]].astype(np.float64).reshape(-1, 8, 5, 4).mean(2) for s in shards]
    mean, std = meaned[0].mean((0, 1)), meaned[0].std((0, 1))
    frames = np.concatenate([(m - mean) / std for m in meaned])
    # test first, then validation, then training, each contiguous
    order = [found[f"{s}_frames"] for s in ("test", "val", "train")]
    assert np.concatenate(order) == pytest.approx(frames, abs=2e-5)
    unit, phys = (np.concatenate([s[k] for s in shards])[:, VARIED] for k in ("unit_par", "phys_par"))
    packed = {
        k: np.concatenate([found[f"{s}_{k}"] for s in ("test", "val", "train")]) for k in ("unitStar_par", "phys_par")
    }
    assert np.array_equal(packed["phys_par"], phys)
    cent, delta = (np.array([row[k] for row in conf.conduct]) for k in (2, 3))
    assert 10 ** (packed["unitStar_par"].astype(float) * delta + cent) == pytest.approx(phys, rel=1e-5)

    meta = read_yaml(path.with_name(STEM.format("bbp0542") + ".meta.yaml"))
    data, raws, packs = meta["dataInfo"], meta["rawInfo"], meta["packInfo"]
    assert set(packs) == {"probeName", "conductName", "utrans_bias", "utrans_scale", "fnorm_mean", "fnorm_std"}
    assert packs["fnorm_mean"] == pytest.approx(mean, rel=1e-5) and packs["fnorm_std"] == pytest.approx(std, rel=1e-5)
    # bias and scale are what turns one into the other
    assert (unit - packs["utrans_bias"]) / packs["utrans_scale"] == pytest.approx(packed["unitStar_par"], abs=1e-6)
    assert data["splitIdx"] == {"train": 17, "val": 2, "test": 2}
    assert (data["numTimeBin"], data["numPar"], data["numFeature"], data["h5name"]) == (8, 4, 4, path.name)
    assert data["featureType"] == "probes_4prB8kHz" and data["featureName"] == list(conf.goals)
    assert data["dataNormalized"] and data["ustarTransform"] and data["parName"] == [row[1] for row in conf.conduct]
    assert raws["stimName"] == "noise_8kHz" and raws["timeAxis"] == {"step": 0.125, "unit": "ms"}
    assert raws["numIcedPar"] == 1 and [raws["physRange"][row[0]][0] for row in conf.conduct] == data["parName"]
    assert len(raws["parName"]) == 5 and raws["job"] == "by hand"


def test_bad_rows_are_dropped_and_counted(raw: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    conf, cell = conf_of(raw, tmp_path), Cell.of(raw / "bbp0541")
    whole = arrays(pack(cell, conf, tmp_path / "whole"))

    def mark(file: Any) -> None:
        file["binQA"] = np.array([1] * 9, np.int8)
        file["binQA"][3], file["frames"][3] = 0, 0
        file["unit_par"][3] = 7

    change(cell.path(1), mark)
    fewer = arrays(pack(cell, conf, tmp_path / "fewer"))
    assert "1 bad ones dropped" in capfd.readouterr().err
    assert len(fewer["train_frames"]) == 16
    for name in ("train_phys_par", "train_frames"):
        assert np.array_equal(fewer[name], np.delete(whole[name], 12 + 3 - 4, 0))


def test_a_tab_in_a_meta_file(raw: Path, tmp_path: Path) -> None:
    conf, path = conf_of(raw, tmp_path), raw / "bbp0541" / META
    path.write_text(path.read_text().replace("  numTimeBin: ", "  numTimeBin:\t"))
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load(path.read_text())
    assert pack(Cell.of(raw / "bbp0541"), conf).exists()


def frames_of(value: float, probe: int = 2) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        def swap(file: Any) -> None:
            frames = file["frames"][()].astype(np.float32)
            frames[(4, 5, probe) if not np.isfinite(value) else (slice(None), slice(None), probe)] = value
            del file["frames"]
            file["frames"] = frames

        change(path, swap)

    return edit


def table_of(name: str, row: int, column: int, value: float) -> Callable[[Path], None]:
    return lambda path: change(path, lambda file: file[name].__setitem__((row, column), value))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


SPOILT: dict[str, tuple[int, Callable[[Path], None], str]] = {
    "NaN": (1, frames_of(np.nan), "data_1.h5: frames of row 4, probe axon_1, are not finite"),
    "infinite": (0, frames_of(np.inf), "not finite"),
    "never changes": (0, frames_of(5.0), "probe axon_1 never changes"),
    "unit outside": (1, table_of("unit_par", 2, 3, 1.5), "row 2, gIhbar.Ih.den, is outside"),
    "unit NaN": (1, table_of("unit_par", 2, 3, np.nan), "row 2, gIhbar.Ih.den, is outside"),
    "other base": (1, table_of("phys_par", 2, 3, 0.5), r"row 2, gIhbar\.Ih\.den, is 0\.5, but physRange"),
    "negative": (1, table_of("phys_par", 2, 3, -0.5), "no conductance"),
    "truncated": (1, truncate, "data_1.h5: not a readable HDF5 file"),
    "missing": (1, Path.unlink, "data_1.h5: no such file"),
    "no frames": (0, lambda path: change(path, lambda file: file.pop("frames")), "has no frames"),
    "rows": (0, lambda path: change(path, lambda file: file.pop("unit_par")), "has no unit_par"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_spoilt_cells_are_refused(raw: Path, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    shard, spoil, says = SPOILT[case]
    conf, cell = conf_of(raw, tmp_path), Cell.of(raw / "bbp0541")
    spoil(cell.path(shard))
    with pytest.raises(BadInput, match=says):
        pack(cell, conf)
    assert main(["pack", str(raw / "bbp0541"), "--conf", str(conf.path)]) == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("python -m models.cellspike: ") and "Traceback" not in said
    assert not [path for path in (tmp_path / "packs").glob("*") if path.name.endswith((".h5", ".part"))]


def edited(where: str, edit: Callable[[dict[str, Any]], None]) -> Callable[[Path, Path], None]:
    return lambda meta, conf: rewrite(meta if where == "meta" else conf, edit)


CONTRADICTIONS: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "other bins": (edited("meta", lambda m: m["dataInfo"].update(numTimeBin=80)), r"frames are \(12, 40, 7\)"),
    "no such key": (edited("meta", lambda m: m["rawInfo"].pop("probeName")), "has no rawInfo.probeName"),
    "names": (edited("meta", lambda m: m["dataInfo"]["parName"].reverse()), "name different parameters"),
    "range": (edited("meta", lambda m: m["dataInfo"]["physRange"][0].__setitem__(1, "x")), "rows of"),
    "conductance": (edited("conf", lambda c: c["conductName"][0].__setitem__(1, "gK.api")), "gK.api, but physRange"),
    "index": (edited("conf", lambda c: c["conductName"][0].__setitem__(0, 17)), "has none"),
    "held": (edited("conf", lambda c: c["conductName"].__setitem__(0, [1, "g.pas.fixed.axn", 0, 1])), "is held"),
    "probe": (edited("conf", lambda c: c["probeNamePerCell"]["bbp0541"][1].__setitem__(0, 3)), "meta file says apic_0"),
    "no cell": (edited("conf", lambda c: c["probeNamePerCell"].pop("bbp0541")), "has no cell bbp0541"),
    "fewer probes": (edited("conf", lambda c: c["probeNamePerCell"]["bbp0541"].pop()), "does not have the 4"),
    "delP": (edited("conf", lambda c: c["conductName"][0].__setitem__(3, 0)), "delP"),
    "no conf": (edited("conf", lambda c: c.pop("conductName")), "has no conductName"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictions_are_refused(raw: Path, tmp_path: Path, case: str) -> None:
    spoil, says = CONTRADICTIONS[case]
    path = conf_of(raw, tmp_path).path
    spoil(raw / "bbp0541" / META, path)
    with pytest.raises(BadInput, match=says):
        pack(Cell.of(raw / "bbp0541"), Conf.of(path))


def test_bins_that_do_not_divide(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="40 bins cannot be averaged by 7"):
        pack(Cell.of(raw / "bbp0541"), conf_of(raw, tmp_path), meaned=7)


def test_another_pack_is_not_overwritten(raw: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    conf, cell = conf_of(raw, tmp_path), Cell.of(raw / "bbp0541")
    path = pack(cell, conf)
    before = path.stat().st_mtime_ns
    assert pack(cell, conf) == path and "there already" in capfd.readouterr().err
    change(cell.path(0), lambda file: file["unit_par"].__setitem__((0, 1), 0.25))
    with pytest.raises(BadInput, match="made from other data"):
        pack(Cell.of(raw / "bbp0541"), conf)
    assert path.stat().st_mtime_ns == before


# ---- kill -9


def killed(program: str, stops: Callable[[], bool]) -> None:
    """Run Python until something is there, then kill it as the kernel would."""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, start_new_session=True)
    end = time.monotonic() + 60
    while not stops() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"


SLOWLY = """
import time
from pathlib import Path
from models.cellspike import {module} as m, unfinished as u
whole = u.Unfinished.piece
def piece(self, **notes):
    if self.done == 2:
        # the third piece is half on disk
        with u.h5py.File(self.part, "r+") as file:
            for name in {spoilt}:
                file[name][:] = 9
        Path({mark!r}).touch()
        time.sleep(60)
    return whole(self, **notes)
u.Unfinished.piece = piece
{call}
"""


def test_packing_goes_on_after_a_kill(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = write_cell(tmp_path / "raw", 1, (8,) * 6)
    conf, cell = conf_of(tmp_path / "raw", tmp_path), Cell.of(folder)
    whole = arrays(pack(cell, conf, tmp_path / "whole"))
    call = f"m.pack(m.Cell.of(Path({str(folder)!r})), m.Conf.of(Path({str(conf.path)!r})))"
    mark = tmp_path / "mark"
    # what shard 3 spoils here are rows of its own: test and validation were written by the first two
    program = SLOWLY.format(module="pack", call=call, mark=str(mark), spoilt=[])
    killed(program, mark.exists)
    packs = tmp_path / "packs"
    assert not list(packs.glob("*.data.h5")), "half a pack must not look like one"
    (part,) = packs.glob(".*.part")
    # what was in hand is garbage
    first = 3 * 8 - 2 * 4 - 8
    change(part, lambda file: file["train_frames"].__setitem__(slice(first, first + 5), np.nan))
    capfd.readouterr()
    again = arrays(pack(cell, conf))
    said = capfd.readouterr().err
    assert "shard 3 of 6" in said and "shard 2 of 6" not in said
    assert all(np.array_equal(again[name], whole[name]) for name in whole)
    assert sorted(path.name for path in packs.iterdir()) == [
        STEM.format("bbp0541") + s for s in (".data.h5", ".meta.yaml")
    ]


def test_a_rest_of_other_data_is_not_believed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = write_cell(tmp_path / "raw", 1, (8,) * 4)
    conf = conf_of(tmp_path / "raw", tmp_path)
    call = f"m.pack(m.Cell.of(Path({str(folder)!r})), m.Conf.of(Path({str(conf.path)!r})))"
    mark = tmp_path / "mark"
    killed(SLOWLY.format(module="pack", call=call, mark=str(mark), spoilt=[]), mark.exists)
    change(Cell.of(folder).path(0), lambda file: file["unit_par"].__setitem__((0, 1), 0.25))
    capfd.readouterr()
    whole = arrays(pack(Cell.of(folder), conf, tmp_path / "whole"))
    again = arrays(pack(Cell.of(folder), conf))
    assert capfd.readouterr().err.count("shard 1 of 4") == 2
    assert all(np.array_equal(again[name], whole[name]) for name in whole)


# ---- many cells


@pytest.fixture
def packs(raw: Path, tmp_path: Path) -> Path:
    shutil.rmtree(raw)
    for clone, rows in ((1, (40, 40)), (2, (60, 30)), (3, (50, 50))):
        write_cell(raw, clone, rows)
    conf = conf_of(raw, tmp_path)
    for cell in find([raw]):
        pack(cell, conf)
    return conf.out


def test_many_cells_shuffled(packs: Path, tmp_path: Path) -> None:
    out = tmp_path / "practice3c_excite.cellSpike_4prB8kHz.data.h5"
    files = packs_of([packs])
    lines = aggregate(files, out, "practice3c", seed=4)
    assert lines[0] == "train: 64 rows of each of 3 cells"
    found = arrays(out)
    meta = json.loads(found["meta.JSON"][0])
    assert meta["cellNameList"] == ["bbp0541", "bbp0542", "bbp0543"]
    assert (meta["globalTrainSamples"], meta["h5name"], meta["numInpFiles"]) == (192, out.name, 3)
    assert len(found["train_frames"]) == 192 and len(found["val_frames"]) == len(found["test_frames"]) == 24
    for split in ("train", "val", "test"):
        cells = found[f"{split}_cell"]
        assert np.bincount(cells).tolist() == [len(cells) // 3] * 3
        assert (cells[1:] != cells[:-1]).mean() > 0.4, "not shuffled"
        for place, file in enumerate(files):
            own, mine = arrays(file.path), cells == place
            known = {frame.tobytes(): row for row, frame in enumerate(own[f"{split}_frames"])}
            rows = [known[frame.tobytes()] for frame in found[f"{split}_frames"][mine]]
            assert len(set(rows)) == len(rows) and rows != sorted(rows)
            spare = file.rows[split] > len(rows)
            assert (max(rows) >= len(rows)) == spare, "of a cell that has more, rows are drawn from all"
            assert np.array_equal(own[f"{split}_unitStar_par"][rows], found[f"{split}_unitStar_par"][mine])
    # whoever knows only this file can say what its rows mean
    bias = np.array([meta["utrans_bias"][cell] for cell in meta["cellNameList"]])[found["train_cell"]]
    unit = found["train_unitStar_par"] * [row[3] for row in meta["conductName"]] + bias
    assert np.abs(unit).max() <= 1 + 1e-6


def test_the_seed_decides(packs: Path, tmp_path: Path) -> None:
    files = packs_of([packs])
    made = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        aggregate(files, tmp_path / f"{name}.h5", "set", samples=90, seed=seed, dtype="f2")
        made.append(arrays(tmp_path / f"{name}.h5"))
    assert made[0]["train_frames"].dtype == np.float16 and len(made[0]["train_frames"]) == 90
    assert np.array_equal(made[0]["train_frames"], made[1]["train_frames"])
    assert not np.array_equal(made[0]["train_frames"], made[2]["train_frames"])


def test_gathering_goes_on_after_a_kill(packs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, mark = tmp_path / "set.h5", tmp_path / "mark"
    small = "m._BLOCK = 40 * 8 * 4 * 4\n"
    call = f"{small}m.aggregate(m.packs_of([Path({str(packs)!r})]), Path({str(out)!r}), 'set')"
    killed(SLOWLY.format(module="aggregate", call=call, mark=str(mark), spoilt=["val_frames"]), mark.exists)
    assert not out.exists()
    capfd.readouterr()
    subprocess.run(
        [sys.executable, "-c", f"from pathlib import Path\nfrom models.cellspike import aggregate as m\n{call}"],
        cwd=ROOT, check=True,
    )  # fmt: skip
    said = capfd.readouterr().err
    assert "block 3 of 7" in said and "block 2 of 7" not in said
    aggregate(packs_of([packs]), tmp_path / "whole" / "set.h5", "set")
    whole, again = arrays(tmp_path / "whole" / "set.h5"), arrays(out)
    assert all(np.array_equal(whole[name], again[name]) for name in whole)


def test_what_does_not_belong_together(packs: Path, tmp_path: Path) -> None:
    files = packs_of([packs])
    with pytest.raises(BadInput, match="66 of each cell, but bbp0541 has 64"):
        each(files, 200)
    with pytest.raises(BadInput, match="fewer than one"):
        each(files, 2)
    beside = packs / (STEM.format("bbp0542") + ".meta.yaml")
    whole = beside.read_text()
    rewrite(beside, lambda meta: meta["packInfo"]["conductName"][0].__setitem__(2, 0.5))
    with pytest.raises(BadInput, match=r"bbp0541 and bbp0542 differ in packInfo\.conductName"):
        packs_of([packs])
    beside.write_text(whole)
    rewrite(beside, lambda meta: meta["dataInfo"]["splitIdx"].update(val=3))
    with pytest.raises(BadInput, match="val has frames"):
        packs_of([packs])
    beside.unlink()
    assert [file.cell for file in packs_of([packs])] == ["bbp0541", "bbp0543"]
    with pytest.raises(BadInput, match="no such file"):
        PackFile.of(packs / (STEM.format("bbp0542") + ".data.h5"))


def test_the_training_meta(packs: Path) -> None:
    path = write_training_meta(packs_of([packs]), packs, ["bbp0542"], "three")
    assert path.name == "meta.cellSpike_4prB8kHz.yaml"
    data = read_yaml(path)["dataInfo"]
    assert data["cellSplit"] == {"practice": ["bbp0541", "bbp0543"], "witness": ["bbp0542"]}
    assert data["h5nameTemplate"] == "*_excite.cellSpike_4prB8kHz.data.h5" and data["shortName"] == "three"
    assert len(data["conductName"]) == data["numPar"] == 4 and data["numTimeBin"] == 8
    assert write_training_meta(packs_of([packs]), packs, ["bbp0542"], "three") == path
    with pytest.raises(BadInput, match="says otherwise"):
        write_training_meta(packs_of([packs]), packs, ["bbp0541"], "three")
    with pytest.raises(BadInput, match="bbp9"):
        write_training_meta(packs_of([packs]), packs, ["bbp9"])


def test_as_a_user(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From raw cells to a file of many by the verbs alone."""
    conf, packs, out = tmp_path / "a.conf.yaml", tmp_path / "p", tmp_path / "practice2c.data.h5"
    assert main(["calibrate", str(raw), "-o", str(conf), "--packs", str(packs), "--goals", "soma", "axon_150um"]) == 0
    assert "gIhbar.Ih.den: centP" in capsys.readouterr().out
    assert main(["pack", str(raw / "bbp0541"), "--conf", str(conf)]) == 0
    assert main(["pack", "--conf", str(conf)]) == 0
    assert [Path(line).name[:7] for line in capsys.readouterr().out.splitlines()] == [
        "bbp0541", "bbp0541", "bbp0542", "bbp0543",
    ]  # fmt: skip
    assert main(["meta", str(packs), "--witness", "bbp0543"]) == 0
    assert main(["aggregate", str(packs), "-o", str(out), "--name", "practice2c", "--cells", "bbp0541", "bbp0542"]) == 0
    assert arrays(out)["train_frames"].shape == (34, 8, 2)
    assert main(["aggregate", str(packs), "-o", str(out), "--name", "practice2c", "--cells", "bbp0549"]) == 2
    assert main(["aggregate", str(packs), "-o", str(out), "--name", "other"]) == 2
    assert "there already" in capsys.readouterr().err
