"""Training: what is learned, gone on with, taken over, and shared among ranks."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from ground.errors import BadInput
from ground.states import load_state, save_state
from models.base import Place
from models.cellnet import FAMILY
from models.cellnet.schedule import rate
from tests.models.cellnet import written
from tests.models.cellnet.test_family import CONFIG

CPU = Place()


def learner(block: dict[str, Any], place: Place = CPU, seed: int = 0, **over: Any) -> Any:
    return FAMILY.learner(FAMILY.check({**CONFIG, **over}), FAMILY.load(block, "val"), place, seed)


def run(one: Any) -> Any:
    while not one.done:
        one.train_piece()
    return one


def test_ghosts_are_told_after_some_epochs(block: dict[str, Any]) -> None:
    one = learner({**block, "val": [4, 6], "test": None}, EPOCHS=40, LR=0.03)
    before = one.validate()
    after = run(one).validate()
    # what the planes' mean charge alone tells
    data = one.data
    truth = FAMILY.truth(data)
    mean = np.concatenate([data.eval.voxels(file).planes.mean(1) for file in data.eval.files])
    by_hand = FAMILY.scorer(truth).score({"probability": np.argsort(np.argsort(mean)) / len(mean)})
    assert after["area"] > max(before["area"] + 0.2, by_hand + 0.03), (before["area"], by_hand, after["area"])
    assert after["val_accuracy"] > 0.8 and after["roc_auc"] > 0.85
    assert math.isfinite(after["seconds_per_event"])


def test_charges_are_told_after_some_epochs(block: dict[str, Any]) -> None:
    over = {"EPOCHS": 80, "LR": 0.02, "SCHEDULE": "cosine", "N_CHANNELS": 8, "INPUT_SCALE": "none", "TARGET_UNIT": 2.0}
    one = learner({**block, "train": [1, 4], "val": [5, 6], "test": None, "task": "charge"}, **over)
    after = run(one).validate()
    y = FAMILY.truth(one.data)["y"]
    assert after["charge_rmse"] < 0.8 * y[y > 0].std()  # of the mean charge
    assert after["charge_total"] == pytest.approx(1.0, abs=0.3)


LOSSES = {"ghost": ["bce_l1", "label_weighted", "charge_weighted", "focal"], "charge": ["mse", "downsample_mse"]}


@pytest.mark.parametrize(("task", "loss"), [(task, loss) for task, losses in LOSSES.items() for loss in losses])
def test_every_loss_trains(block: dict[str, Any], task: str, loss: str) -> None:
    one = learner({**block, "task": task}, LOSS=loss, EPOCHS=12, PIECE_STEPS=3)
    losses = [one.train_piece()["train_loss"] for _ in range(12)]
    assert losses[-1] < 0.9 * losses[0]
    assert math.isfinite(one.validate()["val_loss"])


def test_a_loss_of_the_other_task_is_refused(block: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="with task: ghost in the data block it takes one of bce"):
        learner(block, LOSS="mse")


def test_a_loss_weighs_voxels_not_files(block: dict[str, Any]) -> None:
    one = learner(block, LR=0.0, PIECE_STEPS=10)
    together = learner(block, LR=0.0, FILES_PER_STEP=3)
    # a rate of 0 and normalisation of each step's own voxels: compare what evaluation says of the training files
    for each in (one, together):
        each.data = each.data.with_eval(each.data.train)
    whole = one.validate()["val_loss"]
    parts = []
    for file in one.data.train.files:
        one.data = one.data.with_eval(one.data.train.take(file.first + np.arange(2)))
        parts.append((one.validate()["val_loss"], file.voxels))
    means, voxels = np.array(parts).T
    assert whole == pytest.approx((means * voxels).sum() / voxels.sum(), rel=1e-5)
    assert abs(whole - means.mean()) > 1e-7
    assert together.validate()["val_loss"] == pytest.approx(whole, rel=1e-6)


def test_resuming_within_an_epoch_is_exact(block: dict[str, Any], tmp_path: Path) -> None:
    over = {"SCHEDULE": "plateau", "PLATEAU_PATIENCE": 0, "PLATEAU_FACTOR": 0.5, "PIECE_STEPS": 1, "EPOCHS": 2}
    noisy = {**block, "transforms": {"noise": {"mean": 0, "sd": 20}}}
    whole = run(learner(noisy, LR=0.1, **over))
    cut = learner(noisy, LR=0.1, **over)
    while cut.step < 5:
        cut.train_piece()
    save_state(tmp_path / "s.safetensors", cut.state())
    resumed = learner(noisy, seed=0, LR=0.1, **over)
    resumed.load_state(load_state(tmp_path / "s.safetensors"))
    run(resumed)
    for (name, a), b in zip(whole.network.state_dict().items(), resumed.network.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert whole.plateau_state() == resumed.plateau_state() and whole.last_epoch == resumed.last_epoch
    assert whole.optimizer.param_groups[0]["lr"] == resumed.optimizer.param_groups[0]["lr"]


def test_a_plateau_lowers_the_rate(block: dict[str, Any]) -> None:
    # at this rate the loss stays as it is
    one = learner(block, SCHEDULE="plateau", PLATEAU_PATIENCE=1, PLATEAU_FACTOR=0.1, LR=1e-6, EPOCHS=6, PIECE_STEPS=3)
    seen = []
    while not one.done:
        seen.append(one.train_piece()["lr"])
    np.testing.assert_allclose(seen, [1e-6, 1e-6, 1e-6, 1e-7, 1e-7, 1e-8], rtol=1e-6)


def test_rates() -> None:
    assert [rate("constant", 2.0, s, 10, 4) for s in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    cosine = [rate("cosine", 1.0, s, 10, 0) for s in range(11)]
    assert cosine[0] == 1.0 and cosine[5] == pytest.approx(0.5) and cosine[10] == pytest.approx(0.0)
    assert all(a > b for a, b in itertools.pairwise(cosine))


# ---- taking over


def test_a_charge_network_begins_with_a_ghost_networks_trunk(block: dict[str, Any]) -> None:
    ghost = learner(block)
    ghost.train_piece()
    charge = learner({**block, "task": "charge"}, FREEZE=True, seed=5)
    head = {k: v.clone() for k, v in charge.network.head.state_dict().items()}
    charge.start_from(ghost.weights())
    given, own = ghost.network.trunk.state_dict(), charge.network.trunk.state_dict()
    assert all(torch.equal(given[name], own[name]) for name in own)
    assert all(torch.equal(value, head[name]) for name, value in charge.network.head.state_dict().items())
    run(charge)
    own = charge.network.trunk.state_dict()
    assert all(torch.equal(given[name], own[name]) for name in own)  # FREEZE: statistics, too
    assert not all(torch.equal(value, head[name]) for name, value in charge.network.head.state_dict().items())
    free = learner({**block, "task": "charge"}, seed=5)
    free.start_from(ghost.weights())
    run(free)
    assert not torch.equal(free.network.trunk.first.weight, given["first.weight"])
    for wider in ({"N_CHANNELS": 8}, {"N_STRIDES": 3}, {"REPS": 2}):
        with pytest.raises(BadInput, match="trunk does not fit"):
            learner(block, **wider).start_from(ghost.weights())
    deeper = learner(block, N_STRIDES=3)
    with pytest.raises(BadInput, match="more levels"):
        learner(block).start_from(deeper.weights())


# ---- ranks


def one_rank(rank: int, place: str, block: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}/group", rank=rank, world_size=2)
    one = learner(block, Place(rank=rank, ranks=2), EPOCHS=3)
    losses = [one.train_piece()["train_loss"] for _ in range(6) if not one.done]
    metrics = one.validate()
    told = {"losses": losses, "metrics": metrics, "network": dict(one.network.state_dict()), "steps": one.steps}
    torch.save(told, f"{place}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("files", [3, pytest.param(4, marks=pytest.mark.slow)])
def test_two_ranks_train_what_one_would(files: int, tmp_path: Path) -> None:
    """Of three files, the second rank has none in each epoch's last step."""
    place = written.folder(tmp_path / "xy", files=files + 3)
    block = {"path": str(place), "train": [1, files], "val": [files + 1, files + 3]}
    torch.multiprocessing.spawn(one_rank, (str(tmp_path), block), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    alone = learner(block, FILES_PER_STEP=2, EPOCHS=3)
    losses = [alone.train_piece()["train_loss"] for _ in range(6) if not alone.done]
    metrics = alone.validate()
    assert first["steps"] == alone.steps
    np.testing.assert_allclose(first["losses"], losses, rtol=2e-4)
    for name, value in alone.network.state_dict().items():
        torch.testing.assert_close(first["network"][name], value, rtol=5e-3, atol=5e-4, msg=name)
        assert torch.equal(first["network"][name], second["network"][name]), name
    for name, value in metrics.items():
        if name != "seconds_per_event":
            assert first["metrics"][name] == pytest.approx(value, rel=2e-2, abs=1e-3), name
            assert first["metrics"][name] == second["metrics"][name], name
