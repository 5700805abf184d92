from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

from ground.errors import BadInput
from models.cellspike.packs import UNKNOWN, constant_channel
from models.cellspike.worlds import open_pack
from tests.models.cellspike import written


def edit(path: Path, name: str, change: Any) -> None:
    """Replace a dataset by a function of it; None deletes it."""
    with h5py.File(path, "r+") as file:
        content = np.asarray(file[name])
        del file[name]
        if change is not None:
            file[name] = change(content)


def remake(path: Path, **entries: Any) -> None:
    """Change entries of meta.JSON."""
    with h5py.File(path, "r+") as file:
        meta = {**json.loads(file["meta.JSON"][0]), **entries}
        del file["meta.JSON"]
        file["meta.JSON"] = [json.dumps(meta)]


# ---- ONTRA


@pytest.mark.parametrize("older", [False, True])
def test_packs_of_both_ages_say_the_same(tmp_path: Path, older: bool) -> None:
    pack = open_pack(written.ontra(tmp_path, 2, older=older))
    assert (pack.world, pack.names, pack.probes, pack.bins, pack.step_ms) == (
        "ontra", written.NAMES, written.PROBES, written.BINS, 0.125,
    )  # fmt: skip
    assert pack.cell_names == ("bbp1021",) and pack.stims == ("chaotic_8kHz",) and pack.starred
    u, star, physical = pack.unit("train"), pack.star("train"), pack.physical("train")
    assert u is not None and star is not None and physical is not None
    assert np.abs(u).max() <= 1
    # the direct formula needs no cell
    np.testing.assert_allclose(physical, 10 ** (star * written.DELTA + written.CENT), rtol=1e-5)
    np.testing.assert_allclose(pack.units.physical(u), physical, rtol=1e-5)  # type: ignore[union-attr]


def test_without_its_own_meta_a_pack_has_the_training_meta(tmp_path: Path) -> None:
    path = written.ontra(tmp_path, meta=False)
    written.training_meta(tmp_path, ["bbp1001"])
    pack = open_pack(path)
    assert pack.names == written.NAMES and pack.witness == ("bbp1001",) and not pack.whole_units
    assert pack.unit("val") is None  # the cell's own ranges are not known
    edit(path, "val_phys_par", None)
    star, physical = open_pack(path).star("val"), open_pack(path).physical("val")
    assert star is not None and physical is not None
    np.testing.assert_allclose(physical, 10 ** (star * written.DELTA + written.CENT), rtol=1e-5)


def test_a_pack_without_any_meta_is_numbered(tmp_path: Path) -> None:
    pack = open_pack(written.ontra(tmp_path, meta=False))
    assert pack.names == ("par_0", "par_1", "par_2") and pack.probes == ("probe_0", "probe_1") and not pack.named
    assert pack.units is None and pack.starred and pack.cell_names == ("bbp1001",)


def test_an_aggregated_pack_knows_each_rows_cell(tmp_path: Path) -> None:
    path = written.aggregated(tmp_path)
    pack = open_pack(path)
    with h5py.File(path) as file:
        assert np.array_equal(pack.cells("train"), file["train_cell"][:])
    assert pack.cell_names == ("a", "b") and pack.dtype == np.float16 and pack.names == written.NAMES
    star, physical = pack.star("test"), pack.physical("test")
    np.testing.assert_allclose(physical, 10 ** (star * written.DELTA + written.CENT), rtol=1e-5)  # type: ignore[operator]
    assert pack.unit("test") is None
    assert pack.frames("test").dtype == np.float32
    (tmp_path / "x").mkdir()
    assert (open_pack(written.aggregated(tmp_path / "x", said=False)).cells("val") == UNKNOWN).all()
    edit(path, "train_cell", lambda cells: cells + 1)
    with pytest.raises(BadInput, match="train_cell names a cell"):
        open_pack(path).cells("train")


def test_integers_are_read_as_they_are(tmp_path: Path) -> None:
    path = written.ontra(tmp_path)
    edit(path, "train_frames", lambda x: np.rint(x * 1000).astype(np.int16))
    edit(path, "val_frames", lambda x: np.rint(x * 1000).astype(np.int16))
    edit(path, "test_frames", lambda x: np.rint(x * 1000).astype(np.int16))
    pack = open_pack(path)
    assert pack.dtype == np.int16
    with h5py.File(path) as file:
        assert np.array_equal(pack.frames("val", slice(2, 5))[..., 0], file["val_frames"][2:5].astype(np.float32))


