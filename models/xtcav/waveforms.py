"""Digitizer waveforms drawn from peaks, and the labeller that finds the peaks in them again (xtcav.md's peaksLabel).

Amplitudes are in units of the median of |waveform|, positions in samples.
"""

from __future__ import annotations

import numpy as np

CHANNELS, WIDTH, WITHIN = 16, 2.5, 12
RAMPED, RAMP = (8, 11), 0.002  # channels whose voltage rises along the samples, and by how much of it a sample
_MEDIAN = 0.6744897501960817  # median of |x| of a standard normal x
_RAISED = 1.14  # peaks raise the median that they are measured in
PRESENT = 3.0  # below this amplitude there is no peak whose position means anything


def centres(energy: np.ndarray) -> np.ndarray:
    """(n, 3) samples about which t0, t1 and t2 are looked for; they move with the beam energy."""
    return np.array([60.0, 120.0, 180.0]) + 0.5 * (energy[:, None] - 3500)


def waveforms(rng: np.random.Generator, peaks: np.ndarray, energy: np.ndarray, samples: int) -> np.ndarray:
    """(n, 16, samples) float32 of the peaks (n, 3) at these energies (n,)."""
    x = np.arange(samples, dtype=np.float32)
    at = (centres(energy) + rng.normal(0, 3, peaks.shape)).astype(np.float32)
    shape = np.exp(-0.5 * ((x - at[..., None]) / WIDTH) ** 2) * (_RAISED * peaks[..., None]).astype(np.float32)
    wave = rng.standard_normal((len(peaks), CHANNELS, samples), dtype=np.float32) / np.float32(_MEDIAN)
    wave += shape.sum(1, dtype=np.float32)[:, None]
    wave *= rng.uniform(0.7, 1.3, (len(peaks), CHANNELS, 1)).astype(np.float32)
    wave[:, RAMPED] *= 1 + np.float32(RAMP) * x
    return wave


def find_peaks(wave: np.ndarray, energy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Amplitude and position of t0, t1, t2 in waveforms (n, 16, samples).

    The ramp is undone, each channel scaled to a median of |w| of 1, the channels averaged, the maximum taken within 12
    samples of where the energy says.

    Returns:
        (n, 3) float32 amplitudes; (n, 3) float32 positions, NaN where the amplitude is below `PRESENT`.
    """
    x = np.arange(wave.shape[2], dtype=np.float32)
    flat = wave.copy()
    flat[:, RAMPED] /= 1 + np.float32(RAMP) * x
    mean = (flat / np.median(np.abs(flat), 2, keepdims=True)).mean(1)
    window = np.rint(centres(energy)).astype(int)[..., None] + np.arange(-WITHIN, WITHIN + 1)
    window = window.clip(0, wave.shape[2] - 1)
    values = np.take_along_axis(mean[:, None], window, 2)
    best = values.argmax(2)[..., None]
    ampl = np.take_along_axis(values, best, 2)[..., 0].astype(np.float32)
    pos = np.take_along_axis(window, best, 2)[..., 0].astype(np.float32)
    return ampl, np.where(ampl < PRESENT, np.float32(np.nan), pos)


def label_of(ampl: np.ndarray) -> np.ndarray:
    """The label of amplitudes (n, 3): 0 no peak, 1 t0, 2 t0 and t1, 3 all three; -1 where none of these holds.

    A t0 counts above 5, t1 and t2 above 7; t1 and t2 count together only where they differ by at most
    40 % of the larger.
    """
    t0, t1, t2 = ampl.T
    one, two = t1 > 7, t2 > 7
    alike = np.abs(t1 - t2) <= 0.4 * np.maximum(t1, t2)
    cases = [
        (t0 <= 5) & ~one & ~two,
        (t0 > 5) & ~one & ~two,
        (t0 > 5) & one & ~two,
        (t0 > 5) & one & two & alike,
    ]
    return np.select(cases, [0, 1, 2, 3], -1)
