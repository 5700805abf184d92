"""The metrics as selection uses them: prepared for one truth, called thousands of times."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from models.base import Prediction, Scorer
from models.cellnet.metrics import STEPS, area, curve, is_real, passed


class AreaScorer(Scorer):
    """The area, prepared for one truth.

    Args:
        real: (N,) bool.
        event: (N,) int64 the event of each row, ascending.
        events: how many there are; one may have no row.
    """

    def __init__(self, real: np.ndarray, event: np.ndarray, events: int) -> None:
        self.real, self.event, self.samples = real, event, events
        self.rows = {"probability": event}
        self._begin = (event * (STEPS + 1)).astype(np.int32 if events < 2**24 else np.int64)
        self._true = np.flatnonzero(real)

    def reduce(self, prediction: Mapping[str, np.ndarray]) -> Prediction:
        return {"probability": np.asarray(prediction["probability"], np.float32)}

    def score(self, reduced: Mapping[str, np.ndarray]) -> float:
        if not self.samples:
            return math.nan
        if not np.isfinite(reduced["probability"].sum()):
            return math.nan
        place = self._begin + passed(reduced["probability"])
        shape, size = (self.samples, STEPS + 1), self.samples * (STEPS + 1)
        every = np.bincount(place, minlength=size).reshape(shape)
        real = np.bincount(place[self._true], minlength=size).reshape(shape)
        return area(*curve(every, real))

    def take(self, samples: np.ndarray) -> AreaScorer:
        rows, event = _rows_of(self.event, self.samples, samples)
        return AreaScorer(self.real[rows], event, len(samples))


class RmseScorer(Scorer):
    """The error of real voxels' charges, prepared for one truth.

    Args:
        y: (N,) truth of each row.
        real: (N,) bool; only those are kept of a prediction.
        event: (N,) int64 the event of each row, ascending.
        events: how many there are.
    """

    def __init__(self, y: np.ndarray, real: np.ndarray, event: np.ndarray, events: int) -> None:
        self._at = np.flatnonzero(real)
        self.true, self.event, self.samples = y[self._at].astype(np.float64), event[self._at], events
        self.rows = {"charge": self.event}

    def reduce(self, prediction: Mapping[str, np.ndarray]) -> Prediction:
        return {"charge": np.asarray(prediction["charge"])[self._at]}

    def score(self, reduced: Mapping[str, np.ndarray]) -> float:
        error = reduced["charge"] - self.true
        value = math.sqrt(float(error @ error) / len(error)) if len(error) else math.nan
        return value if math.isfinite(value) else math.nan

    def take(self, samples: np.ndarray) -> RmseScorer:
        rows, event = _rows_of(self.event, self.samples, samples)
        y = self.true[rows]
        return RmseScorer(y, np.ones(len(y), bool), event, len(samples))


def _rows_of(event: np.ndarray, events: int, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of some events, and the events of those rows, counted anew."""
    number = np.full(events, -1, np.int64)
    number[samples] = np.arange(len(samples))
    rows = np.flatnonzero(number[event] >= 0)
    return rows, number[event[rows]]


def scorer(task: str, truth: Mapping[str, np.ndarray], threshold: float) -> Scorer:
    """The metric of a task, prepared for a truth (`data.truth_arrays`)."""
    real = is_real(truth["y"], threshold)
    if task == "ghost":
        return AreaScorer(real, truth["event"], len(truth["id"]))
    return RmseScorer(truth["y"], real, truth["event"], len(truth["id"]))
