"""Energy left in liquid argon, step by step, and the electrons that it sets free."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

MEV_PER_ELECTRON = 23.6e-6
STEEPEST = 100.0  # MeV/cm above which a dE/dx is an artefact of a short step


@dataclass(frozen=True)
class Deposits:
    """Energy left in short steps.

    Attributes:
        position: (N, 3) mm: in a TPC's coordinates, or in those of the box where they were made.
        energy: (N,) MeV.
        steepness: (N,) dE/dx, MeV/cm.
        track, pdg: (N,) int64, of which particle.
    """

    position: np.ndarray
    energy: np.ndarray
    steepness: np.ndarray
    track: np.ndarray
    pdg: np.ndarray

    def __len__(self) -> int:
        return len(self.energy)

    def take(self, rows: np.ndarray) -> Deposits:
        """Some of the steps."""
        return Deposits(*(column[rows] for column in self.columns()))

    def moved(self, position: np.ndarray) -> Deposits:
        """The same energy at other places."""
        return replace(self, position=position)

    def columns(self) -> tuple[np.ndarray, ...]:
        return self.position, self.energy, self.steepness, self.track, self.pdg

    @staticmethod
    def together(parts: list[Deposits]) -> Deposits:
        """All steps; tracks are numbered through, so that no two parts share one."""
        last, tracks = 0, []
        for part in parts:
            tracks.append(part.track + last)
            last += int(part.track.max(initial=0))
        position, energy, steepness, _, pdg = (
            np.concatenate(column) for column in zip(*(part.columns() for part in parts), strict=True)
        )
        return Deposits(position, energy, steepness, np.concatenate(tracks), pdg)


def electrons(energy: np.ndarray, steepness: np.ndarray) -> np.ndarray:
    """(N,) electrons that escape recombination: Birks' law, A = .8, k = .0486 (kV/cm)(g/cm²)/MeV, 1.396 g/cm³."""
    birks = 0.8 / (1 + 0.0486 * np.minimum(steepness, STEEPEST) / (1.396 * 0.5))
    return energy * birks / MEV_PER_ELECTRON
