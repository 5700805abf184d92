from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ground.errors import BadInput
from ground.states import load_state, save_state
from models.base import Diverged, Place
from models.xtcav import heads
from models.xtcav.config import resolve
from models.xtcav.data import XtcavData, load
from models.xtcav.learner import XtcavLearner
from models.xtcav.rows import Batch

SMALL = {"WIDTH": 4, "DEPTH": 3, "GRID": 2, "HIDDEN": 8, "EPOCHS": 6, "BATCH_SIZE": 8, "PIECE_STEPS": 3}


@pytest.fixture
def data(block: dict[str, Any]) -> XtcavData:
    return load(block, "val")


def learner(data: XtcavData, seed: int = 1, **settings: Any) -> XtcavLearner:
    return XtcavLearner(resolve({**SMALL, **settings}), data, Place(), seed)


def weights(one: XtcavLearner) -> Tensor:
    return torch.cat([p.detach().flatten() for p in one.network.parameters()])


@pytest.mark.parametrize(
    "settings",
    [
        {"NOISE": 0.1, "GAIN": 0.1, "DROPOUT": 0.5},
        {"OPTIMIZER": "momentum", "LR": 0.01, "LR.SCHEDULE": "0.01,0.9,2", "SAMPLING": "weighted"},
        {"LR.SCHEDULE": "plateau", "AVERAGE": 0.9},
    ],
    ids=["random", "momentum", "plateau"],
)
def test_an_interruption_within_an_epoch_changes_nothing(
    data: XtcavData, tmp_path: Path, settings: dict[str, Any]
) -> None:
    whole = learner(data, **settings)
    told = [whole.train_piece() for _ in range(8)]
    cut = learner(data, **settings)
    for _ in range(5):
        cut.train_piece()
    assert cut.step % cut._batches, "the interruption is to be within an epoch"
    # batches of the epoch are being read ahead at this moment
    save_state(tmp_path / "s.safetensors", cut.state())
    cut.validate()
    resumed = learner(data, seed=1, **settings)
    resumed.load_state(load_state(tmp_path / "s.safetensors"))
    for before in told[5:]:
        after = resumed.train_piece()
        assert {**after, "read_ms": 0, "train_ms": 0} == {**before, "read_ms": 0, "train_ms": 0}
    assert torch.equal(weights(whole), weights(resumed))


def test_a_plateau_goes_on_where_it_was(data: XtcavData, tmp_path: Path) -> None:
    def patient() -> XtcavLearner:
        one = learner(data, LR=1e-6, EPOCHS=9, BATCH_SIZE=16, PIECE_STEPS=2, **{"LR.SCHEDULE": "plateau"})
        one._plateau.patience, one._plateau._best = 0, 0.0  # no epoch is ever better
        return one

    whole = patient()
    rates = [whole.train_piece()["lr"] for _ in range(16)]
    assert rates[-1] < rates[9] < rates[0]
    cut = patient()
    for _ in range(9):
        cut.train_piece()
    assert cut._epoch_loss, "the interruption is to be within an epoch"
    save_state(tmp_path / "s.safetensors", cut.state())
    resumed = patient()
    resumed.load_state(load_state(tmp_path / "s.safetensors"))
    assert resumed._epoch_loss == cut._epoch_loss
    assert [resumed.train_piece()["lr"] for _ in range(7)] == rates[9:]


def test_a_piece_tells_what_the_original_log_told(data: XtcavData) -> None:
    one = learner(data)
    first, second = one.train_piece(), one.train_piece()
    told = {"train_loss", "plain_loss", "penalty", "train_accuracy", "batch_class1", "train_class1", "grad_norm",
            "grad_angle", "lr", "read_ms", "train_ms"}  # fmt: skip
    assert told <= set(first)
    assert first["train_loss"] == first["plain_loss"] and first["penalty"] == 0
    assert -1 <= second["grad_angle"] <= 1 and second["grad_norm"] > 0
    validated = one.validate()
    assert validated["val_loss"] == pytest.approx(validated["log_loss"])
    assert {"accuracy", "balanced_accuracy", "macro_f1", "log_loss", "val_class1", "eval_ms"} <= set(validated)
    cells = [value for name, value in validated.items() if name.startswith("confusion_")]
    assert len(cells) == data.classes**2 and sum(cells) == len(data.eval)


def test_the_first_step_has_no_angle(data: XtcavData) -> None:
    one = learner(data, PIECE_STEPS=1)
    assert one.train_piece()["grad_angle"] == 0
    assert one.train_piece()["grad_angle"] != 0


def test_the_loss_of_a_published_net_begins_at_ln_4(data: XtcavData) -> None:
    one = learner(data, NET="tensorflow_simple", POOL="13,10", OPTIMIZER="momentum", PIECE_STEPS=1, LABEL_SMOOTHING=0)
    assert one.train_piece()["train_loss"] == pytest.approx(math.log(4), abs=0.1)


