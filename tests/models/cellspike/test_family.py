from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from ground.errors import BadInput
from models.base import Family, Place
from models.cellspike import FAMILY
from models.conformance import Conformance, HoldsOut, ReadsLazily, Transfers
from models.registry import get
from tests.models.cellspike import written

CONFIG: dict[str, Any] = {
    "CONV_DEPTH": 2, "FILTERS_1": 8, "FILTERS_2": 8, "KERNEL_1": 3, "KERNEL_2": 3, "POOL_1": 2, "POOL_2": 2,
    "FC_DEPTH": 1, "FC_1": 16, "DROPOUT": 0.1, "EPOCHS": 5, "BATCH_SIZE": 16, "LR": 3e-3, "SCHEDULE": "cosine",
}  # fmt: skip


class Both(Conformance, HoldsOut, Transfers, ReadsLazily):
    overfit: dict[str, Any] = {"EPOCHS": 20, "DROPOUT": 0.0, "LR": 0.01}
    poison: dict[str, Any] = {"LR": 1e30}

    @pytest.fixture
    def family(self) -> Family:
        return get("cellspike")

    @pytest.fixture
    def config(self) -> dict[str, Any]:
        return CONFIG

    @pytest.fixture
    def lost(self, block: dict[str, Any], tmp_path: Path) -> Any:
        data = FAMILY.load({**block, "limit_mb": 0.001}, "val")
        shutil.rmtree(tmp_path / "packs")
        return data


class TestManyCells(Both):
    """Packs of ONTRA, three cells, one of them a witness."""

    @pytest.fixture
    def block(self, tmp_path: Path) -> dict[str, Any]:
        (tmp_path / "packs").mkdir(exist_ok=True)
        for cell in range(3):
            written.ontra(tmp_path / "packs", cell)
        return {"path": str(tmp_path / "packs"), "witness": ["bbp1021"]}

    @pytest.fixture
    def other_block(self, block: dict[str, Any]) -> dict[str, Any]:
        return {**block, "target": "u"}


class TestOneCell(Both):
    """A pack of BBP3 under two stimuli, each a sample; read from the file while training."""

    @pytest.fixture
    def block(self, tmp_path: Path) -> dict[str, Any]:
        (tmp_path / "packs").mkdir(exist_ok=True)
        path = written.mlpack(tmp_path / "packs" / "L5.mlPack1.h5")
        return {"path": str(path), "stimuli": "samples", "limit_mb": 0.05, "normalisation": "probe"}

    @pytest.fixture
    def other_block(self, block: dict[str, Any]) -> dict[str, Any]:
        return {**block, "stims": ["stim1"]}


# ---- what users get


@pytest.fixture
def packs(tmp_path: Path) -> Path:
    for cell in range(3):
        written.ontra(tmp_path, cell)
    written.training_meta(tmp_path, ["bbp1021"])
    return tmp_path


@pytest.fixture
def members(packs: Path) -> list[Any]:
    data = FAMILY.load({"path": str(packs)}, "val")
    out = []
    for seed in range(3):
        one = FAMILY.learner(FAMILY.check(CONFIG), data, Place(), seed)
        one.train_piece()
        out.append(FAMILY.restore(FAMILY.check(CONFIG), one.weights(), Place()))
    return out


