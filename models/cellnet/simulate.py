"""From energy deposits in liquid argon to what the wires of one TPC read.

Electron lifetime and diffusion (ProtoDUNE's values), drift, projection onto the three planes, the deconvolution's
smearing in time, noise, dead channels and a threshold below which nothing is kept.
"""

from __future__ import annotations

import math

import numpy as np

from models.cellnet.deposits import Deposits, electrons
from models.cellnet.geometry import Detector
from models.cellnet.tile import compiled

LIFETIME = 10_400.0  # µs
LONGITUDINAL, TRANSVERSE = 4.0e-4, 8.8e-4  # diffusion, mm²/µs
SHAPING = 2.65  # ticks: the width of the deconvolution's filter, a Gaussian of .12 MHz


def readout(
    deposits: Deposits,
    detector: Detector,
    tpc: int,
    rng: np.random.Generator,
    roi: float = 500.0,
    noise: float = 0.0,
    dead: float = 0.0,
) -> np.ndarray:
    """What the wires of a TPC's face read.

    Args:
        deposits: positions local to the TPC, with the drift in `t0`.
        detector, tpc: who reads.
        rng: of noise and dead channels.
        roi: electrons a tick; what is below is set to 0.
        noise: standard deviation, electrons a tick.
        dead: share of channels that read nothing.

    Returns:
        (ticks, channels) float32 electrons; channels of the other face read 0.
    """
    drift = (deposits.position[:, 0] - detector.drift * detector.t0) / detector.drift
    charge = electrons(deposits.energy, deposits.steepness) * np.exp(-drift / LIFETIME)
    tick = deposits.position[:, 0] / detector.voxel[0]
    along = np.sqrt(SHAPING**2 + 2 * LONGITUDINAL * drift / detector.voxel[0] ** 2)
    across = np.sqrt(2 * TRANSVERSE * np.maximum(drift, 1e-3))
    face = detector.face(tpc)
    values = np.zeros((detector.ticks, detector.channels), np.float32)
    # a TPC's coordinates begin at its corner, every APA's wires are placed as those of the first
    y, z = (deposits.position[:, 1 + k] + detector.origin[k] for k in range(2))
    for plane in face.planes:
        cos, sin = plane.normal
        wire = (z * cos + y * sin - plane.offset) / plane.pitch
        _collect(values, wire, across / plane.pitch, tick, along, charge, np.array(plane.channels))
    channels = np.array(sorted({channel for plane in face.planes for channel in plane.channels}))
    if noise:
        values[:, channels] += rng.normal(0, noise, (detector.ticks, len(channels))).astype(np.float32)
    values[:, channels[rng.random(len(channels)) < dead]] = 0
    values[values < roi] = 0
    return values


@compiled
def _collect(
    values: np.ndarray,
    wire: np.ndarray,
    wide: np.ndarray,
    tick: np.ndarray,
    long: np.ndarray,
    charge: np.ndarray,
    channels: np.ndarray,
) -> None:
    """Spread each charge over wires and ticks: Gaussians integrated over each strip and tick, out to four widths."""
    half = math.sqrt(0.5)
    for i in range(len(charge)):
        first = math.floor(wire[i] - 4 * wide[i] + 0.5)
        last = math.floor(wire[i] + 4 * wide[i] + 0.5)
        begin = max(math.floor(tick[i] - 4 * long[i]), 0)
        end = min(math.floor(tick[i] + 4 * long[i]) + 1, values.shape[0])
        for k in range(max(first, 0), min(last + 1, len(channels))):
            here = math.erf((k + 0.5 - wire[i]) / wide[i] * half) - math.erf((k - 0.5 - wire[i]) / wide[i] * half)
            if here < 1e-4:
                continue
            below = math.erf((begin - tick[i]) / long[i] * half)
            for t in range(begin, end):
                above = math.erf((t + 1 - tick[i]) / long[i] * half)
                values[t, channels[k]] += 0.25 * charge[i] * here * (above - below)
                below = above
