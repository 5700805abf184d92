"""Sampling: which cells, killed runs, and what stops it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ground.errors import BadInput
from models.cellprofiler import sample as module
from models.cellprofiler.__main__ import main
from models.cellprofiler.draw import Drawn, Options, draw
from models.cellprofiler.project import Project
from models.cellprofiler.sample import sample
from models.cellprofiler.store import CropStore
from models.cellprofiler.writing import part_path
from tests.conftest import ROOT
from tests.models.cellprofiler.projects import edit, small, write_locations


def quiet(_: str) -> None:
    pass


def drawn(root: Path, options: Options) -> Drawn:
    project = Project.open(root)
    return draw(project, [(site, project.locations(site)) for site in project.sites()], options)


def counts(found: Drawn) -> dict[str, int]:
    return {site.key: int(repeats.sum()) for site, repeats in zip(found.sites, found.repeats, strict=True)}


def test_a_factor_of_the_median_is_drawn_from_each_site(tmp_path: Path) -> None:
    root = small(tmp_path, cells=6)  # 5 to 7 a site
    project = Project.open(root)
    there = {site.key: len(project.locations(site)) for site in project.sites()}
    training = [site.key for site in project.sites() if site.split == "Training"]
    median = int(np.median([there[key] for key in training]))
    for factor in (1.0, 0.5, 0.01, 3.0):
        wanted = max(1, int(factor * median))
        found = counts(drawn(root, Options(factor=factor)))
        for key in there:  # sites of the validation have all of theirs
            assert found[key] == (min(wanted, there[key]) if key in training else there[key])
    found = counts(drawn(root, Options(held_out=2)))
    assert {found[key] for key in there if key not in training} == {2}
    assert not set(counts(drawn(root, Options(held_out=0)))) - set(training)


def test_draws_depend_on_the_seed_and_the_site_alone(tmp_path: Path) -> None:
    root = small(tmp_path, wells=3)
    first = drawn(root, Options(factor=0.5, seed=3))
    again, other = drawn(root, Options(factor=0.5, seed=3)), drawn(root, Options(factor=0.5, seed=4))
    same = [np.array_equal(a, b) for a, b in zip(first.centres, again.centres, strict=True)]
    assert all(same)
    assert not all(np.array_equal(a, b) for a, b in zip(first.centres, other.centres, strict=True))
    index = root / "inputs/metadata/index.csv"
    lines = index.read_text().splitlines()
    index.write_text("\n".join([lines[0], *lines[:0:-1]]))  # the other way round
    turned = drawn(root, Options(factor=0.5, seed=3))
    by_key = {site.key: at for site, at in zip(turned.sites, turned.centres, strict=True)}
    training = [k for k, site in enumerate(first.sites) if site.split == "Training"]
    assert all(np.array_equal(by_key[first.sites[k].key], first.centres[k]) for k in training)


def test_the_original_draw(tmp_path: Path) -> None:
    """Classes of 8, 8, 4 and 4 sites: the median class has 6, small ones are drawn with replacement."""
    root = small(tmp_path, plates=("P-1", "P-2"), wells=6)
    index = root / "inputs/metadata/index.csv"
    index.write_text(index.read_text().replace("Validation", "Training"))
    edit(root, train__partition__training_values=["Training"])
    project = Project.open(root)
    sites = Counter(site.label for site in project.sites())
    wanted = int(np.median(list(sites.values())))
    found = drawn(root, Options(factor=0.4, original=True, seed=1))
    times: Counter[str] = Counter()
    for site, at, repeats in zip(found.sites, found.centres, found.repeats, strict=True):
        assert len(at) == len(repeats) and repeats.min() >= 1
        times[site.label] += int(repeats.sum()) // max(1, int(0.4 * 6))
    assert set(times.values()) == {wanted}
    # what there is enough of is drawn once at most
    assert {r.max() for s, r in zip(found.sites, found.repeats, strict=True) if sites[s.label] >= wanted} == {1}
    store = CropStore.open(sample(project, options=Options(factor=0.4, original=True, seed=1), say=quiet))
    assert len(store) == sum(int(r.sum()) for r in found.repeats)
    assert sum(store.about["shards"]) == sum(map(len, found.centres))
    crops = store.read(np.arange(len(store)))
    doubles = np.flatnonzero(store.table["Image_Name"].duplicated())
    assert (crops[doubles] == crops[doubles - 1]).all()


def test_replacement_where_a_class_is_small(tmp_path: Path) -> None:
    root = small(tmp_path, plates=("P-1", "P-2", "P-3"), wells=4, sites=1)
    index = root / "inputs/metadata/index.csv"
    text = index.read_text().replace("Validation", "Training")
    index.write_text("\n".join(line for line in text.splitlines() if not ("aspirin" in line and "P-1" not in line)))
    found = drawn(root, Options(factor=9.0, original=True))
    (site,) = {site.key for site in found.sites if site.label == "aspirin"}
    repeats = next(r for s, r in zip(found.sites, found.repeats, strict=True) if s.key == site)
    assert (repeats == 3).all()  # one site, three times, all of its cells


def test_cells_at_one_place_are_all_kept(tmp_path: Path) -> None:
    root = small(tmp_path, wells=2)
    write_locations(root, "P-1", "A01", "1", np.array([[9.0, 9.0], [9.0, 9.0], [20.5, 9.0]]))
    for kind in ("hdf5", "png"):
        store = CropStore.open(sample(Project.open(root), kind, kind=kind, say=quiet))
        names = store.table["Image_Name"][store.table["Key"] == "P-1/A01/1"].tolist()
        assert names == ["P-1/A01/1/0@9x9.png", "P-1/A01/1/0@9x9_2.png", "P-1/A01/1/0@20.5x9.png"]
        assert len(store.read(np.arange(3))) == 3


def store_bytes(folder: Path) -> tuple[str, bytes, list[bytes]]:
    """All that a store says: its table, store.json and the crops."""
    shards = []
    for path in sorted((folder / "shards").iterdir()):
        with h5py.File(path) as file:
            shards.append(file["crops"][:].tobytes() + file["metadata"][()])
    return (folder / "sc-metadata.csv").read_text(), (folder / "store.json").read_bytes(), shards


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    """kill -9 in several rounds: in the end nothing is missing, nothing doubled."""
    root = small(tmp_path, plates=("P-1", "P-2", "P-3", "P-4"), wells=8, size=(200, 300), cells=30, box=64)
    command = [sys.executable, "-m", "models.cellprofiler", "sample", str(root), "--shard-mb", "0.2", "--store", "a"]
    folder, seen, killed = root / "outputs/a", 0, 0
    for wanted, processes in ((1, "1"), (4, "2")):  # a killed parent's processes stop after their part
        with subprocess.Popen(
            [*command, "--processes", processes],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.DEVNULL,
        ) as running:
            while running.poll() is None and len(list(folder.glob("shards/cells-*"))) < seen + wanted:
                time.sleep(0.002)
            if running.poll() is None:
                running.send_signal(signal.SIGKILL)
                killed += 1
        seen = len(list(folder.glob("shards/cells-*")))
        if (folder / "store.json").exists():
            break
        with pytest.raises(BadInput, match="its sampling was not finished"):
            CropStore.open(folder)
    assert killed == 2 and not (folder / "store.json").exists()
    (folder / "shards/.tmp-dead.h5").write_bytes(b"half of a part")
    times = {path: path.stat().st_mtime_ns for path in folder.glob("shards/cells-*")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert times and all(path.stat().st_mtime_ns == at for path, at in times.items())  # none was written again
    assert len(list(folder.glob("shards/cells-*"))) > len(times), done.stdout
    project = Project.open(root)
    whole = sample(project, "b", shard_mb=0.2, say=quiet)
    (table, about, shards), (other, about_other, shards_other) = store_bytes(folder), store_bytes(whole)
    assert table == other and about == about_other and shards == shards_other
    store = CropStore.open(folder)
    assert not store.table["Image_Name"].duplicated().any()
    assert sorted(path.name for path in folder.iterdir()) == ["sc-metadata.csv", "shards", "store.json"]
    assert not list(folder.rglob(".tmp*"))  # nothing of what was in hand is left


def test_a_killed_run_of_tiles_goes_on(tmp_path: Path) -> None:
    root = small(tmp_path, wells=3)
    project = Project.open(root)
    written = module.write_part
    calls = []

    def dies(folder: Path, number: int, *rest: object) -> int:
        calls.append(number)
        if len(calls) == 3:
            # half of a tile is there, and no part
            written(folder, number, *rest)  # type: ignore[arg-type]
            part_path(folder, number, "png").unlink()
            last = max((folder / "P-2").rglob("*.png"), key=lambda path: path.stat().st_mtime_ns)
            last.write_bytes(last.read_bytes()[:40])
            raise KeyboardInterrupt
        return written(folder, number, *rest)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "write_part", dies)
        with pytest.raises(KeyboardInterrupt):
            sample(project, "a", kind="png", shard_mb=0.02, say=quiet)
    store = CropStore.open(sample(project, "a", kind="png", shard_mb=0.02, say=quiet))
    other = CropStore.open(sample(project, "b", kind="png", shard_mb=0.02, say=quiet))
    assert store.table.equals(other.table) and store.digest() == other.digest()
    assert (store.read(np.arange(len(store))) == other.read(np.arange(len(store)))).all()


def test_a_store_is_never_overwritten_silently(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = small(tmp_path)
    assert main(["sample", str(root)]) == 0
    before = (root / "outputs/single-cells/shards/cells-00000.h5").stat().st_mtime_ns
    assert main(["sample", str(root)]) == 0 and "there already" in capsys.readouterr().err
    assert main(["sample", str(root), "--factor", "0.5"]) == 2
    assert "made from other data or with other options" in capsys.readouterr().err
    assert (root / "outputs/single-cells/shards/cells-00000.h5").stat().st_mtime_ns == before
    image = root / "inputs/images/P-1/A01_s1_DNA.png"
    Image.fromarray(np.asarray(Image.open(image)) ^ 1).save(image)
    assert main(["sample", str(root)]) == 2  # an image changed
    digest = CropStore.open(root / "outputs/single-cells").digest()
    assert main(["sample", str(root), "--overwrite"]) == 0
    assert CropStore.open(root / "outputs/single-cells").digest() != digest
    assert sorted(path.name for path in (root / "outputs").iterdir()) == ["single-cells"]
    (root / "outputs/mine").mkdir()
    (root / "outputs/mine/notes.txt").write_text("mine")
    assert main(["sample", str(root), "--store", "mine", "--overwrite"]) == 2
    assert (root / "outputs/mine/notes.txt").exists() and "no store of this command" in capsys.readouterr().err
    assert main(["sample", str(root), "--store", "../x"]) == 2


def test_a_damaged_image_stops_all_processes_with_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = small(tmp_path)
    path = root / "inputs/images/P-2/A03_s1_ER.png"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])  # its header is good
    given = ["sample", str(root), "--shard-mb", "0.02", "--processes", "2"]
    assert main(given) == 2
    errors = capfd.readouterr().err
    assert "A03_s1_ER.png: not a readable image" in errors.splitlines()[-1] and "Traceback" not in errors
    path.write_bytes(whole)
    os.utime(path, ns=(1, 1))
    assert main(given) == 2  # not the image that the plan was made with
    assert "other data" in capfd.readouterr().err
    assert main([*given[:-1], "1", "--overwrite"]) == 0


def test_every_cell_of_every_row(tmp_path: Path) -> None:
    root = small(tmp_path)
    index = root / "inputs/metadata/index.csv"
    index.write_text(index.read_text().replace("Validation", "Unused"))
    project = Project.open(root)
    told: list[str] = []
    sample(project, "x", say=told.append)
    assert any("no site is for validation" in line for line in told)
    store = CropStore.open(sample(project, options=Options(everything=True), say=quiet))
    assert len(store) == sum(len(project.locations(site)) for site in project.sites())
    assert set(store.table["Split"]) == {"Training", "Unused"}
    xy = store.table[["Nuclei_Location_Center_X", "Nuclei_Location_Center_Y"]].to_numpy()
    assert (xy == np.concatenate([project.locations(site) for site in project.sites()])).all()


def test_processes_and_odd_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Plates with hyphens, and a folder that several processes are told of: all of it as by one process."""
    root = small(tmp_path / "50% d'ici", plates=("SQ-00-1", "BR %d é"))
    one = sample(Project.open(root), "one", shard_mb=0.02, processes=1, say=quiet)
    assert main(["sample", str(root), "--processes", "2", "--shard-mb", "0.02"]) == 0, capsys.readouterr().err
    assert store_bytes(one) == store_bytes(root / "outputs/single-cells")
    store = CropStore.open(root / "outputs/single-cells")
    assert set(store.table["Metadata_Plate"]) == {"SQ-00-1", "BR %d é"} and len(store.about["shards"]) >= 4
    assert set(store.table["Key"].str.count("/")) == {2}


