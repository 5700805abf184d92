"""The two metrics, prepared for one truth."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from models.base import Prediction, Scorer
from models.cellprofiler.metrics import Ranking, balanced_accuracy, confusion, mean_finite, pairs


def cosines(profile: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """(samples, gallery) float32 cosines of profiles of unit length, (samples, d) and (gallery, d)."""
    return np.clip(profile.astype(np.float32) @ gallery.astype(np.float32).T, -1, 1)


class MeanAveragePrecision(Scorer):
    """Mean average precision of wells of the same label.

    Every sample is a query; what it ranks, its gallery, are all wells that are scored, itself left out. Taking some
    samples leaves galleries as they are: the metric is a mean over queries, and that of a part is a part of it.

    A prediction has `profile` (samples, d), rows of unit length, and, where the samples are not the whole gallery,
    `similarity` (samples, gallery): their cosines to the gallery's profiles.

    Args:
        label: (gallery,) classes, -1: unknown, never asked for nor ranked.
        plate: (gallery,) numbers of plates.
        queries: (samples,) the row of the gallery of each sample (default: all, in order).
        other_plates: only wells of other plates are positives, and same-label wells of its own plate are not ranked.
    """

    def __init__(
        self, label: np.ndarray, plate: np.ndarray, queries: np.ndarray | None = None, other_plates: bool = False
    ) -> None:
        self.label, self.plate, self.other_plates = np.asarray(label), np.asarray(plate), bool(other_plates)
        self.queries = np.arange(len(self.label)) if queries is None else np.asarray(queries)
        self.samples = len(self.queries)
        wells = np.arange(len(self.label))
        self._ranking = Ranking(*pairs(self.label, self.plate, wells, self.queries, self.other_plates))

    def reduce(self, prediction: Mapping[str, np.ndarray]) -> Prediction:
        if "similarity" in prediction:
            return {"similarity": np.asarray(prediction["similarity"])}
        profile = prediction["profile"]
        if len(profile) != len(self.label):
            raise ValueError(f"{len(profile)} profiles without their similarity to a gallery of {len(self.label)}")
        return {"similarity": cosines(profile[self.queries], profile)}

    @property
    def findable(self) -> np.ndarray:
        """(samples,) whether a well has another one to find."""
        return self._ranking.count > 0

    def each(self, reduced: Mapping[str, np.ndarray]) -> np.ndarray:
        """(samples,) average precision; NaN for a well that has nothing to find."""
        return self._ranking(reduced["similarity"])

    def score(self, reduced: Mapping[str, np.ndarray]) -> float:
        if not np.isfinite(reduced["similarity"]).all():
            return math.nan
        return mean_finite(self.each(reduced))

    def take(self, samples: np.ndarray) -> MeanAveragePrecision:
        return MeanAveragePrecision(self.label, self.plate, self.queries[samples], self.other_plates)


class BalancedAccuracy(Scorer):
    """Balanced accuracy of the class that is most probable, the probabilities of a well's cells averaged.

    Args:
        label: (samples,) classes; rows below 0 do not count.
    """

    def __init__(self, label: np.ndarray) -> None:
        self.label = np.asarray(label, dtype=np.int64)
        self.samples = len(self.label)

    def reduce(self, prediction: Mapping[str, np.ndarray]) -> Prediction:
        return {"probabilities": np.asarray(prediction["probabilities"])}

    def score(self, reduced: Mapping[str, np.ndarray]) -> float:
        probabilities = reduced["probabilities"]
        if not np.isfinite(probabilities).all():
            return math.nan
        return balanced_accuracy(confusion(self.label, probabilities.argmax(1), probabilities.shape[1]))

    def take(self, samples: np.ndarray) -> BalancedAccuracy:
        return BalancedAccuracy(self.label[samples])
