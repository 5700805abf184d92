from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ground.errors import BadInput
from ground.states import load_state, save_state
from models.base import Diverged, Family, Place
from models.cellprofiler import config as settings
from models.cellprofiler import data as cells
from models.cellprofiler.data import CellData
from models.cellprofiler.learner import CellLearner
from models.cellprofiler.predictor import Extractor, look, predict_all, restore
from models.cellprofiler.scorers import BalancedAccuracy
from models.conformance import Conformance, HoldsOut, ReadsLazily, Transfers
from models.registry import get
from tests.models.cellprofiler import plates

SMALL = {"WIDTH": 4, "BLOCKS": 2, "FEATURES": 8, "EPOCHS": 6, "BATCH_SIZE": 12, "PIECE_STEPS": 2, "LR": 0.02,
         "LAYERS": "block2,features", "LAMBDAS": "0.1,none", "EVAL_BATCH": 20}  # fmt: skip


class TestCells(Conformance, HoldsOut, Transfers, ReadsLazily):
    poison = {"LR": 1e30}
    overfit = {"EPOCHS": 60, "LR": 0.05, "L2": 0.0}

    @pytest.fixture
    def family(self) -> Family:
        return get("cellprofiler")

    @pytest.fixture
    def config(self) -> dict[str, Any]:
        return {**SMALL, "AUGMENT": "c", "MIXUP": 0.2, "DROPOUT": 0.1, "LABEL_SMOOTHING": 0.05}

    @pytest.fixture
    def block(self, learnable: Path) -> dict[str, Any]:
        return {"project": str(learnable)}

    @pytest.fixture
    def other_block(self, tmp_path: Path) -> dict[str, Any]:
        return {"project": str(plates.stored(tmp_path / "other", seed=1))}

    @pytest.fixture
    def lost(self, learnable: Path, tmp_path: Path) -> CellData:
        root = Path(shutil.copytree(learnable, tmp_path / "lost"))
        found = cells.load({"project": str(root)}, "val")
        shutil.rmtree(root / "outputs" / "single-cells" / "shards")
        return found


@pytest.fixture
def data(learnable: Path) -> CellData:
    return cells.load({"project": str(learnable)}, "val")


def learner(data: CellData, seed: int = 1, **config: Any) -> CellLearner:
    return CellLearner(settings.resolve({**SMALL, **config}), data, Place(), seed)


def flat(one: CellLearner) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in one.network.parameters()])


@pytest.mark.parametrize(
    "config",
    [
        {"AUGMENT": "a", "MIXUP": 0.4, "DROPOUT": 0.3},
        {"OPTIMIZER": "adamw", "LR": 0.003, "WEIGHT_DECAY": 0.01, "SCHEDULE": "cosine", "WARMUP": 2},
        {"SCHEDULE": "plateau", "BALANCE": False, "CLIP": 0.5},
    ],
    ids=["random", "adamw", "plateau"],
)
def test_an_interruption_within_an_epoch_changes_nothing(
    data: CellData, tmp_path: Path, config: dict[str, Any]
) -> None:
    config = {**config, "PIECE_STEPS": 1}
    whole = learner(data, **config)
    told = [whole.train_piece() for _ in range(11)]
    cut = learner(data, **config)
    for _ in range(7):
        cut.train_piece()
    assert cut.step % cut.feeder.steps, "the interruption is to be within an epoch"
    cut.validate()
    save_state(tmp_path / "s.safetensors", cut.state())
    resumed = learner(data, **config)
    resumed.load_state(load_state(tmp_path / "s.safetensors"))
    assert all(resumed.state()[name] == cut.state()[name] for name in ("plateau", "epoch_loss", "best", "best_step"))
    again = [resumed.train_piece() for _ in range(4)]
    assert torch.equal(flat(resumed), flat(whole)) and resumed.step == whole.step
    assert all(resumed.state()[name] == whole.state()[name] for name in ("plateau", "epoch_loss"))
    same = ("train_loss", "train_accuracy", "lr")
    assert [[a[k] for k in same] for a in again] == [[a[k] for k in same] for a in told[7:]]


def test_l2_is_a_part_of_the_loss_for_kernels_alone(data: CellData) -> None:
    plain, with_l2 = learner(data, L2=0.0, MOMENTUM=0.0), learner(data, L2=0.3, MOMENTUM=0.0)
    before = {name: p.detach().clone() for name, p in plain.network.named_parameters()}
    for one in (plain, with_l2):
        one._step(next(one.feeder.epoch(0)), 0.1)
    for (name, a), b in zip(plain.network.named_parameters(), with_l2.network.parameters(), strict=True):
        weight = before[name].requires_grad_()
        penalty = (0.3 * weight**2).sum() if weight.ndim > 1 else 0.0 * weight.sum()
        (slope,) = torch.autograd.grad(penalty, weight)
        assert torch.allclose(b.detach() - a.detach(), -0.1 * slope, atol=1e-6), name


def test_a_cell_is_seen_as_it_was_trained_on(data: CellData) -> None:
    """What training feeds the network without augmentation is what prediction feeds it."""
    one = learner(data, AUGMENT="none")
    fed: list[torch.Tensor] = []
    hook = one.network.register_forward_pre_hook(lambda _, given: fed.append(given[0].detach().clone()))
    batch = next(one.feeder.epoch(0))
    one._step(batch, 0.0)
    Extractor(one.network, one.about, torch.device("cpu"))(batch.crops, ["pool"])
    hook.remove()
    assert torch.equal(*fed) and fed[0].dtype == torch.float32 and fed[0].amax() > 0.999


