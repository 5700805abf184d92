"""Selection as it is usually written, for comparison: every mean is a mean of whole arrays, scored from scratch."""

from __future__ import annotations

import numpy as np

from models.ndt.metrics import bits_per_spike

MAX_MEMBERS = 25


def curve(rates: list[np.ndarray], spikes: np.ndarray) -> list[float]:
    """The score of the mean of the first N candidates, N = 1, 2, ..."""
    total = np.zeros(spikes.shape)
    scores = []
    for n, one in enumerate(rates, 1):
        total += one
        scores.append(bits_per_spike(total / n, spikes))
    return scores


def bag(rates: list[np.ndarray], spikes: np.ndarray, samples: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Greedy selection with replacement on some samples and candidates: how often each of these is taken."""
    rates, spikes = [rates[m][samples] for m in members], spikes[samples]
    chosen = np.zeros(len(rates))
    best_score, best, waited = -np.inf, chosen, 0
    total = np.zeros(spikes.shape)
    for step in range(1, 2 * MAX_MEMBERS):
        scores = [bits_per_spike((total + one) / step, spikes) for one in rates]
        winner = int(np.argmax(scores))
        chosen[winner] += 1
        total += rates[winner]
        waited += 1
        if scores[winner] > best_score:
            best_score, best, waited = scores[winner], chosen.copy(), 0
        if waited >= 3:
            break
    return best
