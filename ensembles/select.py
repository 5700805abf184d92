"""Which checkpoints to average, and how good that choice really is.

Rules are functions from predictions and truth to weights. To add one: write it here and name it in `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.base import Family, Prediction

MAX_MEMBERS = 25
_BAGS = 20
_SURE = 2
_GROUPS = 10


@dataclass(frozen=True)
class Pool:
    """Candidates' predictions, best candidate first, with the truth they are scored against."""

    family: Family
    predictions: list[Prediction]
    truth: Prediction

    @property
    def samples(self) -> int:
        return int(next(iter(self.truth.values())).shape[0])

    def take(self, rows: np.ndarray, members: Sequence[int] | None = None) -> Pool:
        """The same on some samples, and possibly of some candidates."""
        chosen = range(len(self.predictions)) if members is None else members
        return Pool(self.family, [_rows(self.predictions[m], rows) for m in chosen], _rows(self.truth, rows))

    def score(self, prediction: Prediction, truth: Prediction | None = None) -> float:
        """`Family.score` turned so that more is better; what cannot be scored is worst."""
        value = self.family.score(prediction, self.truth if truth is None else truth)
        return self.family.metric.sign * value if np.isfinite(value) else -np.inf

    def combine(self, weights: np.ndarray) -> Prediction:
        members = np.flatnonzero(weights)
        return self.family.combine([self.predictions[m] for m in members], [float(weights[m]) for m in members])


def _rows(prediction: Prediction, rows: np.ndarray) -> Prediction:
    return {name: array[rows] for name, array in prediction.items()}


Rule = Callable[[Pool, np.random.Generator], np.ndarray]


def topn(pool: Pool, rng: np.random.Generator) -> np.ndarray:
    """The mean of the N best, N where the score is best (AESMTE3's rule; of equal N the smaller)."""
    scores = curve(pool)
    return uniform(len(pool.predictions), int(np.argmax(scores)) + 1)


def uniform(count: int, members: int) -> np.ndarray:
    """Equal weights for the first `members` of `count`."""
    weights = np.zeros(count)
    weights[:members] = 1.0 / members
    return weights


