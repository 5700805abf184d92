"""What the last layer's numbers mean: classes, or measured targets that may be absent. Loss and prediction of each."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.base import Prediction
from models.xtcav.data import XtcavData
from models.xtcav.metrics import log_losses, posterior
from models.xtcav.rows import Batch, Rows

_REMAINDER = 1e-4  # of a probability that smoothing alone would explain


class Head(ABC):
    """The meaning of a network's outputs.

    Attributes:
        outputs: how many there are.
    """

    outputs: int

    @abstractmethod
    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """The mean loss of a batch; `output` is (n, outputs), float32."""

    @abstractmethod
    def predict(self, output: Tensor) -> Prediction:
        """Arrays of n rows."""

    @abstractmethod
    def cost(self, prediction: Prediction, rows: Rows) -> float:
        """The mean loss of predictions of some rows, without what only training adds (weights, smoothing)."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What `from_state` needs: tensors and JSON values."""


class Classes(Head):
    """Softmax over classes with smoothed labels and class weights; what these add is taken out of predictions again.

    A network that is fitted perfectly outputs w (s / K + (1 - s) P), normalised: K classes, the weights w, the
    smoothing s, and P the class's probability among the rows that were drawn. P over the class's share of these rows is
    the likelihood, which depends on none of them: only so can networks trained in different ways be averaged.

    Args:
        drawn: (K,) shares of the classes among the rows that training draws.
        shares: (K,) shares of the classes in the data.
        smoothing: share of each label that goes to all classes alike.
        weights: (K,) of the loss (default: 1).
    """

    def __init__(self, drawn: Tensor, shares: Tensor, smoothing: float = 0.0, weights: Tensor | None = None) -> None:
        self.outputs, self.drawn, self.shares, self.smoothing = len(drawn), drawn, shares, smoothing
        self.weights = torch.ones_like(drawn) if weights is None else weights

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        labels, weights = batch.labels.to(output.device), self.weights.to(output.device)
        return F.cross_entropy(output, labels, weights, ignore_index=-1, label_smoothing=self.smoothing)

    def predict(self, output: Tensor) -> Prediction:
        smoothed = (output.cpu() - self.weights.log()).softmax(1)
        # no network is perfect: below what smoothing adds to each class, the order stays
        plain = torch.maximum(smoothed - self.smoothing / self.outputs, _REMAINDER * smoothed)
        likelihood = plain / self.drawn
        return {"likelihood": (likelihood / likelihood.sum(1, keepdim=True)).numpy()}

    def cost(self, prediction: Prediction, rows: Rows) -> float:
        known = rows.labels >= 0
        if not known.any():
            return math.nan
        probabilities = posterior(prediction["likelihood"][known], self.shares.numpy())
        return float(log_losses(probabilities, rows.labels[known]).mean())

    def state(self) -> dict[str, Any]:
        arrays = {"drawn": self.drawn, "shares": self.shares, "weights": self.weights}
        return {"task": "classification", "smoothing": self.smoothing, **arrays}


class Targets(Head):
    """Values of targets by Huber loss, counted only where they are present, and whether each is.

    Args:
        names: of the targets.
        mean, std: (T,) of the training rows; the network's outputs are in standard deviations.
        absent: whether any target is ever absent: only then there is a presence to predict.
        delta: where Huber's loss turns linear, standard deviations.
        weight: of the loss of presence (binary cross-entropy).
    """

    def __init__(
        self, names: tuple[str, ...], mean: Tensor, std: Tensor, absent: bool, delta: float = 1.0, weight: float = 1.0
    ) -> None:
        self.names, self.mean, self.std, self.absent = names, mean, std, absent
        self.delta, self.weight = delta, weight
        self.outputs = len(names) * (2 if absent else 1)

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        targets = batch.targets.to(output.device)
        there = targets.isfinite()
        scaled = (targets - self.mean.to(output.device)) / self.std.to(output.device)
        values = output[:, : len(self.names)]
        # absent targets are replaced before the loss: a NaN times 0 would still be one in the gradient
        each = F.huber_loss(values, torch.where(there, scaled, values.detach()), reduction="none", delta=self.delta)
        loss = each.sum() / there.sum().clamp(min=1)
        if self.absent:
            presence = F.binary_cross_entropy_with_logits(output[:, len(self.names) :], there.to(output.dtype))
            loss = loss + self.weight * presence
        return loss

    def predict(self, output: Tensor) -> Prediction:
        output = output.cpu()
        out = {"values": (output[:, : len(self.names)] * self.std + self.mean).numpy()}
        if self.absent:
            out["presence"] = output[:, len(self.names) :].sigmoid().numpy()
        return out

    def cost(self, prediction: Prediction, rows: Rows) -> float:
        values, targets = torch.from_numpy(prediction["values"]), torch.from_numpy(rows.targets)
        there = targets.isfinite()
        off = torch.where(there, (values - targets) / self.std, 0.0)
        loss = F.huber_loss(off, torch.zeros_like(off), reduction="sum", delta=self.delta) / there.sum().clamp(min=1)
        if self.absent:
            presence = torch.from_numpy(prediction["presence"])
            loss = loss + self.weight * F.binary_cross_entropy(presence, there.to(presence.dtype))
        return float(loss)

    def state(self) -> dict[str, Any]:
        return {
            "task": "regression",
            "names": list(self.names),
            "mean": self.mean,
            "std": self.std,
            "absent": self.absent,
        }


def head(config: Mapping[str, Any], data: XtcavData) -> Head:
    """The head that a data set asks for, its statistics from training rows only."""
    if data.task == "classification":
        balanced = torch.from_numpy(data.class_weights())
        weights = {"none": torch.ones_like(balanced), "root": balanced.sqrt(), "balanced": balanced}
        plain = config["SAMPLING"] == "plain"
        drawn = 1 / balanced if plain else torch.ones_like(balanced)
        shares = torch.from_numpy(data.shares)
        return Classes(drawn / drawn.sum(), shares, config["LABEL_SMOOTHING"], weights[config["CLASS_WEIGHTS"]])
    targets = torch.from_numpy(np.asarray(data.train.targets, dtype=np.float32))
    there = targets.isfinite()
    rows = there.sum(0).clamp(min=1)
    mean = torch.where(there, targets, 0.0).sum(0) / rows
    spread = (torch.where(there, targets - mean, 0.0).square().sum(0) / rows).sqrt()
    std = torch.where(spread > 0, spread, 1.0)
    return Targets(data.targets, mean, std, not bool(there.all()), config["HUBER"], config["PRESENCE"])


def from_state(state: Mapping[str, Any]) -> Head:
    """The head of a snapshot, for predictions."""
    if state["task"] == "classification":
        drawn, shares, weights = (state[name].cpu() for name in ("drawn", "shares", "weights"))
        return Classes(drawn, shares, float(state["smoothing"]), weights)
    return Targets(tuple(state["names"]), state["mean"].cpu(), state["std"].cpu(), bool(state["absent"]))
