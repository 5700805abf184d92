"""Square crops around cells, and of whole images. What lies outside the image is 0.

`integer`: rows floor(y + ½) − box/2 and on, box of them; columns likewise. Pixels stay as they are.
`bilinear`: the published one, TensorFlow's `crop_and_resize`: edges centre ± box/2 are divided by the image's size,
sample i of a side lies at (edge₁ + i (edge₂ − edge₁)/(box − 1)) (size − 1), ends inclusive, and a sample outside is 0.
It samples at steps of (size − 1)/size · box/(box − 1) pixels, up to about one pixel off.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

MODES = ("integer", "bilinear")
_PATCH = 5  # pixels around the centre in which an object is looked for
_ROUNDING = 1e-6  # pixels by which a sample at the edge may be off
_TOGETHER = 1 << 22  # pixels that are interpolated at once


def cut(image: np.ndarray, centres: np.ndarray, box: int, mode: str = "integer") -> np.ndarray:
    """Crops of box × box pixels.

    Args:
        image: (C, H, W) uint8 or uint16.
        centres: (n, 2) x and y, pixels.
        box: the side, pixels.
        mode: "integer" or "bilinear".

    Returns:
        (n, C, box, box) in the image's dtype; interpolated values are rounded.
    """
    if mode == "bilinear":
        return resized(image, centres, box, box)
    if mode != "integer":
        raise ValueError(f"mode is {mode!r}; it is one of {', '.join(MODES)}")
    rows, columns = corners(centres, box, image.shape[1], image.shape[2])
    return np.ascontiguousarray(_windows(image, box)[rows, columns])


def corners(centres: np.ndarray, box: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column (n,) of the crops' first pixels in an image that was padded by `box` on each side."""
    centres = np.asarray(centres, np.float64).reshape(-1, 2)
    first = np.floor(centres + 0.5) - box // 2
    # a crop that is wholly outside is of the padding alone
    first = np.clip(first, -box, [width, height]).astype(np.int64) + box
    return first[:, 1], first[:, 0]


def _windows(image: np.ndarray, box: int) -> np.ndarray:
    """(H + box + 1, W + box + 1, C, box, box) every crop that there can be: a view of the padded image."""
    padded = np.pad(image, ((0, 0), (box, box), (box, box)))
    return sliding_window_view(padded, (box, box), axis=(1, 2)).transpose(1, 2, 0, 3, 4)


