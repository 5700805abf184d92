"""Learning rates over epochs, counted from 0, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau


class Schedule:
    """The learning rate of each epoch: a linear rise over the warm-up, then constant, falling with the cosine, or
    lowered whenever the validation loss has not fallen for some epochs.

    Args:
        config: complete settings.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        # torch's own rule, asked on a gauge: the rate of the network's optimizer is set from several factors
        self._gauge = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        self._plateau = ReduceLROnPlateau(
            self._gauge,
            factor=config["LR_FACTOR"],
            patience=config["PLATEAU_PATIENCE"],
            cooldown=config["PLATEAU_COOLDOWN"],
            threshold=config["PLATEAU_MIN_DELTA"],
            threshold_mode="abs",
            eps=0.0,
        )
        self.best, self.waited = math.inf, 0

    def rate(self, epoch: int, progress: float) -> float:
        """The rate of a step.

        Args:
            epoch: it is in.
            progress: of the whole training, 0 to 1, at the step.
        """
        config = self._config
        base, warmup = float(config["LR"]), int(config["WARMUP_EPOCHS"])
        if epoch < warmup:
            return base * (epoch + 1) / warmup
        if config["SCHEDULE"] == "cosine":
            begun = warmup / config["EPOCHS"]
            passed = min(1.0, max(0.0, (progress - begun) / (1 - begun)))
            return base * 0.5 * (1.0 + math.cos(math.pi * passed))
        return base * float(self._gauge.param_groups[0]["lr"])

    def note(self, epoch: int, loss: float) -> None:
        """Told of the validation loss at the end of an epoch; what falls during the warm-up is no plateau's measure."""
        if self._config["SCHEDULE"] == "plateau" and epoch >= self._config["WARMUP_EPOCHS"]:
            self._plateau.step(loss)
        if loss < self.best - self._config["EARLY_STOP_MIN_DELTA"]:
            self.best, self.waited = loss, 0
        else:
            self.waited += 1

    @property
    def exhausted(self) -> bool:
        """Whether the validation loss has not fallen for EARLY_STOP epochs."""
        patience = self._config["EARLY_STOP"]
        return bool(patience and self.waited >= patience)

    def state(self) -> dict[str, Any]:
        """JSON values; no infinities among them."""
        plateau = self._plateau
        told = [plateau.best] if math.isfinite(plateau.best) else []
        return {
            "factor": float(self._gauge.param_groups[0]["lr"]),
            "plateau": [plateau.num_bad_epochs, plateau.cooldown_counter, plateau.last_epoch, *told],
            "stop": [self.waited, *([self.best] if math.isfinite(self.best) else [])],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._gauge.param_groups[0]["lr"] = float(state["factor"])
        bad, cooldown, last, *told = state["plateau"]
        plateau = self._plateau
        plateau.num_bad_epochs, plateau.cooldown_counter, plateau.last_epoch = int(bad), int(cooldown), int(last)
        plateau.best = float(told[0]) if told else math.inf
        waited, *best = state["stop"]
        self.waited, self.best = int(waited), float(best[0]) if best else math.inf
