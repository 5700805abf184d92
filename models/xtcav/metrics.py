"""Scores of predicted classes and of predicted targets, with standard errors, and the calibration of probabilities.

Classes are predicted by their `likelihood`: (n, K), rows sum to 1, what their probabilities would be were all classes
equally frequent. The largest is the answer that makes the balanced accuracy greatest (Bayes' rule of that score), and
models that were shown the classes by different weights agree on what it means. `posterior` gives the probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from scipy.optimize import minimize_scalar

from models.base import ArrayScorer, Metric, Prediction, Scorer

CLASSIFIED = Metric("balanced_accuracy", "max", "mean recall of the classes")
MEASURED = Metric("r2", "max", "share of a target's variance that is explained, mean over targets")
_LEAST = 1e-12  # a probability of 0 costs no more than this one's logarithm
_COLDEST = 0.05


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes) counts, rows truth; rows with a truth below 0 are left out."""
    known = truth >= 0
    both = truth[known] * classes + predicted[known]
    return np.bincount(both, minlength=classes * classes).reshape(classes, classes)


def balanced_accuracy(counts: np.ndarray) -> float:
    """Mean recall of the classes that the truth has; NaN if it has none."""
    rows = counts.sum(1)
    there = rows > 0
    return float((counts.diagonal()[there] / rows[there]).mean()) if there.any() else math.nan


def macro_f1(counts: np.ndarray) -> float:
    """Mean F1 of the classes that occur in truth or prediction; NaN if there are none."""
    either = counts.sum(0) + counts.sum(1)
    there = either > 0
    return float((2 * counts.diagonal()[there] / either[there]).mean()) if there.any() else math.nan


