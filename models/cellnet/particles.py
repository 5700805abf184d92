"""Particles in liquid argon, simple enough to run in milliseconds: tracks with delta rays, and showers.

Heavy particles lose energy by Bragg and Kleeman's range law, R = α Eᵖ (for protons α = .0213 mm/MeVᵖ, p = 1.77; other
masses scale energy and range alike), never less than a minimum-ionising one, with fluctuations of Moyal's form. Their
delta rays follow dN/dT ∝ 1/T². Electrons radiate photons of a 1/k spectrum and photons make pairs or Compton
electrons, over radiation lengths of 140 mm, until what is left is absorbed. Lengths in mm, energies in MeV.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from models.cellnet.deposits import Deposits

STEP = 1.0
MINIMUM = 0.21  # a minimum-ionising particle's loss, MeV/mm
RADIATION = 140.0
MASS = {2212: 938.27, 13: 105.66, 211: 139.57}
_ALPHA, _POWER = 0.0213, 1.77
_DELTA = 0.5  # MeV above which a delta ray is followed
_DELTAS = 0.00965  # delta rays a mm, times MeV
_HARD = 5.0  # MeV above which a radiated photon is followed
_CRITICAL = 1.0  # MeV below which a photon is absorbed where it is


class Event:
    """The particles of one event, in a box from (0, 0, 0) to `box`; beyond a margin of it nothing is followed."""

    def __init__(self, rng: np.random.Generator, box: Sequence[float] | np.ndarray) -> None:
        self.rng, self.box = rng, np.asarray(box, float)
        self._parts: list[Deposits] = []
        self._tracks = 0

    def deposits(self) -> Deposits:
        """What lies in the box."""
        if not self._parts:
            none, no = np.zeros(0), np.zeros(0, np.int64)
            return Deposits(np.zeros((0, 3)), none, none, no, no)
        columns = (np.concatenate(column) for column in zip(*(part.columns() for part in self._parts), strict=True))
        everything = Deposits(*columns)
        within = np.all((everything.position >= 0) & (everything.position < self.box), axis=1)
        return everything.take(np.flatnonzero(within))

    def _add(self, path: np.ndarray, energy: np.ndarray, pdg: int, length: float = STEP) -> int:
        self._tracks += 1
        count = len(energy)
        track, code = np.full(count, self._tracks), np.full(count, pdg)
        self._parts.append(Deposits(path, energy, energy / (length / 10), track, code))
        return self._tracks

    def heavy(self, start: np.ndarray, direction: np.ndarray, pdg: int, energy: float) -> None:
        """A muon, pion or proton with its delta rays, until it stops or leaves the box."""
        scale = MASS[abs(pdg)] / MASS[2212]
        reach = _ALPHA * scale * (energy / scale) ** _POWER
        minimal = energy / MINIMUM  # a fast particle's range grows no faster than its energy
        count = max(int(min(reach, minimal, np.linalg.norm(self.box) * 1.5) / STEP), 1)
        left = min(reach, minimal) - STEP * (np.arange(count) + 0.5)
        equivalent = np.maximum(left, 0.1) / scale
        loss = np.maximum((equivalent / _ALPHA) ** (1 / _POWER) / (_POWER * equivalent), MINIMUM)
        kinetic = np.maximum(scale * (equivalent / _ALPHA) ** (1 / _POWER), 1.0)
        path, turned = self._walk(start, direction, 13.6 / (2 * kinetic) * math.sqrt(STEP / RADIATION))
        inside = np.all((path >= 0) & (path < self.box), axis=1)
        # a straight track does not come back
        count = int(np.flatnonzero(inside)[-1]) + 1 if inside.any() else 0
        if not count:
            return
        gauss = self.rng.normal(size=count)
        moyal = -np.log(np.maximum(gauss**2, 1e-9))
        loss = loss[:count] * STEP * np.maximum(1 + 0.085 * (moyal - 1.27), 0.3)
        self._add(path[:count], loss, pdg)
        for at in np.flatnonzero(self.rng.random(count) < _DELTAS / _DELTA * STEP):
            self.electron(path[at], self._off(turned[at], 1.0), min(_DELTA / self.rng.random(), 30.0, kinetic[at] / 4))

    def electron(self, start: np.ndarray, direction: np.ndarray, energy: float, pdg: int = 11) -> None:
        """An electron or positron and all that comes of it."""
        waiting: list[tuple[int, float, np.ndarray, np.ndarray]] = [(pdg, energy, start, direction)]
        while waiting:
            kind, energy, at, towards = waiting.pop()
            if np.any(at < -300) or np.any(at > self.box + 300):
                continue
            if kind == 22:
                waiting += self._photon(energy, at, towards)
                continue
            free = math.inf
            if energy > 2 * _HARD:
                free = self.rng.exponential(RADIATION / (4 / 3 * math.log(energy / _HARD)))
            count = max(round(min(free, energy / MINIMUM) / STEP), 1)
            spent = np.full(count, min(MINIMUM * STEP, energy / count))
            left = np.maximum(energy - np.cumsum(spent), 0.3)
            path, turned = self._walk(at, towards, np.minimum(13.6 / left * math.sqrt(STEP / RADIATION), 1.0))
            self._add(path, spent, kind)
            energy -= float(spent.sum())
            if energy <= _HARD:
                if energy > 0.05:
                    self._add(path[-1:], np.array([energy]), kind, max(energy / MINIMUM, 0.1))
                continue
            photon = _HARD * (energy / _HARD) ** self.rng.random()
            waiting.append((22, photon, path[-1], self._off(turned[-1], 0.5 / energy)))
            if energy - photon > 0.05:
                waiting.append((kind, energy - photon, path[-1], turned[-1]))

    def photon(self, start: np.ndarray, direction: np.ndarray, energy: float) -> None:
        """A photon and all that comes of it."""
        for kind, part, at, towards in self._photon(energy, start, direction):
            self.electron(at, towards, part, kind) if kind != 22 else self.photon(at, towards, part)

    def _photon(
        self, energy: float, at: np.ndarray, towards: np.ndarray
    ) -> list[tuple[int, float, np.ndarray, np.ndarray]]:
        """What a photon becomes, where it interacts."""
        if energy < _CRITICAL:
            self._add(at[None], np.array([energy]), 11, max(energy / MINIMUM, 0.1))
            return []
        at = at + self.rng.exponential(9 / 7 * RADIATION) * towards
        if self.rng.random() < np.clip(math.log(energy / 2) / math.log(25), 0, 1):
            share, angle = self.rng.uniform(0.1, 0.9), 1 / energy
            parts = [(11, share * energy), (-11, (1 - share) * energy)]
            return [(kind, part, at, self._off(towards, angle)) for kind, part in parts]
        given = energy * self.rng.uniform(0.3, 0.95)
        return [
            (11, given, at, self._off(towards, min(2 / energy, 1.0))),
            (22, energy - given, at, self._off(towards, 1.0)),
        ]

    def _walk(self, start: np.ndarray, direction: np.ndarray, kicks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Steps (n, 3) whose direction is turned by a random angle of width `kicks` (n,) each, and their directions."""
        turned = np.cumsum(self.rng.normal(size=(len(kicks), 3)) * kicks[:, None], axis=0) + direction
        turned /= np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 1e-9)
        return start + STEP * (np.cumsum(turned, axis=0) - 0.5 * turned), turned

    def _off(self, direction: np.ndarray, angle: float) -> np.ndarray:
        turned = direction + angle * self.rng.normal(size=3)
        unit: np.ndarray = turned / max(float(np.linalg.norm(turned)), 1e-9)
        return unit