def test_training_alone_is_augmented(data: CellData) -> None:
    one, other = learner(data, AUGMENT="none"), learner(data, AUGMENT="b")
    assert one.validate()["val_loss"] == other.validate()["val_loss"]
    assert one.train_piece()["train_loss"] != other.train_piece()["train_loss"]


def test_validation_is_of_all_cells(data: CellData) -> None:
    one = learner(data, EVAL_BATCH=7)
    for _ in range(20):
        one.train_piece()
    metrics = one.validate()
    crops = torch.from_numpy(data.store.read(data.eval))
    logits, seen = one._extractor()(crops, ["block2", "features"])
    targets = torch.from_numpy(data.targets[data.eval])
    assert metrics["val_loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, targets)), rel=1e-4)
    assert metrics["val_accuracy"] == pytest.approx(float((logits.argmax(1) == targets).float().mean()))
    assert metrics["val_top_k"] == 1.0  # five of four classes
    (found,) = look([one._extractor()], [["block2", "features"]], data, 7, top_k=2)
    two = logits.topk(2, 1).indices == targets[:, None]
    assert found.top_k == pytest.approx(float(two.any(1).float().mean())) and found.top_k < 1
    assert np.allclose(found.features["features"], seen["features"], atol=1e-5)
    mean = np.stack([logits.softmax(1).numpy()[data.well_of == w].mean(0) for w in range(len(data.wells))])
    assert np.allclose(found.probabilities, mean, atol=1e-5)
    told = one.predict(data)
    assert np.allclose(told["probabilities"], mean[data.samples], atol=1e-5)
    assert np.allclose((told["profile"] ** 2).sum(1), 1, atol=1e-5)
    truth = BalancedAccuracy(data.wells.target[data.samples])
    assert metrics["balanced_accuracy"] == pytest.approx(truth(told))


def test_features_that_do_not_fit_into_memory_lie_in_a_file(data: CellData, monkeypatch: pytest.MonkeyPatch) -> None:
    one = learner(data)
    (plain,) = look([one._extractor()], [["features"]], data, 16)
    monkeypatch.setattr("models.cellprofiler.predictor.available_memory", lambda: 100)
    (filed,) = look([one._extractor()], [["features"]], data, 16)
    assert isinstance(filed.features["features"], np.memmap)
    assert np.array_equal(plain.features["features"], filed.features["features"])


def test_several_members_are_predicted_at_once(data: CellData) -> None:
    members = []
    for seed in (1, 2):
        one = learner(data, seed, LAYERS="pool,block1")
        one.train_piece()
        members.append(restore(one.config, one.weights(), "cpu"))
    together = predict_all(members, data)
    for member, told in zip(members, together, strict=True):
        assert all(np.array_equal(member(data)[name], told[name]) for name in told)


def test_new_data_without_controls_is_sphered_as_the_validation_wells(data: CellData, tmp_path: Path) -> None:
    one = learner(data)
    for _ in range(10):
        one.train_piece()
    member = restore(one.config, one.weights(), "cpu")
    root = plates.project(tmp_path / "new", {"P-9": "", "P-10": ""}, seed=4)
    index = root / "inputs" / "metadata" / "index.csv"
    own = member(cells.open_project(root))["profile"]
    text = index.read_text()
    index.write_text(text.replace("DMSO", "other"))
    told = member(cells.open_project(root))["profile"]
    assert own.shape == told.shape == (18, member.sphering.mean.shape[1])
    assert np.isfinite(told).all() and not np.allclose(own, told, atol=1e-3)


def test_data_that_does_not_fit_is_one_line(data: CellData, tmp_path: Path) -> None:
    one = learner(data)
    member = restore(one.config, one.weights(), "cpu")
    wide = cells.open_project(plates.project(tmp_path / "wide", {"P": ""}, box=18))
    with pytest.raises(BadInput, match="crops of 18 pixels do not fit a network trained on 16"):
        member(wide)
    root = plates.project(tmp_path / "turned", {"P": ""})
    config = root / "inputs" / "config" / "cells.json"
    text = config.read_text()
    config.write_text(text.replace('["DNA", "ER"]', '["ER", "DNA"]'))
    with pytest.raises(BadInput, match="in the order ER, DNA"):
        member(cells.open_project(root))
    config.write_text(text.replace('["DNA", "ER"]', '["DNA"]'))
    with pytest.raises(BadInput, match="1 channels"):
        member(cells.open_project(root))
    with pytest.raises(BadInput, match="too small"):
        learner(data, BLOCKS=5)
    with pytest.raises(BadInput, match="one device"):
        CellLearner(settings.resolve(SMALL), data, Place(ranks=2), 0)


def test_randomness_outside_is_left_alone(data: CellData) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = learner(data, DROPOUT=0.5, AUGMENT="a")
    one.train_piece()
    one.validate()
    assert torch.equal(torch.rand(3), expected)


def test_patience_ends_training(data: CellData) -> None:
    one = learner(data, LR=0.0, L2=0.0, EPOCHS=50, PATIENCE=2)
    while not one.done:
        one.train_piece()
        if one.due:
            one.validate()
    assert one.step // one.feeder.steps <= 5 and one.progress == 1.0


def test_a_loss_that_is_not_finite_ends_the_trial(data: CellData) -> None:
    one = learner(data)
    with torch.no_grad():
        next(iter(one.network.parameters())).fill_(float("nan"))
    for call in (one.train_piece, one.validate):
        with pytest.raises(Diverged):
            call()


def test_it_learns(data: CellData) -> None:
    one = learner(data, EPOCHS=60, LR=0.03, SCHEDULE="cosine", AUGMENT="b", WIDTH=8)
    before = one.validate()
    while not one.done:
        one.train_piece()
    after = one.validate()
    assert after["val_loss"] < before["val_loss"] - 0.5 and after["val_accuracy"] > 0.8
