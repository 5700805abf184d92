"""The candidates of an ensemble as selection sees them: reduced predictions and the metric prepared for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models.base import Family, Prediction, Scorer


class Subset:
    """Some samples of a truth: the metric on them, and their rows in reduced predictions.

    Preparing one costs as much as several scores: once a fold, bag or block, never once a score.

    Args:
        scorer: of all samples.
        samples: ascending indices.
    """

    def __init__(self, scorer: Scorer, samples: np.ndarray) -> None:
        self.samples, self.scorer = samples, scorer.take(samples)
        chosen = np.zeros(scorer.samples, bool)
        chosen[samples] = True
        self._rows = {name: np.flatnonzero(chosen[sample]) for name, sample in scorer.rows.items()}

    def rows(self, name: str) -> np.ndarray:
        """Which rows of the reduced array `name` are of these samples."""
        return self._rows.get(name, self.samples)

    def of(self, reduced: Mapping[str, np.ndarray]) -> Prediction:
        """These samples of a reduced prediction of all."""
        return {name: array[self.rows(name)] for name, array in reduced.items()}


@dataclass(frozen=True)
class Pool:
    """Candidates, best first, with what they are scored by.

    Attributes:
        predictions: of each candidate, as `scorer.reduce` gives them.
        groups: (samples,) integers; samples of one group are never told apart.
    """

    family: Family
    predictions: Sequence[Prediction]
    scorer: Scorer
    groups: np.ndarray

    @property
    def samples(self) -> int:
        return self.scorer.samples

    def take(self, samples: np.ndarray, members: Sequence[int] | None = None) -> Pool:
        """The same on some samples (ascending), and possibly of some candidates."""
        part = Subset(self.scorer, samples)
        chosen = range(len(self.predictions)) if members is None else members
        return Pool(self.family, [part.of(self.predictions[m]) for m in chosen], part.scorer, self.groups[samples])

    def value(self, reduced: Mapping[str, np.ndarray]) -> float:
        """The metric turned so that more is better; what cannot be scored is worst."""
        value = self.scorer.score(reduced)
        return self.family.metric.sign * value if np.isfinite(value) else -np.inf

    def ranking(self) -> list[int]:
        """Candidates from best to worst on these samples; of equals the first."""
        return [int(m) for m in np.argsort([-self.value(p) for p in self.predictions], kind="stable")]

    def combine(self, weights: np.ndarray) -> Prediction:
        """What `Family.combine` makes of the candidates with a weight."""
        members = [int(m) for m in np.flatnonzero(weights)]
        return self.family.combine([self.predictions[m] for m in members], [float(weights[m]) for m in members])


class Growing:
    """An ensemble that candidates join one at a time; the same one may join again.

    What it holds is what `Pool.combine` of the counts gives. A family whose `combine` is associative is spared going
    through all members at each step.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.counts = np.zeros(len(pool.predictions))
        self._now: Prediction | None = None

    def joined_by(self, member: int) -> Prediction:
        """The combination with one more, which stays outside."""
        family = self._pool.family
        if self._now is not None and family.associative:
            return family.combine([self._now, self._pool.predictions[member]], [float(self.counts.sum()), 1.0])
        counts = self.counts.copy()
        counts[member] += 1
        combined = self._pool.combine(counts)
        return precise(combined) if family.associative else combined

    def join(self, member: int, combined: Prediction | None = None) -> Prediction:
        """One more candidate for good; `combined` is what `joined_by` said, where that is at hand."""
        self._now = self.joined_by(member) if combined is None else combined
        self.counts[member] += 1
        return self._now


def precise(prediction: Mapping[str, np.ndarray]) -> Prediction:
    """Floating arrays in float64, so that a combination made in many steps is not rounded at each."""
    return {k: v.astype(np.float64) if np.issubdtype(v.dtype, np.floating) else v for k, v in prediction.items()}


def blocks(groups: np.ndarray, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Samples in `count` blocks (or as many as there are groups): whole groups, shuffled; ascending indices."""
    names = rng.permutation(np.unique(groups))
    return [np.flatnonzero(np.isin(groups, part)) for part in np.array_split(names, min(count, len(names)))]
