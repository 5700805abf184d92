"""Random changes of training crops that leave the label true: the three sets that DeepProfiler has had.

A batch at once, on its device; the numbers are drawn on the CPU, so that they are the same everywhere. Nothing is
clipped.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

TRANSLATION, ANGLE, GAIN, OFFSET = 0.03, 0.03 * math.pi, 0.1, 0.1
BRIGHTNESS, CONTRAST, SMALLEST = 0.1, 0.2, 0.8


def augmented(x: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Crops as training sees them.

    a: shifted by N(0, 3 %) of the side both ways, mirrored with p = .5, turned by a multiple of 90° and N(0, .03 π)
    on top; then x · N(1, .1) + N(0, .1), the same two numbers for all channels.
    b: mirrored and turned by a multiple of 90°; then each channel + U(-.1, .1), and its contrast · U(.8, 1.2) about
    its mean.
    c: with p = .5 a square of side U[.8, 1) is cut out and resized to the whole; then as b.

    Args:
        x: (n, C, h, w) float32 after `pixels.normalise`; a turn by 90° needs h = w.
        kind: none, a, b or c.
        generator: on the CPU.
    """
    if kind == "none":
        return x
    if kind == "a":
        return light_a(geometry_a(x, generator), generator)
    if kind == "c":
        x = cut(x, generator)
    return light_b(turned(x, *_turns(len(x), generator)), generator)


def _turns(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    mirrored = torch.rand(n, generator=generator) < 0.5
    return mirrored, torch.randint(0, 4, (n,), generator=generator)


def turned(x: Tensor, mirrored: Tensor, quarters: Tensor) -> Tensor:
    """Crops left-right mirrored where told, then turned by quarters of a circle (n,), exactly."""
    out = x.clone()
    for flip in (False, True):
        for turn in range(4):
            which = torch.nonzero((mirrored == flip) & (quarters == turn)).flatten().to(x.device)
            if len(which) and (flip or turn):
                chosen = x[which].flip(-1) if flip else x[which]
                out[which] = torch.rot90(chosen, turn, (-2, -1))
    return out


def geometry_a(x: Tensor, generator: torch.Generator) -> Tensor:
    """Shift, mirror and turn in one resampling; what comes in from outside is 0."""
    n = len(x)
    shift = TRANSLATION * torch.randn((n, 2), generator=generator)
    mirrored, quarters = _turns(n, generator)
    angle = quarters * (math.pi / 2) + ANGLE * torch.randn(n, generator=generator)
    sign = 1.0 - 2.0 * mirrored.float()
    cos, sin = torch.cos(angle), torch.sin(angle)
    # from a place in the result to the one in the crop, both from -1 to 1: turn back, mirror back, shift back
    matrix = torch.stack(
        [
            torch.stack([sign * cos, -sign * sin, -2 * shift[:, 0]], 1),
            torch.stack([sin, cos, -2 * shift[:, 1]], 1),
        ],
        1,
    )
    return _sampled(x, matrix)


def cut(x: Tensor, generator: torch.Generator) -> Tensor:
    """With p = .5 a square of side U[.8, 1) somewhere within, resized to the whole crop."""
    n = len(x)
    chosen = torch.rand(n, generator=generator) < 0.5
    side = SMALLEST + (1 - SMALLEST) * torch.rand(n, generator=generator)
    centre = (1 - side)[:, None] * (2 * torch.rand((n, 2), generator=generator) - 1)
    which = torch.nonzero(chosen).flatten()
    if not len(which):
        return x
    zero = torch.zeros_like(side)
    matrix = torch.stack([torch.stack([side, zero, centre[:, 0]], 1), torch.stack([zero, side, centre[:, 1]], 1)], 1)
    out = x.clone()
    out[which.to(x.device)] = _sampled(x[which.to(x.device)], matrix[which])
    return out


def _sampled(x: Tensor, matrix: Tensor) -> Tensor:
    grid = F.affine_grid(matrix.to(x.device, x.dtype), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def light_a(x: Tensor, generator: torch.Generator) -> Tensor:
    gain = 1 + GAIN * torch.randn((len(x), 1, 1, 1), generator=generator)
    offset = OFFSET * torch.randn((len(x), 1, 1, 1), generator=generator)
    return x * gain.to(x.device) + offset.to(x.device)


def light_b(x: Tensor, generator: torch.Generator) -> Tensor:
    shape = (*x.shape[:2], 1, 1)
    offset = BRIGHTNESS * (2 * torch.rand(shape, generator=generator) - 1)
    contrast = 1 + CONTRAST * (2 * torch.rand(shape, generator=generator) - 1)
    x = x + offset.to(x.device)
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * contrast.to(x.device) + mean