# ---- BBP3


def test_an_mlpack1_is_read(tmp_path: Path) -> None:
    path = written.mlpack(tmp_path / "a.mlPack1.h5", features=True)
    pack = open_pack(path)
    assert (pack.world, pack.cell_names, pack.stims, pack.step_ms) == ("mlpack1", ("L5",), ("stim0", "stim1"), 0.1)
    assert pack.sizes == {"train": 64, "val": 12, "test": 10} and not pack.starred
    with h5py.File(path) as file:
        stored = file["valid_volts_norm"][3:7][:, :, [1]][..., [1, 0]]
        efel = file["valid_efel_features"][:2]
    assert np.array_equal(pack.raw("val", slice(3, 7), [1], [1, 0]), stored)
    assert np.array_equal(pack.extras("val", slice(0, 2), ["efel"], [1], [0, 1])[:, 1], efel[:, 1, 1], equal_nan=True)
    with pytest.raises(BadInput, match="no stim features"):
        pack.extras("val", slice(0, 2), ["stim"], [0], [0])


@pytest.mark.parametrize("ranged", [False, True])
def test_conductances_prove_what_ranges_mean(tmp_path: Path, ranged: bool) -> None:
    path = written.mlpack(tmp_path / "a.mlPack1.h5", ranged=ranged)
    for ranges in ("auto", "ranged" if ranged else "centred"):
        pack = open_pack(path, ranges)  # type: ignore[arg-type]
        u, told = pack.unit("train"), pack.physical("train")
        np.testing.assert_allclose(pack.units.physical(u), told, rtol=1e-4)  # type: ignore[union-attr, arg-type]
    with pytest.raises(BadInput):
        open_pack(path, "centred" if ranged else "ranged")
    for split in ("train", "valid", "test"):
        edit(path, f"{split}_phys_par", lambda p: p * 3)
    with pytest.raises(BadInput, match=r"say which \(data key ranges\)"):
        open_pack(path)


def test_include_chooses_parameters(tmp_path: Path) -> None:
    path = written.mlpack(tmp_path / "a.mlPack1.h5")
    for split in ("train", "valid", "test"):
        for name in ("unit_par", "phys_par"):
            edit(path, f"{split}_{name}", lambda p: p[:, [0, 2]])
    remake(path, include=[0, 2])
    pack = open_pack(path)
    assert pack.names == ("gNa_somatic", "e_pas_all") and list(pack.units.linear) == [False, True]  # type: ignore[union-attr]
    remake(path, include=[0, 1, 2])
    with pytest.raises(BadInput, match="2 parameters a row, but its meta names 3"):
        open_pack(path)


def index(test: list[int], valid: list[int], train: list[int]) -> dict[str, Any]:
    return {"pack_info": {"split_index": {"test": test, "valid": valid, "train": train}}}


@pytest.mark.parametrize(
    "told", [index([12, 22], [0, 12], [22, 86]), index([12, 10], [0, 12], [22, 64]), {"split_index": {"test": [0, 10]}}]
)
def test_splits_apart_are_taken(tmp_path: Path, told: dict[str, Any]) -> None:
    open_pack(written.mlpack(tmp_path / "a.mlPack1.h5", change=told))


def test_the_leak_of_early_packs_is_refused_by_name(tmp_path: Path) -> None:
    # as [offset, length] test has rows 12 to 35, training begins at 24
    path = written.mlpack(
        tmp_path / "a.mlPack1.h5", {"train": 64, "valid": 12, "test": 24}, index([12, 24], [0, 12], [24, 64])
    )
    with pytest.raises(BadInput, match="rows 24 to 35 are in test and in train") as error:
        open_pack(path)
    assert str(path) in str(error.value)
    remake(path, **index([12, 20], [0, 12], [24, 64]))
    with pytest.raises(BadInput, match="neither"):
        open_pack(path)


# ---- experiments


def test_sweeps_are_for_prediction(tmp_path: Path) -> None:
    pack = open_pack(written.experiment(tmp_path / "sweeps.h5"))
    assert (pack.world, pack.probes, pack.sizes, pack.step_ms) == ("experiment", ("soma",), {"test": 7}, 0.125)
    assert pack.frames("test").shape == (7, written.BINS, 1, 1)


# ---- what cannot be

