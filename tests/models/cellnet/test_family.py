"""What Concert asks of every family, for ghosts and for charges; what a user gets back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ground.errors import BadInput
from models.base import Family, Place
from models.cellnet import FAMILY, metrics, xy
from models.cellnet.names import renamed
from models.conformance import Conformance, HoldsOut, ReadsLazily, Transfers
from models.registry import get
from tests.models.cellnet import written

CONFIG = {"N_CHANNELS": 4, "N_STRIDES": 2, "REPS": 1, "EPOCHS": 3, "PIECE_STEPS": 2, "SPATIAL": "32,32,32",
          "MOMENTUM": 0.9}  # fmt: skip


class Both(Conformance, HoldsOut, Transfers):
    overfit: dict[str, Any] = {"EPOCHS": 8}
    poison: dict[str, Any] = {"LR": 1e30}

    @pytest.fixture
    def family(self, block: dict[str, Any]) -> Family:
        return get("cellnet").of(block)

    @pytest.fixture
    def config(self) -> dict[str, Any]:
        return CONFIG


class TestGhosts(Both, ReadsLazily):
    @pytest.fixture
    def other_block(self, xy_folder: Path, tmp_path: Path) -> dict[str, Any]:
        copied = shutil.copytree(xy_folder, tmp_path / "other")
        written.write(next(copied.glob("*002*")), seed=999)
        return {"path": str(copied), "train": [1, 3], "val": [4, 5], "test": [6, 6]}

    @pytest.fixture
    def lost(self, block: dict[str, Any], xy_folder: Path, tmp_path: Path) -> Any:
        copied = shutil.copytree(xy_folder, tmp_path / "copied")
        data = FAMILY.load({**block, "path": str(copied), "cache_mb": 0}, "val")
        shutil.rmtree(copied)
        return data


class TestCharges(Both):
    """The charge of each voxel, with z segments as further features and truth in other units."""

    @pytest.fixture
    def block(self, xy_folder: Path) -> dict[str, Any]:
        transforms = {"z_segments": [8, 16, 24], "scale": 2.0, "coord_lim": [None, [1, 23], None]}
        ranges = {"train": [1, 3], "val": [4, 5], "test": [6, 6]}
        return {"path": str(xy_folder), "task": "charge", "transforms": transforms, **ranges}

    @pytest.fixture
    def config(self) -> dict[str, Any]:
        return {**CONFIG, "LOSS": "huber"}

    @pytest.fixture
    def other_block(self, block: dict[str, Any]) -> dict[str, Any]:
        return {**block, "transforms": {**block["transforms"], "scale": 3.0}}


# ---- what a user gets


@pytest.fixture
def trained(block: dict[str, Any]) -> Any:
    one = FAMILY.learner(FAMILY.check({**CONFIG, "EPOCHS": 6, "LR": 0.03}), FAMILY.load(block, "val"), Place(), 0)
    while not one.done:
        one.train_piece()
    return one


def exported(trained: Any, place: Path, out: Path) -> str:
    new = FAMILY.open(place, "test")
    calibration = {"threshold": 0.3}
    parts = ((part, FAMILY.calibrated(trained.predict(part), calibration)) for part in FAMILY.parts(new))
    return FAMILY.export(parts, out, {"study": "x"})


def test_predictions_are_a_table_and_arrays(trained: Any, xy_folder: Path, tmp_path: Path) -> None:
    told = exported(trained, xy_folder, tmp_path / "pred.h5")
    assert "6 files" in told and "decision" in told
    files = sorted(xy_folder.iterdir())
    with h5py.File(tmp_path / "pred.h5") as table:
        assert table.attrs["study"] == "x"
        assert [Path(name.decode()).name for name in table["files"][()]] == [file.name for file in files]
        for number, file in enumerate(files):
            rows = table["file"][()] == number
            read = xy.read(file)
            np.testing.assert_array_equal(table["voxel"][rows], read.x[:, :3])
            np.testing.assert_array_equal(table["event"][rows], 2 * number + read.events)
            probability = table["probability"][rows]
            np.testing.assert_array_equal(table["decision"][rows], probability > np.float32(0.3))
            array = np.load(tmp_path / "pred_yinf" / renamed(file, "yinf"))
            np.testing.assert_array_equal(array, probability.reshape(1, -1, 1))
    assert len(list((tmp_path / "pred_yinf").iterdir())) == 6
    assert not list(tmp_path.glob(".tmp-*"))


def test_nothing_of_a_user_is_overwritten(trained: Any, xy_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "pred_yinf").mkdir()
    (tmp_path / "pred_yinf/mine").touch()
    with pytest.raises(BadInput, match="is there already"):
        exported(trained, xy_folder, tmp_path / "pred.h5")
    assert (tmp_path / "pred_yinf/mine").exists() and not (tmp_path / "pred.h5").exists()
    exported(trained, xy_folder, tmp_path / "folder")
    assert (tmp_path / "folder" / "predictions.h5").exists() and len(list((tmp_path / "folder").glob("*.npy"))) == 6
    with pytest.raises(BadInput, match="is there already"):
        exported(trained, xy_folder, tmp_path / "folder")
    exported(trained, xy_folder, tmp_path / "again.h5")
    before = (tmp_path / "again.h5").stat().st_mtime_ns
    # who asks for the table anew (--overwrite) means its arrays, too
    exported(trained, xy_folder, tmp_path / "again.h5")
    assert (tmp_path / "again.h5").stat().st_mtime_ns > before


def test_a_prediction_that_fails_leaves_nothing(trained: Any, xy_folder: Path, tmp_path: Path) -> None:
    new = FAMILY.open(xy_folder, "test")

    def failing() -> Any:
        for number, part in enumerate(FAMILY.parts(new)):
            if number == 2:
                raise OSError("the disk is gone")
            yield part, trained.predict(part)

    for name in ("p.h5", "folder"):
        with pytest.raises(OSError, match="gone"):
            FAMILY.export(failing(), tmp_path / name, {})
    assert list(tmp_path.iterdir()) == [] or [p.name for p in tmp_path.iterdir()] == ["nlb"]


def test_events_of_a_detector_are_predicted_without_truth(trained: Any, tmp_path: Path) -> None:
    place = written.folder(tmp_path / "real", "protoDUNE", files=2, truth=False)
    exported(trained, place, tmp_path / "pred.h5")
    assert {path.name for path in (tmp_path / "pred_yinf").iterdir()} == {
        f"reco_protoDUNE_{index:03d}_yinf-TPC1.npy" for index in (1, 2)
    }
    new = FAMILY.open(place, "test")
    with pytest.raises(BadInput, match="holds no truth"):
        FAMILY.truth(new)
    assert FAMILY.pictures(new, trained.predict(new)) == []


def test_a_threshold_is_tuned_and_probabilities_stay(trained: Any) -> None:
    data = trained.data
    prediction, truth = trained.predict(data), FAMILY.truth(data)
    found = FAMILY.calibrate(FAMILY.scorer(truth).reduce(prediction), truth)
    assert found["threshold"] == trained.validate()["threshold"]
    assert len(found["reliability"]) > 1
    told = FAMILY.calibrated(prediction, found)
    assert np.array_equal(told["probability"], prediction["probability"])
    assert np.array_equal(told["decision"], prediction["probability"] > np.float32(found["threshold"]))
    charge = {"charge": prediction["probability"]}
    assert FAMILY.calibrate(charge, truth) == {} and FAMILY.calibrated(charge, found) == charge


def test_members_of_other_voxels_are_not_averaged(trained: Any) -> None:
    one = trained.predict(trained.data)
    other = {**one, "voxel": one["voxel"][::-1].copy()}
    with pytest.raises(BadInput, match="members differ in voxel"):
        FAMILY.combine([one, other], [0.5, 0.5])
    half = {**one, "probability": np.zeros_like(one["probability"])}
    np.testing.assert_allclose(FAMILY.combine([one, half], [1, 3])["probability"], one["probability"] / 4, rtol=1e-6)


def test_the_test_events_are_scored(trained: Any, block: dict[str, Any], xy_folder: Path, tmp_path: Path) -> None:
    ((where, scores),) = FAMILY.evaluate(trained.predict, block, None, "mine").items()
    assert where == "mine (test events)"
    data = FAMILY.load(block, "test")
    assert scores["area"] == pytest.approx(FAMILY.score(trained.predict(data), FAMILY.truth(data)), abs=1e-9)
    # of all true voxels some are not active
    assert scores["efficiency_of_all_true"] < scores["efficiency"]
    FAMILY.export(((part, trained.predict(part)) for part in FAMILY.parts(data)), tmp_path / "p.h5", {})
    assert FAMILY.evaluate(tmp_path / "p.h5", block, None, "mine") == {where: scores}
    exported(trained, xy_folder, tmp_path / "all.h5")
    with pytest.raises(BadInput, match="are not the voxels of"):
        FAMILY.evaluate(tmp_path / "all.h5", block, None, "mine")
    with pytest.raises(BadInput, match="scored on the test events of its study only"):
        FAMILY.evaluate(tmp_path / "p.h5", {}, None, "mine")
    with pytest.raises(BadInput, match="no test events"):
        FAMILY.evaluate(trained.predict, {key: block[key] for key in ("path", "train", "val")}, None, "mine")
    other = FAMILY.evaluate(trained.predict, block, next(xy_folder.glob("*_004_*")), "mine")
    assert set(next(iter(other.values()))) == set(scores)


def test_pictures_show_events_curves_and_charges(trained: Any, block: dict[str, Any]) -> None:
    prediction = trained.predict(trained.data)
    pictures = FAMILY.pictures(trained.data, prediction)
    assert [caption.split()[0] for caption, _ in pictures] == ["One", "Efficiency", "Reliability"]
    assert "0.945" in pictures[1][0]
    space = pictures[0][1]
    assert sum(len(trace.x) for trace in space.data) <= 20_000
    assert {trace.name.split(" (")[0] for trace in space.data} == {
        "real, kept",
        "real, lost",
        "ghost, kept",
        "ghost, removed",
    }
    family = FAMILY.of({**block, "task": "charge"})
    data = family.load({**block, "task": "charge"}, "val")
    ((caption, _),) = family.pictures(data, {"charge": FAMILY.truth(data)["y"] + 0.5})
    assert "error 0.5 in the truth's units" in caption
    for _, figure in pictures:
        assert figure.to_json()


def test_data_are_described(trained: Any) -> None:
    told = FAMILY.describe(trained.data)
    assert told["training"].startswith("6 events in 3 files") and "ghosts for each" in told["a predicted event"]


def test_kernel_maps_are_made_once_a_file(trained: Any, block: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    plain = type(trained.network).sites
    monkeypatch.setattr(type(trained.network), "sites", lambda self, coords: calls.append(1) or plain(self, coords))
    data = FAMILY.load(block, "val")
    members = [FAMILY.restore(trained.config, trained.weights(), Place()) for _ in range(3)]
    together = list(FAMILY.predict_many(members, data, Place()))
    assert len(calls) == 2
    assert all(np.array_equal(one["probability"], together[0]["probability"]) for one in together)


def test_the_metric_follows_the_task() -> None:
    assert get("cellnet").metric == metrics.AREA
    charge = get("cellnet").of({"task": "charge", "truth": 5})
    assert charge.metric == metrics.RMSE and charge.real == 5
    assert get("cellnet").of({"task": "nonsense"}).metric == metrics.AREA
