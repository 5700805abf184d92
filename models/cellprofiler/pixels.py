"""Pixels as networks see them."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-6


def normalise(x: Tensor) -> Tensor:
    """Each channel of each crop stretched to 0..1: (x - min) / (max - min + eps); a constant one becomes 0.

    In training and in profiling alike, so that neither the brightness of other channels nor a stretch of the stored
    crops matters.

    Args:
        x: (n, C, h, w), integers or floats.

    Returns:
        (n, C, h, w) float32.
    """
    x = x.to(torch.float32)
    low, high = torch.aminmax(x.flatten(2), dim=2)
    return (x - low[..., None, None]).mul_((1 / (high - low + EPS))[..., None, None])
