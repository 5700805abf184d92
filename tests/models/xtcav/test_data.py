"""A data block from end to end: what is split, what is learned from training rows, what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ground.errors import BadInput
from models.xtcav import FAMILY
from models.xtcav.data import XtcavData, fingerprint, load, open_for_prediction
from tests.models.xtcav.written import SHAPE, write

STEPS = ["log", "mean", "standardise"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """4 files of 2 runs, 60 shots each; a quarter is unlabelled; energies drift."""
    found = tmp_path / "files"
    found.mkdir()
    rng = np.random.default_rng(0)
    for n in range(4):
        labels = rng.choice([-1, 0, 1, 2], 60, p=[0.25, 0.15, 0.25, 0.35])
        energy = (3500 + np.arange(60) + 60 * n).astype(np.float64)
        write(found / f"r{n}.h5", labels, first=60 * n, run=70 + n // 2, bld__L3energy=energy)
    return found


def block(folder: Path, **more: Any) -> dict[str, Any]:
    basic = {"path": str(folder), "scalars": ["bld.L3energy"], "preprocess": STEPS, "block": 4}
    return {**basic, "split": [0.6, 0.2, 0.2], **more}


def shots(data: XtcavData, part: str) -> set[tuple[int, int]]:
    ids = getattr(data, part).ids
    return set(zip(ids["run"].tolist(), ids["seconds"].tolist(), strict=True))


def test_parts_are_apart_and_together_all_that_is_labelled(folder: Path) -> None:
    data = load(block(folder), "val")
    parts = [shots(data, part) for part in ("train", "val", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == data.report["labelled"]
    assert not {*data.train.blocks} & {*data.val.blocks} and not {*data.val.blocks} & {*data.test.blocks}
    assert (data.classes, data.scalars, data.image_shape) == (3, ("bld.L3energy",), SHAPE)
    assert sum(data.report["labels"]) == data.report["labelled"]
    assert data.report["labelled_share"] == pytest.approx(0.75, abs=0.07)
    assert (
        data.eval is data.val and load(block(folder), "test").eval.ids["row"].tolist() == data.test.ids["row"].tolist()
    )
    assert data.class_weights()[data.train.labels].mean() == pytest.approx(1)


def test_the_split_does_not_know_the_order_or_place_of_files(folder: Path, tmp_path: Path) -> None:
    first = load(block(folder), "val")
    listing = tmp_path / "list.txt"
    listing.write_text("\n".join(f"files/r{n}.h5" for n in (2, 0, 3, 1)))
    # other names, so another order of files
    other = tmp_path / "other"
    other.mkdir()
    for n in range(4):
        shutil.copy(folder / f"r{n}.h5", other / f"x{9 - n}.h5")
    for data in (load(block(listing), "val"), load(block(other), "val")):
        for part in ("train", "val", "test"):
            assert shots(data, part) == shots(first, part)
        assert np.array_equal(data.train.images(np.arange(9)), first.train.images(np.arange(9)))
    assert shots(load(block(folder, seed=1), "val"), "val") != shots(first, "val")


def test_statistics_are_those_of_training_rows(folder: Path) -> None:
    data = load(block(folder), "val")
    images = data.train.images(np.arange(len(data.train)))
    assert (images.mean(), images.std()) == (pytest.approx(0, abs=1e-4), pytest.approx(1, abs=1e-3))
    assert data.train.scalars.std(0) == pytest.approx(1, abs=1e-4)
    for part, changes in (("val", False), ("test", False), ("train", True)):
        rows = getattr(data, part)
        with h5py.File(data.files[rows.ids["file"][0]], "r+") as file:
            row = int(rows.ids["row"][0])
            before = file["xtcavimg"][row], file["bld.L3energy"][row]
            file["xtcavimg"][row], file["bld.L3energy"][row] = 9999, 1e6
        assert (load(block(folder), "val").chain.digest() != data.chain.digest()) == changes, part
        with h5py.File(data.files[rows.ids["file"][0]], "r+") as file:
            file["xtcavimg"][row], file["bld.L3energy"][row] = before


def test_the_ratio_cuts_training_rows_only(folder: Path) -> None:
    whole, cut = load(block(folder), "val"), load(block(folder, ratio=1.5), "val")
    counts = whole.counts(whole.train)
    most = int(np.floor(counts.min() * 1.5 + 0.5))
    assert cut.counts(cut.train).tolist() == np.minimum(counts, most).tolist()
    assert shots(cut, "val") == shots(whole, "val")


def test_a_stored_chain_reads_new_files_alike(folder: Path) -> None:
    data = load(block(folder), "val")
    new = open_for_prediction(str(folder / "r1.h5"), data.chain.state(), **data.reading)
    assert len(new.eval) == 60 and (new.eval.labels == -1).any() and not len(new.train)
    where = {(r, s): n for n, (r, s) in enumerate(zip(new.eval.ids["run"], new.eval.ids["seconds"], strict=True))}
    for n in range(5):
        key = (data.val.ids["run"][n], data.val.ids["seconds"][n])
        if key in where:
            there = np.array([where[key]])
            assert np.array_equal(new.eval.images(there), data.val.images(np.array([n])))
            assert np.array_equal(new.eval.scalars[there], data.val.scalars[[n]])
    with h5py.File(folder / "r1.h5", "r+") as file:
        del file["acq.peaksLabel"]
    assert (open_for_prediction(str(folder / "r1.h5"), data.chain.state(), **data.reading).eval.labels == -1).all()
    write(folder / "small.h5", [0, 1], xtcavimg=np.zeros((2, 3, 3), np.int16), bld__L3energy=np.ones(2))
    with pytest.raises(BadInput, match="3x3"):
        open_for_prediction(str(folder / "small.h5"), data.chain.state(), **data.reading)


def test_a_subset_keeps_training(folder: Path) -> None:
    data = load(block(folder), "val")
    chosen = np.arange(1, len(data.val), 2)
    part = data.subset(chosen)
    assert part.eval.labels.tolist() == data.val.labels[chosen].tolist()
    assert len(part.train) == len(data.train)


def test_dark_files_are_a_background(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "dark.h5", [-1, -1], xtcavimg=np.full((2, *SHAPE), 40, np.int16))
    steps = {"preprocess": ["dark"]}
    data = load(block(folder, dark=str(tmp_path / "dark.h5"), **steps), "val")
    plain = load(block(folder, preprocess=[]), "val")
    assert np.array_equal(data.val.images(np.arange(3)), plain.val.images(np.arange(3)) - 40)
    with pytest.raises(BadInput, match="dark run"):
        load(block(folder, **steps), "val")


def test_images_with_nan_are_skipped_and_counted(folder: Path) -> None:
    images = np.ones((20, *SHAPE), np.float32) * np.arange(20)[:, None, None]
    images[3, 0, 0], images[7] = np.nan, np.inf
    write(folder / "z.h5", np.arange(20) % 3, xtcavimg=images)
    given = {"path": str(folder / "z.h5"), "preprocess": STEPS, "block": 2}
    data = load(given, "val")
    assert list(data.report["skipped_rows"].values()) == [2]
    assert sum(len(rows) for rows in (data.train, data.val, data.test)) == 18
    with pytest.raises(BadInput, match="image 3 has pixels"):
        load({**given, "strict": True}, "val")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": "nothing"}, "no dataset nothing"),
        ({"split": [0.8, 0.2, 0.0]}, "test"),
        ({"classes": 5}, "class 3"),
        ({"block": 10_000, "split": [0.5, 0.3, 0.2]}, "blocks"),
        ({"path": "nowhere*.h5"}, "matches no file"),
        ({"task": "regression", "targets": ["nothing"]}, "nothing"),
    ],
)
def test_what_cannot_be_used_is_one_line(folder: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said) as error:
        load(block(folder, **change), "test" if "split" in change else "val")
    assert "\n" not in str(error.value)


def test_one_class_or_no_labels_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", np.zeros(50, int))
    with pytest.raises(BadInput, match="two classes"):
        load({"path": str(tmp_path / "a.h5"), "block": 2}, "val")
    write(tmp_path / "a.h5", np.full(50, -1))
    with pytest.raises(BadInput, match="not one of 50"):
        load({"path": str(tmp_path / "a.h5")}, "val")


def test_the_fingerprint_tells_data_and_meaning(folder: Path, tmp_path: Path) -> None:
    given = block(folder)
    first = fingerprint(given)
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    assert fingerprint({**given, "path": str(moved)}) == fingerprint({**given, "cache_mb": 3, "strict": True}) == first
    assert fingerprint({**given, "seed": 1}) != first
    with h5py.File(folder / "r2.h5", "r+") as file:
        file["xtcavimg"][31, 2, 2] += 1
    assert fingerprint(given) != first


def test_own_block_takes_what_the_user_names(folder: Path) -> None:
    kept = FAMILY.own_data(
        f"{folder}/r*.h5", {"generator": "xtcav", "options": {}, "split": [0.8, 0.1, 0.1], "block": 4}
    )
    assert kept == {"path": f"{folder}/r*.h5", "split": [0.8, 0.1, 0.1], "block": 4}
    assert load(kept, "val").classes == 3
    with pytest.raises(BadInput):
        FAMILY.own_data(str(folder / "nothing"), {})


def test_measured_screens_are_a_regression(shared: Path) -> None:
    given = {"path": str(shared / "data/xtcav/awa_screens.h5"), "image": "images", "targets": ["k"], "preprocess": [],
             "task": "regression", "split": [0.6, 0.2, 0.2]}  # fmt: skip
    both = ("AWA_run2_train", "AWA_run2_test")
    data = load({**given, "groups": list(both)}, "val")
    assert (data.task, data.classes, data.targets, data.report["files"]) == ("regression", 0, ("k",), 1)
    assert len(data.train) + len(data.val) + len(data.test) == 33 + 30
    with h5py.File(given["path"]) as file:
        images = {name: file[name]["images"][()].reshape(-1, 84, 84) for name in both}
        strengths = {name: file[name]["k"][()].reshape(-1) for name in both}
    assert {*data.train.ids["file"]} == {0, 1}
    for rows in (data.train, data.val, data.test):
        assert all((rows.blocks == b).sum() == 3 for b in rows.blocks)
        assert all(len(set(rows.targets[rows.blocks == b, 0])) == 1 for b in rows.blocks)
        for n, (number, row) in enumerate(zip(rows.ids["file"], rows.ids["row"], strict=True)):
            assert rows.targets[n, 0] == np.float32(strengths[both[number]][row])
            assert np.array_equal(rows.images(np.array([n]))[0, 0], images[both[number]][row])
    assert len(load({**given, "groups": both[0]}, "val").files) == 1
    new = open_for_prediction(given["path"], data.chain.state(), **data.reading)
    assert len(new.eval) == 63
    partly = load({**given, "groups": ["AWA_run2_test", "nowhere"]}, "val")
    assert "no group nowhere" in partly.report["skipped_files"]["awa_screens.h5/nowhere"]
    with pytest.raises(BadInput, match="no dataset AWA_run2_test/pictures"):
        load({**given, "groups": ["AWA_run2_test"], "image": "pictures"}, "val")


def test_groups_of_a_file_are_part_of_what_the_data_is(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "two.h5", "w") as file:
        for name in ("a", "b"):
            write(tmp_path / "one.h5", np.arange(30) % 3)
            with h5py.File(tmp_path / "one.h5") as one:
                for key in one:
                    one.copy(key, file.require_group(name))
    given = {"path": str(tmp_path / "two.h5"), "block": 2}
    first = fingerprint({**given, "groups": ["a"]})
    both = fingerprint({**given, "groups": ["a", "b"]})
    assert len({first, both, fingerprint({**given, "groups": ["b"]})}) == 3
    with h5py.File(tmp_path / "two.h5", "r+") as file:
        file["b/xtcavimg"][3, 2, 2] += 1
    assert fingerprint({**given, "groups": ["a"]}) == first
    assert fingerprint({**given, "groups": ["a", "b"]}) != both
    with h5py.File(tmp_path / "two.h5", "r+") as file:
        file["a/xtcavimg"][3, 2, 2] += 1
    assert fingerprint({**given, "groups": ["a"]}) != first


def test_shots_without_any_target_say_that_there_is_none(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pos, height = rng.normal(5, 1, 80), rng.normal(size=80)
    none, some = np.arange(80) % 4 == 0, np.arange(80) % 4 == 1
    pos[none | some], height[none] = np.nan, np.nan
    write(tmp_path / "p.h5", np.zeros(80, int), pos=pos, height=height, good=(np.arange(80) > 9).astype(int))
    given = {"path": str(tmp_path / "p.h5"), "task": "regression", "targets": ["pos", "height"], "block": 2}
    data = load({**given, "split": [0.6, 0.2, 0.2]}, "val")
    assert sum(len(rows) for rows in (data.train, data.val, data.test)) == 80
    for rows in (data.train, data.val, data.test):  # each part has its share of them
        assert (~np.isfinite(rows.targets)).all(1).mean() == pytest.approx(0.25, abs=0.07)
    masked = load({**given, "mask": "good"}, "val")
    assert sum(len(rows) for rows in (masked.train, masked.val, masked.test)) == 70
    write(tmp_path / "p.h5", np.zeros(80, int), pos=pos, height=np.full(80, np.nan))
    with pytest.raises(BadInput, match="target height is absent in all"):
        load(given, "val")


def test_digits_are_a_classification(shared: Path) -> None:
    given = {"path": str(shared / "data/xtcav/mnist_t10k.h5"), "image": "images", "label": "labels", "block": 1}
    data = load({**given, "preprocess": ["standardise"]}, "val")
    assert data.report["parts"]["val"]["rows"] == pytest.approx(1000, abs=10)
    assert data.counts(data.train) / 8000 == pytest.approx(data.counts(data.val) / 1000, abs=0.002)
