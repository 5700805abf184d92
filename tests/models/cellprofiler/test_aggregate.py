from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycytominer import feature_select
from pycytominer import normalize as by_pycytominer

from ground.errors import BadInput
from models.cellprofiler.__main__ import main
from models.cellprofiler.join import join
from models.cellprofiler.tables import clean, features_of, read_table, well_name, write_table
from tests.models.cellprofiler import projects

FEATURES = [f"deep_{k}" for k in range(5)]


def cells(seed: int = 0, plates: int = 2, wells: int = 8, sites: int = 2) -> pd.DataFrame:
    """Cells of wells, the first five of each plate controls."""
    rng = np.random.default_rng(seed)
    rows = []
    for plate in range(plates):
        for well in range(wells):
            for site in range(1, sites + 1):
                for _ in range(int(rng.integers(3, 7))):
                    rows.append((f"P-{plate}", f"A{well + 1:02d}", str(site), "DMSO" if well < 5 else f"C{well % 2}"))
    frame = pd.DataFrame(rows, columns=["Metadata_Plate", "Metadata_Well", "Metadata_Site", "Metadata_Compound"])
    frame["Nuclei_Location_Center_X"] = rng.uniform(0, 900, len(frame))
    frame["Nuclei_Location_Center_Y"] = rng.uniform(0, 900, len(frame))
    values = rng.normal(size=(len(frame), 5)) + (frame["Metadata_Compound"] == "C1").to_numpy()[:, None]
    # two nearly equal features, and one that hardly varies
    values[:, 1] = values[:, 0] + 0.01 * values[:, 1]
    values[:, 4] = 3 + 1e-5 * values[:, 4]
    frame[FEATURES] = values.astype(np.float32)
    return frame


