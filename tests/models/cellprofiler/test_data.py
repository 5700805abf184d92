from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ground.errors import BadInput
from models.cellprofiler import data, pixels
from models.cellprofiler.draw import Options
from models.cellprofiler.feeder import Feeder
from models.cellprofiler.project import Project
from models.cellprofiler.sample import sample
from models.cellprofiler.sites import SiteCells
from models.cellprofiler.store import META, CropStore
from models.cellprofiler.stream import batches, in_order
from tests.models.cellprofiler import plates


@pytest.fixture
def root(learnable: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(learnable, tmp_path / "project"))


def block(root: Path, **keys: Any) -> dict[str, Any]:
    return {"project": str(root), **keys}


def edit_index(root: Path, change: Any) -> None:
    path = root / "inputs" / "metadata" / "index.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    change(table)
    table.to_csv(path, index=False)


def test_wells_of_the_validation_values_are_judged(learnable: Path) -> None:
    for phase, plate in (("val", "P-2"), ("test", "P-3")):
        found = data.load(block(learnable), phase)
        table = found.store.table
        assert set(table["Metadata_Plate"].iloc[found.train]) == {"P-1"}
        assert set(table["Metadata_Plate"].iloc[found.eval]) == {plate} == set(found.wells.plate)
        assert found.classes == ("DMSO", "lupin", "malva", "nerin")  # sorted, capitals first
        # each cell is in the well of its row; a well knows its label and how many cells it has
        wells = found.wells
        assert (wells.well[found.well_of] == table["Metadata_Well"].iloc[found.eval]).all()
        assert (wells.label[found.well_of] == table["Class_Name"].iloc[found.eval]).all()
        assert np.array_equal(wells.cells, np.bincount(found.well_of)) and wells.cells.sum() == len(found.eval) == 54
        assert [found.classes[t] for t in wells.target] == wells.label.tolist()
        assert (wells.control == (wells.label == "DMSO")).all() and wells.control.sum() == 4
        assert np.array_equal(found.samples, np.flatnonzero(~wells.control))
    balanced = data.load(block(learnable, objective="balanced_accuracy"), "val")
    assert np.array_equal(balanced.samples, np.arange(9))


def test_a_subset_keeps_everything_but_its_queries(learnable: Path) -> None:
    whole = data.load(block(learnable), "val")
    part = whole.subset(np.array([1, 3]))
    assert part.samples.tolist() == whole.samples[[1, 3]].tolist() and part.queries.tolist() == [1, 3]
    assert part.subset(np.array([1])).queries.tolist() == [3]
    assert part.gallery is whole.gallery and part.wells is whole.wells and part.eval is whole.eval


def test_the_split_may_be_another(root: Path) -> None:
    split = {"training": ["Training", "Test"], "validation": "Validation", "test": []}
    found = data.load(block(root, split=split, control="lupin"), "val")
    assert len(found.train) == 108 and set(found.wells.label[found.wells.control]) == {"lupin"}
    with pytest.raises(BadInput, match="no cell is for test"):
        data.load(block(root, split=split), "test")

    def leave_wells_out(table: pd.DataFrame) -> None:
        table["Split_wells"] = np.where(table["Metadata_Well"].str[0] == "A", "in", "out")

    edit_index(root, leave_wells_out)
    found = data.load(block(root, split={"field": "Split_wells", "training": ["in"], "validation": ["out"]}), "val")
    assert set(found.wells.well) == {"B01", "B02", "B03"} and set(found.wells.plate) == set(plates.SPLITS)
    assert not found.report["validation wells with training cells"]
    # the store's own column, where there is one: single cells may be set apart
    path = root / "outputs" / "single-cells" / META
    table = pd.read_csv(path, dtype=str)
    table["Cells"] = np.where(np.arange(len(table)) % 3, "mine", "theirs")
    table.to_csv(path, index=False)
    found = data.load(block(root, split={"field": "Cells", "training": "mine", "validation": "theirs"}), "val")
    assert len(found.train) == 2 * len(found.eval) == 108
    assert found.report["validation wells with training cells"] == len(found.wells)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"stor": "x"}, "did you mean store"),
        ({"store": "other"}, "models.cellprofiler sample"),
        ({"objective": "accuracy"}, "objective"),
        ({"pairs": "plate"}, "pairs"),
        ({"split": {"trainig": ["x"]}}, "did you mean training"),
        ({"split": {"field": "Plate"}}, "no column Plate"),
        ({"split": {"training": ["x"]}}, "no cell is for training"),
        ({"split": {"validation": ["Training"]}}, "for training and for validation"),
        ({"split": {"validation": {}}}, "split.validation"),
        ({"control": "DSMO"}, "no site"),
        ({"config": "none.json"}, "none.json"),
        ({"generator": "cells"}, "one of the two"),
        ({"generator": "plates"}, "generator"),
    ],
)
def test_a_wrong_block_is_one_line(learnable: Path, keys: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput) as error:
        data.load(block(learnable, **keys), "val")
    assert says in str(error.value) and "\n" not in str(error.value)


