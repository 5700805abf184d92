"""Cells of a batch of events as single sortable numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from ground.errors import BadInput

Triple = tuple[int, int, int]

MARGIN = 3
"""Free cells after each row of the box. A neighbour beyond the border then has a key that no cell has, so no search
for neighbours wraps around into the next row; kernels may reach this far."""

_AXES = "xyz"


def check(coords: Tensor, shape: Triple) -> None:
    """Refuse what has no key.

    Args:
        coords: (N, 4) whole numbers, event, x, y, z.
        shape: cells of the box along x, y, z.

    Raises:
        BadInput: a coordinate outside the box, a negative event, or more cells than 64 bits can number.
    """
    if coords.ndim != 2 or coords.shape[1] != 4:
        raise BadInput(f"coordinates of shape {tuple(coords.shape)}; they are (voxels, 4): event, x, y, z")
    if coords.is_floating_point() or coords.is_complex():
        raise BadInput(f"coordinates are {coords.dtype}; they are whole numbers")
    if not len(coords):
        return
    low, high = torch.stack(torch.aminmax(coords, dim=0)).tolist()
    if low[0] < 0:
        raise BadInput(f"event {low[0]}; events are numbered from 0")
    for axis, size, least, most in zip(_AXES, shape, low[1:], high[1:], strict=True):
        if least < 0 or most >= size:
            raise BadInput(f"{axis} reaches from {least} to {most}, beyond the {size} cells of SPATIAL")
    x, y, z = (size + MARGIN for size in shape)
    if (high[0] + 1) * x * y * z >= 2**62:
        raise BadInput(f"{high[0] + 1} events of {shape[0]}x{shape[1]}x{shape[2]} cells are too many to number")


def strides(shape: Triple) -> tuple[int, int, int, int]:
    """How far apart the keys of cells are that differ by one in event, x, y, z."""
    x, y, z = (size + MARGIN for size in shape)
    return x * y * z, y * z, z, 1


def encode(coords: Tensor, shape: Triple) -> Tensor:
    """(N, 4) checked coordinates -> (N,) int64 keys, ordered as (event, x, y, z)."""
    event, x, y, z = coords.long().unbind(1)
    of_event, of_x, of_y, _ = strides(shape)
    return event * of_event + x * of_x + y * of_y + z


def decode(keys: Tensor, shape: Triple) -> Tensor:
    """(N,) keys -> (N, 4) int64 coordinates."""
    columns, rest = [], keys
    for stride in strides(shape):
        columns.append(rest // stride)
        rest = rest % stride
    return torch.stack(columns, 1)
