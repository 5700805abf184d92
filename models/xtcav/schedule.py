"""Learning rates over steps, counted from 0."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ground.errors import BadInput


@dataclass(frozen=True)
class Steps:
    """The stepwise rate of the published runs: start·factor^⌊step / every⌋.

    Attributes:
        start: the rate of step 0.
        factor: what it is multiplied by.
        every: after how many steps.
        floor: it is only multiplied while it is above this (0: for ever), so it may end just below.
    """

    start: float
    factor: float
    every: int
    floor: float = 0.0

    def rate(self, step: int) -> float:
        times = step // self.every
        if self.floor and self.factor < 1 and self.start > 0:
            # the first power that is no longer above the floor
            most = math.ceil(math.log(self.floor / self.start) / math.log(self.factor) - 1e-9)
            times = min(times, max(0, most))
        return self.start * self.factor**times


def parse_steps(text: str) -> Steps:
    """`start,factor,every[,floor]`, the order of the original program's `--learning`.

    Raises:
        BadInput: not such numbers.
    """
    parts = text.split(",")
    try:
        if len(parts) not in (3, 4):
            raise ValueError
        start, factor, every, *floor = (float(part) for part in parts)
        if every != int(every) or every < 1 or start <= 0 or not 0 < factor <= 1 or any(f < 0 for f in floor):
            raise ValueError
    except ValueError:
        raise BadInput(
            f"LR.SCHEDULE is {text!r}; it takes cosine, plateau, constant or start,factor,every such as 0.01,0.96,100"
        ) from None
    return Steps(start, factor, int(every), *floor)


class Plateau:
    """A factor that halves whenever the training loss of an epoch has not fallen for some epochs.

    Of the training loss: how often somebody validates must not change how training goes.

    Args:
        patience: epochs without a lower loss that are borne.
    """

    def __init__(self, patience: int = 2) -> None:
        self.patience = patience
        self.factor, self._best, self._waited = 1.0, math.inf, 0

    def note(self, loss: float) -> None:
        if loss < self._best:
            self._best, self._waited = loss, 0
            return
        self._waited += 1
        if self._waited > self.patience:
            self.factor, self._waited = self.factor * 0.5, 0

    def state(self) -> list[float]:
        # no infinity: states are JSON
        return [self.factor, self._waited, *([self._best] if math.isfinite(self._best) else [])]

    def load_state(self, state: list[float]) -> None:
        self.factor, self._waited = state[0], int(state[1])
        self._best = state[2] if len(state) > 2 else math.inf


def rate(schedule: str, base: float, step: int, total: int, warmup: int) -> float:
    """The rate of a step.

    Args:
        schedule: "cosine" (to 0 at `total`), "constant", "plateau" (constant here; see `Plateau`), or the text of
            `Steps`, which has its own start.
        base: the largest rate.
        warmup: steps of linear rise before it; the first step already moves.
    """
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if "," in schedule:
        return rise * parse_steps(schedule).rate(step)
    if schedule == "cosine" and step >= warmup:
        passed = (step - warmup) / max(1, total - warmup)
        return base * max(0.0, 0.5 * (1.0 + math.cos(math.pi * min(1.0, passed))))
    return base * rise
