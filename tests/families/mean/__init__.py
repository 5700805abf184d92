"""A tiny family: the mean of the training values, learned by gradient descent. The contract and nothing more."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ground.errors import BadInput
from models.base import ArrayScorer, Diverged, Family, Learner, Metric, Place, Prediction, Predictor


class MeanLearner(Learner):
    def __init__(self, config: Mapping[str, Any], data: Mapping[str, np.ndarray], place: Place, seed: int) -> None:
        self.config, self.epoch, self.place = config, 0, place
        self.train = torch.tensor(data["train"])[place.rank :: place.ranks]
        self.data = data
        self.noted = False
        self.value = torch.tensor(float(np.random.default_rng(seed).normal()))

    done = property(lambda self: self.epoch >= self.config["epochs"])
    steps = property(lambda self: self.epoch)
    due = property(lambda self: True)
    progress = property(lambda self: self.epoch / self.config["epochs"])

    def train_piece(self) -> dict[str, float]:
        if self.config.get("crash") == "disk":
            raise FileNotFoundError(2, "the mount is gone", "/data/values.txt")
        self._die()
        self._note()
        time.sleep(self.config.get("pace", 0.0))
        loss = float(self._over_ranks(((self.value - self.train) ** 2).mean()))
        if not np.isfinite(loss) or loss > 1e30:
            raise Diverged(f"loss {loss}")
        self.value = self.value - self.config["rate"] * 2 * self._over_ranks((self.value - self.train).mean())
        self.epoch += 1
        return {"train_loss": loss}

    def _note(self) -> None:
        """Where this attempt runs, with what, and from which epoch on: a line of the file that MEAN_PLACES names."""
        log = os.environ.get("MEAN_PLACES")
        if log and not self.noted:
            place = {"pid": os.getpid(), "parent": os.getppid(), "device": self.place.device}
            place |= {
                "devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
                "rate": self.config["rate"],
                "epoch": self.epoch,
            }
            with open(log, "a") as file:
                file.write(json.dumps(place) + "\n")
        self.noted = True

    def _over_ranks(self, mean: torch.Tensor) -> torch.Tensor:
        if self.place.ranks > 1:
            torch.distributed.all_reduce(mean)
        return mean / self.place.ranks

    def _die(self) -> None:
        """The last rank fails or is killed in its third epoch, once or always, as the setting `crash` says."""
        how, _, mark = str(self.config.get("crash") or "").partition(":")
        if self.place.rank < self.place.ranks - 1 or self.epoch != 2 or not mark:
            return
        if how == "raise":
            raise ValueError(f"rank {self.place.rank}: as told")
        if not Path(mark).exists():
            Path(mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def validate(self) -> dict[str, float]:
        if self.config.get("crash") is True:
            raise RuntimeError("as told")
        return {"mse": FAMILY.score(self.predict(self.data), FAMILY.truth(self.data))}

    def state(self) -> dict[str, Any]:
        return {"value": self.value, "epoch": self.epoch}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.value, self.epoch = state["value"], state["epoch"]

    def weights(self) -> dict[str, Any]:
        return {"value": self.value}

    def start_from(self, weights: Mapping[str, Any]) -> None:
        if "value" not in weights:
            raise BadInput("INIT: no value to start from")
        self.value = weights["value"]

    def predict(self, data: Any) -> Prediction:
        return {"value": np.full(len(data["eval"]), float(self.value))}


class MeanFamily(Family):
    name = "mean"
    metric = Metric("mse", "min", "mean squared error")
    snapshots = {"best": metric}
    default_space = "mean"
    environment = ("MEAN_LOADS", "MEAN_PLACES")
    data_parallel = True

    def fingerprint(self, config: Mapping[str, Any]) -> str:
        return hashlib.sha256(Path(config["path"]).read_bytes()).hexdigest()

    def load(self, config: Mapping[str, Any], phase: str) -> Any:
        values = np.loadtxt(config["path"])
        if log := os.environ.get("MEAN_LOADS"):
            with open(log, "a") as file:
                print(os.getpid(), file=file)
        return {"train": values[::2], "eval": values[1::2]}

    def subset(self, data: Any, samples: np.ndarray) -> Any:
        return {**data, "eval": data["eval"][samples]}

    def check(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        unknown = sorted(set(settings) - {"epochs", "rate", "crash", "pace"})
        if unknown:
            raise BadInput(f"unknown setting {unknown[0]}")
        return {"epochs": 5, "rate": 0.1, **settings}

    def learner(self, config: Mapping[str, Any], data: Any, place: Place, seed: int) -> MeanLearner:
        return MeanLearner(self.check(config), data, place, seed)

    def restore(self, config: Mapping[str, Any], weights: Mapping[str, Any], place: Place) -> Predictor:
        return lambda data: {"value": np.full(len(data["eval"]), float(weights["value"]))}

    def truth(self, data: Any) -> Prediction:
        return {"value": data["eval"]}

    def scorer(self, truth: Mapping[str, np.ndarray]) -> ArrayScorer:
        return ArrayScorer(truth, lambda prediction, true: float(((prediction["value"] - true["value"]) ** 2).mean()))


FAMILY = MeanFamily()
