from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ground.states import load_state, save_state
from models.cellprofiler.__main__ import main
from models.cellprofiler.draw import Options
from models.cellprofiler.project import Project
from models.cellprofiler.sample import sample
from models.cellprofiler.snapshot import Snapshot
from models.cellprofiler.store import CropStore
from tests.conftest import ROOT
from tests.models.cellprofiler import plates, projects
from tests.models.cellprofiler.trained import snapshot


@pytest.fixture(scope="session")
def model(learnable: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return snapshot(tmp_path_factory.mktemp("trial"), learnable)


@pytest.fixture
def root(learnable: Path, tmp_path: Path) -> Path:
    """A copy that may be written to."""
    return Path(shutil.copytree(learnable, tmp_path / "project"))


def run(*words: Any) -> int:
    return main(["profile", *map(str, words)])


def arrays(folder: Path) -> dict[str, Mapping[str, np.ndarray]]:
    found: dict[str, Mapping[str, np.ndarray]] = {}
    for path in sorted(folder.rglob("[!.]*.npz")):  # a killed run leaves a .tmp- behind
        with np.load(path, allow_pickle=False) as file:
            found[str(path.relative_to(folder))] = {name: file[name] for name in file.files}
    return found


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(
        one[k].keys() == other[k].keys() and all(np.array_equal(one[k][n], other[k][n]) for n in one[k]) for k in one
    )


def test_every_cell_of_every_site(root: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, "--model", model, "--layer", "pool5") == 0
    folder = root / "outputs" / "results" / "features"
    assert capsys.readouterr().out.strip() == str(folder)
    project = Project.open(root)
    # the same cells out of the store give the same features
    sample(project, "all", Options(everything=True), say=lambda text: None)
    store = CropStore.open(root / "outputs" / "all")
    crops = torch.from_numpy(store.read(np.arange(len(store))))
    expected = Snapshot.open(model).member.extractor(crops, ["pool"])[1]["pool"].numpy()
    found, row = arrays(folder), 0
    frame = pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))], ignore_index=True)
    assert len(frame) == len(expected) == 162 and [p.stem for p in sorted(folder.glob("*.parquet"))] == list(
        plates.SPLITS
    )
    for site in project.sites():
        at, name = project.locations(site), f"{site.plate}/{site.well}/{site.site}.npz"
        if not len(at):
            assert name not in found
            continue
        mine, part = found.pop(name), frame.iloc[row : row + len(at)]
        assert mine["features"].dtype == np.float32 and np.array_equal(mine["locations"], at)
        assert np.allclose(mine["features"], expected[row : row + len(at)], atol=1e-5)
        metadata = json.loads(str(mine["metadata"]))
        assert metadata == {**project.index.iloc[site.row].to_dict(), "Metadata_Model": "cnn"}
        numbers = part[[f"deep_{i}" for i in range(mine["features"].shape[1])]].to_numpy()
        assert np.array_equal(numbers, mine["features"])
        assert np.array_equal(part[["Nuclei_Location_Center_X", "Nuclei_Location_Center_Y"]].to_numpy(), at)
        for column, value in (("Plate", site.plate), ("Well", site.well), ("Site", site.site), ("dose", "0010"),
                              ("Compound", site.label), ("Split", site.split), ("Model", "cnn")):  # fmt: skip
            assert set(part[f"Metadata_{column}"]) == {value}
        assert "Metadata_DNA" not in part and "DNA" not in part
        row += len(at)
    assert not found and row == 162
    empty = pd.read_csv(folder / "sites_without_cells.csv", dtype=str)
    assert empty.to_dict("list") == {"Metadata_Plate": list(plates.SPLITS), "Metadata_Well": ["B04"] * 3,
                                     "Metadata_Site": ["1"] * 3}  # fmt: skip


def test_several_layers_and_some_plates(root: Path, model: Path) -> None:
    words = (root, "--model", model.parent, "--exp", "two", "--layer", "block1", "ClassProb")
    assert run(*words, "--plates", "P-3") == 0
    folder = root / "outputs" / "two" / "features"
    assert {path.name for path in folder.iterdir() if path.suffix != ".json"} == {
        "P-3", "P-3.parquet", "sites_without_cells.csv"}  # fmt: skip
    assert run(*words, "--plates", "P-1") == 0
    table = pd.read_parquet(folder / "P-3.parquet")
    some = [name for name in table if name.startswith("deep_")]
    assert some == [f"deep_block1_{i}" for i in range(4)] + [f"deep_probabilities_{i}" for i in range(4)]
    assert np.allclose(table[some[4:]].sum(1), 1, atol=1e-5)
    one = next(iter(arrays(folder / "P-3").values()))
    assert one["features"].shape == one["features_probabilities"].shape == (6, 4)
    assert set(pd.read_csv(folder / "sites_without_cells.csv")["Metadata_Plate"]) == {"P-1", "P-3"}


