"""The illumination of a plate, and images that are corrected for it and compressed to 8 bits.

As published with DeepProfiler (after Singh et al. 2014, "Pipeline for illumination correction of images for
high-throughput microscopy"): the mean image of a plate and channel, made smaller, is median-filtered with a disk, made
as large as it was, raised to its 2nd percentile where it is below, and divided by that: f >= 1. An image is divided by
f, resized, clipped to [its percentile 0.05, the lesser of its percentile 99.95 and the plate's 99.99] and stretched to
0 ... 255. The mean is not rounded to whole grey levels before the filter, as the original's is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.morphology import disk
from skimage.transform import resize

from ground.errors import BadInput

LOW, HIGH, PLATE_HIGH, FLOOR = 0.05, 99.95, 0.9999, 2.0


@dataclass
class Plate:
    """What is gathered over the images of a plate and channel.

    Attributes:
        down_scale: how many pixels of an image become one of the mean's, along a side.
        count: images so far.
        total: the sum of the small images; empty before the first.
        histogram: (256 or 65536,) pixels of each value.
        size: height and width of the images.
    """

    down_scale: float
    bits: int
    count: int = 0
    total: np.ndarray | None = None
    size: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self.histogram = np.zeros(2**self.bits, np.int64)

    def add(self, image: np.ndarray) -> None:
        """Another image, (H, W) of `bits` bits.

        Raises:
            BadInput: it differs from the others in size or depth.
        """
        if image.dtype != (np.uint8 if self.bits == 8 else np.uint16):
            raise BadInput(f"has {image.dtype} pixels, others of its plate {self.bits} bits")
        if self.total is None:
            self.size = (image.shape[0], image.shape[1])
            self.total = np.zeros(self.small)
        elif image.shape != self.size:
            raise BadInput(
                f"is {image.shape[1]} x {image.shape[0]}, others of its plate {self.size[1]} x {self.size[0]}"
            )
        self.total += resize(image, self.small, mode="reflect", anti_aliasing=True, preserve_range=True)
        self.histogram += np.bincount(image.ravel(), minlength=len(self.histogram))
        self.count += 1

    @property
    def small(self) -> tuple[int, int]:
        """Height and width of the mean image."""
        height, width = (max(1, round(side / self.down_scale)) for side in self.size)
        return height, width

    @property
    def high(self) -> float:
        """The value that 99.99 % of the plate's pixels do not exceed."""
        return float(np.argmax(np.cumsum(self.histogram) > PLATE_HIGH * self.histogram.sum()))

    def function(self, median: float) -> np.ndarray:
        """(H, W) float64 f, at least 1.

        Args:
            median: the diameter of the filter's disk, in pixels of the mean image.

        Raises:
            BadInput: the images are black.
        """
        assert self.total is not None
        filtered = ndimage.median_filter(self.total / self.count, footprint=disk(median / 2) > 0, mode="nearest")
        large = resize(filtered, self.size, mode="reflect", anti_aliasing=True, preserve_range=True)
        floor = np.percentile(large, FLOOR)
        if not floor > 0:
            raise BadInput("is black in 2 % of its pixels on all images of the plate: no illumination can be found")
        return np.maximum(large, floor) / floor


def compressed(image: np.ndarray, function: np.ndarray, high: float, scale: float) -> np.ndarray:
    """(H scale, W scale) uint8 an image corrected, resized, clipped and stretched; 0 where it has one value alone.

    Args:
        image: (H, W).
        function: (H, W) f of its plate and channel.
        high: the plate's percentile 99.99.
        scale: of the sides.
    """
    corrected = image / function
    size = (int(scale * image.shape[0]), int(scale * image.shape[1]))
    if size != image.shape:
        corrected = resize(corrected, size, mode="reflect", anti_aliasing=True)
    low, top = np.percentile(corrected, [LOW, HIGH])
    top = min(top, high)
    if not top > low:
        return np.zeros(size, np.uint8)
    return np.rint(np.clip((corrected - low) / (top - low), 0, 1) * 255).astype(np.uint8)
