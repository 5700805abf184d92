"""Learning rates over steps, counted from 0."""

from __future__ import annotations

import math
import re
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


@dataclass(frozen=True)
class Inverse:
    """The rate of Keras' `decay`: start / (1 + decay·step)."""

    start: float
    decay: float

    def rate(self, step: int) -> float:
        return self.start / (1 + self.decay * step)


_NUMBER = r"(\d+\.?\d*(?:e[-+]?\d+)?|\.\d+(?:e[-+]?\d+)?)"
_INVERSE = re.compile(rf"{_NUMBER}/\(1\+{_NUMBER}\*?t\)")


def told(schedule: str) -> bool:
    """Whether the schedule's text has its own rates, so that neither LR nor a warm-up says anything."""
    return "," in schedule or "/" in schedule


def parse(text: str) -> Steps | Inverse:
    """`start,factor,every[,floor]`, the order of the original program's `--learning`, or `start/(1+decay*t)`.

    Raises:
        BadInput: not such numbers.
    """
    inverse = _INVERSE.fullmatch(text.replace(" ", ""))
    if inverse:
        return Inverse(float(inverse[1]), float(inverse[2]))
    parts = text.split(",")
    try:
        if len(parts) not in (3, 4):
            raise ValueError
        start, factor, every, *floor = (float(part) for part in parts)
        if every != int(every) or every < 1 or start <= 0 or not 0 < factor <= 1 or any(f < 0 for f in floor):
            raise ValueError
    except ValueError:
        raise BadInput(
            f"LR.SCHEDULE is {text!r}; it takes cosine, plateau, constant, start,factor,every such as 0.01,0.96,100 or "
            "0.01/(1+0.0004*t)"
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
        schedule: "cosine" (to 0 at `total`), "constant", "plateau" (constant here; see `Plateau`), or what `parse`
            reads, which has its own start.
        base: the largest rate.
        warmup: steps of linear rise before it; the first step already moves.
    """
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if told(schedule):
        return rise * parse(schedule).rate(step)
    if schedule == "cosine" and step >= warmup:
        passed = (step - warmup) / max(1, total - warmup)
        return base * max(0.0, 0.5 * (1.0 + math.cos(math.pi * min(1.0, passed))))
    return base * rise
