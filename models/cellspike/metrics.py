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
    """Sums from which all scores of each parameter follow; those of several parts of the rows may be added.

    Args:
        centre: (P,) a typical truth, about which squares are taken.
    """

    def __init__(self, centre: np.ndarray) -> None:
        self.centre = np.asarray(centre, np.float64)
        self.sums = np.zeros((6, len(self.centre)))

    def add(self, predicted: np.ndarray, true: np.ndarray) -> None:
        """Rows (n, P) of both."""
        p, t = predicted.astype(np.float64) - self.centre, true.astype(np.float64) - self.centre
        rows = np.full(len(self.centre), float(len(t)))
        self.sums += np.stack([rows, p.sum(0), t.sum(0), (p * p).sum(0), (t * t).sum(0), (p * t).sum(0)])

    def each(self) -> dict[str, np.ndarray]:
        """(P,) of each parameter: `mse`, `rmse`, Pearson's `r`, explained variance `ev` (1 - var of residual / var of
        truth), `r2`, and `bias`, the mean of prediction − truth; NaN where the truth does not vary."""
        with np.errstate(divide="ignore", invalid="ignore"):
            n, p, t, pp, tt, pt = self.sums
            error = (pp - 2 * pt + tt) / n
            bias = (p - t) / n
            variance, spread = tt / n - (t / n) ** 2, pp / n - (p / n) ** 2
            covariance = pt / n - p * t / n**2
            known = variance > 1e-12 * (1 + tt / n)
            nan = np.full(len(n), np.nan)
            return {
                "mse": np.maximum(error, 0),
                "rmse": np.sqrt(np.maximum(error, 0)),
                "r": np.where(known & (spread > 0), covariance / np.sqrt(np.maximum(variance * spread, 0)), nan),
                "ev": np.where(known, 1 - (error - bias**2) / variance, nan),
                "r2": np.where(known, 1 - error / variance, nan),
                "bias": bias,
            }

    def metrics(self, names: Sequence[str]) -> dict[str, float]:
        """The mean squared error and R2 over all parameters, and R2 of each."""
        each = self.each()
        varied = np.isfinite(each["r2"])
        mean = float(each["r2"][varied].mean()) if varied.any() else float("nan")
        named = {f"r2_{name}": float(value) for name, value in zip(names, each["r2"], strict=True)}
        return {MSE.name: float(each["mse"].mean()), "r2": mean, **named}


def scores(predicted: np.ndarray, true: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """All scores of rows (N, P), those of each parameter named after it."""
    moments = Moments(true.mean(0, dtype=np.float64))
    moments.add(predicted, true)
    each = moments.each()
    out = {MSE.name: float(each["mse"].mean()), "mse_of_mean": float(np.var(true, axis=0, dtype=np.float64).mean())}
    for key in ("r", "ev"):
        known = each[key][np.isfinite(each[key])]
        out[key] = float(known.mean()) if len(known) else float("nan")
    for column, name in enumerate(names):
        out |= {f"{name}_{key}": float(each[key][column]) for key in ("rmse", "r", "ev")}
    return out