def folder_of(frame: pd.DataFrame, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for plate, part in frame.groupby("Metadata_Plate"):
        part.to_parquet(folder / f"{plate}.parquet", index=False)
    return folder


def run(*words: Any) -> int:
    return main(["aggregate", *map(str, words)])


def test_medians_and_means_are_those_of_all_cells(tmp_path: Path) -> None:
    frame = cells()
    folder = folder_of(frame, tmp_path / "features")
    for method in ("median", "mean"):
        assert run(folder, "--method", method, "-o", tmp_path / f"{method}.parquet") == 0
        found = read_table(tmp_path / f"{method}.parquet").set_index(["Metadata_Plate", "Metadata_Well"])
        assert len(found) == 16 and features_of(found) == FEATURES
        for key, part in frame.groupby(["Metadata_Plate", "Metadata_Well"]):
            expected = getattr(np, method)(part[FEATURES].to_numpy(np.float64), axis=0)
            np.testing.assert_allclose(found.loc[key, FEATURES].astype(float), expected, rtol=1e-6)
            assert found.loc[key, "Metadata_Object_Count"] == str(len(part))
        assert set(found["Metadata_Site_Count"]) == {"2"}
        assert found["Metadata_Compound"].notna().all() and "Metadata_Site" not in found


def test_sites_count_equally_where_medians_of_sites_are_averaged(tmp_path: Path) -> None:
    frame = cells(sites=3)
    run(folder_of(frame, tmp_path / "features"), "--method", "site-median", "-o", tmp_path / "t.csv.gz")
    found = read_table(tmp_path / "t.csv.gz").set_index(["Metadata_Plate", "Metadata_Well"])
    for key, part in frame.groupby(["Metadata_Plate", "Metadata_Well"]):
        medians = [np.median(site[FEATURES].to_numpy(np.float64), axis=0) for _, site in part.groupby("Metadata_Site")]
        np.testing.assert_allclose(found.loc[key, FEATURES].astype(float), np.mean(medians, 0), rtol=1e-6)
    # and differ from the median of all cells
    assert run(tmp_path / "features", "-o", tmp_path / "all.csv") == 0
    assert not np.allclose(read_table(tmp_path / "all.csv")[FEATURES], found[FEATURES].astype(float))


@pytest.mark.parametrize("method", ["standardize", "robustize", "mad_robustize"])
def test_each_plate_is_normalised_on_its_controls_by_pycytominer(tmp_path: Path, method: str) -> None:
    folder = folder_of(cells(), tmp_path / "features")
    options = ["--label", "Compound", "--control", "DMSO"]
    assert run(folder, *options, "-o", tmp_path / "raw.parquet") == 0
    assert run(folder, *options, "--normalize", method, "-o", tmp_path / "n.parquet") == 0
    raw, found = read_table(tmp_path / "raw.parquet"), read_table(tmp_path / "n.parquet")
    for plate, part in raw.groupby("Metadata_Plate"):
        expected = by_pycytominer(
            part, features=FEATURES, meta_features=["Metadata_Well"], samples="Metadata_Compound == 'DMSO'",
            method=method,
        )  # fmt: skip
        here = found[found["Metadata_Plate"] == plate]
        assert here["Metadata_Well"].tolist() == expected["Metadata_Well"].tolist()
        np.testing.assert_allclose(here[FEATURES], expected[FEATURES], rtol=1e-6)
    if method == "standardize":
        controls = found[(found["Metadata_Compound"] == "DMSO") & (found["Metadata_Plate"] == "P-1")]
        np.testing.assert_allclose(controls[FEATURES].mean(), 0, atol=1e-6)
        np.testing.assert_allclose(controls[FEATURES].std(ddof=0), 1, rtol=1e-6)


def test_sphering_and_selecting_are_pycytominers(tmp_path: Path) -> None:
    folder = folder_of(cells(), tmp_path / "features")
    options = ["--label", "Compound", "--control", "DMSO", "--normalize", "standardize"]
    assert run(folder, *options, "-o", tmp_path / "n.parquet") == 0
    assert run(folder, *options, "--select", "--spherize", "-o", tmp_path / "s.parquet") == 0
    normal, found = read_table(tmp_path / "n.parquet"), read_table(tmp_path / "s.parquet")
    meta = [name for name in normal if name.startswith("Metadata")]
    operations = ["variance_threshold", "correlation_threshold", "drop_na_columns"]
    selected = feature_select(normal, features=FEATURES, operation=operations)
    kept = [name for name in FEATURES if name in selected]
    assert len(kept) < 5 and features_of(found) == kept  # one of the two that are nearly equal is gone
    expected = by_pycytominer(
        selected, features=kept, meta_features=meta, samples="Metadata_Compound == 'DMSO'", method="spherize",
        spherize_method="ZCA-cor", spherize_epsilon=1e-6,
    )  # fmt: skip
    np.testing.assert_allclose(found[kept], expected[kept], rtol=1e-5)
    controls = found[found["Metadata_Compound"] == "DMSO"][kept].to_numpy()
    np.testing.assert_allclose(np.cov(controls.T), np.eye(len(kept)), atol=1e-4)


def test_treatments_are_means_or_medians_of_their_wells(tmp_path: Path) -> None:
    folder = folder_of(cells(), tmp_path / "features")
    label = ["--label", "Metadata_Compound"]
    run(folder, *label, "-o", tmp_path / "wells.parquet")
    wells = read_table(tmp_path / "wells.parquet")
    assert run(folder, *label, "--by", "treatment", "-o", tmp_path / "median.parquet") == 0
    found = read_table(tmp_path / "median.parquet").set_index("Metadata_Compound")
    assert sorted(found.index) == ["C0", "C1", "DMSO"] and found.loc["DMSO", "Metadata_Well_Count"] == "10"
    np.testing.assert_allclose(
        found[FEATURES], wells.groupby("Metadata_Compound")[FEATURES].median().loc[found.index], rtol=1e-6
    )
    run(folder, *label, "--method", "mean", "--by", "treatment", "-o", tmp_path / "mean.parquet")
    run(folder, *label, "--method", "mean", "-o", tmp_path / "mean_wells.parquet")
    wells, found = read_table(tmp_path / "mean_wells.parquet"), read_table(tmp_path / "mean.parquet")
    expected = wells.groupby("Metadata_Compound")[FEATURES].mean()
    np.testing.assert_allclose(found.set_index("Metadata_Compound")[FEATURES], expected, rtol=1e-6)
    assert run(folder, "--by", "treatment", "-o", tmp_path / "x.parquet") == 2


def test_cells_that_are_not_finite_are_counted_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = cells()
    frame.loc[[0, 40], FEATURES] = np.nan
    frame.loc[3, "deep_2"] = np.inf  # only this one is missing
    assert run(folder_of(frame, tmp_path / "features"), "-o", tmp_path / "t.parquet") == 0
    told = capsys.readouterr().err
    assert "2 left out: no finite feature" in told and "1 lack some features" in told
    found = read_table(tmp_path / "t.parquet")
    part = frame[(frame["Metadata_Plate"] == "P-0") & (frame["Metadata_Well"] == "A01")].drop(index=0)
    np.testing.assert_allclose(found.loc[0, "deep_2"], part["deep_2"].replace(np.inf, np.nan).median(), rtol=1e-6)
    assert found.loc[0, "Metadata_Object_Count"] == str(len(part))
    frame[FEATURES] = np.nan
    assert run(folder_of(frame, tmp_path / "nothing"), "-o", tmp_path / "n.parquet") == 2
    assert "no cell has finite features" in capsys.readouterr().err and not (tmp_path / "n.parquet").exists()


class Loaded:
    """What a pickle runs when it is read."""

    def __init__(self, at: Path) -> None:
        self.at = at

    def __reduce__(self) -> Any:
        return (Path.touch, (self.at,))


@pytest.mark.parametrize("flat", [False, True])
def test_files_of_the_original_program_are_read_without_unpickling(
    tmp_path: Path, flat: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    root = projects.small(tmp_path, wells=3)
    folder = root / "outputs" / "results" / "features"
    rng = np.random.default_rng(0)
    expected: dict[tuple[str, str], list[np.ndarray]] = {}
    index = pd.read_csv(root / "inputs/metadata/index.csv", dtype=str, keep_default_na=False)
    for row in index.itertuples():
        plate, well, site = row.Metadata_Plate, row.Metadata_Well, row.Metadata_Site
        if (plate, well, site) == ("P-1", "A03", "2"):
            continue  # a site without cells
        path = folder / plate / (f"{well}_{site}.npz" if flat else f"{well}/{site}.npz")
        path.parent.mkdir(parents=True, exist_ok=True)
        features = rng.normal(size=(4, 3)).astype(np.float32)
        metadata = np.array({"Metadata_Model": Loaded(tmp_path / "was run")}, dtype=object)
        np.savez(path, features=features, metadata=metadata, locations=rng.uniform(0, 40, (4, 2)))
        expected.setdefault((plate, well), []).append(features)
    assert run(root, "-o", tmp_path / "t.parquet") == 0
    assert not (tmp_path / "was run").exists()
    assert "\n  1 sites of the index have no cells" in capsys.readouterr().err
    found = read_table(tmp_path / "t.parquet").set_index(["Metadata_Plate", "Metadata_Well"])
    assert len(found) == 6 and found.loc[("P-1", "A02"), "Metadata_Compound"] == "NA"
    for key, arrays in expected.items():
        values = found.loc[key, ["deep_0", "deep_1", "deep_2"]].astype(float)
        np.testing.assert_allclose(values, np.median(np.concatenate(arrays), axis=0), rtol=1e-6)
    # the project says which wells are controls; one to a plate has no spread to standardise by, but can be asked for
    assert run(root, "--normalize", "standardize", "-o", tmp_path / "n.parquet") == 0


def test_our_own_files_say_of_their_sites_without_a_project(tmp_path: Path) -> None:
    for well, compound in (("A01", "DMSO"), ("A02", "C1")):
        path = tmp_path / "f" / "P-1" / well / "1.npz"
        path.parent.mkdir(parents=True)
        about = {"Metadata_Plate": "P-1", "Metadata_Well": well, "Compound": compound, "Metadata_dose": "007"}
        np.savez(
            path, features=np.ones((2, 3), np.float32), locations=np.ones((2, 2)), metadata=np.array(json.dumps(about))
        )
    assert run(tmp_path / "f", "-o", tmp_path / "t.csv") == 0
    found = read_table(tmp_path / "t.csv")
    assert found["Metadata_Compound"].tolist() == ["DMSO", "C1"] and found["Metadata_dose"].tolist() == ["007"] * 2


def test_plates_that_profile_has_not_ended_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(cells(), tmp_path / "features")
    for plate in ("P-0", "P-2"):
        (folder / plate / "A01").mkdir(parents=True)
        np.savez(folder / plate / "A01" / "1.npz", features=np.ones((2, 3), np.float32))
    assert run(folder, "-o", tmp_path / "t.csv") == 2
    assert "plate P-2 has features but no P-2.parquet" in capsys.readouterr().err


def test_the_project_says_what_controls_are(tmp_path: Path) -> None:
    root = projects.small(tmp_path, wells=8, cells=3)
    frame = cells(wells=8).rename(columns={"Metadata_Compound": "Metadata_Other"})
    frame["Metadata_Compound"] = [projects.LABELS[(int(well[1:]) - 1) % 4] for well in frame["Metadata_Well"]]
    frame["Metadata_Plate"] = frame["Metadata_Plate"].replace({"P-0": "P-1", "P-1": "P-2"})
    folder_of(frame, root / "outputs" / "mine" / "features")
    assert run(root, "--exp", "mine", "--normalize", "standardize", "-o", tmp_path / "n.parquet") == 0
    found = read_table(tmp_path / "n.parquet")
    np.testing.assert_allclose(found[found["Metadata_Compound"] == "DMSO"][FEATURES].mean(), 0, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--normalize", "standardize"], "need control wells"),
        (["--spherize", "--label", "Compound", "--control", "water"], "no control well"),
        (["--normalize", "standardize", "--label", "Drug", "--control", "DMSO"], "no column Drug"),
        (["--features", "nothing_*"], "no features"),
        (["--by", "cell", "--select"], "as wells only"),
        (["--tolerance", "0"], "above 0"),
        (["--plate", "P-0"], "OURS=THEIRS"),
    ],
)
def test_bad_options_are_one_line(
    tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(cells(), tmp_path / "features")
    assert run(folder, *words, "-o", tmp_path / "t.parquet") == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in last and not (tmp_path / "t.parquet").exists()


def test_places_and_files_that_cannot_be_used_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(cells(), tmp_path / "features")
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "broken" / "P" / "A01"
    broken.mkdir(parents=True)
    (broken / "1.npz").write_bytes(b"PK\x03\x04 nothing of the kind")
    text = tmp_path / "t.txt"
    text.write_text("x")
    cut = tmp_path / "cut.parquet"
    cut.write_bytes((folder / "P-0.parquet").read_bytes()[:500])
    for place, out, said in (
        (tmp_path / "nowhere", "t.csv", "no such folder"),
        (tmp_path / "empty", "t.csv", "neither Parquet files nor"),
        (tmp_path / "broken", "t.csv", "no file of features"),
        (text, "t.csv", "ends in"),
        (cut, "t.csv", "not a table"),
        (folder, "t.xlsx", "ends in"),
        (projects.small(tmp_path), "t.csv", "`profile` writes it"),
    ):
        assert run(place, "-o", tmp_path / out) == 2
        assert said in capsys.readouterr().err.strip().splitlines()[-1]
    (tmp_path / "there.csv").write_text("mine")
    assert run(folder, "-o", tmp_path / "there.csv") == 2 and (tmp_path / "there.csv").read_text() == "mine"
    assert run(folder, "-o", tmp_path / "there.csv", "--overwrite") == 0


def test_controls_that_cannot_be_sphered_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = cells()
    frame["deep_1"] = frame["deep_0"]  # two equal features
    folder = folder_of(frame, tmp_path / "features")
    options = ["--label", "Compound", "--control", "DMSO", "--spherize", "-o", tmp_path / "t.parquet"]
    assert run(folder, *options) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "cannot be sphered" in last and "--select" in last
    assert run(folder, *options, "--select") == 0


# ---- tables


def test_tables_keep_names_that_look_missing(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write("Metadata_Well,Metadata_moa,Cells_Area,Metadata_Dose\nA01,NA,1.5,007\nA02,,NA,010\n")
    found = read_table(path)
    assert found["Metadata_moa"].tolist() == ["NA", None] and found["Metadata_Dose"].tolist() == ["007", "010"]
    assert features_of(found) == ["Cells_Area"] and np.isnan(found.loc[1, "Cells_Area"])
    for ending in (".parquet", ".csv", ".csv.gz"):
        write_table(tmp_path / f"o{ending}", found)
        again = read_table(tmp_path / f"o{ending}")
        assert again["Metadata_moa"].tolist() == ["NA", None] and again["Metadata_Dose"].tolist() == ["007", "010"]


def test_empty_text_is_missing_in_every_kind_of_table(tmp_path: Path) -> None:
    frame = pd.DataFrame({"Metadata_moa": ["", "nan", "NA", None], "Metadata_Site": [1, 2, 3, 4], "deep_0": 1.0})
    for ending in (".parquet", ".csv"):
        write_table(tmp_path / f"t{ending}", frame)
        found = read_table(tmp_path / f"t{ending}")
        assert found["Metadata_moa"].tolist() == [None, None, "NA", None]
        assert found["Metadata_Site"].tolist() == ["1", "2", "3", "4"]


def test_counters_and_places_are_no_features() -> None:
    columns = ["Metadata_Site", "Image_Metadata_Well_x", "ImageNumber", "Nuclei_Location_Center_X", "Cells_Area"]
    columns += ["Metadata_Nuclei_Number_Object_Number", "Image_Count_Cells", "Nuclei_Number_Object_Number", "word"]
    frame = pd.DataFrame([[1.0] * 8 + ["x"]], columns=columns)
    assert features_of(frame) == ["Cells_Area"]
    with pytest.raises(BadInput, match="no features"):
        features_of(frame, ["deep_*"])


def test_what_is_missing_is_counted() -> None:
    values = np.random.default_rng(0).normal(size=(40, 3))
    values[:10, 0] = np.nan  # a quarter of the feature
    values[5, 1] = np.inf
    values[7] = np.nan
    frame = pd.DataFrame(values, columns=list("abc"))
    kept, features, notes = clean(frame, ["a", "b", "c"])
    assert features == ["b", "c"] and len(kept) == 38
    assert [note.split()[0] for note in notes] == ["1", "1", "1"]
    with pytest.raises(BadInput, match="no row"):
        clean(frame.iloc[7:8], ["a", "b", "c"])


@pytest.mark.parametrize(("one", "other"), [("B7", "b07"), ("A01", "A1"), ("H12", "H012"), ("A0", "A00")])
def test_wells_have_one_name(one: str, other: str) -> None:
    assert well_name(one) == well_name(other)
    assert well_name("A1") != well_name("A10") != well_name("B10")


# ---- join


def sited(places: np.ndarray, well: str = "B7", site: str = "3", plate: str = "P") -> pd.DataFrame:
    frame = pd.DataFrame(places, columns=["Nuclei_Location_Center_X", "Nuclei_Location_Center_Y"])
    return frame.assign(Metadata_Plate=plate, Metadata_Well=well, Metadata_Site=site)


@settings(deadline=None)
@given(st.integers(0, 5000), st.integers(1, 30), st.floats(0, 1))
def test_cells_find_their_partner(seed: int, count: int, share: float) -> None:
    """Centres far from each other, moved a little, shuffled, some of them lost on either side."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.divmod(rng.permutation(100)[:count], 10), 1) * 50.0
    other = pd.concat([sited(grid + rng.uniform(-3, 3, grid.shape)), sited(grid, site="4")], ignore_index=True)
    other["Cells_Id"] = np.arange(len(other))
    mine = sited(grid).assign(own=np.arange(count))
    there = rng.random(count) < share
    there[0] = True
    kept = other[np.concatenate([there, np.ones(count, bool)])].sample(frac=1, random_state=seed)
    found = join(mine, kept, 10)
    assert found.table["Cells_Id"].tolist() == found.table["own"].tolist() == np.flatnonzero(there).tolist()
    assert (found.left, found.right) == (count - there.sum(), len(kept) - there.sum())
    assert found.distance.max() <= 10


def test_a_cell_has_one_partner_within_tolerance() -> None:
    mine, other = sited(np.array([[10.0, 10], [14, 10], [300, 300]])), sited(np.array([[11.0, 10], [300, 311]]))
    found = join(mine, other, 10)
    assert found.table["Nuclei_Location_Center_X"].tolist() == [10.0] and (found.left, found.right) == (2, 1)
    assert len(join(mine, other, 11).table) == 2
    with pytest.raises(BadInput, match=r"within 0\.5 pixels"):
        join(mine, other, 0.5)
    with pytest.raises(BadInput, match="P/B7/3 here, P/C7/3 there"):
        join(mine, sited(np.zeros((1, 2)), well="C7"), 10)
    assert len(join(mine, other.assign(Metadata_Plate="Q"), 10, {"P": "Q"}).table) == 1
    with pytest.raises(BadInput, match="no column Nuclei_Location_Center_X"):
        join(mine, other.drop(columns="Nuclei_Location_Center_X"))
    with pytest.raises(BadInput, match="no column Metadata_Site"):
        join(mine, other.drop(columns="Metadata_Site"))


def test_cellprofilers_table_of_the_nf1_wells_is_joined(
    tmp_path: Path, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shared / "data" / "cellpainting" if (shared / "data").is_dir() else shared / "cellpainting"
    root = projects.nf1(tmp_path, shared)
    index = pd.read_csv(root / "inputs/metadata/index.csv", dtype=str)
    with h5py.File(data / "nf1_single_cell_crops_128.h5") as file:
        wells, places = file["well"][:].astype(str), file["center_yx"][:][:, ::-1].astype(float)
        levels = file["images"][:].mean((1, 2))
    for row in index.itertuples():
        path = root / "outputs/results/features" / row.Metadata_Plate / row.Metadata_Well / f"{row.Metadata_Site}.npz"
        path.parent.mkdir(parents=True)
        here = wells == row.Metadata_Well
        np.savez(path, features=levels[here].astype(np.float32), locations=places[here])
    table = data / "nf1_plate2" / "single_cells.parquet"
    options = ["--join", table, "--plate", f"{projects.NF1}=Plate_2"]
    assert run(root, *options, "--by", "cell", "-o", tmp_path / "cells.parquet") == 0
    assert "5 cells joined" in capsys.readouterr().err
    found = read_table(tmp_path / "cells.parquet")
    assert len(found) == 5 and set(found["Metadata_Well"]) == {"B7", "D6", "D7", "F7", "H12"}
    theirs = pd.read_parquet(table).set_index("Image_Metadata_Well_x")
    for row in found.itertuples():
        assert row.Nuclei_AreaShape_Area == theirs.loc[row.Metadata_Well, "Nuclei_AreaShape_Area"]
        at = theirs.loc[row.Metadata_Well, ["Nuclei_Location_Center_X", "Nuclei_Location_Center_Y"]].to_numpy(float)
        assert np.hypot(*(at - [row.Nuclei_Location_Center_X, row.Nuclei_Location_Center_Y])) < 10
    # both kinds of features, of wells
    assert run(root, *options, "-o", tmp_path / "wells.parquet") == 0
    wells_found = features_of(read_table(tmp_path / "wells.parquet"))
    assert "deep_0" in wells_found and "Nuclei_AreaShape_Area" in wells_found
    assert run(root, "--join", table, "-o", tmp_path / "w.parquet") == 2  # the plates' names differ
    assert "no cell is in the table to join" in capsys.readouterr().err
