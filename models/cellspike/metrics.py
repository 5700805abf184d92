"""How far predicted parameters are from the true ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from models.base import ArrayScorer, Metric

TARGET = "ustar"
"""The predicted array (N, P), in the space that is learned: u*, or u where there is no u*."""
MSE = Metric("mse", "min", "mean squared error of unit parameters")


def mse(prediction: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> float:
    """Mean over samples and parameters."""
    away = (prediction[TARGET] - truth[TARGET]).ravel()
    return float(np.dot(away, away)) / max(1, away.size)


def scorer(truth: Mapping[str, np.ndarray]) -> ArrayScorer:
    """The family's metric; in double precision, so that a sum over millions of rows is exact."""
    return ArrayScorer({TARGET: truth[TARGET].astype(np.float64)}, mse, (TARGET,))


class Moments:
    """Sums from which the scores of each parameter follow; those of several parts of the rows may be added.

    Args:
        centre: (P,) a typical truth, about which squares are taken.
    """

    def __init__(self, centre: np.ndarray) -> None:
        self.centre = np.asarray(centre, np.float64)
        self.sums = np.zeros((4, len(self.centre)))
        """Rows, squared errors, truth, its squares."""

    def add(self, predicted: np.ndarray, true: np.ndarray) -> None:
        """Rows (n, P) of both."""
        error = predicted.astype(np.float64) - true
        moved = true - self.centre
        rows = np.full(len(self.centre), float(len(true)))
        self.sums += np.stack([rows, (error * error).sum(0), moved.sum(0), (moved * moved).sum(0)])

    def metrics(self, names: Sequence[str]) -> dict[str, float]:
        """The mean squared error over all parameters; R2 of each whose truth varies, and their mean as `r2`."""
        rows, error, true, squares = self.sums
        mean = error / rows
        variance = squares / rows - (true / rows) ** 2
        varied = variance > 1e-12 * (1 + squares / rows)
        r2 = 1 - mean[varied] / variance[varied]
        known = [name for name, there in zip(names, varied, strict=True) if there]
        named = {f"r2_{name}": float(value) for name, value in zip(known, r2, strict=True)}
        return {MSE.name: float(mean.mean()), **({"r2": float(r2.mean())} if len(r2) else {}), **named}
