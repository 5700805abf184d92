"""The five real NF1 wells: from images and locations to crops, by the verbs."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from models.cellprofiler.__main__ import main
from models.cellprofiler.project import Project
from models.cellprofiler.store import CropStore
from tests.models.cellprofiler.projects import NF1, edit, nf1
from tests.models.cellprofiler.test_crops import slow_bilinear


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Path:
    return nf1(tmp_path_factory.mktemp("nf1"), shared)


def bundle(shared: Path) -> dict[tuple[str, int, int], np.ndarray]:
    """The 117 crops of the bundle, (3, 128, 128), by well, x and y."""
    data = shared / "cellpainting"
    path = (data if data.exists() else shared / "data/cellpainting") / "nf1_single_cell_crops_128.h5"
    with h5py.File(path) as file:
        wells, centres, crops = file["well"][:].astype(str), file["center_yx"][:], file["images"][:]
    found = {
        (well, int(x), int(y)): crop.transpose(2, 0, 1)
        for well, (y, x), crop in zip(wells, centres, crops, strict=True)
    }
    assert len(found) == 117
    return found


def test_all_crops_equal_the_bundle(root: Path, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bit for bit, in the whole-pixel mode, which is the default."""
    assert main(["setup", str(root)]) == 0 and main(["check", str(root), "--project"]) == 0
    assert main(["sample", str(root), "--all"]) == 0, capsys.readouterr().err
    assert main(["check", str(root)]) == 0
    assert "117 crops, 0 missing, 0 black or constant; 0 rows dropped" in capsys.readouterr().out
    store, wanted = CropStore.open(root / "outputs/single-cells"), bundle(shared)
    assert (store.channels, store.box, store.dtype) == (("DAPI", "GFP", "RFP"), 128, np.uint16)
    assert store.classes == ("B", "D", "F", "H") and set(store.table["Metadata_Plate"]) == {NF1}
    xy = store.table[["Nuclei_Location_Center_X", "Nuclei_Location_Center_Y"]].to_numpy(int)
    keys = [(well, x, y) for well, (x, y) in zip(store.table["Metadata_Well"], xy.tolist(), strict=True)]
    assert sorted(keys) == sorted(wanted)
    for key, crop in zip(keys, store.read(np.arange(117)), strict=True):
        assert (crop == wanted[key]).all(), key


def test_published_crops_lie_a_pixel_off_at_most(root: Path, shared: Path) -> None:
    """The bilinear samples against the published formula, and beside the bundle's."""
    project, wanted = Project.open(root), bundle(shared)
    site = project.sites()[0]
    image, at = project.read(site), project.locations(site)
    crops = project.crops(site, image, at, "bilinear")
    for row in (0, 7):
        slow = slow_bilinear(image, *at[row], 128, 128)
        assert np.abs(crops[row] - slow).max() <= 0.5 + 1e-6
    for (x, y), crop in zip(at.astype(int).tolist(), crops.astype(float), strict=True):
        true = wanted[site.well, x, y].astype(float)
        assert np.corrcoef(crop.ravel(), true.ravel())[0, 1] > 0.97
        low, high = true[:, :-2, :-2], true[:, :-2, :-2]
        for dy in range(3):
            for dx in range(3):
                shifted = true[:, dy : 126 + dy, dx : 126 + dx]
                low, high = np.minimum(low, shifted), np.maximum(high, shifted)
        inner = crop[:, 1:-1, 1:-1]
        assert ((inner >= low - 1) & (inner <= high + 1)).all()  # between the pixels around it


def test_tiles_of_the_wells(root: Path) -> None:
    assert main(["sample", str(root), "--all", "--png", "--store", "tiles"]) == 0
    tiles = CropStore.open(root / "outputs/tiles")
    assert len(tiles) == 117 and tiles.dtype == np.uint8
    assert (root / "outputs/tiles" / f"{NF1}/B7/3/0@525x77.png").exists()


def test_real_masks(shared: Path, tmp_path: Path) -> None:
    """The wells' masks are filled. What is kept of a crop is the nucleus at its centre, some 60 pixels across."""
    root = nf1(tmp_path, shared)
    data = next(path for path in (shared / "cellpainting", shared / "data/cellpainting") if path.exists())
    (root / "inputs/outlines").mkdir()
    lines = ["Metadata_Plate,Metadata_Well,Metadata_Site,Outlines"]
    for site in Project.open(root).sites():
        path = next((data / "nf1_plate2/masks").glob(f"{site.well}_*_MaskNuclei.tiff"))
        (root / "inputs/outlines" / path.name).symlink_to(path)
        lines.append(f"{site.plate},{site.well},{site.site},{path.name}")
    (root / "inputs/metadata/outlines.csv").write_text("\n".join(lines))
    edit(root, dataset__locations__mask_objects=True, dataset__locations__mask_kind="filled")
    project, kept, plain = Project.open(root), [], bundle(shared)
    for site in project.sites():
        image, at = project.read(site), project.locations(site)
        crops = project.crops(site, image, at)
        for (x, y), crop in zip(at.astype(int).tolist(), crops, strict=True):
            true = plain[site.well, x, y]
            assert ((crop == true) | (crop == 0)).all()
            kept.append((crop > 0).all(0).mean())
    found = np.array(kept)
    assert ((found > 0.05) & (found < 0.35)).mean() > 0.9