def test_steps_and_evals_are_counted(data: XtcavData) -> None:
    one = learner(data, STEPS=7, EVALS=4, PIECE_STEPS=100)
    steps = []
    while not one.done:
        one.train_piece()
        steps.append((one.step, one.due))
    assert steps == [(4, True), (7, True)] and one.progress == 1.0


def test_patience_ends_training(data: XtcavData) -> None:
    one = learner(data, LR=0.0, EPOCHS=50, PATIENCE=2)
    while not one.done:
        one.train_piece()
        if one.due:
            one.validate()
    assert one.step < one.total / 5 and one.progress == 1.0


def test_momentum_is_tensorflows(data: XtcavData) -> None:
    one = learner(
        data, OPTIMIZER="momentum", MOMENTUM=0.85, WEIGHT_DECAY=0, PIECE_STEPS=1, **{"LR.SCHEDULE": "0.01,0.5,1"}
    )
    speed: Tensor | float = 0.0
    for step in range(3):
        before = weights(one)
        assert one.train_piece()["lr"] == pytest.approx(0.01 * 0.5**step)
        assert one._gradient is not None
        speed = 0.85 * speed + one._gradient
        assert torch.allclose(weights(one), before - 0.01 * 0.5**step * speed, atol=1e-7)


def test_penalties_count_weights_but_no_biases(data: XtcavData) -> None:
    one = learner(data, NET="tensorflow_simple", **{"PENALTY.L1": 0.5, "PENALTY.L2": 0.25, "PENALTY.LAST": 0.1})
    expected = 0.0
    for module in one.network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            factor = 0.1 if module is one.network.last else 1.0
            w = module.weight.detach()
            expected += factor * float(0.5 * w.abs().sum() + 0.25 * w.square().sum())
    assert float(torch.as_tensor(one._penalty()).detach()) == pytest.approx(expected, rel=1e-5)
    told = one.train_piece()
    assert told["train_loss"] == pytest.approx(told["plain_loss"] + told["penalty"])


def test_weight_decay_is_decoupled(data: XtcavData) -> None:
    one = learner(data, WEIGHT_DECAY=0.5, LR=0.1, WARMUP=0.0, PIECE_STEPS=1, **{"LR.SCHEDULE": "constant"})
    one._optimizer.step = lambda *_: None  # type: ignore[method-assign, assignment]
    before = [p.detach().clone() for p in one.network.parameters()]
    one.train_piece()
    for old, new in zip(before, one.network.parameters(), strict=True):
        assert torch.allclose(new, old * (1 - 0.05 * (old.ndim > 1)))


def test_class_weights_and_smoothing_reach_the_loss(data: XtcavData) -> None:
    plain, even, root = (heads.head(resolve({"CLASS_WEIGHTS": name}), data) for name in ("none", "balanced", "root"))
    assert isinstance(plain, heads.Classes) and isinstance(even, heads.Classes) and isinstance(root, heads.Classes)
    counts = data.counts(data.train)
    assert (plain.weights == 1).all() and plain.drawn.tolist() == pytest.approx((counts / counts.sum()).tolist())
    assert heads.head(resolve({"SAMPLING": "balanced"}), data).drawn.tolist() == [0.25] * 4  # type: ignore[attr-defined]
    ratio = even.weights[counts.argmin()] / even.weights[counts.argmax()]
    assert float(ratio) == pytest.approx(counts.max() / counts.min(), rel=1e-4)
    assert torch.allclose(root.weights**2, even.weights)


