"""Scores of ghost removal and of charges, from tables that files are added to one after another.

Efficiency is the share of an event's active true voxels that are kept, purity the share of what is kept that is true,
at probabilities above 0, .02, ..., .98. Each is averaged over events at each threshold, and then the area under one
against the other is taken: the published figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from models.base import Metric

AREA = Metric("area", "max", "efficiency-purity area of real voxels, events averaged")
RMSE = Metric("charge_rmse", "min", "root mean square error of the charge of real voxels, in the truth's units")
STEPS = 50
THRESHOLDS = np.arange(STEPS) / STEPS
_FINE, _REACH = 4096, 16.0  # bins of the logit, and the logit where they end
_CELLS = 15


def is_real(y: np.ndarray, threshold: float) -> np.ndarray:
    """(N,) bool: which voxels are true for scores; one without any truth never is."""
    return (y >= threshold) & (y > 0)


def passed(probability: np.ndarray) -> np.ndarray:
    """(N,) int32: above how many of the thresholds each probability is."""
    above = np.asarray(probability, np.float32) * np.float32(STEPS)
    np.ceil(above, out=above)
    np.clip(above, 0, STEPS, out=above)
    return above.astype(np.int32)


def tables(probability: np.ndarray, real: np.ndarray, event: np.ndarray, events: int) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and real voxels of each event by the thresholds they pass: two (events, 51) int64."""
    place = event * (STEPS + 1) + passed(probability)
    size = events * (STEPS + 1)
    kept = np.bincount(place, minlength=size), np.bincount(place[real], minlength=size)
    return kept[0].reshape(events, STEPS + 1), kept[1].reshape(events, STEPS + 1)


