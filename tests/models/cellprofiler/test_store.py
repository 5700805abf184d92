"""Stores: reading rows in any order, DeepProfiler's own folders, and what is damaged."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ground.errors import BadInput
from models.cellprofiler.draw import Options
from models.cellprofiler.project import Project
from models.cellprofiler.sample import sample
from models.cellprofiler.store import CropStore
from models.cellprofiler.writing import strip
from tests.models.cellprofiler.projects import small


def quiet(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a store of four shards, and the same as PNGs."""
    root = small(tmp_path_factory.mktemp("store"), bits=16)
    for name, kind in (("single-cells", "hdf5"), ("tiles", "png")):
        sample(Project.open(root), name, Options(everything=True), kind, shard_mb=0.02, say=quiet)
    return root


def truth(root: Path, row: pd.Series) -> np.ndarray:
    """The crop of a row of the table, cut out of its image."""
    project = Project.open(root)
    site = next(site for site in project.sites() if site.key == row["Key"])
    at = row[["Nuclei_Location_Center_X", "Nuclei_Location_Center_Y"]].to_numpy(float)[None]
    return project.crops(site, project.read(site), at)[0]


def test_a_store(root: Path) -> None:
    store, project = CropStore.open(root / "outputs/single-cells"), Project.open(root)
    assert (store.channels, store.box, store.dtype) == (("DNA", "ER"), 16, np.uint16)
    assert store.classes == ("DMSO", "NA", "Zinc", "aspirin") and len(store.about["shards"]) >= 4
    assert len(store) == sum(len(project.locations(site)) for site in project.sites())
    table = store.table
    assert table.columns[:10].tolist() == [
        "Key", "Metadata_Plate", "Metadata_Well", "Metadata_Site", "Nuclei_Location_Center_X",
        "Nuclei_Location_Center_Y", "Target", "Class_Name", "Split", "Image_Name",
    ]  # fmt: skip
    assert {"Compound", "Metadata_moa"} <= set(table.columns) and not {"DNA", "ER", "Shard"} & set(table.columns)
    assert (np.array(store.classes)[table["Target"]] == table["Class_Name"]).all() and "NA" in set(table["Class_Name"])
    for row in (0, 17, 40, len(store) - 1):
        assert (store.read(np.array([row]))[0] == truth(root, table.iloc[row])).all()