@given(st.integers(2, 6), st.floats(0, 0.6), st.integers(0, 10_000))
def test_what_training_added_is_taken_out_of_predictions(classes: int, smoothing: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    likelihood, drawn, weights = (rng.dirichlet(np.full(classes, 2.0), n) for n in (5, 1, 1))
    p = likelihood * drawn
    p /= p.sum(1, keepdims=True)
    fitted = weights * (smoothing / classes + (1 - smoothing) * p)  # where the loss of these labels is least
    head = heads.Classes(*(torch.tensor(a[0]) for a in (drawn, drawn)), smoothing, torch.tensor(weights[0]))
    output = torch.tensor(fitted).log()
    for one in (head, heads.from_state(head.state())):
        assert np.allclose(one.predict(output)["likelihood"], likelihood, atol=1e-6)
    labels = torch.arange(classes)
    # the loss is least there: its gradient, expected over labels of these probabilities, is none
    leaf = output[:1].clone().requires_grad_()
    each = torch.stack([head.loss(leaf, batch([[0.0]], int(k))) * weights[0, k] * p[0, k] for k in labels])
    each.sum().backward()
    assert leaf.grad is not None and leaf.grad.abs().max() < 1e-6


def test_shares_are_those_of_the_data_whatever_training_draws(block: dict[str, Any]) -> None:
    whole, cut = load(block, "val"), load({**block, "ratio": 1.0}, "val")
    counts = whole.counts(whole.train)
    for data in (whole, cut):
        assert data.shares.tolist() == pytest.approx((counts / counts.sum()).tolist())
    head = heads.head(resolve({}), cut)
    assert isinstance(head, heads.Classes) and head.drawn.tolist() == pytest.approx([0.25] * 4)
    assert head.shares.tolist() == pytest.approx(whole.shares.tolist())


def batch(targets: list[list[float]], label: int = -1) -> Batch:
    n = len(targets)
    return Batch(
        torch.zeros(n, 1, 1, 1), torch.zeros(n, 0), torch.full((n,), label), torch.tensor(targets), torch.arange(n)
    )


def test_huber_counts_only_what_is_there() -> None:
    nan = math.nan
    head = heads.Targets(("a", "b"), torch.tensor([1.0, 10.0]), torch.tensor([2.0, 5.0]), absent=False, delta=1.0)
    output = torch.full((3, 2), 0.5, requires_grad=True)
    loss = head.loss(output, batch([[2.0, nan], [nan, nan], [1.0, 30.0]]))
    # off by 0, absent / absent, absent / .5, 3.5 deviations; Huber: 0, .125, 3.5 - .5
    assert float(loss.detach()) == pytest.approx((0 + 0.125 + 3.0) / 3)
    loss.backward()
    assert output.grad is not None and torch.isfinite(output.grad).all()
    assert not output.grad[1].any() and output.grad[0, 1] == 0
    rows = SimpleNamespace(targets=np.array([[2.0, nan], [nan, nan], [1.0, 30.0]], np.float32))
    assert head.cost(head.predict(output.detach()), rows) == pytest.approx(float(loss.detach()))
    none = head.loss(output, batch([[nan, nan]] * 3))
    assert float(none.detach()) == 0


def test_presence_is_learned_where_targets_are_ever_absent() -> None:
    head = heads.Targets(("a", "b"), torch.zeros(2), torch.ones(2), absent=True)
    assert head.outputs == 4
    right = torch.tensor([[0.0, 0.0, 9.0, -9.0]])
    assert (
        float(head.loss(right, batch([[0.0, math.nan]])))
        < 0.01
        < 5
        < float(head.loss(-right, batch([[0.0, math.nan]])))
    )
    told = heads.from_state(head.state()).predict(right)
    assert told["values"].shape == (1, 2) and told["presence"][0].tolist() == pytest.approx([1, 0], abs=1e-3)


def test_statistics_of_targets_are_of_training_rows(data: XtcavData) -> None:
    train = data.train.take(np.arange(4))
    object.__setattr__(train, "targets", np.array([[1, np.nan], [3, 5], [np.nan, 5], [5, 5]], np.float32))
    head = heads.head(resolve({}), replace(data, task="regression", targets=("a", "b"), train=train))
    assert isinstance(head, heads.Targets) and head.absent
    assert head.mean.tolist() == [3, 5] and head.std.tolist() == pytest.approx([math.sqrt(8 / 3), 1])


def test_running_mean_of_weights_is_what_is_kept(data: XtcavData) -> None:
    one = learner(data, AVERAGE=0.99, LR=0.02)
    for _ in range(6):
        one.train_piece()
    kept = one.weights()["network"]
    here = one.network.state_dict()
    assert any(not torch.equal(kept[name], here[name]) for name in here)
    plain = learner(data, LR=0.02)
    for _ in range(6):
        plain.train_piece()
    assert torch.equal(weights(plain), weights(one))  # the mean only follows


def test_a_loss_that_is_not_finite_ends_the_trial(data: XtcavData) -> None:
    one = learner(data)
    with torch.no_grad():
        next(iter(one.network.parameters())).fill_(math.nan)
    with pytest.raises(Diverged):
        one.train_piece()
    with pytest.raises(Diverged):
        one.validate()


def test_randomness_outside_is_left_alone(data: XtcavData) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = learner(data, DROPOUT=0.5, NOISE=0.1)
    one.train_piece()
    one.validate()
    assert torch.equal(torch.rand(3), expected)


def test_what_cannot_be_trained_is_one_line(data: XtcavData) -> None:
    with pytest.raises(BadInput, match="too small"):
        learner(data, DEPTH=7)
    with pytest.raises(BadInput, match="needs"):
        learner(data, MEMORY=0.01, BATCH_SIZE=10**6)
    with pytest.raises(BadInput, match="one device"):
        XtcavLearner(resolve(SMALL), data, Place(ranks=2), 0)