def test_a_rerun_does_only_what_is_missing(root: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = root / "outputs" / "results" / "features"
    assert run(root, "--model", model) == 0
    before, stamps = arrays(folder), {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    assert run(root, "--model", model) == 0
    assert "27 of 27 sites are there already" in capsys.readouterr().err
    new = {path for path in folder.rglob("*.*") if path.stat().st_mtime_ns != stamps[path]}
    assert new == {folder / "sites_without_cells.csv"}
    # lost, damaged, other cells, no cells any more
    lost, damaged, moved, none = (folder / f"P-{p}" / f"A0{n}" / "1.npz" for p, n in ((2, 1), (2, 2), (3, 3), (2, 4)))
    lost.unlink()
    damaged.write_bytes(damaged.read_bytes()[:200])
    for path, keep in ((moved, 4), (none, 1)):
        file = root / "inputs" / "locations" / path.parts[-3] / f"{path.parent.name}-1-Nuclei.csv"
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:keep]))
    assert run(root, "--model", model) == 0
    assert "23 of 26 sites are there already" in capsys.readouterr().err
    after = arrays(folder)
    assert len(after["P-3/A03/1.npz"]["features"]) == 3 and not none.exists()
    changed = {"P-3/A03/1.npz", "P-2/A04/1.npz"}
    assert same(*({k: v for k, v in found.items() if k not in changed} for found in (before, after)))
    assert [len(pd.read_parquet(folder / f"P-{n}.parquet")) for n in (1, 2, 3)] == [54, 54 - 6, 54 - 3]
    assert len(pd.read_csv(folder / "sites_without_cells.csv")) == 4


def test_features_of_two_models_never_mix(
    root: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = snapshot(tmp_path / "other", root, seed=1)
    assert run(root, "--model", model) == 0
    before = arrays(root / "outputs" / "results" / "features")
    for words, says in (
        (("--model", other), "features of another model"),
        (("--model", model, "--layer", "block1"), "layers pool"),
    ):
        assert run(root, *words) == 2
        told = capsys.readouterr().err.strip().splitlines()[-1]
        assert says in told and "--overwrite" in told
    assert same(before, arrays(root / "outputs" / "results" / "features"))
    assert run(root, "--model", other, "--overwrite") == 0
    after = arrays(root / "outputs" / "results" / "features")
    assert after.keys() == before.keys()
    assert not any(np.array_equal(after[k]["features"], before[k]["features"]) for k in after)
    shutil.rmtree(root / "outputs" / "results")
    theirs = root / "outputs" / "results" / "features" / "P-1" / "A01" / "1.npz"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"of the original program")
    assert run(root, "--model", model) == 2
    assert theirs.read_bytes() == b"of the original program"


