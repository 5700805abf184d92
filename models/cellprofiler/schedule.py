"""Learning rates over epochs, counted from 0."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping
from typing import Any

from ground.errors import BadInput

SCHEDULES = ("constant", "cosine", "plateau", "steps")
PLATEAU_FACTOR, PLATEAU_PATIENCE, PLATEAU_FLOOR = 0.1, 5, 1e-4


def steps(text: str) -> tuple[tuple[int, float], ...]:
    """Epochs and the rates that begin with them, of `epoch=rate,...` such as 0=0.01,10=0.001.

    Raises:
        BadInput: not such numbers, or none for epoch 0.
    """
    try:
        # unquoted YAML takes 1:0.1 for hours and minutes, so it is an equals sign; a colon is understood all the same
        pairs = [part.replace(":", "=").split("=") for part in str(text).split(",") if part.strip()]
        found = sorted({int(epoch): float(rate) for epoch, rate in pairs}.items())
        if not found or found[0][0] != 0 or len(found) < len(pairs):
            raise ValueError
        if not all(math.isfinite(rate) and rate >= 0 for _, rate in found):
            raise ValueError
    except ValueError:
        raise BadInput(f"STEPS is {text!r}; it takes epoch=rate,... from epoch 0 on, as in 0=0.01,10=0.001") from None
    return tuple(found)


def rate(config: Mapping[str, Any], epoch: int) -> float:
    """The rate of an epoch; where SCHEDULE is plateau, before `Plateau.factor`.

    cosine is DeepProfiler's: a harmonic rise lr/W, lr/(W-1), … lr/1 over the first W = WARMUP epochs, then
    lr/2 (1 + cos(π t / E)) with t counted from the first epoch of all. (lr .005, E 20, t 5: .004268.)
    """
    base, schedule = float(config["LR"]), config["SCHEDULE"]
    if schedule == "steps":
        table = steps(config["STEPS"])
        return table[bisect.bisect_right([start for start, _ in table], epoch) - 1][1]
    if schedule == "cosine":
        if epoch < config["WARMUP"]:
            return base / (config["WARMUP"] - epoch)
        return 0.5 * base * (1 + math.cos(math.pi * min(1.0, epoch / config["EPOCHS"])))
    return base


class Plateau:
    """A tenth of the rate whenever the training loss of an epoch has not fallen for some epochs, down to a floor.

    Of the training loss, not of the validation's: how often somebody validates must not change how training goes.

    Args:
        base: the rate at the start.
    """

    def __init__(self, base: float) -> None:
        self._base = base
        self.factor, self._best, self._waited = 1.0, math.inf, 0

    def note(self, loss: float) -> None:
        """Told of the mean loss of an epoch that has ended."""
        if loss < self._best - 1e-4:
            self._best, self._waited = loss, 0
            return
        self._waited += 1
        if self._waited >= PLATEAU_PATIENCE:
            floor = min(1.0, PLATEAU_FLOOR / self._base) if self._base else 1.0
            self.factor, self._waited = max(floor, self.factor * PLATEAU_FACTOR), 0

    def state(self) -> list[float]:
        """JSON values; no infinity among them."""
        return [self.factor, self._waited, *([self._best] if math.isfinite(self._best) else [])]

    def load_state(self, state: list[float]) -> None:
        self.factor, self._waited = float(state[0]), int(state[1])
        self._best = float(state[2]) if len(state) > 2 else math.inf
