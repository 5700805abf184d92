"""Which voxels a sparse convolution brings together: built once for a batch of events, used by every layer and step."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.cellnet.sparse.keys import MARGIN, Triple, check, decode, encode, strides

LISTED = 0.5
"""Share of occupied cells of a kernel from which a table is quicker than lists (measured with 16 to 64 channels)."""


def offsets(kernel: Triple) -> list[Triple]:
    """The cells of a centred kernel, x slowest, z fastest: the order of a convolution's weights."""
    x, y, z = (range(-(size // 2), size // 2 + 1) for size in kernel)
    return list(itertools.product(x, y, z))


@dataclass(frozen=True)
class Coarser:
    """A level of the U below another, whose cells are blocks of the finer one's.

    Attributes:
        sites: the occupied blocks (P).
        place: (N,) int32 of each fine voxel: its block's row · V + its position in the block (z fastest), where V is
            the number of cells in a block.
        children: (P, V) int32 fine row at each position of each block, N where there is none.
    """

    sites: Sites
    place: Tensor
    children: Tensor


@dataclass(frozen=True)
class Pairs:
    """The neighbours that are there, a list for each of a kernel's `offsets` but its centre.

    Attributes:
        source, target: (P,) int32 rows: at its offset from the target lies the source.
        ends: where each offset's list ends, as positions in these (the centre's is empty).
        order: (P,) int32 positions of the pairs, target by target.
        first: (N,) int32 where each target's begin in `order`.
    """

    source: Tensor
    target: Tensor
    ends: list[int]
    order: Tensor
    first: Tensor


class Sites:
    """The occupied cells of a batch of events, each once, ordered by event, x, y, z.

    Maps are made when first asked for and then kept, those of coarser levels too. They depend on the coordinates alone,
    so an object that is kept for a file saves making them in later epochs; it may be made in torch's inference mode and
    then be trained on.

    Args:
        coords: (rows, 4) whole numbers [event, x, y, z] in any order; a cell may come more than once.
        shape: cells of the box along x, y, z.

    Attributes:
        coords: (N, 4) int64 of the cells.
        rows: (rows,) the cell of each input row.
        kept: what a library of kernels keeps of its own for these cells.

    Raises:
        BadInput: coordinates outside the box, or more than can be numbered.
    """

    @torch.inference_mode(False)
    def __init__(self, coords: Tensor, shape: Triple) -> None:
        check(coords, shape)
        self.shape = shape
        self.keys, self.rows = torch.unique(encode(coords, shape), return_inverse=True)
        self.coords = decode(self.keys, shape)
        self.kept: dict[str, Any] = {}
        self._neighbours: dict[Triple, Tensor] = {}
        self._pairs: dict[Triple, Pairs | None] = {}
        self._coarser: dict[Triple, Coarser] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def collect(self, features: Tensor) -> Tensor:
        """(rows, F) features of input rows -> (N, F) sums of cells."""
        return features.new_zeros(len(self), features.shape[1]).index_add(0, self.rows, features)

    def spread(self, values: Tensor) -> Tensor:
        """(N, F) of cells -> (rows, F) in the order of the input."""
        return values.index_select(0, self.rows)

    def neighbours(self, kernel: Triple) -> Tensor:
        """(N, K) int32: the row of the cell at each of a kernel's `offsets`, N where none is occupied.

        Raises:
            ValueError: sizes that are even, or reach farther than `MARGIN`.
        """
        if kernel not in self._neighbours:
            self._neighbours[kernel] = self._find(kernel)
        return self._neighbours[kernel]

    @torch.inference_mode(False)
    def _find(self, kernel: Triple) -> Tensor:
        if any(size % 2 == 0 or not 0 < size <= 2 * MARGIN + 1 for size in kernel):
            raise ValueError(f"kernel {kernel}: sizes are odd, at most {2 * MARGIN + 1}")
        count, cells = len(self), offsets(kernel)
        table = torch.full((count, len(cells)), count, dtype=torch.int32, device=self.keys.device)
        own = torch.arange(count, dtype=torch.int32, device=self.keys.device)
        middle = len(cells) // 2
        table[:, middle] = own
        if not count:
            return table
        steps = strides(self.shape)[1:]
        for number, offset in enumerate(cells[:middle]):
            wanted = self.keys + sum(step * cell for step, cell in zip(steps, offset, strict=True))
            at = torch.searchsorted(self.keys, wanted).clamp_(max=count - 1)
            here = self.keys[at] == wanted
            table[:, number] = torch.where(here, at.int(), count)
            # who has me at an offset is at the opposite one from me
            table[at[here], len(cells) - 1 - number] = own[here]
        return table

    def pairs(self, kernel: Triple) -> Pairs | None:
        """The neighbours as lists, where so few are there that working through lists is quicker than a table.

        That is on a CPU, below `LISTED`; many small products do not keep a GPU busy.
        """
        if kernel not in self._pairs:
            table = self.neighbours(kernel)
            listed = table.device.type == "cpu" and int((table < len(self)).sum()) < LISTED * table.numel()
            self._pairs[kernel] = _listed(table) if listed else None
        return self._pairs[kernel]

    def coarser(self, stride: Triple) -> Coarser:
        """The level of blocks of `stride` cells, from the box's origin on."""
        if stride not in self._coarser:
            self._coarser[stride] = self._divide(stride)
        return self._coarser[stride]

    @torch.inference_mode(False)
    def _divide(self, stride: Triple) -> Coarser:
        size = torch.tensor((1, *stride), device=self.coords.device)
        blocks, within = self.coords // size, self.coords[:, 1:] % size[1:]
        sites = Sites(blocks, _blocks(self.shape, stride))
        slot = (within[:, 0] * stride[1] + within[:, 1]) * stride[2] + within[:, 2]
        cells = stride[0] * stride[1] * stride[2]
        place = sites.rows * cells + slot
        children = torch.full((len(sites) * cells,), len(self), dtype=torch.int32, device=self.coords.device)
        children[place] = torch.arange(len(self), dtype=torch.int32, device=self.coords.device)
        return Coarser(sites, place.int(), children.view(len(sites), cells))


@torch.inference_mode(False)
def _listed(table: Tensor) -> Pairs:
    count, cells = table.shape
    by_cell = table.T.contiguous()
    there = by_cell < count
    there[cells // 2] = False
    target = there.nonzero()[:, 1]
    first = torch.zeros(count, dtype=torch.int64, device=table.device)
    first[1:] = torch.bincount(target, minlength=count).cumsum(0)[:-1]
    ends = there.sum(1).cumsum(0).tolist()
    return Pairs(by_cell[there], target.int(), ends, target.argsort(stable=True).int(), first.int())


def _blocks(shape: Triple, stride: Triple) -> Triple:
    x, y, z = (-(-size // step) for size, step in zip(shape, stride, strict=True))
    return x, y, z
