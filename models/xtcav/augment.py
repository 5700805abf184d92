"""Small changes of training images that leave the label true. No flips: the axes are time and energy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def augmented(images: Tensor, shift: int, gain: float, noise: float, generator: torch.Generator) -> Tensor:
    """Images (n, 1, h, w), each moved by up to `shift` pixels both ways (edges repeated), scaled by 1 ± `gain` and
    with normal noise of `noise` added.

    Args:
        generator: on the CPU, so that the same numbers are drawn everywhere.
    """
    if shift:
        images = shifted(images, torch.randint(-shift, shift + 1, (len(images), 2), generator=generator), shift)
    if gain:
        factor = 1 + gain * (2 * torch.rand(len(images), generator=generator) - 1)
        images = images * factor.to(images.device)[:, None, None, None]
    if noise:
        images = images + noise * torch.randn(images.shape, generator=generator).to(images.device)
    return images


def shifted(images: Tensor, moves: Tensor, most: int) -> Tensor:
    """Each image moved down and right by its `moves` (n, 2), at most `most` pixels."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (most,) * 4, mode="replicate")
    out = torch.empty_like(images)
    for place, (down, right) in enumerate(moves.tolist()):
        top, left = most - down, most - right
        out[place] = padded[place, :, top : top + height, left : left + width]
    return out
