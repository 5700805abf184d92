"""What a training adds up over steps, ranks and epochs."""

from __future__ import annotations

import math
from typing import Any


class Sums:
    """Totals and counts of a loss's terms, and how many voxels were told rightly."""

    def __init__(self) -> None:
        self._totals: list[float] = []
        self._counts: list[int] = []
        self._right, self._rows = 0.0, 0

    def note(self, totals: list[float], counts: list[int], right: float | None, rows: int) -> None:
        """One step's; `right` is None where nothing is told."""
        while len(self._totals) < len(totals):
            self._totals.append(0.0)
            self._counts.append(0)
        for place, (total, count) in enumerate(zip(totals, counts, strict=True)):
            self._totals[place] += total
            self._counts[place] += count
        if right is not None:
            self._right, self._rows = self._right + right, self._rows + rows

    def add(self, other: Sums) -> None:
        self.note(other._totals, other._counts, other._right, other._rows)

    @property
    def empty(self) -> bool:
        return not self._totals

    def means(self) -> dict[str, float]:
        """train_loss, and of ghosts train_accuracy."""
        loss = sum(total / max(1, count) for total, count in zip(self._totals, self._counts, strict=True))
        out = {"train_loss": float(loss) if self._totals else math.nan}
        return {**out, "train_accuracy": self._right / self._rows} if self._rows else out

    def state(self) -> list[Any]:
        return [self._totals, self._counts, self._right, self._rows]

    @classmethod
    def of(cls, state: list[Any]) -> Sums:
        sums = cls()
        sums._totals, sums._counts = [float(t) for t in state[0]], [int(n) for n in state[1]]
        sums._right, sums._rows = float(state[2]), int(state[3])
        return sums