def log_losses(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """-ln p(truth) of each row, nats."""
    chosen = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return -np.log(np.maximum(chosen, _LEAST))


def posterior(likelihood: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """(n, K) probabilities of classes whose shares are (K,): Bayes' theorem, in the dtype of `likelihood`."""
    joint = likelihood.astype(np.float64) * shares
    return (joint / joint.sum(1, keepdims=True)).astype(likelihood.dtype)


def class_scores(probabilities: np.ndarray, told: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Every score of (n, K) probabilities and of the classes told (n,) against labels (n,), -1: left out.

    `accuracy`, `balanced_accuracy` and `macro_f1` are of `told`; `top_accuracy` is that of the most probable class.
    Standard errors `*_se`: accuracies binomial; balanced accuracy from the recalls' binomial errors; log loss from its
    spread over rows; macro-F1 by 200 bootstrap samples of the rows (fixed seed).
    """
    known = labels >= 0
    p, guess, y = probabilities[known], told[known], labels[known]
    if not len(y):
        names = ("accuracy", "balanced_accuracy", "macro_f1", "top_accuracy", "log_loss", "calibration_error")
        return dict.fromkeys(names, math.nan)
    counts = confusion(y, guess, p.shape[1])
    accuracy, top = float(counts.trace() / len(y)), float((p.argmax(1) == y).mean())
    losses = log_losses(p, y)
    return {
        "accuracy": accuracy,
        "accuracy_se": _share_error(accuracy, len(y)),
        "balanced_accuracy": balanced_accuracy(counts),
        "balanced_accuracy_se": balanced_error(counts),
        "macro_f1": macro_f1(counts),
        "macro_f1_se": _bootstrap_f1(counts),
        "top_accuracy": top,
        "top_accuracy_se": _share_error(top, len(y)),
        "log_loss": float(losses.mean()),
        "log_loss_se": float(losses.std() / math.sqrt(len(y))),
        "calibration_error": calibration_error(p, y),
    }


def _share_error(share: float, rows: int) -> float:
    return math.sqrt(share * (1 - share) / rows)


def balanced_error(counts: np.ndarray) -> float:
    """Standard error of the balanced accuracy, given how many rows of each class there are."""
    rows = counts.sum(1)
    there = rows > 0
    recall = counts.diagonal()[there] / rows[there]
    return float(np.sqrt((recall * (1 - recall) / rows[there]).sum()) / there.sum())


def _bootstrap_f1(counts: np.ndarray, draws: int = 200) -> float:
    cells = counts.ravel() / counts.sum()
    sampled = np.random.default_rng(0).multinomial(int(counts.sum()), cells, draws)
    return float(np.std([macro_f1(sample.reshape(counts.shape)) for sample in sampled]))


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> np.ndarray:
    """(filled bins, 3): mean confidence, share right, rows; of the most probable class, in bins of equal width."""
    confidence = probabilities.max(1).astype(np.float64)
    right = probabilities.argmax(1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    rows = np.bincount(place, minlength=bins)
    filled = rows > 0
    sums = [np.bincount(place, weights=w, minlength=bins)[filled] / rows[filled] for w in (confidence, right)]
    return np.stack([*sums, rows[filled]], 1)


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017): |confidence - share right|, averaged over rows."""
    table = reliability(probabilities, labels, bins)
    return float((np.abs(table[:, 0] - table[:, 1]) * table[:, 2]).sum() / table[:, 2].sum())


def fit_temperature(likelihood: np.ndarray, shares: np.ndarray, labels: np.ndarray) -> float:
    """The temperature of (n, K) likelihoods that makes the log loss of the probabilities smallest.

    After Guo et al. 2017, but the shares (K,) of the classes stay what they are. Above 1 softens, below 1 sharpens;
    within [0.05, 20]. 1 where no label is known.
    """
    known = labels >= 0
    if not known.any():
        return 1.0
    given, y = likelihood[known], labels[known]

    def loss(log_temperature: float) -> float:
        return float(log_losses(posterior(apply_temperature(given, math.exp(log_temperature)), shares), y).mean())

    limit = -math.log(_COLDEST)
    found = minimize_scalar(loss, bounds=(-limit, limit), method="bounded", options={"xatol": 1e-4})
    return float(math.exp(found.x)) if found.fun < loss(0.0) else 1.0


def apply_temperature(likelihood: np.ndarray, temperature: float) -> np.ndarray:
    """p^(1/T), normalised, in the dtype given. The order of the classes of a row stays as it is."""
    logs = np.log(np.maximum(likelihood.astype(np.float64), _LEAST)) / temperature
    powers = np.exp(logs - logs.max(1, keepdims=True))
    return (powers / powers.sum(1, keepdims=True)).astype(likelihood.dtype)


class BalancedAccuracy(Scorer):
    """Balanced accuracy of the likeliest class, prepared for one truth.

    Args:
        labels: (n,) int64; rows below 0 do not count.
    """

    def __init__(self, labels: np.ndarray) -> None:
        self.labels = np.asarray(labels, dtype=np.int64)
        self.samples = len(self.labels)
        self._known: np.ndarray | slice = slice(None) if (self.labels >= 0).all() else self.labels >= 0
        self._counted = self.labels[self._known]

    def reduce(self, prediction: Mapping[str, np.ndarray]) -> Prediction:
        return {"likelihood": np.asarray(prediction["likelihood"])}

    def score(self, reduced: Mapping[str, np.ndarray]) -> float:
        likelihood = reduced["likelihood"]
        if not np.isfinite(likelihood.sum()):
            return math.nan
        classes = likelihood.shape[1]
        both = self._counted * classes + likelihood.argmax(1)[self._known]
        return balanced_accuracy(np.bincount(both, minlength=classes * classes).reshape(classes, classes))

    def take(self, samples: np.ndarray) -> BalancedAccuracy:
        return BalancedAccuracy(self.labels[samples])


def target_scorer(values: np.ndarray) -> ArrayScorer:
    """Mean R2 over targets, prepared for one truth (n, T); NaN where a target is absent."""
    return ArrayScorer({"values": values}, lambda predicted, true: mean_r2(predicted["values"], true["values"]))


def r2(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(T,) share of each target's variance that is explained, over rows where it is present; NaN if undefined."""
    there = np.isfinite(true)
    rows = np.maximum(there.sum(0), 1)
    mean = np.where(there, true, 0.0).sum(0, dtype=np.float64) / rows
    spread = (np.where(there, true - mean, 0.0) ** 2).sum(0, dtype=np.float64)
    error = (np.where(there, true - predicted, 0.0) ** 2).sum(0, dtype=np.float64)
    return np.where(spread > 0, 1 - error / np.where(spread > 0, spread, 1), np.nan)


def mean_r2(predicted: np.ndarray, true: np.ndarray) -> float:
    """The mean of `r2` over the targets where it is defined."""
    each = r2(predicted, true)
    return float(np.nanmean(each)) if np.isfinite(each).any() else math.nan


def target_scores(
    prediction: Mapping[str, np.ndarray], true: np.ndarray, names: tuple[str, ...], mean: np.ndarray
) -> dict[str, float]:
    """Error of each target beside that of predicting the training mean, in the target's units.

    Args:
        true: (n, T), NaN where absent.
        mean: (T,) of the training rows.
    """
    values = prediction["values"]
    each = r2(values, true)
    out: dict[str, float] = {"r2": mean_r2(values, true)}
    for column, name in enumerate(names):
        there = np.isfinite(true[:, column])
        y, p = true[there, column].astype(np.float64), values[there, column].astype(np.float64)
        if not len(y):
            continue
        squares = (p - y) ** 2
        rmse = math.sqrt(squares.mean())
        out[f"{name}_rmse"] = rmse
        # the error of a root: half the relative error of what is under it
        out[f"{name}_rmse_se"] = float(squares.std() / math.sqrt(len(y)) / (2 * rmse)) if rmse else 0.0
        out[f"{name}_rmse_of_mean"] = math.sqrt(((y - mean[column]) ** 2).mean())
        out[f"{name}_r2"] = float(each[column])
        if "presence" in prediction:
            out[f"{name}_presence_accuracy"] = float(((prediction["presence"][:, column] > 0.5) == there).mean())
    return out