@pytest.mark.slow
def test_killed_at_any_time_it_goes_on(root: Path, model: Path, tmp_path: Path) -> None:
    """kill -9 after some sites, again and again: in the end everything is there, once, as without."""
    whole = Path(shutil.copytree(root, tmp_path / "whole"))
    assert run(whole, "--model", model, "--batch", 7) == 0
    folder, rounds = root / "outputs" / "results" / "features", 0
    # a site takes a while, so that the kill comes in between
    code = (
        "import time; from models.cellprofiler import __main__, project\n"
        "read = project.Project.read\n"
        "def slow(self, site):\n    time.sleep(.15); return read(self, site)\n"
        "project.Project.read = slow\n"
        f"raise SystemExit(__main__.main(['profile', {str(root)!r}, '--model', {str(model)!r}, '--batch', '7']))"
    )
    while True:
        had = len(list(folder.rglob("[!.]*.npz")))
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE)
        try:
            limit = time.monotonic() + 120
            wanted = had + (2, 5, 12)[rounds] if rounds < 3 else 99
            while process.poll() is None and len(list(folder.rglob("[!.]*.npz"))) < wanted:
                assert time.monotonic() < limit
                time.sleep(0.01)
        finally:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL and rounds < 3
        # what lies there after a kill is whole, and as it will be
        reference = arrays(whole / "outputs" / "results" / "features")
        assert all(len(found["features"]) == len(reference[k]["features"]) for k, found in arrays(folder).items())
        rounds += 1
    assert rounds == 3
    found = arrays(folder)
    assert found.keys() == reference.keys()
    for name, site in found.items():
        assert np.allclose(site["features"], reference[name]["features"], atol=1e-5)
        assert np.array_equal(site["locations"], reference[name]["locations"])
    for plate in plates.SPLITS:
        ours, theirs = (pd.read_parquet(p / f"{plate}.parquet") for p in (folder, whole / "outputs/results/features"))
        assert ours.iloc[:, :9].equals(theirs.iloc[:, :9]) and len(ours) == 54
    assert not list(folder.rglob(".tmp-*"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--model", "nowhere"), "no such file"),
        (("--model", "{root}"), "holds no snapshots"),
        (("--model", "{root}/inputs/metadata/index.csv"), "damaged checkpoint"),
        (("--model", "{model}", "--layer", "block9"), "no layer 'block9'"),
        (("--model", "{model}", "--exp", "../x"), "--exp"),
        (("--model", "{model}", "--plates", "P-7"), "P-1, P-2, P-3"),
        (("--model", "{model}", "--batch", "0"), "--batch"),
    ],
)
def test_a_wrong_command_is_one_line(
    root: Path, model: Path, words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root, *(word.format(root=root, model=model) for word in words)) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and says in told[0]
    assert not (root / "outputs" / "results").exists()


def test_a_project_that_does_not_fit_is_one_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = plates.project(tmp_path / "wide", {"P": ""}, box=18)
    assert run(wide, "--model", model) == 2
    assert "crops of 18 pixels" in capsys.readouterr().err
    lost = plates.project(tmp_path / "lost", {"P": ""})
    next((lost / "inputs" / "images" / "P").iterdir()).unlink()
    assert run(lost, "--model", model) == 2
    assert "1 images are missing" in capsys.readouterr().err
    assert not (lost / "outputs").exists()


def test_a_snapshot_of_something_else_is_one_line(
    root: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = load_state(model)
    for name, changed, says in (
        ("family", {**state, "family": "xtcav"}, "of family xtcav"),
        ("settings", {**state, "settings": {**state["settings"], "WIDTH": 5}}, "not a usable snapshot"),
        ("nothing", {"a": 1}, "not a usable snapshot"),
    ):
        save_state(tmp_path / f"{name}.safetensors", changed)
        assert run(root, "--model", tmp_path / f"{name}.safetensors") == 2
        told = capsys.readouterr().err.strip().splitlines()
        assert len(told) == 1 and says in told[0] and name in told[0]


def test_a_folder_with_several_snapshots(root: Path, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    for name in ("best", "calm", "last"):
        folder.mkdir(exist_ok=True)
        shutil.copy(model, folder / f"{name}.safetensors")
    assert Snapshot.open(folder).path.name == "best.safetensors"
    (folder / "best.safetensors").unlink()
    assert Snapshot.open(folder).path.name == "calm.safetensors"
    shutil.copy(model, folder / "more.safetensors")
    assert run(root, "--model", folder) == 2


@pytest.mark.alone
@pytest.mark.slow
def test_it_is_faster_than_a_loop_over_files() -> None:
    from benchmarks import cellprofiler

    seconds = cellprofiler.measure(192, 3, "cnn")
    assert seconds["plain"] / seconds["ours, store"] > 1.6
    assert seconds["reading, plain"] / seconds["reading, store"] > 3


def test_cells_are_cut_as_those_that_were_trained_on(tmp_path: Path) -> None:
    root = projects.small(tmp_path, bits=16, wells=8)
    sample(Project.open(root), options=Options(), mode="bilinear", say=lambda text: None)
    model = snapshot(tmp_path / "trial", root)
    assert run(root, "--model", model) == 0
    store = CropStore.open(root / "outputs" / "single-cells")
    assert store.dtype == "uint16"
    validation = np.flatnonzero(store.table["Split"] == "Validation")
    features = Snapshot.open(model).member.extractor(torch.from_numpy(store.read(validation)), ["pool"])[1]["pool"]
    table = pd.read_parquet(root / "outputs" / "results" / "features" / "P-2.parquet")
    assert np.allclose(table.filter(like="deep_").to_numpy(), features.numpy(), atol=1e-5)  # bilinear, as trained on
