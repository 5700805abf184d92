"""How well wells of one label find each other, and how often a well's class is told right."""

from __future__ import annotations

import math

import numpy as np

from models.base import Metric

MAP = Metric("map", "max", "mean average precision of wells of the same label")
BALANCED = Metric("balanced_accuracy", "max", "mean recall of the classes, of wells")


class Ranking:
    """Average precision of queries, prepared for what each is to find: its positives' precisions averaged (as copairs).

    Of equal similarities those of positives come last, so that a profile that is the same for every well earns nothing.

    Args:
        positive: (queries, gallery) bool, what should be found.
        counted: (queries, gallery) bool, what is ranked at all; positives that are not do not count.
    """

    def __init__(self, positive: np.ndarray, counted: np.ndarray) -> None:
        self._hidden = ~counted | positive
        self._counted = counted
        self._row, self._column = np.nonzero(positive & counted)
        self.count = np.bincount(self._row, minlength=len(positive))
        # the place of each among the positives of its row, once these are sorted
        self._rank = np.arange(len(self._row)) - np.repeat(np.cumsum(self.count) - self.count, self.count) + 1

    def __call__(self, similarity: np.ndarray) -> np.ndarray:
        """(queries,) float64; NaN for a query without positives, or where a similarity that counts is not finite.

        Args:
            similarity: (queries, gallery), larger is nearer; converted to float32.
        """
        values = np.asarray(similarity, dtype=np.float32)
        row, found = self._row, values[self._row, self._column]
        others = np.where(self._hidden, np.float32(-np.inf), values)
        others.sort(axis=1)
        nearer = values.shape[1] - _places(others, row, found)
        best = np.lexsort((-found, row))
        precision = np.bincount(row[best], self._rank / (self._rank + nearer[best]), minlength=len(values))
        bad = self.count == 0
        if not np.isfinite(values).all():
            bad |= (self._counted & ~np.isfinite(values)).any(1)
        return np.where(bad, np.nan, precision / np.maximum(self.count, 1))


def _places(ascending: np.ndarray, row: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """How many values of each row of `ascending` (n, m) are below `wanted` (k,), in the rows (k,): bisection."""
    low, high = np.zeros(len(row), np.int64), np.full(len(row), ascending.shape[1])
    for _ in range(int(ascending.shape[1]).bit_length()):
        middle = (low + high) // 2
        less = ascending[row, np.minimum(middle, ascending.shape[1] - 1)] < wanted
        open_ = low < high
        low, high = np.where(open_ & less, middle + 1, low), np.where(open_ & ~less, middle, high)
    return low


def average_precision(similarity: np.ndarray, positive: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """`Ranking` of one similarity."""
    return Ranking(positive, counted)(similarity)


def pairs(
    label: np.ndarray, plate: np.ndarray, well: np.ndarray, queries: np.ndarray, other_plates: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Which wells are positives of a query, and which are ranked for it.

    Args:
        label: (n,) classes of the gallery's wells, -1: unknown.
        plate: (n,) their plates.
        well: (n,) what tells a well from others: a query is not ranked for itself.
        queries: rows of the gallery that ask.
        other_plates: positives are on other plates than the query only, and wells of its label on its own plate are
            left out.

    Returns:
        positive, counted: (queries, n) bool.
    """
    same = label[queries][:, None] == label[None]
    counted = (well[queries][:, None] != well[None]) & (label >= 0)[None] & (label[queries] >= 0)[:, None]
    if other_plates:
        counted &= ~(same & (plate[queries][:, None] == plate[None]))
    return same & counted, counted


def mean_finite(values: np.ndarray) -> float:
    """The mean of what is defined; NaN where nothing is."""
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else math.nan


def confusion(truth: np.ndarray, told: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes) counts, rows truth; rows with a truth below 0 are left out."""
    known = truth >= 0
    both = truth[known].astype(np.int64) * classes + told[known]
    return np.bincount(both, minlength=classes * classes).reshape(classes, classes)


def balanced_accuracy(counts: np.ndarray) -> float:
    """Mean recall of the classes that the truth of a confusion matrix has; NaN if it has none."""
    rows = counts.sum(1)
    there = rows > 0
    return float((counts.diagonal()[there] / rows[there]).mean()) if there.any() else math.nan


def bootstrap(values: np.ndarray, groups: np.ndarray, draws: int = 2000, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of the mean of `values` (n,), whole groups (n,) drawn with replacement (seed fixed).

    Values that are not finite are left out. NaN where fewer than two groups have one.
    """
    there = np.isfinite(values)
    names, code = np.unique(groups[there], return_inverse=True)
    if len(names) < 2:
        return math.nan, math.nan
    sums, counts = (np.bincount(code, weights=w, minlength=len(names)) for w in (values[there], None))
    drawn = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), draws)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(drawn @ sums / (drawn @ counts), (tail, 100 - tail))
    return float(low), float(high)