@pytest.mark.parametrize("name", ["single-cells", "tiles"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_rows_in_any_order(root: Path, name: str, data: st.DataObject) -> None:
    store = CropStore.open(root / "outputs" / name)
    whole = store.read(np.arange(len(store)))
    rows = np.array(data.draw(st.lists(st.integers(0, len(store) - 1), max_size=30)), np.int64)
    found = store.read(rows)
    assert found.shape == (len(rows), 2, 16, 16) and (found == whole[rows]).all()


def test_tiles_are_the_crops_stretched(root: Path) -> None:
    store, tiles = (CropStore.open(root / "outputs" / name) for name in ("single-cells", "tiles"))
    assert tiles.dtype == np.uint8 and tiles.channels == store.channels
    assert tiles.table["Image_Name"].tolist() == store.table["Image_Name"].tolist()
    crops, found = store.read(np.arange(9)), tiles.read(np.arange(9))
    for crop, tile in zip(crops.astype(float), found, strict=True):
        for channel, grey in zip(crop, tile, strict=True):
            scaled = (channel - channel.min()) / (channel.max() - channel.min()) * 255
            assert np.abs(grey - scaled).max() <= 1
    path = root / "outputs/tiles" / tiles.table["Image_Name"].iloc[3]
    image = Image.open(path)
    assert image.size == (32, 16) and image.mode == "L"
    assert (np.asarray(image)[:, 16:] == found[3][1]).all()


def test_a_constant_channel_is_black_in_its_tile() -> None:
    crop = np.stack([np.full((4, 4), 900), np.arange(16).reshape(4, 4)]).astype(np.uint16)
    tile = strip(crop)
    assert not tile[:, :4].any() and tile[:, 4:].max() in (254, 255) and not strip(crop[:1]).any()


def original(root: Path, tmp_path: Path, version: str) -> tuple[Path, np.ndarray]:
    """The store as DeepProfiler's versions wrote it, and its crops."""
    tiles = CropStore.open(root / "outputs/tiles")
    folder = tmp_path / version
    table = tiles.table[["Nuclei_Location_Center_X", "Nuclei_Location_Center_Y", "Key", "Target", "Class_Name"]].copy()
    names = tiles.table["Image_Name"].tolist()
    if version == "A":
        table["Key"] = [f"{p}/{w}-{s}" for p, w, s in (key.split("/") for key in table["Key"])]
        new = [f"{key.replace('/', '-')}+{name.split('/')[-1]}" for key, name in zip(table["Key"], names, strict=True)]
    else:
        new = [name.replace("P-", "P/") for name in names]  # its hyphens became separators
        table["Key"] = table["Key"].str.replace("-", "/")
    for name, to in zip(names, new, strict=True):
        (folder / to).parent.mkdir(parents=True, exist_ok=True)
        (folder / to).write_bytes((root / "outputs/tiles" / name).read_bytes())
    table["Image_Name"] = new
    if version == "alpha":
        table = table[["Class_Name", "Image_Name"]]
        table["Training_Status"], table["Training_Status_Alpha"] = "Training", "Unused"
    if version == "C":
        table["Compound"], table["Split"] = table["Class_Name"], "Training"
    table.to_csv(folder / "sc-metadata.csv", index=False)
    return folder, tiles.read(np.arange(len(tiles)))


@pytest.mark.parametrize("version", ["A", "B", "C", "alpha"])
def test_folders_of_the_original(root: Path, tmp_path: Path, version: str) -> None:
    folder, crops = original(root, tmp_path, version)
    store = CropStore.open(folder)
    assert (store.read(np.arange(len(store))) == crops).all()
    tiles = CropStore.open(root / "outputs/tiles")
    for name in ("Key", "Metadata_Plate", "Metadata_Well", "Metadata_Site", "Class_Name"):
        assert store.table[name].tolist() == tiles.table[name].tolist(), name
    assert store.classes == tiles.classes and (store.table["Target"] == tiles.table["Target"]).all()
    assert store.channels == ("0", "1") and store.box == 16
    assert set(store.table["Split"]) == ({""} if version in "AB" else {"Training"})
    assert np.isnan(store.table["Nuclei_Location_Center_X"]).all() == (version == "alpha")


def test_the_split_is_edited_in_the_table(root: Path, tmp_path: Path) -> None:
    store = CropStore.open(root / "outputs/single-cells")
    path, text = root / "outputs/single-cells/sc-metadata.csv", ""
    before = store.digest()
    try:
        text = path.read_text()
        table = pd.read_csv(path, dtype=str, keep_default_na=False).iloc[::-3]
        table["Split"] = "Other"
        table.to_csv(path, index=False)
        edited = CropStore.open(path.parent)
        assert len(edited) == len(table) and set(edited.table["Split"]) == {"Other"}
        whole = store.read(np.arange(len(store)))[::-3]
        assert (edited.read(np.arange(len(edited))) == whole).all() and edited.digest() != before
    finally:
        path.write_text(text)
    assert CropStore.open(path.parent).digest() == before


def test_threads_and_pickles(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from models.cellprofiler import store as module

    monkeypatch.setattr(module, "_OPEN", 2)  # fewer than shards: they are closed while others are read
    store = pickle.loads(pickle.dumps(CropStore.open(root / "outputs/single-cells")))
    whole = store.read(np.arange(len(store)))
    orders = [np.random.default_rng(seed).permutation(len(store)) for seed in range(40)]
    with ThreadPoolExecutor(8) as pool:
        for rows, found in zip(orders, pool.map(store.read, orders), strict=True):
            assert (found == whole[rows]).all()
    assert len(store._open) <= 2


def copied(root: Path, tmp_path: Path) -> Path:
    import shutil

    shutil.copytree(root / "outputs/single-cells", tmp_path / "store")
    return tmp_path / "store"


def test_stores_that_cannot_be_read(root: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        CropStore.open(tmp_path)
    folder = copied(root, tmp_path)
    store, shard = CropStore.open(folder), folder / "shards/cells-00001.h5"
    rows = np.arange(len(store))
    raw = shard.read_bytes()
    shard.unlink()
    with pytest.raises(BadInput, match=r"cells-00001.h5: no such file"):
        store.read(rows)
    shard.write_bytes(raw[: len(raw) // 3])
    with pytest.raises(BadInput, match=r"cells-00001.h5"):
        store.read(rows)
    shard.unlink()
    with h5py.File(shard, "w") as file:
        file["crops"] = np.zeros((3, 2, 16, 16), np.uint16)
    with pytest.raises(BadInput, match=r"its crops are not those that store\.json tells of"):
        store.read(rows)
    table, lines = folder / "sc-metadata.csv", (folder / "sc-metadata.csv").read_text().splitlines()
    table.write_text("\n".join([*lines[:2], lines[2].replace(",0,1,", ",0,999,")]))
    with pytest.raises(BadInput, match="line 3: there is no row 999 of shard 0"):
        CropStore.open(folder)
    table.write_text("\n".join([*lines[:2], lines[2].replace("DMSO", "Other")]))
    with pytest.raises(BadInput, match="line 3: 'Other' is none of the store's classes"):
        CropStore.open(folder)
    table.write_text(lines[0])
    with pytest.raises(BadInput, match="has no cell"):
        CropStore.open(folder)
    about = json.loads((folder / "store.json").read_text())
    (folder / "store.json").write_text(json.dumps(about | {"box": "16"}))
    with pytest.raises(BadInput, match=r"store\.json: box is '16'"):
        CropStore.open(folder)
    (folder / "store.json").write_text(json.dumps(about | {"format": "other"}))
    with pytest.raises(BadInput, match="format is 'other'"):
        CropStore.open(folder)
    (folder / "store.json").write_text("{")
    with pytest.raises(BadInput, match=r"store\.json"):
        CropStore.open(folder)


def test_a_file_that_shrinks_while_it_is_open(root: Path, tmp_path: Path) -> None:
    folder = copied(root, tmp_path)
    store = CropStore.open(folder)
    store.read(np.arange(len(store)))
    shard = folder / "shards/cells-00000.h5"
    with open(shard, "r+b") as file:
        file.truncate(3000)
    with pytest.raises(BadInput, match="is shorter than it was"):
        store.read(np.arange(len(store)))


def test_tiles_that_differ(root: Path, tmp_path: Path) -> None:
    folder, _ = original(root, tmp_path, "B")
    store = CropStore.open(folder)
    path = folder / store.table["Image_Name"].iloc[2]
    Image.fromarray(np.zeros((16, 48), np.uint8)).save(path)
    with pytest.raises(BadInput, match="48 x 16 of uint8, not 2 channels of 16 x 16"):
        store.read(np.arange(5))
    path.unlink()
    with pytest.raises(BadInput, match="no such image"):
        store.read(np.arange(20))
