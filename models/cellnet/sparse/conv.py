"""Sparse 3-D convolutions as layers: what they learn, and who computes them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.cellnet.sparse import table
from models.cellnet.sparse.backend import choose
from models.cellnet.sparse.keys import Triple
from models.cellnet.sparse.maps import Sites


class SparseConv3d(nn.Module):
    """What the three kinds have in common: weights (K, inputs, outputs), z fastest, and no bias.

    They start as N(0, √(2 / (inputs · K))), as in SparseConvNet.

    Args:
        size: of the kernel along x, y, z.
    """

    def __init__(self, inputs: int, outputs: int, size: Triple) -> None:
        super().__init__()
        self.size, cells = size, math.prod(size)
        self.weight = nn.Parameter(torch.empty(cells, inputs, outputs))
        nn.init.normal_(self.weight, std=math.sqrt(2 / (inputs * cells)))

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[2]}, {self.size}"


class SubmanifoldConv3d(SparseConv3d):
    """A convolution whose outputs are where its inputs are; `size` is odd.

    Args:
        backend: "torch", "spconv" or "auto", as `backend.choose` takes it.
    """

    def __init__(self, inputs: int, outputs: int, size: Triple, backend: str = "torch") -> None:
        super().__init__(inputs, outputs, size)
        self.backend = backend

    def forward(self, x: Tensor, sites: Sites) -> Tensor:
        """(N, inputs) -> (N, outputs).

        Raises:
            BadInput: the backend does not work here.
        """
        if self.weight.shape[0] == 1:
            return x @ self.weight[0]
        return choose(self.backend, x.device)(x, self.weight, self.size, sites)


class StridedConv3d(SparseConv3d):
    """A convolution that makes one voxel of each block of `size` cells that holds any."""

    def forward(self, x: Tensor, sites: Sites) -> Tensor:
        """(N, inputs) on `sites` -> (P, outputs) on `sites.coarser(size).sites`."""
        return table.strided(x, self.weight, self.size, sites)


class TransposedConv3d(SparseConv3d):
    """The way back from blocks to the voxels that they were made of."""

    def forward(self, x: Tensor, sites: Sites) -> Tensor:
        """(P, inputs) on `sites.coarser(size).sites` -> (N, outputs) on `sites`."""
        return table.transposed(x, self.weight, self.size, sites)
