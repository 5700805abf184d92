"""How good a choice really is: scored on samples that it did not see, with standard errors.

Folds are nested over the ranking of the candidates, their number and the rule. They are not over the epoch of each
snapshot nor over the search, which saw all validation samples: only a holdout is free of those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ensembles.pool import Growing, Pool, Subset, blocks
from ensembles.select import Rule
from models.base import Prediction

FOLDS = 5
_BLOCKS = 20
_BLOCK_STREAM = 0xB10C


@dataclass(frozen=True)
class Estimate:
    """A score in the metric's own direction, with what its standard error comes from.

    Attributes:
        score: the metric of all samples; NaN where it is undefined.
        left: the metric without each block of samples.
        prediction: the reduced prediction that was scored, where there is one of all samples.
    """

    score: float
    left: np.ndarray
    prediction: Prediction | None = None

    @property
    def error(self) -> float:
        """The delete-a-group jackknife's standard error (Kott 2001); NaN for fewer than two blocks."""
        count = len(self.left)
        if count < 2:
            return float("nan")
        return float(np.sqrt((count - 1) / count * ((self.left - self.left.mean()) ** 2).sum()))

    def minus(self, other: Estimate) -> Estimate:
        """The difference of two scores of the same samples. It is paired: what is hard for both cancels."""
        return Estimate(self.score - other.score, self.left - other.left)

    def to_json(self) -> dict[str, float]:
        return {"score": self.score, "standard_error": self.error}


class Jackknife:
    """Scores with standard errors for predictions of one truth.

    Args:
        pool: gives the metric and the groups.
        seed: draws the blocks that are left out in turn: whole groups, shuffled.
        pieces: samples (ascending) that are scored apart, their mean weighted by samples; by default all at once.
    """

    def __init__(self, pool: Pool, seed: int, pieces: Sequence[np.ndarray] | None = None) -> None:
        pieces = [np.arange(pool.samples)] if pieces is None else pieces
        self._whole = [Subset(pool.scorer, piece) for piece in pieces]
        left_out = blocks(pool.groups, _BLOCKS, np.random.default_rng([seed, _BLOCK_STREAM]))
        self._without = [
            [_without(part, block) for part in self._whole] for block in (left_out if len(left_out) > 1 else [])
        ]

    def estimate(self, predictions: Sequence[Mapping[str, np.ndarray]]) -> Estimate:
        """The score of a reduced prediction for each piece."""
        whole = [(part.scorer.score(p), part.scorer.samples) for part, p in zip(self._whole, predictions, strict=True)]
        left = []
        for parts in self._without:
            there = [(part, p) for part, p in zip(parts, predictions, strict=True) if part is not None]
            left.append(_mean([(part.scorer.score(part.of(p)), part.scorer.samples) for part, p in there]))
        return Estimate(_mean(whole), np.array(left))


def _without(part: Subset, block: np.ndarray) -> Subset | None:
    kept = np.flatnonzero(~np.isin(part.samples, block))
    return Subset(part.scorer, kept) if len(kept) else None


def _mean(scores: Sequence[tuple[float, int]]) -> float:
    values, samples = np.array(scores, dtype=np.float64).T
    return float((values * samples).sum() / samples.sum())


def estimate(pool: Pool, prediction: Mapping[str, np.ndarray], seed: int) -> Estimate:
    """The score of one reduced prediction."""
    return Jackknife(pool, seed).estimate([prediction])


class Folds:
    """Candidates ranked on all folds but one, to be combined on that one: nothing of it reaches the ranking.

    Predictions for the folds are put together and scored at once. Where combining is not associative (features laid
    side by side, say), predictions of different members are no values of one thing: each fold is scored by itself.

    Args:
        seed: deals the groups out to the folds.
    """

    def __init__(self, pool: Pool, seed: int, folds: int = FOLDS) -> None:
        self.pool, self.seed = pool, seed
        parts = blocks(pool.groups, folds, np.random.default_rng(seed))
        # of a single group nothing is left to choose on
        self.left_out = parts if len(parts) > 1 else []
        self._apart = not pool.family.associative
        self._jackknife = Jackknife(pool, seed, self.left_out if self._apart else None)
        self._subsets = [Subset(pool.scorer, samples) for samples in self.left_out]

    def __iter__(self) -> Iterator[tuple[Pool, Pool]]:
        """For each fold, the candidates in the order of the other folds: on those, and on this one."""
        for left_out in self.left_out:
            alone = self.pool.take(np.setdiff1d(np.arange(self.pool.samples), left_out))
            ranking = alone.ranking()
            inner = Pool(alone.family, [alone.predictions[m] for m in ranking], alone.scorer, alone.groups)
            yield inner, self.pool.take(left_out, ranking)

    def estimate(self, predictions: Sequence[Prediction]) -> Estimate:
        """The score of predictions for the folds, one each."""
        if not predictions:
            return Estimate(float("nan"), np.array([]))
        if self._apart:
            return self._jackknife.estimate(predictions)
        together = self._together(predictions)
        return replace(self._jackknife.estimate([together]), prediction=together)

    def _together(self, predictions: Sequence[Prediction]) -> Prediction:
        rows = self.pool.scorer.rows
        out = {
            name: np.zeros((len(rows[name]) if name in rows else self.pool.samples, *first.shape[1:]), first.dtype)
            for name, first in predictions[0].items()
        }
        for part, prediction in zip(self._subsets, predictions, strict=True):
            for name, array in prediction.items():
                out[name][part.rows(name)] = array
        return out


def out_of_fold(pool: Pool, rules: Mapping[str, Rule], seed: int, folds: int = FOLDS) -> dict[str, Estimate]:
    """Each rule chooses on all folds but one and is scored on that one."""
    over = Folds(pool, seed, folds)
    predicted: dict[str, list[Prediction]] = {name: [] for name in rules}
    for number, (inner, unseen) in enumerate(over):
        for name, rule in rules.items():
            predicted[name].append(unseen.combine(rule(inner, np.random.default_rng([seed, number]))))
    return {name: over.estimate(predictions) for name, predictions in predicted.items()}


def fold_curve(pool: Pool, seed: int, folds: int = FOLDS) -> list[Estimate]:
    """The first N of each fold's own ranking, N = 1, 2, ..., scored out of fold."""
    over = Folds(pool, seed, folds)
    growing = [Growing(unseen) for _, unseen in over]
    return [over.estimate([each.join(member) for each in growing]) for member in range(len(pool.predictions))]
