"""How well each conductance is predicted: residuals, correlation, explained variance and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

BAD, CONST = 0.40, 0.01
"""Marks of the field: a residual that spreads more tells nothing (.577 is no information on u), one less is suspect."""
IDENTIFIABLE, WEAK = 0.85, 0.10
"""Explained variance that the lower end of the interval must reach."""
_DRAWS, _LEVEL = 2000, 0.95
_ROUNDING = 1e-12  # variances below it
_BAGS = 1000  # rows are bootstrapped in at most so many random bags: as wide an interval, in bounded time


@dataclass(frozen=True)
class Residuals:
    """Statistics of truth − prediction, (P,) each.

    Attributes:
        names: of the conductances.
        mean, std: of the signed residual; the deviation counts rows without correction.
        rmse, mae: root of its mean square, mean of its size.
        pearson: correlation of prediction and truth; NaN where one is constant.
        explained: 1 − variance of the residual / variance of the truth; NaN where the truth is constant.
        low, high: its 95 % interval, bootstrapped over cells, or over rows where there is one cell.
        samples, groups: rows, and what was drawn from: cells or rows.
        over: "cells" or "rows".
    """

    names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    rmse: np.ndarray
    mae: np.ndarray
    pearson: np.ndarray
    explained: np.ndarray
    low: np.ndarray
    high: np.ndarray
    samples: int
    groups: int
    over: str

    @property
    def loss(self) -> float:
        """The mean squared error over rows and conductances: what the field's training minimises."""
        return float(np.mean(self.rmse**2))

    @property
    def marks(self) -> list[str]:
        """ "BAD", "CONST" or "" of each."""
        return ["BAD" if s > BAD else "CONST" if s < CONST else "" for s in self.std]

    @property
    def classes(self) -> list[str]:
        """What the interval's lower end is sure of: "identifiable", "weak" or "not"."""
        return ["identifiable" if v >= IDENTIFIABLE else "weak" if v >= WEAK else "not" for v in self.low]

    def table(self) -> pd.DataFrame:
        """A row a conductance."""
        columns: dict[str, Any] = {"conductance": list(self.names)}
        for name in ("mean", "std", "rmse", "mae", "pearson", "explained", "low", "high"):
            columns[name] = getattr(self, name)
        return pd.DataFrame({**columns, "class": self.classes, "mark": self.marks})


def residuals(
    names: Sequence[str], prediction: np.ndarray, truth: np.ndarray, cells: np.ndarray | None = None, seed: int = 0
) -> Residuals:
    """Statistics of each conductance.

    Args:
        names: (P,).
        prediction, truth: (N, P), in the same space, N >= 1.
        cells: (N,) the cell of each row; None, or one cell only: rows count as independent.
        seed: of the bootstrap.
    """
    prediction, truth = np.asarray(prediction, np.float64), np.asarray(truth, np.float64)
    residual = truth - prediction
    centred, other = prediction - prediction.mean(0), truth - truth.mean(0)
    spread, wanted = (_varying((values**2).mean(0)) for values in (centred, other))
    explained = 1 - residual.var(0) / wanted
    pearson = (centred * other).mean(0) / np.sqrt(spread * wanted)
    groups, over, bags = _groups(len(truth), cells, seed)
    low, high = _interval(residual, truth, bags, seed)
    return Residuals(
        tuple(names), residual.mean(0), residual.std(0), np.sqrt((residual**2).mean(0)), np.abs(residual).mean(0),
        pearson, explained, low, high, len(truth), groups, over,
    )  # fmt: skip


def _varying(variance: np.ndarray) -> np.ndarray:
    """Variances, NaN where they are rounding only."""
    return np.where(variance > _ROUNDING, variance, np.nan)


def _groups(rows: int, cells: np.ndarray | None, seed: int) -> tuple[int, str, np.ndarray]:
    """How many groups, what they are, and the number (N,) of each row's."""
    if cells is not None and len(set(cells.tolist())) > 1:
        found, number = np.unique(cells, return_inverse=True)
        return len(found), "cells", number
    number = np.arange(rows)
    if rows > _BAGS:
        number = np.random.default_rng([seed, 1]).permutation(rows) % _BAGS
    return rows, "rows", number


def _interval(residual: np.ndarray, truth: np.ndarray, group: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval of the explained variance, groups drawn with replacement.

    A draw needs the groups' sums only: variances follow from counts, sums and sums of squares.
    """
    count = int(group.max()) + 1
    # sums of squares lose no digits to a large mean
    truth = truth - truth.mean(0)
    sums = [np.zeros((count, truth.shape[1])) for _ in range(4)]
    for total, values in zip(sums, (residual, residual**2, truth, truth**2), strict=True):
        np.add.at(total, group, values)
    sizes = np.bincount(group, minlength=count).astype(np.float64)
    drawn = np.random.default_rng([seed, 0]).multinomial(count, np.full(count, 1 / count), _DRAWS).astype(np.float64)
    rows = (drawn @ sizes)[:, None]
    r, rr, t, tt = (drawn @ total / rows for total in sums)
    explained = 1 - (rr - r**2) / _varying(tt - t**2)
    tail = 100 * (1 - _LEVEL) / 2
    defined = np.isfinite(explained).any(0)
    low, high = np.full(truth.shape[1], np.nan), np.full(truth.shape[1], np.nan)
    if defined.any():
        low[defined], high[defined] = np.nanpercentile(explained[:, defined], (tail, 100 - tail), axis=0)
    return low, high


def by_cell(prediction: np.ndarray, truth: np.ndarray, cells: np.ndarray) -> pd.DataFrame:
    """The loss of each cell: columns cell (its number), rows, mse, explained (mean over conductances)."""
    out = []
    for cell in np.unique(cells):
        rows = cells == cell
        residual = np.asarray(truth[rows], np.float64) - prediction[rows]
        spread = np.asarray(truth[rows], np.float64).var(0)
        explained = 1 - residual.var(0)[spread > 0] / spread[spread > 0]
        mean = float(explained.mean()) if len(explained) else float("nan")
        out.append((int(cell), int(rows.sum()), float((residual**2).mean()), mean))
    return pd.DataFrame(out, columns=["cell", "rows", "mse", "explained"])