def _towards(rng: np.random.Generator, axis: Sequence[float], spread: float) -> np.ndarray:
    direction = np.asarray(axis, float) + spread * rng.normal(size=3)
    unit: np.ndarray = direction / np.linalg.norm(direction)
    return unit


def muons(event: Event) -> None:
    """Cosmic muons of one readout, three on average."""
    for _ in range(1 + event.rng.poisson(2.0)):
        muon(event)


def muon(event: Event) -> None:
    """A cosmic muon from above; every third one stops on its way."""
    rng, box = event.rng, event.box
    start = np.array([rng.uniform(0, box[0]), box[1] - 1, rng.uniform(0, box[2])])
    direction = _towards(rng, (0, -1, 0), 0.45)
    if direction[1] > -0.1:
        direction = np.array([0.0, -1.0, 0.0])
    length = rng.uniform(0.2, 0.8) * box[1] if rng.random() < 1 / 3 else 4 * box[1]
    event.heavy(start, direction, int(rng.choice([13, -13])), MINIMUM * length * 1.1)


def shower(event: Event) -> None:
    """An electron of the test beam, 0.3 to 1 GeV, into the box along z."""
    rng, box = event.rng, event.box
    start = box * [rng.uniform(0.2, 0.8), rng.uniform(0.3, 0.7), rng.uniform(0, 0.1)]
    event.electron(start, _towards(rng, (0, 0, 1), 0.15), rng.uniform(300, 1000))


def interaction(event: Event) -> None:
    """A beam particle's interaction (protons, pions, a photon or two) with cosmic muons across it."""
    rng, box = event.rng, event.box
    start = box * rng.uniform([0.2, 0.3, 0.1], [0.8, 0.7, 0.4])
    event.heavy(start, _towards(rng, (0, 0, -1), 0.1), 211, 900.0)
    for _ in range(1 + rng.poisson(1.0)):
        event.heavy(start, _towards(rng, (0, 0, 0.4), 1.0), 2212, rng.uniform(40, 350))
    for _ in range(rng.poisson(1.0)):
        event.heavy(start, _towards(rng, (0, 0, 1), 0.6), int(rng.choice([211, -211])), rng.uniform(60, 400))
    for _ in range(rng.integers(0, 3)):
        event.photon(start, _towards(rng, (0, 0, 1), 0.8), rng.uniform(50, 400))
    muons(event)
    muons(event)


RECIPES = {"Mu": muons, "Electron": shower, "BeamCosmic": interaction}
"""What makes an event of each type."""