def test_predictions_come_with_the_spread_of_the_members(members: list[Any], packs: Path, tmp_path: Path) -> None:
    new = FAMILY.open(packs / "bbp1011_excite.cellSpike_2prT.data.h5", "test")
    each, weights = list(FAMILY.predict_many(members, new, Place())), [0.5, 0.3, 0.2]
    told = FAMILY.export([(new, FAMILY.combine(each, weights))], tmp_path / "out.h5", {"study": "s"})
    assert "ustar (10, 3)" in told
    stars = np.stack([one["ustar"] for one in each]).astype(np.float64)
    mean = np.average(stars, axis=0, weights=weights)
    deviation = np.sqrt(np.average((stars - mean) ** 2, axis=0, weights=weights))
    with h5py.File(tmp_path / "out.h5") as file:
        out = {name: np.asarray(file[name]) for name in file}
        assert json.loads(file.attrs["names"]) == list(written.NAMES) and file.attrs["target"] == "ustar"
        assert json.loads(file.attrs["cells"]) == ["bbp1011"]
    assert deviation.min() > 1e-4
    np.testing.assert_allclose(out["ustar"], mean, atol=1e-6)
    np.testing.assert_allclose(out["ustar_sd"], deviation, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(out["physical"], 10 ** (mean * written.DELTA + written.CENT), rtol=1e-4)
    low = 10 ** ((mean - deviation) * written.DELTA + written.CENT)
    np.testing.assert_allclose(out["physical_low"], low, rtol=1e-3)
    base = np.sqrt([row[1] * row[2] for row in written.ranges(1) if row[1]])
    np.testing.assert_allclose(base * 10 ** out["u"].astype(float), out["physical"], rtol=1e-4)
    assert out["row"].tolist() == list(range(10)) and set(out["split"]) == {2}
    frame = pd.read_csv(_csv(members, new, tmp_path, weights))
    assert frame["cell"].tolist() == ["bbp1011"] * 10 and frame["row"].tolist() == list(range(10))
    np.testing.assert_allclose(frame["gK.som physical"], out["physical"][:, 1], rtol=1e-5)


def _csv(members: list[Any], new: Any, folder: Path, weights: list[float]) -> Path:
    each = list(FAMILY.predict_many(members, new, Place()))
    FAMILY.export([(new, FAMILY.combine(each, weights))], folder / "out.csv", {})
    return folder / "out.csv"


def test_sweeps_and_plain_packs_are_predicted(packs: Path, tmp_path: Path) -> None:
    data = FAMILY.load({"path": str(packs), "probes": ["soma"]}, "val")
    one = FAMILY.learner(FAMILY.check(CONFIG), data, Place(), 0)
    one.train_piece()
    predictor = FAMILY.restore(FAMILY.check(CONFIG), one.weights(), Place())
    other = tmp_path / "lab"
    other.mkdir()
    sweeps = FAMILY.open(written.experiment(other / "sweeps.h5"), "test")
    prediction = predictor(sweeps)
    FAMILY.export([(sweeps, prediction)], tmp_path / "e.h5", {})
    with h5py.File(tmp_path / "e.h5") as file:
        # conductances by what u* means in all cells; u would need the cell's own ranges
        assert file["physical"].shape == (7, 3) and "u" not in file
    with pytest.raises(BadInput, match="no parameters to score"):
        FAMILY.truth(sweeps)
    alone = written.ontra(other, 1, meta=False)
    with pytest.raises(BadInput, match="par_0"):
        predictor(FAMILY.open(alone, "test"))


def test_data_of_another_shape_is_refused(members: list[Any], packs: Path) -> None:
    with pytest.raises(BadInput, match=r"48x1x1x0 .* do not fit a network trained on 48x2x1x0"):
        members[0](FAMILY.load({"path": str(packs), "probes": ["soma"]}, "val"))
    with pytest.raises(BadInput, match="starred"):
        members[0](FAMILY.load({"path": str(packs), "target": "u"}, "val"))
    with pytest.raises(BadInput, match="normalisation"):
        members[0](FAMILY.load({"path": str(packs), "normalisation": "probe"}, "val"))


def test_practice_and_witness_are_scored(members: list[Any], packs: Path) -> None:
    block = {"path": str(packs)}
    found = FAMILY.evaluate(members[0], block, None, "mine")
    assert list(found) == ["mine, test rows of practice cells", "mine, test rows of witness cells"]
    data = FAMILY.load(block, "test")
    true, told = FAMILY.truth(data)["ustar"].astype(float), members[0](data)["ustar"]
    scores = found["mine, test rows of practice cells"]
    assert scores["mse"] == pytest.approx(((told - true) ** 2).mean(), rel=1e-5)
    assert scores["mse_of_mean"] == pytest.approx(true.var(0).mean(), rel=1e-5)
    assert scores["gK.som r"] == pytest.approx(np.corrcoef(told[:, 1], true[:, 1])[0, 1], rel=1e-4)
    assert scores["gK.som rmse"] == pytest.approx(np.sqrt(((told - true)[:, 1] ** 2).mean()), rel=1e-4)
    assert scores != found["mine, test rows of witness cells"]
    one = FAMILY.evaluate(members[0], block, packs / "bbp1001_excite.cellSpike_2prT.data.h5", "mine")
    assert len(one) == 1
    with pytest.raises(BadInput, match="not files of predictions"):
        FAMILY.evaluate(packs / "x.h5", block, None, "mine")


def test_the_report_says_what_the_data_are(members: list[Any], packs: Path) -> None:
    data = FAMILY.load({"path": str(packs)}, "val")
    told = FAMILY.describe(data)
    assert told["samples"] == "128 training, 24 validation, 20 test, 10 witness"
    assert told["cells"].startswith("2: ") and told["witness cells"] == "1: bbp1021"
    pictures = FAMILY.pictures(data, members[0](data))
    assert pictures and all(figure.to_json() for _, figure in pictures)