WRONG: dict[str, tuple[str, Any, str]] = {
    "frames without probes": ("train_frames", lambda x: x[..., 0], "is wanted"),
    "splits of other lengths": ("val_frames", lambda x: x[:, :-1], "other splits"),
    "fewer parameters than rows": ("val_unitStar_par", lambda u: u[:-1], "rows"),
    "other parameters": ("val_unitStar_par", lambda u: u[:, :2], "is wanted"),
    "conductances of another cell": ("train_phys_par", lambda p: p * 2, "its meta makes"),
    "no parameters": ("test_unitStar_par", None, "no unit parameters"),
    "text": ("train_frames", lambda x: np.full(x.shape, b"x"), "not an array of numbers"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_arrays_are_refused_in_one_line(tmp_path: Path, case: str) -> None:
    path = written.ontra(tmp_path)
    name, change, words = WRONG[case]
    edit(path, name, change)
    with pytest.raises(BadInput, match=words) as error:
        open_pack(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("entry", "value", "words"),
    [
        (("rawInfo", "physRange"), [["gNaT.som", 0.0, 1.0]] * 4, "gK.som is gNaT.som in physRange"),
        (("dataInfo", "numTimeBin"), 1600, "48 time bins, its meta says 1600"),
        (("dataInfo", "featureName"), ["soma"], "2 probes, but its meta names 1"),
        (("packInfo", "utrans_scale"), [1.0, 1.0, 1.0], "utrans_scale"),
        (("packInfo", "conductName"), [[0, "gNaT.som", -1.75, 1.17]], "3 parameters a row, but its meta names 1"),
    ],
)
def test_a_meta_that_disagrees_is_refused(tmp_path: Path, entry: tuple[str, str], value: Any, words: str) -> None:
    path = written.ontra(tmp_path)
    meta = next(tmp_path.glob("*.meta.yaml"))
    content = yaml.safe_load(meta.read_text())
    content[entry[0]][entry[1]] = value
    meta.write_text(yaml.safe_dump(content))
    with pytest.raises(BadInput, match=words) as error:
        open_pack(path)
    assert str(path) in str(error.value)


def test_a_base_that_is_not_positive_is_refused(tmp_path: Path) -> None:
    path = written.ontra(tmp_path)
    meta = next(tmp_path.glob("*.meta.yaml"))
    content = yaml.safe_load(meta.read_text())
    content["rawInfo"]["physRange"][2][1] = 0.0
    meta.write_text(yaml.safe_dump(content))
    with pytest.raises(BadInput, match=r"gK.som: physical range \[0"):
        open_pack(path)


@pytest.mark.parametrize("value", [1.01, np.nan])
def test_unit_parameters_beyond_one_are_refused(tmp_path: Path, value: float) -> None:
    path = written.ontra(tmp_path)

    def change(u: np.ndarray) -> np.ndarray:
        u[5, 1] = value
        return u

    edit(path, "val_unitStar_par", change)
    with pytest.raises(BadInput, match=r"val_unitStar_par row 5, gK.som, is"):
        open_pack(path).star("val")


def test_a_constant_channel_is_named(tmp_path: Path) -> None:
    path = written.ontra(tmp_path)

    def change(x: np.ndarray) -> np.ndarray:
        x[..., 1] = 0.25
        return x

    edit(path, "train_frames", change)
    with pytest.raises(BadInput, match="probe axon_150um under chaotic_8kHz is constant"):
        constant_channel(open_pack(path), "train", [0, 1], [0])
    constant_channel(open_pack(path), "train", [0], [0])


def test_other_files_are_told_what_they_are(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file["frames"] = np.zeros((3, 8, 2), np.int16)
    with pytest.raises(BadInput, match="pack them first"):
        open_pack(tmp_path / "raw.h5")
    (tmp_path / "text.h5").write_text("no")
    with pytest.raises(BadInput, match="not a readable HDF5"):
        open_pack(tmp_path / "text.h5")
    path = written.mlpack(tmp_path / "a.mlPack1.h5")
    edit(path, "meta.JSON", lambda text: [b"{not json"])
    with pytest.raises(BadInput, match="not valid JSON"):
        open_pack(path)


def test_the_genuine_pack(shared: Path) -> None:
    pack = open_pack(shared / "data" / "cellspike" / "L5_TTPC_bpo.mlPack1.h5")
    assert pack.probes == ("soma", "axon", "dend") and pack.sizes == {"train": 96, "val": 16, "test": 16}
    for split in ("train", "val", "test"):
        u, told = pack.unit(split), pack.physical(split)  # type: ignore[arg-type]
        np.testing.assert_allclose(pack.units.physical(u), told, rtol=1e-5)  # type: ignore[union-attr, arg-type]
