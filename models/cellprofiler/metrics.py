"""How well wells of one label find each other, and how often a well's class is told right."""

from __future__ import annotations

import math

import numpy as np

from models.base import Metric

MAP = Metric("map", "max", "mean average precision of wells of the same label")
BALANCED = Metric("balanced_accuracy", "max", "mean recall of the classes, of wells")


def average_precision(similarity: np.ndarray, positive: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Average precision of each query: the precision at each of its positives, averaged (as copairs has it).

    Of equal similarities those of positives come last, so that a profile that is the same for every well earns nothing.

    Args:
        similarity: (queries, gallery), larger is nearer; converted to float32.
        positive: (queries, gallery) bool, what should be found.
        counted: (queries, gallery) bool, what is ranked at all; positives that are not do not count.

    Returns:
        (queries,) float64; NaN for a query without positives, or with a similarity that is not finite.
    """
    if not similarity.shape[1]:
        return np.full(len(similarity), np.nan)
    values = np.ascontiguousarray(similarity, dtype=np.float32) + np.float32(0)  # -0.0 becomes 0.0
    bits = values.view(np.int32).astype(np.int64)
    # floats as integers of the same order, relevance as the last bit: one sort of numbers ranks both
    rank = np.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)
    hits = positive & counted
    keys = np.where(counted, -2 * rank + hits, np.iinfo(np.int64).max - 1)
    keys.sort(axis=1)
    relevant = (keys & 1).astype(bool)
    found = np.cumsum(relevant, axis=1)
    precision = np.where(relevant, found / np.arange(1, keys.shape[1] + 1), 0.0)
    count = hits.sum(1)
    bad = (~np.isfinite(values) & counted).any(1) | (count == 0)
    return np.where(bad, np.nan, precision.sum(1) / np.maximum(count, 1))


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