def test_bilinear_and_full_images(tmp_path: Path) -> None:
    root = small(tmp_path, size=(48, 48))
    store = CropStore.open(sample(Project.open(root), "b", mode="bilinear", say=quiet))
    assert store.about["crop"] == "bilinear"
    edit(root, dataset__locations__mode="full_image", dataset__locations__area_coverage=0.75)
    store = CropStore.open(sample(Project.open(root), "f", options=Options(everything=True), say=quiet))
    assert len(store) == 5 * 16 and store.read(np.arange(5)).any()


def test_the_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Numbers of locations, and names that look like numbers, come back as they were."""
    root = small(tmp_path, plates=("0012", "1e5"))
    index = pd.read_csv(root / "inputs/metadata/index.csv", dtype=str, keep_default_na=False)
    index["Metadata_note"] = ['a,"b"', "NaN", "", "007"] * 4
    index.to_csv(root / "inputs/metadata/index.csv", index=False)
    at = np.array([[1 / 3, 2e-7 + 1], [17, 40.125]])
    write_locations(root, "0012", "A01", "1", at)
    store = CropStore.open(sample(Project.open(root), options=Options(everything=True), say=quiet))
    assert set(store.table["Metadata_Plate"]) == {"0012", "1e5"}
    assert set(store.table["Metadata_note"]) == {'a,"b"', "NaN", "", "007"}
    xy = store.table[["Nuclei_Location_Center_X", "Nuclei_Location_Center_Y"]].to_numpy()[:2]
    assert (xy == at).all()