def greedy(pool: Pool, rng: np.random.Generator) -> np.ndarray:
    """Bagged greedy selection with replacement (Caruana et al. 2004).

    Each bag sees half the samples and, beside the two best, half the candidates, grows an ensemble one best
    addition at a time and keeps its best prefix; weights are averaged over bags, and at most 25 members stay.
    """
    count, samples = len(pool.predictions), pool.samples
    if count == 1 or samples < 4:
        return uniform(count, 1)
    weights = np.zeros(count)
    # of many samples a few hundred decide as well as all, in a fraction of the time
    size = min(samples // 2, 200)
    for _ in range(_BAGS):
        rows = np.sort(rng.permutation(samples)[:size])
        # the best few are always among them: a bag of bad candidates alone would still have its say
        members = np.union1d(np.arange(min(_SURE, count)), rng.permutation(count)[: (count + 1) // 2])
        weights[members] += _grow(pool.take(rows, members.tolist()))
    kept = np.argsort(-weights, kind="stable")[:MAX_MEMBERS]
    out = np.zeros(count)
    out[kept] = weights[kept]
    return out / out.sum()


def _grow(pool: Pool) -> np.ndarray:
    count = len(pool.predictions)
    chosen = np.zeros(count)
    best_score, best = -np.inf, chosen
    total = {name: np.zeros(array.shape) for name, array in pool.predictions[0].items()}
    waited = 0
    for step in range(1, 2 * MAX_MEMBERS):
        scores = [pool.score({name: (total[name] + p[name]) / step for name in total}) for p in pool.predictions]
        winner = int(np.argmax(scores))
        chosen[winner] += 1
        for name in total:
            total[name] += pool.predictions[winner][name]
        waited += 1
        if scores[winner] > best_score:
            best_score, best, waited = scores[winner], chosen.copy(), 0
        if waited >= 3:
            break
    return best / best.sum() if best.sum() else uniform(count, 1)


RULES: dict[str, Rule] = {"greedy": greedy, "topn": topn}


def curve(pool: Pool) -> np.ndarray:
    """The score (more is better) of the mean of the first N candidates, N = 1, 2, ..."""
    total = {name: np.zeros(array.shape) for name, array in pool.predictions[0].items()}
    scores = []
    for n, prediction in enumerate(pool.predictions, 1):
        for name in total:
            total[name] += prediction[name]
        scores.append(pool.score({name: array / n for name, array in total.items()}))
    return np.array(scores)


@dataclass(frozen=True)
class Estimate:
    """A score on samples that the choice did not see, in the metric's own direction, with its standard error."""

    score: float
    error: float

    def to_json(self) -> dict[str, float]:
        return {"score": self.score, "standard_error": self.error}


def out_of_fold(pool: Pool, rule: Rule, seed: int, folds: int = 5) -> Estimate:
    """Choose on all folds but one, predict that one; score all predictions together.

    Candidates are ranked anew within each choice, so that nothing of the left-out samples reaches it.
    """
    predictions = _by_fold(pool, seed, folds, lambda inner, rng: [rule(inner, rng)])[0]
    return estimate(pool, predictions)


def fold_curve(pool: Pool, seed: int, folds: int = 5) -> list[Estimate]:
    """`out_of_fold` for the mean of the top N of each fold's own ranking, N = 1, 2, ..."""
    count = len(pool.predictions)
    predicted = _by_fold(pool, seed, folds, lambda inner, rng: [uniform(count, n) for n in range(1, count + 1)])
    return [estimate(pool, prediction) for prediction in predicted]


def _by_fold(
    pool: Pool, seed: int, folds: int, choose: Callable[[Pool, np.random.Generator], list[np.ndarray]]
) -> list[Prediction]:
    samples = pool.samples
    order = np.random.default_rng(seed).permutation(samples)
    out: list[Prediction] = []
    for number, left_out in enumerate(np.array_split(order, min(folds, samples))):
        rows = np.setdiff1d(order, left_out)
        if not len(rows):  # a single sample: nothing to choose on
            rows = left_out
        alone = pool.take(rows)
        ranking = np.argsort([-alone.score(p) for p in alone.predictions], kind="stable")
        inner = pool.take(rows, ranking.tolist())
        unseen = pool.take(left_out, ranking.tolist())
        chosen = choose(inner, np.random.default_rng([seed, number]))
        for index, weights in enumerate(chosen):
            part = unseen.combine(weights)
            if len(out) <= index:
                out.append({k: np.zeros((samples, *v.shape[1:]), v.dtype) for k, v in part.items()})
            for name, array in part.items():
                out[index][name][left_out] = array
    return out


def estimate(pool: Pool, prediction: Prediction) -> Estimate:
    """The score of a prediction, with the jackknife over groups of samples as its standard error."""
    sign = pool.family.metric.sign
    whole = sign * pool.score(prediction)
    groups = np.array_split(np.arange(pool.samples), min(_GROUPS, pool.samples))
    if len(groups) < 2:
        return Estimate(whole, float("nan"))
    left = []
    for group in groups:
        rows = np.setdiff1d(np.arange(pool.samples), group)
        left.append(sign * pool.score(_rows(prediction, rows), _rows(pool.truth, rows)))
    values = np.array(left)
    return Estimate(whole, float(np.sqrt((len(groups) - 1) / len(groups) * ((values - values.mean()) ** 2).sum())))


def describe(weights: np.ndarray) -> dict[str, Any]:
    """How many members, and how many it is worth (1 / sum of squared weights)."""
    return {"members": int((weights > 0).sum()), "effective": float(1.0 / (weights**2).sum())}
