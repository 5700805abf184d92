"""Which checkpoints to combine.

Rules are functions from a pool of candidates to their weights. To add one: write it here and name it in `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ensembles.pool import Growing, Pool

MAX_MEMBERS = 25
BAGS = 20
_SURE = 2
_BAG_SAMPLES = 200
_PATIENCE = 3

Rule = Callable[[Pool, np.random.Generator], np.ndarray]


def topn(pool: Pool, rng: np.random.Generator) -> np.ndarray:
    """The N best, equally, N where the score is best (AESMTE3's rule; of equal N the smaller)."""
    return uniform(len(pool.predictions), int(np.argmax(curve(pool))) + 1)


def uniform(count: int, members: int) -> np.ndarray:
    """Equal weights for the first `members` of `count`."""
    weights = np.zeros(count)
    weights[:members] = 1.0 / members
    return weights


def greedy(pool: Pool, rng: np.random.Generator, bags: int = BAGS) -> np.ndarray:
    """Bagged greedy selection with replacement (Caruana et al. 2004).

    Each bag sees half of the groups and, beside the two best, half of the candidates, grows an ensemble one best
    addition at a time and keeps its best prefix; weights are averaged over bags, and at most 25 members stay.
    """
    count = len(pool.predictions)
    weights = np.zeros(count)
    for _ in range(bags):
        samples, members = draw(pool, rng)
        weights[members] += grow(pool.take(samples, members.tolist()))
    kept = np.argsort(-weights, kind="stable")[:MAX_MEMBERS]
    out = np.zeros(count)
    out[kept] = weights[kept]
    return out / out.sum()


def draw(pool: Pool, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """What one bag sees: samples and candidates, ascending.

    Half of the groups, and no more of them once they hold some 200 samples, which decide as well as all.
    """
    names, sizes = np.unique(pool.groups, return_counts=True)
    order = rng.permutation(len(names))[: max(1, len(names) // 2)]
    before = np.cumsum(sizes[order]) - sizes[order]
    samples = np.flatnonzero(np.isin(pool.groups, names[order[before < _BAG_SAMPLES]]))
    # the best few are always among them: a bag of bad candidates alone would still have its say
    count = len(pool.predictions)
    members = np.union1d(np.arange(min(_SURE, count)), rng.permutation(count)[: (count + 1) // 2])
    return samples, members


def grow(pool: Pool) -> np.ndarray:
    """One best addition after the other: the weights of the best prefix."""
    count = len(pool.predictions)
    growing = Growing(pool)
    best_value, best = -np.inf, np.zeros(count)
    waited = 0
    for _ in range(2 * MAX_MEMBERS - 1):
        winner, value, combined = 0, -np.inf, None
        for member in range(count):
            tried = growing.joined_by(member)
            found = pool.value(tried)
            if combined is None or found > value:
                winner, value, combined = member, found, tried
        growing.join(winner, combined)
        waited += 1
        if value > best_value:
            best_value, best, waited = value, growing.counts.copy(), 0
        if waited >= _PATIENCE:
            break
    return best / best.sum() if best.sum() else uniform(count, 1)


RULES: dict[str, Rule] = {"greedy": greedy, "topn": topn}


def curve(pool: Pool) -> np.ndarray:
    """The score (more is better) of the first N candidates combined, N = 1, 2, ..."""
    growing = Growing(pool)
    return np.array([pool.value(growing.join(member)) for member in range(len(pool.predictions))])


def describe(weights: np.ndarray) -> dict[str, Any]:
    """How many members, and how many it is worth (1 / sum of squared weights)."""
    return {"members": int((weights > 0).sum()), "effective": float(1.0 / (weights**2).sum())}
