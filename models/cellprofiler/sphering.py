"""Profiles as differences from the control wells: standardised plate by plate, then sphered, then of unit length.

Sphering, on control profiles X (n, d) standardised so: C = XᵀX/n = V S Vᵀ, W = V (S + λ)^(-½) Vᵀ,
x → x W: along directions in which controls differ from each other by chance and by batch, differences count little.
λ is relative here: what is added to S is λ times the mean of S, so that it means the same for every network and layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

FEWEST = 4
"""Control wells that are needed; with fewer, all wells are what profiles are measured against."""
_OWN_MEAN = 2  # controls of a plate that has a centre of its own
_PRIOR = 4.0  # a plate's variances count as if so many control wells of the average plate were among its own
_LEAST = 1e-3  # smallest variance of a feature, of the mean variance of all


@dataclass(frozen=True)
class Sphering:
    """A fitted transformation of profiles.

    Attributes:
        lam: λ, relative to the mean of S; None: profiles are standardised only.
        plates: names of the plates that have statistics of their own.
        mean, scale: (plates + 1, d) float64; the last row is of all plates together, for plates that have none.
        vectors: (d, r) float64, the eigenvectors of C whose eigenvalue is not 0.
        values: (r,) float64, those eigenvalues.
        on: "controls", or "all" where there were too few of them.
    """

    lam: float | None
    plates: tuple[str, ...]
    mean: np.ndarray
    scale: np.ndarray
    vectors: np.ndarray
    values: np.ndarray
    on: str = "controls"

    @classmethod
    def fit(cls, profiles: np.ndarray, plates: np.ndarray, control: np.ndarray, lam: float | None = 1e-2) -> Sphering:
        """Fit on the control wells.

        Args:
            profiles: (n, d) of all wells.
            plates: (n,) the plate of each.
            control: (n,) whether it is a control.
            lam: above 0, or None.

        Raises:
            ValueError: a λ that is not above 0, or no well at all.
        """
        _check(lam)
        if not len(profiles):
            raise ValueError("no well to fit a sphering on")
        chosen = np.asarray(control, bool)
        on = "controls"
        if chosen.sum() < FEWEST:
            chosen, on = np.ones(len(profiles), bool), "all"
        x, of = np.asarray(profiles, np.float64)[chosen], np.asarray(plates).astype(str)[chosen]
        names, mean, scale = _standards(x, of)
        row = _rows(of, names)
        standard = (x - mean[row]) / scale[row]
        _, s, vt = np.linalg.svd(standard, full_matrices=False)
        kept = s > s[:1] * 1e-7 if len(s) and s[0] > 0 else np.zeros(len(s), bool)
        return cls(lam, names, mean, scale, vt[kept].T.copy(), s[kept] ** 2 / len(x), on)

    def at(self, lam: float | None) -> Sphering:
        """The same fit with another λ; costs nothing."""
        _check(lam)
        return replace(self, lam=lam)

    def transform(self, profiles: np.ndarray, plates: np.ndarray) -> np.ndarray:
        """(n, d) profiles of wells on `plates` (n,), sphered: float32 rows of unit length (or 0)."""
        row = _rows(np.asarray(plates).astype(str), self.plates)
        x = (np.asarray(profiles, np.float64) - self.mean[row]) / self.scale[row]
        if self.lam is not None and len(self.values):
            added = self.lam * self.values.sum() / len(self.mean[0])
            # W in two parts: outside the span of the controls every direction is stretched alike
            outside = added**-0.5
            x = outside * x + ((x @ self.vectors) * ((self.values + added) ** -0.5 - outside)) @ self.vectors.T
        length = np.sqrt((x**2).sum(1, keepdims=True))
        return np.divide(x, length, out=np.zeros_like(x), where=~(length <= 0)).astype(np.float32)

    def for_wells(self, profiles: np.ndarray, plates: np.ndarray, control: np.ndarray) -> Sphering:
        """What serves for other wells: a fit on their own controls where they have enough, else this one."""
        if np.asarray(control, bool).sum() < FEWEST:
            return self
        return Sphering.fit(profiles, plates, control, self.lam)

    def state(self) -> dict[str, Any]:
        """For a snapshot: tensors and JSON values."""
        arrays = {name: torch.from_numpy(getattr(self, name)) for name in ("mean", "scale", "vectors", "values")}
        return {**arrays, "lam": self.lam, "plates": list(self.plates), "on": self.on}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Sphering:
        """What `state` gave."""
        arrays = {name: state[name].cpu().numpy() for name in ("mean", "scale", "vectors", "values")}
        lam = None if state["lam"] is None else float(state["lam"])
        return cls(lam=lam, plates=tuple(state["plates"]), on=str(state["on"]), **arrays)


def _check(lam: float | None) -> None:
    if lam is not None and not lam > 0:
        raise ValueError(f"sphering with λ {lam}: it is above 0, or none")


def _standards(x: np.ndarray, plates: np.ndarray) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Names of plates, and mean and scale of each (P, d) with those of all plates as last row.

    Variances are within plates, and a plate's own is drawn towards that of all: a few control wells tell little.
    """
    names, code, count = np.unique(plates, return_inverse=True, return_counts=True)
    sums = np.zeros((len(names), x.shape[1]))
    np.add.at(sums, code, x)
    means = sums / count[:, None]
    squares = np.zeros_like(sums)
    np.add.at(squares, code, (x - means[code]) ** 2)
    together = squares.sum(0) / max(1, len(x) - len(names))
    own = (squares + _PRIOR * together) / (count[:, None] - 1 + _PRIOR)
    enough = count >= _OWN_MEAN
    mean = np.vstack([means[enough], x.mean(0)])
    variance = np.vstack([own[enough], together])
    least = _LEAST * together.mean()
    # features that never vary are left as they are
    scale = np.sqrt(np.maximum(variance, least if least > 0 else 1.0))
    return tuple(str(name) for name in names[enough]), mean, scale


def _rows(plates: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """The row of statistics of each well's plate; the last where the plate has none."""
    place = {name: row for row, name in enumerate(names)}
    return np.array([place.get(str(plate), len(names)) for plate in plates], dtype=int)
