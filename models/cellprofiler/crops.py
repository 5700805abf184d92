"""Square crops around cells, and of whole images. What lies outside the image is 0.

`integer`: rows floor(y + ½) − box/2 and on, box of them; columns likewise. Pixels stay as they are.
`bilinear`: the published one, TensorFlow's `crop_and_resize`: edges centre ± box/2 are divided by the image's size,
sample i of a side lies at (edge₁ + i (edge₂ − edge₁)/(box − 1)) (size − 1), ends inclusive, and a sample outside is 0.
It samples at steps of (size − 1)/size · box/(box − 1) pixels, up to about one pixel off.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from skimage.measure import label

MODES = ("integer", "bilinear")
_PATCH = 5  # pixels around the centre in which an object is looked for
_TOGETHER = 1 << 22  # samples that are interpolated at once


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
    at = np.arange(box) / max(box - 1, 1)
    y, x = (
        (centres[:, axis, None] - side / 2 + side * at) / size * (size - 1) for axis, size in ((1, height), (0, width))
    )
    out = np.empty((len(centres), channels, box, box), image.dtype)
    step = max(1, _TOGETHER // (channels * box * box))
    for begin in range(0, len(centres), step):
        part = slice(begin, begin + step)
        out[part] = _interpolated(image, y[part], x[part])
    return out


def _interpolated(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(n, C, box, box) rounded values at rows y and columns x, each (n, box)."""
    inside = ((y >= 0) & (y <= image.shape[1] - 1))[:, :, None] & ((x >= 0) & (x <= image.shape[2] - 1))[:, None, :]
    (top, below, down), (left, right, across) = (
        _neighbours(v, s) for v, s in zip((y, x), image.shape[1:], strict=True)
    )
    values = np.zeros((image.shape[0], *inside.shape), np.float64)
    for rows, by_row in ((top, 1 - down), (below, down)):
        for columns, by_column in ((left, 1 - across), (right, across)):
            weight = by_row[:, :, None] * by_column[:, None, :]
            values += image[:, rows[:, :, None], columns[:, None, :]] * weight
    values[:, ~inside] = 0
    return np.rint(values).transpose(1, 0, 2, 3)


def _neighbours(at: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    low = np.clip(np.floor(at), 0, size - 1).astype(np.int64)
    return low, np.minimum(low + 1, size - 1), np.clip(at - low, 0, 1)


def regions(mask: np.ndarray, kind: str) -> np.ndarray:
    """Objects of a mask image, numbered from 1; 0 belongs to none.

    Args:
        mask: (H, W) integers.
        kind: "outline": lines are not 0, and every area that they enclose is an object (what is outside all, too);
            "filled": objects are not 0; an image of more than two values numbers them already.

    Returns:
        (H, W) int32.
    """
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
    at, places, inside = np.arange(box) / max(box - 1, 1), [], []
    for axis, size in ((1, objects.shape[0]), (0, objects.shape[1])):
        value = (np.asarray(centres, np.float64)[:, axis, None] - box / 2 + box * at) / size * (size - 1)
        inside.append((value >= 0) & (value <= size - 1))
        places.append(np.clip(np.rint(value), 0, size - 1).astype(np.int64))
    values = objects[places[0][:, :, None], places[1][:, None, :]]
    return values * (inside[0][:, :, None] & inside[1][:, None, :])


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
