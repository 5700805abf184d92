"""Candidates whose quality is known, of families that are one formula each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ensembles.pool import Pool
from models.base import ArrayScorer, Family, Learner, Metric, Place, Prediction, Predictor, Scorer


class Formula(Family):
    """A family without models: predictions are given."""

    name = "formula"
    metric = Metric("value")
    snapshots = {"best": metric}
    default_space = "none"

    def fingerprint(self, config: Mapping[str, Any]) -> str:
        raise NotImplementedError

    def load(self, config: Mapping[str, Any], phase: str) -> Any:
        raise NotImplementedError

    def check(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    def learner(self, config: Mapping[str, Any], data: Any, place: Place, seed: int) -> Learner:
        raise NotImplementedError

    def restore(self, config: Mapping[str, Any], weights: Mapping[str, Any], place: Place) -> Predictor:
        raise NotImplementedError

    def truth(self, data: Any) -> Prediction:
        raise NotImplementedError

    def scorer(self, truth: Mapping[str, np.ndarray]) -> Scorer:
        return ArrayScorer(truth, self.score_of)

    @staticmethod
    def score_of(predicted: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> float:
        raise NotImplementedError


class Points(Formula):
    """The metric is the mean of what is predicted: a prediction is its own score, sample by sample."""

    @staticmethod
    def score_of(predicted: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> float:
        return float(predicted["value"].mean())


class Squares(Formula):
    """The mean squared error, averaged arithmetically; the smaller the better."""

    metric = Metric("mse", "min")

    @staticmethod
    def score_of(predicted: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> float:
        return float(((predicted["value"] - truth["value"]) ** 2).mean())


class Geometric(Squares):
    """Positive values, averaged geometrically."""

    def combine(self, predictions: Sequence[Mapping[str, np.ndarray]], weights: Sequence[float]) -> Prediction:
        logs = sum(w * np.log(p["value"]) for p, w in zip(predictions, weights, strict=True))
        return {"value": np.exp(logs / np.sum(weights))}


class SideBySide(Formula):
    """Features are laid side by side; the metric is how often the nearest other sample has the same label."""

    associative = False

    @staticmethod
    def score_of(predicted: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> float:
        features, labels = predicted["value"], truth["value"]
        if len(labels) < 2:
            return float("nan")
        distance = ((features[:, None] - features[None]) ** 2).sum(2)
        np.fill_diagonal(distance, np.inf)
        return float((labels[distance.argmin(1)] == labels).mean())

    def combine(self, predictions: Sequence[Mapping[str, np.ndarray]], weights: Sequence[float]) -> Prediction:
        assert all(p["value"].shape[1] == 1 for p in predictions)  # members, never a combination of them
        scaled = [np.sqrt(w) * p["value"] for p, w in zip(predictions, weights, strict=True)]
        return {"value": np.concatenate(scaled, axis=1) / np.sqrt(np.sum(weights))}


class WholeGroups(Scorer):
    """Another scorer, which must never be asked for a part of a group."""

    def __init__(self, inner: Scorer, groups: np.ndarray) -> None:
        self.inner, self.groups = inner, groups
        self.samples, self.rows = inner.samples, inner.rows

    def reduce(self, prediction: Mapping[str, np.ndarray]) -> Prediction:
        return self.inner.reduce(prediction)

    def score(self, reduced: Mapping[str, np.ndarray]) -> float:
        return self.inner.score(reduced)

    def take(self, samples: np.ndarray) -> WholeGroups:
        assert np.all(np.diff(samples) > 0)
        rest = np.setdiff1d(np.arange(self.samples), samples)
        split = np.intersect1d(self.groups[samples], self.groups[rest])
        assert not len(split), f"groups {split} are split"
        return WholeGroups(self.inner.take(samples), self.groups[samples])


def pool_of(
    family: Family, values: Sequence[np.ndarray], truth: np.ndarray | None = None, groups: np.ndarray | None = None
) -> Pool:
    """A pool of predictions as they are, in the order given."""
    truth = np.zeros(len(values[0])) if truth is None else truth
    scorer = family.scorer({"value": truth})
    members = [{"value": np.asarray(value)} for value in values]
    return Pool(family, members, scorer, np.arange(len(truth)) if groups is None else groups)


def noisy(noise: Sequence[float], samples: int = 30, seed: int = 0, groups: np.ndarray | None = None) -> Pool:
    """Squares: the truth up to noise of each candidate's own, the best candidate first."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(samples, 4))
    values = [truth + s * rng.normal(size=truth.shape) for s in noise]
    values.sort(key=lambda value: float(((value - truth) ** 2).mean()))
    return pool_of(Squares(), values, truth, groups)
