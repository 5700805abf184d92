from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ground.errors import BadInput
from ground.states import load_state, save_state
from models.base import Place
from models.cellspike import FAMILY
from models.cellspike import learner as module
from models.cellspike.config import resolve
from models.cellspike.schedule import Schedule
from tests.models.cellspike import written
from tests.models.cellspike.test_family import CONFIG


@pytest.fixture
def block(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "packs").mkdir()
    for cell in range(2):
        written.ontra(tmp_path / "packs", cell)
    return {"path": str(tmp_path / "packs")}


def learner(block: dict[str, Any], seed: int = 1, **settings: Any) -> Any:
    return FAMILY.learner(FAMILY.check({**CONFIG, **settings}), FAMILY.load(block, "val"), Place(), seed)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"WARMUP_EPOCHS": 5, "EPOCHS": 5}, "WARMUP_EPOCHS is 5 of 5 EPOCHS"),
        ({"FILTER_1": 3}, "did you mean FILTERS_1"),
        ({"CONV_DEPTH": 9}, "CONV_DEPTH is 9"),
        ({"OPTIMIZER": "sgd"}, "OPTIMIZER is 'sgd'"),
        ({"DESIGN": "keras", "LEGACY_RESHAPE": True}, "LEGACY_RESHAPE"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        resolve(settings)


def test_a_stack_that_does_not_fit_is_refused_by_its_layer(block: dict[str, Any]) -> None:
    deep = {"CONV_DEPTH": 4, **{f"POOL_{i}": 4 for i in range(1, 5)}, **{f"KERNEL_{i}": 3 for i in range(1, 5)}}
    with pytest.raises(BadInput, match="conv 3"):
        learner(block, **deep)
    assert not FAMILY.feasible(block, deep)
    assert FAMILY.feasible(block, {**deep, "POOL_1": 1, "POOL_2": 1, "POOL_3": 1})
    assert FAMILY.feasible({**block, "stimuli": "samples"}, CONFIG)
    with pytest.raises(BadInput, match="MAX_PARAMETERS is 100"):
        learner(block, MAX_PARAMETERS=100)
    assert not FAMILY.feasible(block, {**CONFIG, "MAX_PARAMETERS": 100})


# ---- rates


def test_the_warm_up_rises_by_epochs() -> None:
    schedule = Schedule(resolve({"LR": 0.01, "WARMUP_EPOCHS": 4, "EPOCHS": 20, "SCHEDULE": "constant"}))
    assert [schedule.rate(epoch, epoch / 20) for epoch in range(6)] == pytest.approx(
        [0.0025, 0.005, 0.0075, *[0.01] * 3]
    )


def test_the_cosine_falls_to_nothing() -> None:
    schedule = Schedule(resolve({"LR": 0.01, "WARMUP_EPOCHS": 4, "EPOCHS": 20, "SCHEDULE": "cosine"}))
    assert schedule.rate(4, 0.2) == pytest.approx(0.01) and schedule.rate(12, 0.6) == pytest.approx(0.005)
    assert schedule.rate(19, 1.0) == pytest.approx(0.0, abs=1e-9) and schedule.rate(25, 1.3) == pytest.approx(
        0.0, abs=1e-9
    )


def test_the_plateau_is_torchs_and_goes_on_from_its_state() -> None:
    losses = [1.0, 0.9, 0.9, 0.91, 0.9, 0.95, 0.9, 0.9, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6]
    config = resolve({"LR": 0.02, "PLATEAU_PATIENCE": 2, "PLATEAU_COOLDOWN": 1, "LR_FACTOR": 0.5, "EPOCHS": 99})
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.02)
    theirs = ReduceLROnPlateau(optimizer, factor=0.5, patience=2, cooldown=1, threshold=1e-4, threshold_mode="abs")
    schedule, rates = Schedule(config), []
    for epoch, loss in enumerate(losses):
        again = Schedule(config)
        again.load_state(schedule.state())  # cut after each epoch
        schedule = again
        schedule.note(epoch, loss)
        theirs.step(loss)
        rates.append(schedule.rate(epoch + 1, 0.5))
        assert rates[-1] == pytest.approx(optimizer.param_groups[0]["lr"])
    assert len(set(rates)) == 4


def test_early_stop_waits_for_its_patience() -> None:
    schedule = Schedule(resolve({"EARLY_STOP": 3, "EARLY_STOP_MIN_DELTA": 0.01}))
    told = []
    for epoch, loss in enumerate([1.0, 0.995, 0.9, 0.895, math.nan, 0.892, 0.5]):
        schedule.note(epoch, loss)
        told.append(schedule.exhausted)
    assert told == [False, False, False, False, False, True, False]


# ---- training


