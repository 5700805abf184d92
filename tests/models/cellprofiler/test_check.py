"""The pre-flight of a project, and the check of a store's crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from ground.errors import BadInput
from models.cellprofiler import images, preflight
from models.cellprofiler.__main__ import main
from models.cellprofiler.check import check
from models.cellprofiler.draw import Options
from models.cellprofiler.project import Project
from models.cellprofiler.sample import sample
from models.cellprofiler.store import CropStore
from tests.models.cellprofiler.projects import edit, small, write_locations


def quiet(_: str) -> None:
    pass


def found(root: Path, purpose: str = "sample") -> dict[str, bool]:
    """The lines of the pre-flight, and whether each stops."""
    report = preflight.look(Project.open(root), purpose, quiet)
    return {problem.line: problem.stops for problem in report.problems}


def told(root: Path, words: str, first: str, stops: bool, purpose: str = "sample") -> None:
    lines = {line: s for line, s in found(root, purpose).items() if words in line}
    assert len(lines) == 1, found(root, purpose)
    ((line, stopped),) = lines.items()
    assert first in line and stopped == stops and "\n" not in line


def test_nothing_is_wrong_and_nothing_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = small(tmp_path)
    monkeypatch.setattr(images, "read", None)
    assert found(root) == {} and found(root, "profile") == {} and found(root, "prepare") == {}
    assert main(["check", str(root), "--project"]) == 0


def test_images(tmp_path: Path) -> None:
    root = small(tmp_path)
    pictures = root / "inputs/images/P-1"
    (pictures / "A01_s1_ER.png").unlink()
    (pictures / "A01_s2_DNA.png").unlink()
    told(root, "2 images are missing", f"{pictures}/A01_s1_ER.png (ER of P-1/A01/1)", True, "profile")
    (pictures / "A02_s1_DNA.png").write_text("text")
    tifffile.imwrite(pictures / "A02_s2_ER.png", np.zeros((2, 48, 64), np.uint8), photometric="minisblack")
    told(root, "2 images cannot be read", f"{pictures}/A02_s1_DNA.png: not a readable image", True, "prepare")
    for channel in ("DNA", "ER"):
        Image.fromarray(np.zeros((48, 63), np.uint8)).save(pictures / f"A03_s1_{channel}.png")
    told(root, "2 images are not of the configuration's 64 x 48", f"{pictures}/A03_s1_DNA.png: 63 x 48", True)
    Image.fromarray(np.zeros((48, 64), np.uint16)).save(pictures / "A04_s1_ER.png")
    told(root, "1 images are not of 8 bits", f"{pictures}/A04_s1_ER.png: 16", True)
    told(root, "1 sites have channels that differ", "P-1/A04/1: 64 x 48 of 8 bits, 64 x 48 of 16 bits", True)
    with pytest.raises(BadInput, match=r"2 images are missing; the first, .* \(and 4 more, above\)$"):
        preflight.check(Project.open(root), "profile", quiet)


def test_bits_that_nobody_named(tmp_path: Path) -> None:
    root = small(tmp_path)
    edit(root, dataset__images__bits=None)
    assert found(root) == {}
    for channel in ("DNA", "ER"):
        Image.fromarray(np.zeros((48, 64), np.uint16)).save(root / f"inputs/images/P-1/A04_s1_{channel}.png")
    told(root, "some images are of 8, others of 16 bits", "", True)


def test_locations(tmp_path: Path) -> None:
    root = small(tmp_path)
    write_locations(root, "P-1", "A01", "1", np.array([[1, 1], [np.nan, 2], [3, np.nan], [5, 5]]))
    told(root, "2 locations are no numbers and are left out", "A01-1-Nuclei.csv: 2", False)
    (root / "inputs/locations/P-1/A01-2-Nuclei.csv").unlink()
    told(root, "1 sites have no cell", "P-1/A01/2", False)
    write_locations(root, "P-1", "A02", "1", np.full((150, 2), 7))
    write_locations(root, "P-1", "A02", "2", np.array([[5.0, 5.0], [5.0, 48.0]]))  # one pixel below
    told(root, "cells lie outside", "P-1/A02/2: x 5, y 48 in 64 x 48 pixels", False)
    write_locations(root, "P-1", "A02", "2", np.array([[64.0, 5.0], [60.0, -1.0], [70.0, 3.0]]))
    told(root, "cells lie outside", "P-1/A02/2: x 64, y 5 in 64 x 48 pixels", True)
    (root / "inputs/locations/P-1/A03-1-Nuclei.csv").write_text("x,y\n1,2\n")
    told(root, "1 files of locations cannot be used", "A03-1-Nuclei.csv: has no column Nuclei_Location", True)
    for path in (root / "inputs/locations").rglob("*.csv"):
        path.unlink()
    told(root, "no site has a cell", "A01-1-Nuclei.csv", True, "profile")
    assert found(root, "prepare") == {}


def rewritten(root: Path, change: dict[str, str]) -> None:
    path = root / "inputs/metadata/index.csv"
    text = path.read_text()
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


def test_labels_and_split(tmp_path: Path) -> None:
    root = small(tmp_path)
    rewritten(root, {",aspirin,Validation": ",aspirin,Unused", ",NA,Validation": ",NA,Training"})
    told(root, "2 of 4 classes are absent from validation; the first, NA", "", False)
    told(root, "2 sites are for neither training, validation nor test; the first, P-2/A03/1: 'Unused'", "", False)
    rewritten(root, {",Training": ",train", ",Unused": ",Training"})
    told(root, "training has one class alone, 'aspirin'", "", True)
    rewritten(root, {",Training": ",x"})
    told(root, "no site is for training: Split is never Training, but 'Validation', 'train', 'x'", "", True)
    rewritten(root, {",DMSO,": ",,"})
    told(root, "4 sites have no Compound; the first, P-1/A01/1, line 2 of index.csv", "", True)
    assert not any("split" in line.lower() for line in found(root, "profile"))
    rewritten(root, {",,": ",Zinc,", ",NA,": ",Zinc,", ",aspirin,": ",Zinc,"})
    told(root, "Compound has one class alone, 'Zinc'", "", True)
    rewritten(root, {"Split": "split"})
    told(root, "the index has no column Split", "", True)
    assert main(["check", str(root), "--project"]) == 2


def test_sites_named_twice(tmp_path: Path) -> None:
    root = small(tmp_path)
    path = root / "inputs/metadata/index.csv"
    path.write_text(path.read_text() + "\n".join(path.read_text().splitlines()[3:5]) + "\n")
    told(root, "2 rows of the index name a site again", "P-1/A02/1, line 18 of index.csv", False)


def test_masks(tmp_path: Path) -> None:
    root = small(tmp_path, wells=1)
    edit(root, dataset__locations__mask_objects=True)
    told(root, "4 masks cannot be used", "outlines.csv: no such file", True)
    (root / "inputs/outlines").mkdir()
    lines = ["Metadata_Plate,Metadata_Well,Metadata_Site,Outlines"]
    for number, site in enumerate(Project.open(root).sites()):
        lines.append(f"{site.plate},{site.well},{site.site},{number}.png")
        Image.fromarray(np.zeros((48, 64 - (number == 2)), np.uint8)).save(root / f"inputs/outlines/{number}.png")
    (root / "inputs/metadata/outlines.csv").write_text("\n".join(lines[:-1]))
    told(root, "1 masks cannot be used", "P-2/A01/2: mask_objects is true, but neither", True, "profile")
    told(root, "1 masks differ from their images in size", "2.png: 63 x 48", True)


def test_it_runs_before_sampling(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = small(tmp_path)
    (root / "inputs/images/P-1/A01_s1_ER.png").unlink()
    edit(root, dataset__images__width=65)
    assert main(["sample", str(root)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert "1 images are missing" in errors[-1] and "(and 1 more, above)" in errors[-1]
    assert any("31 images are not of the configuration's 65 x 48 pixels" in line for line in errors[:-1])
    assert not (root / "outputs/single-cells").exists()


def broken(root: Path, kind: str) -> tuple[Path, int]:
    """A store with two black crops, one constant one, one with a constant channel; cells in all."""
    at = np.array([[8.0, 8.0], [24.0, 8.0], [40.0, 8.0], [56.0, 8.0], [8.0, 40.0]])
    write_locations(root, "P-1", "A01", "1", at)
    for channel, values in (("DNA", (0, 0, 7, 7)), ("ER", (0, 0, 9, None))):
        path = root / f"inputs/images/P-1/A01_s1_{channel}.png"
        pixels = np.asarray(Image.open(path)).copy()
        for number, value in enumerate(values):
            if value is not None:
                pixels[0:16, 16 * number : 16 * number + 16] = value
        Image.fromarray(pixels).save(path)
    folder = sample(Project.open(root), "s", Options(everything=True), kind, shard_mb=0.02, say=quiet)
    return folder, len(CropStore.open(folder))


@pytest.mark.parametrize("kind", ["hdf5", "png"])
def test_black_and_constant_crops_leave_the_table(tmp_path: Path, kind: str) -> None:
    folder, cells = broken(small(tmp_path), kind)
    before = (folder / "sc-metadata.csv").read_bytes()
    files = {path for path in folder.rglob("*") if path.is_file()}
    dry = check(folder, "all", True, quiet)
    assert (folder / "sc-metadata.csv").read_bytes() == before and "3 rows would be dropped" in dry
    line = check(folder, "all", False, quiet)
    assert f"{cells} crops, 0 missing, 3 black or constant; 3 rows dropped" in line
    zero = pd.read_csv(folder / "zero_crops.csv")
    black = ["P-1/A01/1/0@8x8.png", "P-1/A01/1/0@24x8.png"]
    assert zero["missing"].tolist() == [*black, "P-1/A01/1/0@40x8.png"]
    # a tile keeps no grey level: it is black where the crop was constant
    assert zero["reason"].tolist() == ["black", "black", "constant" if kind == "hdf5" else "black"]
    assert (folder / "missing_crops.csv").read_text() == "missing_crops\n"
    store = CropStore.open(folder)
    assert len(store) == cells - 3 and not set(store.table["Image_Name"]) & set(zero["missing"])
    assert (folder / "sc-metadata.original.csv").read_bytes() == before
    assert files <= {path for path in folder.rglob("*") if path.is_file()}  # no crop was deleted
    # again: the same lists, and the first table is still the original's
    assert "3 black or constant; 0 rows dropped" in check(folder, "all", False, quiet)
    assert (folder / "sc-metadata.original.csv").read_bytes() == before
    assert len(pd.read_csv(folder / "zero_crops.csv")) == 3
    check(folder, "any", False, quiet)
    zero = pd.read_csv(folder / "zero_crops.csv")
    assert zero["reason"].tolist()[3] == "constant DNA" and len(CropStore.open(folder)) == cells - 4
    assert (folder / "sc-metadata.original.csv").read_bytes() == before
    left = CropStore.open(folder)
    assert all(crop.max() > crop.min() for cell in left.read(np.arange(len(left))) for crop in cell)


@pytest.mark.parametrize("kind", ["hdf5", "png"])
def test_missing_crops(tmp_path: Path, kind: str) -> None:
    folder, cells = broken(small(tmp_path), kind)
    store = CropStore.open(folder)
    names = store.table["Image_Name"].tolist()
    if kind == "hdf5":
        lost = names[store.about["shards"][0] : sum(store.about["shards"][:2])]
        (folder / "shards/cells-00001.h5").unlink()
    else:
        lost = [names[20], names[33], names[60]]
        (folder / lost[0]).unlink()
        (folder / lost[1]).write_bytes((folder / lost[1]).read_bytes()[:60])
        (folder / lost[2]).write_bytes(b"")
    assert f"{len(lost)} missing, 3 black" in check(folder, "all", False, quiet)
    assert pd.read_csv(folder / "missing_crops.csv")["missing_crops"].tolist() == lost
    store = CropStore.open(folder)
    assert len(store) == cells - 3 - len(lost)
    store.read(np.arange(len(store)))


def test_a_folder_of_the_original_whose_first_crops_are_missing(tmp_path: Path) -> None:
    folder, cells = broken(small(tmp_path), "png")
    for name in ("store.json", "parts"):
        (folder / name).rename(tmp_path / name)
    names = CropStore.open(folder).table["Image_Name"].tolist()
    (folder / names[0]).unlink()
    (folder / names[1]).write_text("no image")
    assert f"{cells} crops, 2 missing, 1 black or constant; 3 rows dropped" in check(folder, "all", False, quiet)
    for name in names:
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(BadInput, match="no such image"):
        CropStore.open(folder)


def test_more_than_fifty_are_dropped_too(tmp_path: Path) -> None:
    """The original leaves 50 and more alone."""
    root = small(tmp_path, wells=2, cells=40)
    for channel in ("DNA", "ER"):
        Image.fromarray(np.zeros((48, 64), np.uint8)).save(root / f"inputs/images/P-1/A01_s1_{channel}.png")
        Image.fromarray(np.zeros((48, 64), np.uint8)).save(root / f"inputs/images/P-1/A01_s2_{channel}.png")
    folder = sample(Project.open(root), options=Options(everything=True), say=quiet)
    cells = len(CropStore.open(folder))
    check(folder, "all", False, quiet)
    black = len(pd.read_csv(folder / "zero_crops.csv"))
    assert black > 50 and len(CropStore.open(folder)) == cells - black


def test_a_store_of_nothing_else_stays(tmp_path: Path) -> None:
    root = small(tmp_path, wells=1)
    edit(root, dataset__locations__box_size=2)
    for path in (root / "inputs/images").rglob("*.png"):
        Image.fromarray(np.zeros((48, 64), np.uint8)).save(path)
    folder = sample(Project.open(root), options=Options(everything=True), say=quiet)
    before = (folder / "sc-metadata.csv").read_bytes()
    with pytest.raises(BadInput, match="are missing, black or constant"):
        check(folder, "all", False, quiet)
    assert (folder / "sc-metadata.csv").read_bytes() == before


def test_verbs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = small(tmp_path)
    broken(root, "hdf5")
    assert main(["check", str(root), "--store", "s"]) == 0
    assert "3 black or constant; 3 rows dropped" in capsys.readouterr().out
    assert main(["check", str(root)]) == 2  # there is no such store
    assert "sc-metadata.csv: no such file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["check", "--help"])
    assert "zero_crops.csv" in capsys.readouterr().out
