"""Drawing generated cells: five stains of cells whose shape and texture follow from a vector of traits.

Traits are in standard deviations of what cells of an untreated well differ by. None of them changes how bright a stain
is as a whole: that is left to the cell, the well and the plate, so that brightness tells little of a compound.
"""

from __future__ import annotations

import functools

import numpy as np
from scipy import fft, ndimage

CHANNELS = ("DNA", "RNA", "ER", "AGP", "Mito")
TRAITS = (
    "nucleus_size", "nucleus_length", "chromatin_grain", "nucleoli", "nucleolus_size", "cell_size", "roughness",
    "er_grain", "er_reach", "edge", "fibres", "golgi", "mito_grain", "mito_reach", "mito_gaps",
)  # fmt: skip
SIDE = 64
"""Pixels of the square that a cell is drawn in."""
_GRAINS = np.array([2.6, 3.6, 5.0, 7.0, 10.0, 14.0])  # pixels a wave
_BANK = 512


@functools.lru_cache(maxsize=1)
def _bank() -> np.ndarray:
    """(grains, 512, 512) noise of one wavelength each, unit variance, seamless at its borders."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(fft.fftfreq(_BANK)[:, None], fft.rfftfreq(_BANK)[None])
    white = fft.rfft2(rng.standard_normal((_BANK, _BANK)))
    fields = [fft.irfft2(white * np.exp(-0.5 * ((frequency * g - 1) / 0.25) ** 2), (_BANK, _BANK)) for g in _GRAINS]
    return np.stack([field / field.std() for field in fields]).astype(np.float32)


def _texture(rng: np.random.Generator, grain: np.ndarray) -> np.ndarray:
    """(n, SIDE, SIDE) noise of unit variance; grain: (n,) places among the wavelengths, 0 the finest."""
    place = np.clip(grain, 0, len(_GRAINS) - 1.001)
    below = place.astype(int)
    share = (place - below)[:, None, None]
    span = np.arange(SIDE)
    rows = (rng.integers(0, _BANK, len(grain))[:, None] + span) % _BANK
    columns = (rng.integers(0, _BANK, len(grain))[:, None] + span) % _BANK
    at = rows[:, :, None], columns[:, None, :]
    bank, index = _bank(), below[:, None, None]
    mixed = (1 - share) * bank[index, *at] + share * bank[index + 1, *at]
    return mixed / np.sqrt((1 - share) ** 2 + share**2)


def cells(rng: np.random.Generator, traits: np.ndarray) -> np.ndarray:
    """Draw cells.

    Args:
        traits: (n, len(TRAITS)).

    Returns:
        (n, 5, SIDE, SIDE) float32, stains about 1 where they are bright, 0 outside the cell.
    """
    n = len(traits)
    trait = dict(zip(TRAITS, traits.T[:, :, None, None], strict=True))
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    turn = rng.uniform(0, np.pi, (n, 1, 1))
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    r, angle = np.hypot(x, y)[None], np.arctan2(v, u)

    length = np.exp(0.12 + 0.09 * trait["nucleus_length"])
    size = 7.2 * np.exp(0.09 * trait["nucleus_size"])
    from_nucleus = np.hypot(u / (size * length), v * length / size)
    nucleus = _inside(from_nucleus, size)
    wave = sum(
        rng.normal(0, 1 / k, (n, 1, 1)) * np.cos(k * angle + rng.uniform(0, 2 * np.pi, (n, 1, 1))) for k in range(2, 8)
    )
    reach = 17.0 * np.exp(0.07 * trait["cell_size"])
    from_middle = r / (reach * (1 + np.clip(0.1 * np.exp(0.4 * trait["roughness"]) * wave, -0.4, 0.4)))
    cell = _inside(from_middle, reach)
    cytoplasm = cell * (1 - nucleus)
    outward = np.clip((from_nucleus - 1) * size / (reach - size), 0, 2)  # 0 at the nucleus, about 1 at the edge

    def grain(name: str, usual: float) -> np.ndarray:
        return _texture(rng, usual + 0.45 * trait[name][:, 0, 0])

    dna = nucleus * (1 + 0.28 * grain("chromatin_grain", 1.5))
    rna = 0.35 * cytoplasm + nucleus * (0.3 + _spots(rng, trait["nucleoli"], trait["nucleolus_size"], u, v, size))
    er = cytoplasm * np.exp(-1.6 * np.exp(-0.2 * trait["er_reach"]) * outward) * (1 + 0.3 * grain("er_grain", 2.0))
    rim = np.exp(-(((from_middle - 0.9) / 0.09) ** 2))
    stripes = 0.5 + 0.5 * np.cos(2 * np.pi * v / 4.5 + 0.8 * _texture(rng, np.full(n, 4.0)))
    away = 1.25 * size
    golgi = np.exp(-((u - away) ** 2 + v**2) / (2 * (3.2 * np.exp(0.16 * trait["golgi"])) ** 2))
    agp = cell * (0.25 + 0.35 * np.exp(0.2 * trait["edge"]) * rim + 0.25 * np.exp(0.25 * trait["fibres"]) * stripes)
    agp = agp + 0.6 * cytoplasm * golgi
    gaps = grain("mito_grain", 1.2) - 0.25 * trait["mito_gaps"]
    ring = np.exp(-(((outward - 0.35 - 0.07 * trait["mito_reach"]) / 0.35) ** 2))
    mito = cytoplasm * ring * np.clip(0.35 + gaps, 0.05, None)
    stains = np.stack([dna, rna, er, agp, mito], 1)
    # as bright as any other cell of this size, whatever the texture
    mean = (stains * cell[:, None]).sum((2, 3), keepdims=True) / cell.sum((1, 2))[:, None, None, None]
    return (0.4 * stains / mean * rng.lognormal(0, 0.25, (n, 5, 1, 1))).astype(np.float32)


def _inside(distance: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """1 inside distance 1, 0 outside, over two pixels."""
    return 1 / (1 + np.exp(np.clip((distance - 1) * radius * 2, -30, 30)))


def _spots(
    rng: np.random.Generator, count: np.ndarray, size: np.ndarray, u: np.ndarray, v: np.ndarray, radius: np.ndarray
) -> np.ndarray:
    """Nucleoli: up to seven round spots inside the nucleus, 3 in an untreated cell."""
    shape, most = (len(count), 1, 1), 7
    wanted = np.clip(3 + 0.9 * count, 0.5, most)
    width = 1.25 * np.exp(0.13 * size)
    total = np.zeros_like(u)
    for number in range(most):
        far, angle = radius * 0.7 * np.sqrt(rng.uniform(0, 1, shape)), rng.uniform(0, 2 * np.pi, shape)
        distance = (u - far * np.cos(angle)) ** 2 + (v - far * np.sin(angle)) ** 2
        total += np.clip(wanted - number, 0, 1) * np.exp(-distance / (2 * width**2))
    return total


def scene(
    rng: np.random.Generator, traits: np.ndarray, centres: np.ndarray, side: int, optics: dict[str, np.ndarray]
) -> np.ndarray:
    """The image of a site.

    Args:
        traits: (n, len(TRAITS)).
        centres: (n, 2) x, y in pixels.
        side: of the image, in pixels.
        optics: what the microscope does to each stain: `gain`, `background`, `blur` (5,) and `lamp`, the slope of the
            illumination across the image (5, 2).

    Returns:
        (5, side, side) uint8.
    """
    canvas = np.zeros((len(CHANNELS), side + SIDE, side + SIDE), dtype=np.float32)
    for drawn, (x, y) in zip(cells(rng, traits), np.rint(centres).astype(int), strict=True):
        canvas[:, y : y + SIDE, x : x + SIDE] += drawn
    half = SIDE // 2
    image = canvas[:, half : half + side, half : half + side]
    image = np.stack([ndimage.gaussian_filter(one, blur) for one, blur in zip(image, optics["blur"], strict=True)])
    across = np.linspace(-1, 1, side, dtype=np.float32)
    lamp = 1 + optics["lamp"][:, :1, None] * across[None, :, None] + optics["lamp"][:, 1:, None] * across[None, None]
    light = ((optics["background"][:, None, None] + optics["gain"][:, None, None] * image) * lamp).astype(np.float32)
    # 120 photons a unit of light, and the camera's own noise
    noise = np.sqrt(np.clip(light, 0, None) / 120 + 1e-4) * rng.standard_normal(light.shape, dtype=np.float32)
    return np.clip(np.rint((light + noise) * 70), 0, 255).astype(np.uint8)