def test_data_that_cannot_be_learned_is_one_line(root: Path) -> None:
    path = root / "outputs" / "single-cells" / META
    table = pd.read_csv(path, dtype=str)
    mixed, one = table.copy(), table.copy()
    mixed.loc[mixed.index[-1], "Class_Name"] = "DMSO"
    mixed.to_csv(path, index=False)
    with pytest.raises(BadInput, match=r"well P-3/B03 is labelled \w+ and DMSO"):
        data.load(block(root), "test")
    one[(one["Split"] != "Training") | (one["Class_Name"] == "lupin")].to_csv(path, index=False)
    with pytest.raises(BadInput, match=r"all of one class \(lupin\)"):
        data.load(block(root), "val")
    table[(table["Split"] != "Validation") | (table["Class_Name"] == "DMSO")].to_csv(path, index=False)
    with pytest.raises(BadInput, match="other than the controls"):
        data.load(block(root), "val")
    with pytest.raises(BadInput, match="no such folder"):
        data.own_block(str(root / "nowhere"), {})


def test_the_fingerprint_tells_changed_data(root: Path) -> None:
    first = data.fingerprint(block(root))
    assert data.fingerprint(block(root)) == first
    edit_index(root, lambda table: table.__setitem__("Metadata_dose", "0020"))
    second = data.fingerprint(block(root))
    image = next((root / "inputs" / "images" / "P-1").iterdir())
    image.write_bytes(next((root / "inputs" / "images" / "P-2").iterdir()).read_bytes())
    assert data.fingerprint(block(root)) == second != first  # images do not matter once they are stored
    sample(Project.open(root), options=Options(), overwrite=True, say=lambda text: None)
    assert data.fingerprint(block(root)) not in (first, second)


def test_deepprofilers_own_crops_are_read(root: Path) -> None:
    """Tiled PNGs and a table alone, which do not say what their channels are called."""
    sample(Project.open(root), "png", Options(), "png", say=lambda text: None)
    folder = root / "outputs" / "png"
    (folder / "store.json").unlink()
    found, ours = (data.load(block(root, store=name), "val") for name in ("png", "single-cells"))
    assert found.store.channels == ("DNA", "ER") and found.classes == ours.classes
    assert np.array_equal(found.train, ours.train) and np.array_equal(found.well_of, ours.well_of)
    assert torch.allclose(
        *(pixels.normalise(torch.from_numpy(one.store.read(one.eval[:9]))) for one in (found, ours)), atol=0.02
    )
    config = root / "inputs" / "config" / "cells.json"
    config.write_text(config.read_text().replace('["DNA", "ER"]', '["DNA"]'))
    with pytest.raises(BadInput, match="crops of 2 channels"):
        data.load(block(root, store="png"), "val")


# ---- cells straight from images


def test_cells_of_images_are_those_of_the_store(root: Path) -> None:
    sample(Project.open(root), "all", Options(everything=True), say=lambda text: None)
    store, cells = CropStore.open(root / "outputs" / "all"), SiteCells(Project.open(root))
    ours = cells.table
    assert len(ours) == len(store) == 162 and (cells.channels, cells.box, cells.dtype) == (store.channels, 16, "uint8")
    for name in ("Key", "Target", "Class_Name", "Split", "Metadata_dose"):
        assert ours[name].tolist() == store.table[name].tolist(), name
    for name in ("Nuclei_Location_Center_X", "Nuclei_Location_Center_Y"):
        assert np.allclose(ours[name], store.table[name], rtol=1e-12)
    rows = np.random.default_rng(0).permutation(162)[:70]
    rows[:3] = 5
    assert np.array_equal(cells.read(rows), store.read(rows))
    opened = data.open_project(root)
    assert len(opened.wells) == 27 and opened.samples.tolist() == list(range(27)) and not len(opened.train)