def curve(every: np.ndarray, real: np.ndarray, true: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Efficiency and purity (50,) at each threshold, means over events.

    An event without real voxels has efficiency 1, one of which nothing is kept purity 1.

    Args:
        every, real: as `tables` gives them.
        true: (events,) real voxels of each event that efficiency refers to; None: the active ones.
    """
    above_all = every[:, ::-1].cumsum(1)[:, ::-1][:, 1:].astype(np.float64)
    above_real = real[:, ::-1].cumsum(1)[:, ::-1][:, 1:].astype(np.float64)
    wanted = (real.sum(1) if true is None else true)[:, None]
    return shares(above_real, wanted).mean(0), shares(above_real, above_all).mean(0)


def shares(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, 1 where there is nothing to have a share of."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.ones(np.broadcast_shapes(part.shape, whole.shape)), where=whole > 0)


def area(efficiency: np.ndarray, purity: np.ndarray) -> float:
    """Σ (eff_i − eff_{i+1}) · pur_i, the efficiency after the last threshold being 0."""
    return float((-np.diff(efficiency, append=0.0) * purity).sum())


def tuned(efficiency: np.ndarray, purity: np.ndarray) -> int:
    """The number of the threshold where efficiency times purity is largest."""
    return int(np.argmax(efficiency * purity))


class GhostTally:
    """What scores of probabilities need of the events seen so far.

    Args:
        truth: voxels with at least this truth are real.
    """

    def __init__(self, truth: float) -> None:
        self.truth = truth
        self.every, self.real = np.zeros((0, STEPS + 1), np.int64), np.zeros((0, STEPS + 1), np.int64)
        self.types: list[str] = []
        self.true = np.zeros(0)
        self.decided = np.zeros((0, 2))
        self.fine = np.zeros((2, _FINE), np.int64)
        self.cells = np.zeros((3, _CELLS))

    def add(
        self,
        probability: np.ndarray,
        y: np.ndarray,
        event: np.ndarray,
        types: Sequence[str],
        true: np.ndarray | None = None,
        decision: np.ndarray | None = None,
    ) -> None:
        """Some events.

        Args:
            probability, y, event: (N,); events are counted from 0.
            types: of each event.
            true: real voxels of each event, inactive ones too; None where that is not known.
            decision: (N,) whether each voxel is kept, by a threshold that was tuned elsewhere.
        """
        real = is_real(y, self.truth)
        every, kept = tables(probability, real, event, len(types))
        self.every, self.real = np.concatenate([self.every, every]), np.concatenate([self.real, kept])
        self.types += types
        self.true = np.concatenate([self.true, np.full(len(types), np.nan) if true is None else true])
        if decision is not None:
            kept_by = [np.bincount(event[mask], minlength=len(types)) for mask in (decision > 0, (decision > 0) & real)]
            self.decided = np.concatenate([self.decided, np.stack(kept_by, 1)])
        p = probability.astype(np.float64).clip(1e-12, 1 - 1e-12)
        place = ((np.log(p / (1 - p)) / _REACH + 1) * _FINE / 2).astype(np.int64).clip(0, _FINE - 1)
        self.fine += np.stack([np.bincount(place[real == kind], minlength=_FINE) for kind in (False, True)])
        cell = (p * _CELLS).astype(np.int64).clip(0, _CELLS - 1)
        self.cells += np.stack([np.bincount(cell, weights=w, minlength=_CELLS) for w in (p, real, np.ones_like(p))])

    def merge(self, others: Iterable[Any]) -> GhostTally:
        """This one with what others have seen, in order."""
        whole = GhostTally(self.truth)
        for one in (self, *others):
            whole.every, whole.real = np.concatenate([whole.every, one.every]), np.concatenate([whole.real, one.real])
            whole.types += one.types
            whole.true = np.concatenate([whole.true, one.true])
            whole.decided = np.concatenate([whole.decided, one.decided])
            whole.fine += one.fine
            whole.cells += one.cells
        return whole

    def reliability(self) -> np.ndarray:
        """(filled bins, 3): mean probability, share real, voxels, in bins of equal width."""
        told, real, count = self.cells[:, self.cells[2] > 0]
        return np.stack([told / count, real / count, count], 1)

    def scores(self) -> dict[str, float]:
        """Every score; where several event types were seen, the area of each."""
        efficiency, purity = curve(self.every, self.real) if len(self.types) else (np.full(STEPS, math.nan),) * 2
        best = tuned(efficiency, purity)
        found, real = int(self.every.sum()), int(self.real.sum())
        out = {
            AREA.name: area(efficiency, purity),
            "average_precision": average_precision(self.fine),
            "roc_auc": roc_auc(self.fine),
            "threshold": float(THRESHOLDS[best]),
            "efficiency": float(efficiency[best]),
            "purity": float(purity[best]),
            "calibration_error": calibration_error(self.cells),
            "ghost_ratio": (found - real) / real if real else math.nan,
        }
        known = self.true if np.isfinite(self.true).all() else None
        if len(self.types) and len(self.decided) == len(self.types):
            # nothing of these events has had a say in the threshold
            del out["threshold"]
            kept, right = self.decided.T
            out["efficiency"], out["purity"] = shares(right, self.real.sum(1)).mean(), shares(right, kept).mean()
            if known is not None:
                out["efficiency_of_all_true"] = shares(right, known).mean()
        elif len(self.types) and known is not None:
            out["efficiency_of_all_true"] = float(curve(self.every, self.real, known)[0][best])
        out = {name: float(value) for name, value in out.items()}
        kinds = sorted(set(self.types))
        for kind in kinds if len(kinds) > 1 else ():
            mine = np.array([one == kind for one in self.types])
            out[f"area_{kind}"] = area(*curve(self.every[mine], self.real[mine]))
        return out


class ChargeTally:
    """What scores of charges need of the events seen so far.

    Args:
        truth: voxels with at least this truth are real.
    """

    def __init__(self, truth: float) -> None:
        self.truth = truth
        # of real voxels: count, sum of errors and of squares; of all voxels: count, squares; totals: true, predicted
        self.sums = np.zeros(7)
        self.totals: list[float] = []
        self.types: list[str] = []

    def add(
        self,
        charge: np.ndarray,
        y: np.ndarray,
        event: np.ndarray,
        types: Sequence[str],
        true: np.ndarray | None = None,
        decision: np.ndarray | None = None,
    ) -> None:
        """Some events; as `GhostTally.add`, but for what only ghosts have."""
        real = is_real(y, self.truth)
        error = charge.astype(np.float64) - y
        mine = error[real]
        told, known = charge[real].astype(np.float64), y[real].astype(np.float64)
        squares = (mine @ mine, error @ error)
        self.sums += (len(mine), mine.sum(), squares[0], len(error), squares[1], known.sum(), told.sum())
        per_event = [np.bincount(event[real], weights=w, minlength=len(types)) for w in (told, known)]
        self.totals += [float(a / b - 1) for a, b in zip(*per_event, strict=True) if b > 0]
        self.types += types

    def merge(self, others: Iterable[Any]) -> ChargeTally:
        """This one with what others have seen, in order."""
        whole = ChargeTally(self.truth)
        for one in (self, *others):
            whole.sums += one.sums
            whole.totals += one.totals
            whole.types += one.types
        return whole

    def scores(self) -> dict[str, float]:
        """Errors of real voxels in the truth's units, of all voxels (ghosts have none), and of events' totals."""
        count, errors, squares, rows, every, known, told = self.sums.tolist()
        return {
            RMSE.name: math.sqrt(squares / count) if count else math.nan,
            "charge_bias": errors / count if count else math.nan,
            "charge_rmse_all": math.sqrt(every / rows) if rows else math.nan,
            "charge_total": told / known if known else math.nan,
            "charge_total_spread": float(np.std(self.totals)) if self.totals else math.nan,
        }


def tally(task: str, truth: float) -> GhostTally | ChargeTally:
    """An empty table of the scores of a task."""
    return GhostTally(truth) if task == "ghost" else ChargeTally(truth)


def average_precision(fine: np.ndarray) -> float:
    """Area under precision against recall of all voxels together, from (2, bins) counts of ghosts and real ones."""
    ghosts, real = fine[:, ::-1].cumsum(1).astype(np.float64)
    if not real[-1]:
        return math.nan
    precision = np.divide(real, real + ghosts, out=np.ones_like(real), where=real + ghosts > 0)
    return float((np.diff(real, prepend=0.0) / real[-1] * precision).sum())


def roc_auc(fine: np.ndarray) -> float:
    """The chance that a real voxel is told more probable than a ghost; of one bin they count half."""
    ghosts, real = fine.astype(np.float64)
    if not ghosts.sum() or not real.sum():
        return math.nan
    below = np.cumsum(ghosts) - ghosts
    return float((real * (below + ghosts / 2)).sum() / (real.sum() * ghosts.sum()))


def calibration_error(cells: np.ndarray) -> float:
    """Expected calibration error: |probability − share real|, averaged over voxels."""
    told, real, count = cells
    return float(np.abs(told - real).sum() / count.sum()) if count.sum() else math.nan