def resized(image: np.ndarray, centres: np.ndarray, side: int, box: int) -> np.ndarray:
    """Square regions as crops, by the published bilinear formula.

    Args:
        image: (C, H, W) uint8 or uint16.
        centres: (n, 2) x and y, pixels.
        side: of the regions, pixels of the image.
        box: of the crops.

    Returns:
        (n, C, box, box) in the image's dtype, rounded to the nearest.
    """
    centres = np.asarray(centres, np.float64).reshape(-1, 2)
    channels, height, width = image.shape
    top, vertical = _weights(centres[:, 1], height, side, box)
    left, horizontal = _weights(centres[:, 0], width, side, box)
    tall, wide = vertical.shape[2], horizontal.shape[2]
    padded = np.pad(image, ((0, 0), (tall, tall), (wide, wide)))
    windows = sliding_window_view(padded, (tall, wide), axis=(1, 2)).transpose(1, 2, 0, 3, 4)
    out = np.empty((len(centres), channels, box, box), image.dtype)
    step = max(1, _TOGETHER // (channels * tall * wide))
    for begin in range(0, len(centres), step):
        part = slice(begin, begin + step)
        values = windows[top[part] + tall, left[part] + wide].astype(np.float64)
        out[part] = np.rint(vertical[part, None] @ values @ horizontal[part, None].swapaxes(2, 3))
    return out


def _weights(centres: np.ndarray, size: int, side: int, box: int) -> tuple[np.ndarray, np.ndarray]:
    """How samples are made of pixels, along one axis.

    Args:
        centres: (n,) along the axis.
        size: of the image.
        side, box: of the region and of the crop.

    Returns:
        (n,) the first pixel, which may be outside the image; (n, box, k) the weights of the k pixels from there on, 0
        for a sample outside.
    """
    at = _samples(centres, size, side, box)
    count = int(np.ceil(side * (size - 1) / size)) + 2
    first = np.clip(np.floor(at[:, 0]), -count, size).astype(np.int64)
    inside = _inside(at, size)
    at = np.clip(at, 0, size - 1)
    low = np.floor(at).astype(np.int64)
    place = np.clip(low - first[:, None], 0, count - 2)[:, :, None]
    weights = np.zeros((*at.shape, count))
    np.put_along_axis(weights, place, ((1 - (at - low)) * inside)[:, :, None], axis=2)
    np.put_along_axis(weights, place + 1, ((at - low) * inside)[:, :, None], axis=2)
    return first, weights


def _samples(centres: np.ndarray, size: int, side: int, box: int) -> np.ndarray:
    """(n, box) where the samples lie along an axis, in pixels."""
    steps = np.arange(box) / max(box - 1, 1)
    return (centres[:, None] - side / 2 + side * steps) / size * (size - 1)


def _inside(at: np.ndarray, size: int) -> np.ndarray:
    return (at >= -_ROUNDING) & (at <= size - 1 + _ROUNDING)


def regions(mask: np.ndarray, kind: str) -> np.ndarray:
    """Objects of a mask image, numbered from 1; 0 belongs to none.

    Args:
        mask: (H, W) integers.
        kind: "outline": lines are not 0, and every area that they enclose is an object (what is outside all, too);
            "filled": objects are not 0; an image of more than two values numbers them already.

    Returns:
        (H, W) int32.
    """
    from skimage.measure import label  # heavy, and most projects have no masks

    if kind == "outline":
        # a line that is joined by corners only still separates what is joined by edges
        return label(mask == 0, connectivity=1).astype(np.int32)
    if mask.size and np.any((mask != 0) & (mask != mask.max())):
        return mask.astype(np.int32)
    return label(mask != 0, connectivity=2).astype(np.int32)


def masked(crops: np.ndarray, objects: np.ndarray, centres: np.ndarray, mode: str = "integer") -> np.ndarray:
    """Crops in which all but the object at the centre is 0.

    Args:
        crops: (n, C, box, box), as `cut` made them.
        objects: (H, W) as `regions` numbers them.
        centres: (n, 2) of the crops.
        mode: of the crops. Objects are cut by the nearest pixel in either.

    Returns:
        (n, C, box, box); a crop without an object at its centre is 0.
    """
    box = crops.shape[-1]
    found = object_at(objects, centres)
    shapes = cut(objects[None], centres, box)[:, 0] if mode == "integer" else _nearest(objects, centres, box)
    keep = (shapes == found[:, None, None]) & (found > 0)[:, None, None]
    return crops * keep[:, None].astype(crops.dtype)


def _nearest(objects: np.ndarray, centres: np.ndarray, box: int) -> np.ndarray:
    """(n, box, box) objects at the sample points of the bilinear crops; 0 outside."""
    centres = np.asarray(centres, np.float64).reshape(-1, 2)
    at = [_samples(centres[:, axis], objects.shape[1 - axis], box, box) for axis in (1, 0)]
    rows, columns = (np.clip(np.rint(v), 0, size - 1).astype(int) for v, size in zip(at, objects.shape, strict=True))
    inside = [_inside(v, size) for v, size in zip(at, objects.shape, strict=True)]
    return objects[rows[:, :, None], columns[:, None, :]] * (inside[0][:, :, None] & inside[1][:, None, :])


def object_at(objects: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(n,) the median object of the 10 × 10 pixels around each centre; 0 where none of them is inside the image."""
    centres = np.asarray(centres, np.float64).reshape(-1, 2)
    padded = np.pad(objects.astype(np.float64), 2 * _PATCH, constant_values=np.nan)
    windows = sliding_window_view(padded, (2 * _PATCH, 2 * _PATCH))
    first = (
        np.clip(np.trunc(centres) - _PATCH, -2 * _PATCH, [objects.shape[1], objects.shape[0]]).astype(int) + 2 * _PATCH
    )
    patches = windows[first[:, 1], first[:, 0]].reshape(len(centres), -1)
    found = np.zeros(len(centres), np.int64)
    some = ~np.isnan(patches).all(1)
    if some.any():
        found[some] = np.nanmedian(patches[some], axis=1).astype(np.int64)
    return found