def test_early_stop_ends_the_training(block: dict[str, Any]) -> None:
    one = learner(block, EPOCHS=30, EARLY_STOP=2, EARLY_STOP_MIN_DELTA=5.0, WARMUP_EPOCHS=1)
    while not one.done:
        one.train_piece()
    assert one.steps == 3 * one.feeder.steps and one.progress == 1.0 and one.due


@pytest.mark.parametrize("limit", [0.0, 0.02])
@pytest.mark.parametrize("optimizer", ["adam", "nadam"])
def test_training_goes_on_in_the_middle_of_an_epoch(
    block: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: float, optimizer: str
) -> None:
    monkeypatch.setattr(module, "_FIRST_PIECE", 1)
    monkeypatch.setattr(module, "PIECE_SECONDS", 1e-9)  # then pieces of one step
    settings = {"OPTIMIZER": optimizer, "BATCH_NORM_FLAT": True, "SCHEDULE": "plateau", "PLATEAU_PATIENCE": 0}
    block = {**block, "limit_mb": limit}
    whole, cut = learner(block, **settings), learner(block, **settings)
    assert whole.feeder.in_memory == (limit == 0)
    while whole.steps < 16:
        whole.train_piece()
    while cut.steps < 11:
        cut.train_piece()
    assert cut.steps % cut.feeder.steps not in (0, 1)
    save_state(tmp_path / "s.safetensors", cut.state())
    resumed = learner(block, seed=1, **settings)
    resumed.load_state(load_state(tmp_path / "s.safetensors"))
    while resumed.steps < 16:
        told = resumed.train_piece()
    one, other = (each.weights()["network"] for each in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert resumed.validate() == whole.validate() and told["lr"] > 0


def test_pieces_change_nothing(block: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = learner(block)
    while plain.steps < plain.feeder.steps:
        plain.train_piece()
    monkeypatch.setattr(module, "_FIRST_PIECE", 1)
    monkeypatch.setattr(module, "PIECE_SECONDS", 1e-9)
    slow = learner(block)
    for _ in range(slow.feeder.steps):
        told = slow.train_piece()
    assert told["epoch_s"] > 0 and told["samples_s"] > 0 and told["load_s"] > 0
    assert all(
        np.array_equal(a, b)
        for a, b in zip(plain.predict(plain.data).values(), slow.predict(slow.data).values(), strict=True)
    )


@pytest.mark.parametrize("loss", ["mse", "huber"])
@pytest.mark.parametrize("design", ["torch", "keras"])
def test_conductances_are_learned(block: dict[str, Any], loss: str, design: str) -> None:
    settings = {"EPOCHS": 25, "DROPOUT": 0.0, "LR": 0.01, "WARMUP_EPOCHS": 1, "CLIP": 1.0, "FILTERS_1": 12}
    one = learner(block, LOSS=loss, DESIGN=design, **settings)
    before = one.validate()
    while not one.done:
        one.train_piece()
    after = one.validate()
    assert after["mse"] < 0.35 * before["mse"] and after["r2"] > 0.6
    assert after["r2"] == pytest.approx(np.mean([after[f"r2_{name}"] for name in written.NAMES]))


def test_traces_lost_to_infinities_while_streaming_are_named(block: dict[str, Any]) -> None:
    path = next(Path(block["path"]).glob("bbp1011*"))
    with h5py.File(path, "r+") as file:
        file["train_frames"][40, 3, 1] = np.nan
    with pytest.raises(BadInput, match=r"bbp1011.*train_frames row 40 is not finite"):
        one = learner({**block, "limit_mb": 0.02})
        for _ in range(5):
            one.train_piece()


def test_optimizers_differ(block: dict[str, Any]) -> None:
    found = []
    for name in ("adam", "adamw", "nadam"):
        one = learner(block, OPTIMIZER=name, WEIGHT_DECAY=0.1)
        one.train_piece()
        found.append(one.predict(one.data)["ustar"])
    assert not np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])


def test_towers_and_features_are_trained(tmp_path: Path) -> None:
    path = written.mlpack(tmp_path / "a.mlPack1.h5", features=True)
    one = learner({"path": str(path), "stimuli": "towers", "features": "efel", "normalisation": "sample"})
    one.train_piece()
    prediction = one.predict(one.data)
    assert np.isfinite(prediction["ustar"]).all() and prediction["ustar"].shape == (12, 3)
    restored = FAMILY.restore(FAMILY.check(CONFIG), one.weights(), Place())(FAMILY.open(path, "test"))
    assert len(restored["ustar"]) == 10


def test_weights_of_another_shape_are_refused(block: dict[str, Any], tmp_path: Path) -> None:
    trained = learner({"path": str(written.mlpack(tmp_path / "a.mlPack1.h5"))})
    with pytest.raises(BadInput, match="INIT: the snapshot's network does not fit"):
        learner(block).start_from(trained.weights())
