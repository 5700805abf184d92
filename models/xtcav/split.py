"""Which shots train, validate and test, and how often each class is shown: seeded, by blocks of run and time.

Neighbouring shots look alike (the beam drifts), so a block of consecutive shots never lies in two parts.
"""

from __future__ import annotations

import math

import numpy as np

from ground.errors import BadInput


def blocks(run: np.ndarray, group: np.ndarray, file: np.ndarray, size: int, grouped: bool) -> np.ndarray:
    """The block of each shot: `size` consecutive shots of one run.

    Args:
        run: (n,) ascending, the shots of each run in the order of time (as an `Index` has them).
        group, file: (n,) where images have several leading axes (`grouped`): the shots of one entry of one file are a
            block, and `size` counts for nothing.

    Returns:
        (n,) int64, 0 upwards.
    """
    if len(run) == 0:
        return np.zeros(0, np.int64)
    if grouped:
        return np.unique(np.stack([file, group], 1), axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    begins = np.flatnonzero(np.r_[True, np.diff(run) != 0])
    within = np.arange(len(run)) - np.repeat(begins, np.diff(np.r_[begins, len(run)]))
    return np.cumsum(within % size == 0) - 1


def split(labels: np.ndarray, block: np.ndarray, shares: tuple[float, ...], seed: int) -> np.ndarray:
    """The part (0, 1, ...) of each row: whole blocks, each part with its share of each class as nearly as blocks allow.

    Blocks with most of the rare classes are dealt first, each to the part where it takes most off the squared distance
    to the wanted counts, classes weighing alike. Dealing by the rarest class alone (Sechidis, Tsoumakas, Vlahavas 2011,
    "On the stratification of multi-label data") leaves the frequent ones to chance: shares miss by ten times as much.

    Args:
        labels: (n,) classes, 0 upwards; all 0 stratifies by number alone.
        block: (n,) integers.
        shares: of each part, summing to 1.

    Raises:
        BadInput: there are too few blocks to give each part with a share above 0 one.
    """
    names, inverse = np.unique(block, return_inverse=True)
    parts = np.flatnonzero(np.asarray(shares) > 0)
    if len(names) < len(parts):
        raise BadInput(f"{len(names)} blocks of shots cannot be split into {len(parts)} parts; make block smaller")
    counts = np.zeros((len(names), int(labels.max(initial=0)) + 1))
    np.add.at(counts, (inverse, labels), 1)
    totals = counts.sum(0)
    weights = 1 / np.maximum(totals, 1)
    share = np.asarray(shares)[parts]
    lacking = share[:, None] * totals
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-(counts[order] @ weights), kind="stable")]
    given = np.zeros(len(names), np.int64)
    for b in order:
        gain = (counts[b] * (2 * lacking - counts[b])) @ weights / share
        best = int(gain.argmax())
        lacking[best] -= counts[b]
        given[b] = parts[best]
    _fill_empty(given, counts, parts.tolist())
    return given[inverse]


def _fill_empty(given: np.ndarray, counts: np.ndarray, parts: list[int]) -> None:
    """Give a part without any block the smallest one of the part with most blocks."""
    for part in parts:
        if not (given == part).any():
            largest = max(parts, key=lambda p: int((given == p).sum()))
            held = np.flatnonzero(given == largest)
            given[held[np.argmin(counts[held].sum(1))]] = part


def cap(counts: np.ndarray, ratio: float) -> int:
    """Rows a class may keep: the rarest class's count x ratio, halves rounded up.

    Raises:
        BadInput: ratio is not above 0, or a class has no rows.
    """
    if not ratio > 0:
        raise BadInput(f"ratio is {ratio}; it must be above 0")
    if len(counts) == 0 or counts.min() == 0:
        empty = int(np.argmin(counts)) if len(counts) else 0
        raise BadInput(f"class {empty} has no rows, so nothing can be balanced")
    ratio = 1 / ratio if ratio < 1 else ratio  # as H5MiniBatchReader does
    return math.floor(int(counts.min()) * ratio + 0.5)


def balance(labels: np.ndarray, classes: int, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Rows (ascending) that stay when no class may have more than `cap` of them; drawn at random."""
    most = cap(np.bincount(labels, minlength=classes), ratio)
    kept = []
    for c in range(classes):
        rows = np.flatnonzero(labels == c)
        kept.append(rows if len(rows) <= most else rng.choice(rows, most, replace=False))
    return np.sort(np.concatenate(kept))


def class_weights(counts: np.ndarray) -> np.ndarray:
    """(classes,) float32, n / (classes x count): inverse to the counts; 0 for an empty class, mean 1 over rows."""
    present = counts > 0
    weights = np.zeros(len(counts))
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights.astype(np.float32)


def weighted(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many draws as rows, with replacement, each class that is present equally likely."""
    counts = np.bincount(labels[labels >= 0])
    chance = np.where(labels >= 0, 1.0 / np.maximum(counts, 1)[np.maximum(labels, 0)], 0.0)
    return rng.choice(len(labels), len(labels), p=chance / chance.sum())
