from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ground.errors import BadInput
from models.base import Family, Place
from models.conformance import Conformance, HoldsOut, ReadsLazily, Transfers
from models.registry import get
from models.xtcav import FAMILY
from models.xtcav.__main__ import main
from models.xtcav.predictor import IDS, NewShots
from studies.study import Study
from tests.models.xtcav.conftest import SCALARS

CONFIG = {"WIDTH": 4, "DEPTH": 3, "GRID": 2, "HIDDEN": 8, "EPOCHS": 5, "BATCH_SIZE": 8, "PIECE_STEPS": 3}


class Both(Conformance, HoldsOut, Transfers):
    overfit: dict[str, Any] = {"EPOCHS": 12, "DROPOUT": 0.0, "WEIGHT_DECAY": 0.0, "LABEL_SMOOTHING": 0.0, "SHIFT": 0}
    poison: dict[str, Any] = {"LR": 1e30, "WARMUP": 0.0}

    @pytest.fixture
    def family(self, block: dict[str, Any]) -> Family:
        return get("xtcav").of(block)

    @pytest.fixture
    def config(self) -> dict[str, Any]:
        return CONFIG


class TestConformance(Both, ReadsLazily):
    @pytest.fixture
    def other_block(self, block: dict[str, Any]) -> dict[str, Any]:
        return {**block, "seed": 1}

    @pytest.fixture
    def lost(self, block: dict[str, Any], collection: Path, tmp_path: Path) -> Any:
        copied = shutil.copytree(collection, tmp_path / "copied")
        data = FAMILY.load({**block, "path": str(copied / "amo86815_mlearn-*.h5"), "cache_mb": 0}, "val")
        data.close()  # what is open outlives its name
        shutil.rmtree(copied)
        return data


class TestRegression(Both):
    """Peaks: positions and heights, absent where there is none."""

    @pytest.fixture
    def block(self, collection: Path, tmp_path: Path) -> dict[str, Any]:
        path = tmp_path / "peaks.h5"
        rng = np.random.default_rng(0)
        with h5py.File(path, "w") as file:
            where = rng.uniform(4, 20, 120)
            image = np.exp(-0.5 * ((np.arange(24)[None, :, None] - where[:, None, None]) / 2) ** 2)
            none = np.arange(120) % 5 == 0  # no peak at all
            image[none] = 0
            file["xtcavimg"] = (400 * np.repeat(image, 20, 2) + rng.normal(0, 10, (120, 24, 20))).astype(np.int16)
            file["pos"] = np.where(none | (rng.random(120) < 0.1), np.nan, where)
            file["height"] = np.where(none, np.nan, rng.normal(size=120))
        return {"path": str(path), "task": "regression", "targets": ["pos", "height"], "block": 4}

    @pytest.fixture
    def other_block(self, block: dict[str, Any]) -> dict[str, Any]:
        return {**block, "targets": ["pos"]}

    def test_targets_have_a_metric_of_their_own(self, family: Family, block: dict[str, Any]) -> None:
        assert family.metric.name == "r2"
        assert get("xtcav").of({}).metric.name == "balanced_accuracy"
        study = Study(Path("/nowhere/s"), {"family": "xtcav", "data": block})
        assert study.family.metric.name == "r2"

    def test_a_peak_is_found(self, block: dict[str, Any]) -> None:
        block = {**block, "split": [0.6, 0.2, 0.2]}
        data = FAMILY.load(block, "val")
        one = FAMILY.learner(
            FAMILY.check({**CONFIG, "EPOCHS": 25, "SHIFT": 0, "GRID": 8, "LR": 0.01}), data, Place(), 0
        )
        while not one.done:
            one.train_piece()
        (scores,) = FAMILY.evaluate(one.predict, block, None, "peaks").values()
        assert scores["pos_rmse"] < 0.6 * scores["pos_rmse_of_mean"]
        assert scores["height_presence_accuracy"] > 0.9 and scores["pos_rmse_se"] > 0
        assert FAMILY.describe(data)["without any target, training"].startswith("14 of ")
        ((caption, figure),) = FAMILY.pictures(data, one.predict(data))
        assert "targets" in caption and len(figure.data) == 4


@pytest.fixture
def trained(block: dict[str, Any]) -> Any:
    data = FAMILY.load(block, "val")
    one = FAMILY.learner(FAMILY.check(CONFIG), data, Place(), 0)
    one.train_piece()
    return one


def test_new_files_are_predicted_with_the_ids_to_join_by(trained: Any, collection: Path, tmp_path: Path) -> None:
    predictor = FAMILY.restore(CONFIG, trained.weights(), Place())
    new = FAMILY.open(collection / "amo86815_pred-*.h5", "test")
    assert isinstance(new, NewShots)
    prediction = predictor(new)
    told = FAMILY.export([(new, prediction)], tmp_path / "pred.h5", {"study": "x"})
    assert "probabilities" in told
    with h5py.File(tmp_path / "pred.h5") as file:
        assert {"probabilities", "label", *IDS} == set(file)
        probabilities, label = np.asarray(file["probabilities"]), np.asarray(file["label"])
        shares = trained.data.counts(trained.data.train) / len(trained.data.train)
        # the class told is the one that balanced accuracy asks for, not the most probable one
        assert np.array_equal(label, (probabilities / shares).argmax(1))
        assert np.array_equal(label, prediction["likelihood"].argmax(1))
        assert np.allclose(probabilities.sum(1), 1, atol=1e-5)
        shots = list(zip(*(np.asarray(file[name]).tolist() for name in IDS), strict=True))
    first = sorted(collection.glob("amo86815_pred-*.h5"))[0]
    with h5py.File(first) as file:
        columns = [np.asarray(file["run"]), *(np.asarray(file[f"evt.{name}"]) for name in IDS[1:])]
    expected = list(zip(*(column.tolist() for column in columns), strict=True))
    assert shots[: len(expected)] == expected and len(set(shots)) == len(shots)