def test_a_project_with_new_labels_can_be_opened(root: Path) -> None:
    edit_index(root, lambda table: table.__setitem__("Compound", "new"))
    assert set(data.open_project(root).wells.label) == {"new"}
    shutil.rmtree(root / "inputs" / "locations")
    with pytest.raises(BadInput, match="no cell"):
        data.open_project(root)


# ---- streams


class Numbered:
    """Cells whose crops are their own numbers; told in which order they are read."""

    channels, box, dtype, classes, table = ("a",), 2, np.dtype(np.uint8), ("x", "y"), pd.DataFrame()

    def __init__(self) -> None:
        self.asked: list[int] = []

    def read(self, rows: np.ndarray) -> np.ndarray:
        self.asked.append(len(rows))
        return np.broadcast_to(rows[:, None, None, None], (len(rows), 1, 2, 2)).astype(np.uint8)


@given(st.integers(0, 60), st.integers(1, 9))
def test_a_stream_gives_every_part_in_order(count: int, size: int) -> None:
    parts = in_order(np.arange(count)[::-1], size)
    assert [len(part) for part in parts] == [size] * (count // size) + [count % size] * (count % size > 0)
    given_ = list(batches(Numbered(), parts))
    assert [crops[:, 0, 0, 0].tolist() for crops in given_] == [part.tolist() for part in parts]


def test_several_batches_are_read_together_and_none_for_nobody() -> None:
    cells = Numbered()
    stream = batches(cells, in_order(np.arange(200), 2))
    next(stream)
    stream.close()
    before = threading.active_count()
    assert cells.asked[0] == 2 and max(cells.asked) > 2 and sum(cells.asked) < 100
    list(batches(cells, in_order(np.arange(200), 2)))
    assert threading.active_count() <= before and max(cells.asked) == 16


@given(st.lists(st.integers(1, 40), min_size=2, max_size=5), st.integers(2, 17), st.integers(0, 99), st.booleans())
def test_an_epoch_has_as_many_cells_of_each_class(counts: list[int], batch: int, seed: int, balance: bool) -> None:
    targets = np.repeat(np.arange(len(counts)), counts)
    rows = 3 * np.arange(len(targets))
    feeder = Feeder(Numbered(), rows, targets, batch, seed, balance)
    order = feeder.order(4)
    drawn = np.bincount(targets[order], minlength=len(counts))
    median = int(np.median(counts))
    assert drawn.tolist() == ([median] * len(counts) if balance else counts)
    for c, count in enumerate(counts):
        own = order[targets[order] == c]
        if count >= median or not balance:
            assert len(set(own.tolist())) == len(own)  # without replacement
    assert np.array_equal(order, Feeder(Numbered(), rows, targets, batch, seed, balance).order(4))
    steps = [len(b.targets) for b in feeder.epoch(4)]
    assert len(steps) == feeder.steps and sum(steps) in (len(order), len(order) - 1) and min(steps) > 1
    for start in {0, feeder.steps // 2, feeder.steps - 1}:
        later = list(feeder.epoch(4, start))
        assert [len(b.targets) for b in later] == steps[start:]
        first = order[start * feeder.batch :][: len(later[0].targets)]
        assert torch.equal(later[0].targets, torch.from_numpy(targets[first]))
        assert later[0].crops[:, 0, 0, 0].tolist() == (rows[first] % 256).tolist()


def test_epochs_differ() -> None:
    targets = np.repeat([0, 1], [50, 10])
    feeder = Feeder(Numbered(), np.arange(60), targets, 8, 0, True)
    assert not np.array_equal(feeder.order(0), feeder.order(1))
    seen = set(np.concatenate([feeder.order(epoch) for epoch in range(9)]).tolist())
    assert len(seen) > 55  # the large class's other cells have their turn
    with pytest.raises(BadInput, match="no training cell"):
        Feeder(Numbered(), np.arange(0), np.arange(0), 8, 0, True)
