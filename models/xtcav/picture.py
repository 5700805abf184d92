"""The image of a shot: two streaked lobes, the fingers of their energy loss, a halo, and the camera's noise.

Energy runs along the rows, time along the columns; full size is 726 x 568 pixels of about -20..2000 counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

SHAPE = (726, 568)
_REACH = 4.5  # standard deviations beyond which a lobe is below the noise by far
_STRIP = 32  # columns drawn at once: a lobe is tall only about its core
_LEVELS = 1 << 16
# quantiles of a standard normal: looking 16 random bits up is several times as fast as drawing noise
_NORMAL = ndtri((np.arange(_LEVELS) + 0.5) / _LEVELS).astype(np.float32)
_BACKGROUND = np.rint(6 * _NORMAL - 3).clip(-20).astype(np.int16)


@dataclass(frozen=True)
class Lobe:
    """Something Gaussian along the rows whose place, width and height change from column to column (pixels, counts)."""

    height: np.ndarray
    ridge: np.ndarray
    sigma: np.ndarray
    finger: np.ndarray
    length: float = 0.0
    """Rows that the finger reaches below the ridge; 0: there is none."""


def render(
    rng: np.random.Generator, peaks: np.ndarray, energy: np.ndarray, scale: int, dark: bool = False
) -> np.ndarray:
    """(n, 726 // scale, 568 // scale) int16 images of shots with these peaks (n, 3) and beam energies (n,).

    Args:
        dark: no beam at all.
    """
    height, width = SHAPE[0] // scale, SHAPE[1] // scale
    rows = scale * (np.arange(height, dtype=np.float32) + 0.5) - 0.5
    columns = scale * (np.arange(width, dtype=np.float32) + 0.5) - 0.5
    out = np.empty((len(peaks), height, width), np.int16)
    for image, peak, l3 in zip(out, peaks, energy, strict=True):
        bits = rng.integers(0, _LEVELS, image.size, np.uint16).reshape(image.shape)
        np.take(_BACKGROUND, bits, mode="wrap", out=image)
        if not dark:
            found = lobes(rng, peak, float(l3) - 3500, columns)
            for left in range(0, width, _STRIP):
                _light(image, bits, found, rows, slice(left, min(left + _STRIP, width)), scale)
    return out


def lobes(rng: np.random.Generator, peak: np.ndarray, off: float, x: np.ndarray) -> list[Lobe]:
    """What is seen of a shot at the columns `x`: lobes whose energy loss g follows t1 and t2, and the halo of t0."""
    found = []
    none = np.zeros_like(x)
    shift = 8 * rng.standard_normal()
    for first, t in ((205 + shift, peak[1]), (355 + shift + 5 * rng.standard_normal(), peak[2])):
        n = rng.standard_normal(5)
        g = float(np.clip(0.33 * np.sqrt(max(0.0, t - 3)) + 0.25 * n[0], 0, 1.6))
        core = _bell(x, first + 6 * n[2], 14)
        ridge = 363 + 3 * off + 0.22 * (x - 280) + 0.0006 * (x - 280) ** 2 + 26 * g * core
        sigma = 8 * max(1 + 0.12 * n[3], 0.3) + 22 * g * core
        bright = 1500 * (1 + 0.15 * n[4]) * _bell(x, first, max(34 + 3 * n[1], 10)) * (8 / sigma)
        seen = g > 0.15
        finger = 200 * min(g, 1.0) * _bell(x, first, 7) if seen else none
        found.append(Lobe(bright, ridge, sigma, finger, 60 + 70 * g if seen else 0.0))
    halo = max(0.0, 0.25 * np.sqrt(max(0.0, peak[0] - 3)) + 0.25 * rng.standard_normal())
    if halo > 0:
        level = np.full_like(x, 330 + 3 * off)
        found.append(Lobe(220 * halo * _bell(x, 110 + shift, 18), level, np.full_like(x, 22), none))
    return found


def _bell(x: np.ndarray, centre: float, sigma: float) -> np.ndarray:
    return np.exp(-0.5 * ((x - np.float32(centre)) / np.float32(sigma)) ** 2)


def _light(image: np.ndarray, bits: np.ndarray, found: list[Lobe], rows: np.ndarray, strip: slice, scale: int) -> None:
    """Replace the noise of an unlit strip of columns by the lobes with theirs, on the rows that they reach."""
    drawn = []
    for lobe in found:
        if lobe.height[strip].max() < 0.1 and lobe.finger[strip].max() < 0.1:
            continue
        ridge, reach = lobe.ridge[strip], _REACH * lobe.sigma[strip]
        top, bottom = (ridge - reach).min(), (ridge + np.maximum(reach, lobe.length)).max()
        first, last = (int(np.clip(y / scale, 0, len(rows))) for y in (top, bottom + 2 * scale))
        if last > first:
            drawn.append((lobe, first, last))
    if not drawn:
        return
    top, bottom = min(first for _, first, _ in drawn), max(last for _, _, last in drawn)
    signal = np.zeros((bottom - top, strip.stop - strip.start), np.float32)
    for lobe, first, last in drawn:
        down = rows[first:last, None] - lobe.ridge[strip]
        part = signal[first - top : last - top]
        if lobe.length and lobe.finger[strip].max() >= 0.1:
            part += lobe.finger[strip] * ((down >= 0) & (down <= lobe.length))
        down /= lobe.sigma[strip]
        np.square(down, out=down)
        down *= -0.5
        np.exp(down, out=down)
        down *= lobe.height[strip]
        part += down
    noise = np.take(_NORMAL, bits[top:bottom, strip], mode="wrap")
    noise *= np.sqrt(36 + 1.5 * signal)
    noise += signal
    noise -= 3
    image[top:bottom, strip] = np.rint(noise, out=noise).clip(-20, 32767)