def test_a_row_is_predicted_alike_in_a_study_and_in_a_new_file(trained: Any, block: dict[str, Any]) -> None:
    data = FAMILY.load(block, "test")
    known = trained.predict(data)
    new = FAMILY.restore(CONFIG, trained.weights(), Place())(FAMILY.open(Path(block["path"]), "test"))
    place = {shot: row for row, shot in enumerate(zip(*(new[name].tolist() for name in IDS), strict=True))}
    rows = [place[shot] for shot in zip(*(known[name].tolist() for name in IDS), strict=True)]
    np.testing.assert_allclose(new["likelihood"][rows], known["likelihood"], rtol=1e-3, atol=1e-4)


def test_members_share_one_reading(trained: Any, block: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    data = FAMILY.load(block, "val")
    members = [FAMILY.restore(CONFIG, trained.weights(), Place()) for _ in range(3)]
    calls = []
    plain = type(data.eval).batches
    monkeypatch.setattr(type(data.eval), "batches", lambda self, *a, **k: calls.append(1) or plain(self, *a, **k))
    together = list(FAMILY.predict_many(members, data, Place()))
    assert len(calls) == 1 and len(together) == 3
    assert np.array_equal(together[0]["likelihood"], members[0](data)["likelihood"])


def test_images_of_another_shape_are_refused(trained: Any, block: dict[str, Any]) -> None:
    other = FAMILY.load({**block, "preprocess": ["log"]}, "val")
    with pytest.raises(BadInput, match="do not fit"):
        FAMILY.restore(CONFIG, trained.weights(), Place())(other)
    with pytest.raises(BadInput, match="scalars"):
        FAMILY.restore(CONFIG, trained.weights(), Place())(FAMILY.load({**block, "scalars": []}, "val"))


def test_calibration_is_a_temperature(trained: Any) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 400)
    sharp = np.full((400, 4), 0.01, np.float32)
    sharp[np.arange(400), np.where(rng.random(400) < 0.7, labels, (labels + 1) % 4)] = 0.97
    found = FAMILY.calibrate({"likelihood": sharp}, {"labels": labels, "shares": np.full(4, 0.25)})
    assert found["temperature"] > 1.5
    changed = FAMILY.calibrated({"likelihood": sharp, "run": labels}, found)
    assert np.array_equal(changed["run"], labels)
    assert changed["likelihood"].max() < 0.9
    assert FAMILY.calibrate({"values": sharp}, {"values": sharp}) == {}


def test_the_test_block_is_scored(trained: Any, block: dict[str, Any], tmp_path: Path) -> None:
    (where, scores), = FAMILY.evaluate(trained.predict, block, None, "mine").items()  # fmt: skip
    assert where == "mine (test block)"
    assert {"accuracy", "balanced_accuracy", "macro_f1", "log_loss"} <= set(scores)
    assert scores["accuracy_se"] > 0
    data = FAMILY.load(block, "test")
    FAMILY.export([(data, trained.predict(data))], tmp_path / "p.h5", {})
    from_file = FAMILY.evaluate(tmp_path / "p.h5", block, None, "mine")
    assert from_file == {where: scores}
    target = FAMILY.evaluate(trained.predict, block, Path(block["path"]), "mine")
    assert set(next(iter(target.values()))) == set(scores)
    validation = FAMILY.load(block, "val")
    FAMILY.export([(validation, trained.predict(validation))], tmp_path / "v.h5", {})
    with pytest.raises(BadInput, match="no prediction for the shot"):
        FAMILY.evaluate(tmp_path / "v.h5", block, None, "mine")
    with pytest.raises(BadInput, match="no test rows"):
        FAMILY.evaluate(trained.predict, {**block, "split": [0.8, 0.2, 0.0]}, None, "mine")


def test_pictures_show_where_it_goes_wrong(trained: Any) -> None:
    data = trained.data
    pictures = FAMILY.pictures(data, trained.predict(data))
    assert [caption.split()[0] for caption, _ in pictures] == ["Confusion", "Reliability", "The"]
    assert int(np.sum(pictures[0][1].data[0].text)) == len(data.eval)
    for _, figure in pictures:
        assert figure.to_json()


def test_groups_are_blocks_and_descriptions_name_classes(trained: Any) -> None:
    data = trained.data
    assert len(np.unique(FAMILY.groups(data))) < len(data.eval)
    told = FAMILY.describe(data)
    assert told["scalars"] == ", ".join(SCALARS) and told["classes, training"].count("/") == 3


def test_scan_and_generate_as_commands(
    block: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scan", block["path"]]) == 0
    assert "shots:" in capsys.readouterr().out
    assert main(["scan", str(tmp_path / "nowhere-*.h5")]) == 2
    monkeypatch.setenv("XTCAV_DATA", str(tmp_path))
    options = {"files": 1, "runs": 1, "rows": 3, "scale": 16, "dark": 0, "pred": 0}
    sets = [f"--set={name}={value}" for name, value in options.items()]
    assert main(["generate", *sets]) == 0
    assert len(list(Path(capsys.readouterr().out.strip()).glob("*.h5"))) == 1
    assert main(["generate", "--set=rowz=3"]) == 2
