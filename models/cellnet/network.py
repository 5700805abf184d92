"""SparseCellNet: a U-shaped residual network on sparse voxels, and the head that tells ghosts or regresses charge.

The trunk is that of the original (SparseConvNet's layers; Graham, Engelcke & van der Maaten 2018, and as used for
liquid argon by Dominé & Terao 2020), its parameters and buffers registered in the original's order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ground.errors import BadInput
from models.cellnet.sparse import Sites, StridedConv3d, SubmanifoldConv3d, TransposedConv3d
from models.cellnet.sparse.keys import Triple

_EPS = 1e-4


class NormReLU(nn.Module):
    """Batch normalisation over all voxels of a step, then a (leaky) ReLU.

    Where a training step has fewer than two voxels, there is no spread to normalise by: the running statistics serve,
    and stay as they are.

    Args:
        kept: share of the running statistics that a step leaves as it is (torch's momentum is the rest).
        leakiness: slope below zero.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, kept: float, leakiness: float = 0.0) -> None:
        super().__init__()
        self.momentum, self.leakiness = 1 - kept, leakiness
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C) -> (N, C)."""
        batch = self.training and len(x) > 1
        normal = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, batch, self.momentum, _EPS
        )
        # the normalisation keeps its input for the gradient, so its output may be written over
        return F.leaky_relu_(normal, self.leakiness) if self.leakiness else F.relu_(normal)


class Block(nn.Module):
    """Two convolutions, each after a normalisation, beside a shortcut (Identity Mappings, He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, size: Triple, kept: float, leakiness: float) -> None:
        super().__init__()
        self.shortcut = SubmanifoldConv3d(inputs, outputs, (1, 1, 1)) if inputs != outputs else None
        self.norm1 = NormReLU(inputs, kept, leakiness)
        self.conv1 = SubmanifoldConv3d(inputs, outputs, size)
        self.norm2 = NormReLU(outputs, kept, leakiness)
        self.conv2 = SubmanifoldConv3d(outputs, outputs, size)

    def forward(self, x: Tensor, sites: Sites) -> Tensor:
        """(N, inputs) -> (N, outputs)."""
        branch = self.conv2(self.norm2(self.conv1(self.norm1(x), sites)), sites)
        return branch + (x if self.shortcut is None else self.shortcut(x, sites))


class Level(nn.Module):
    """One level of the U with all below it.

    Args:
        planes: channels of this level and of those below.
        settings: complete (`config.resolve`).
        flat: how many levels from here on look at y and z only.
    """

    def __init__(self, planes: list[int], settings: Mapping[str, Any], flat: int) -> None:
        super().__init__()
        size, kept, leakiness = kernel(settings, flat > 0), settings["MOMENTUM"], settings["LEAKINESS"]
        here, *below = planes

        def blocks(first: int) -> nn.ModuleList:
            widths = [first] + [here] * (settings["REPS"] - 1)
            return nn.ModuleList(Block(inputs, here, size, kept, leakiness) for inputs in widths)

        self.before = blocks(here)
        self.deepest = not below
        if below:
            block: Triple = (1 if flat > 0 else settings["DOWNSAMPLE_T"], 2, 2)
            self.norm_down = NormReLU(here, kept, leakiness)
            self.down = StridedConv3d(here, below[0], block)
            self.deeper = Level(below, settings, flat - 1)
            self.norm_up = NormReLU(below[0], kept, leakiness)
            self.up = TransposedConv3d(below[0], here, block)
            self.after = blocks(2 * here)

    def forward(self, x: Tensor, sites: Sites) -> Tensor:
        """(N, planes[0]) -> (N, planes[0])."""
        for block in self.before:
            x = block(x, sites)
        if self.deepest:
            return x
        below = sites.coarser(self.down.size).sites
        branch = self.deeper(self.down(self.norm_down(x), sites), below)
        x = torch.cat([x, self.up(self.norm_up(branch), sites)], 1)
        for block in self.after:
            x = block(x, sites)
        return x


class Trunk(nn.Module):
    """The network up to its head: voxels' features in, N_CHANNELS numbers a voxel out."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__()
        width, flat = settings["N_CHANNELS"], settings["N_2D"]
        self.first = SubmanifoldConv3d(settings["N_FEATURES"], width, kernel(settings, flat > 0))
        self.levels = Level([width * (n + 1) for n in range(settings["N_STRIDES"])], settings, flat)
        self.norm = NormReLU(width, settings["MOMENTUM"])

    def forward(self, x: Tensor, sites: Sites) -> Tensor:
        """(N, N_FEATURES) -> (N, N_CHANNELS)."""
        out: Tensor = self.norm(self.levels(self.first(x, sites), sites))
        return out


class SparseCellNet(nn.Module):
    """Voxels in, one number a voxel out: the logit of being true (HEAD binary), or its charge.

    A charge head has N_HIDDEN hidden layers. FREEZE leaves the whole trunk as it is, running statistics too.

    Args:
        settings: complete (`config.resolve`), SPATIAL as three sizes.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__()
        x, y, z = settings["SPATIAL"]
        self.shape: Triple = (x, y, z)
        self.features = settings["N_FEATURES"]
        self.trunk = Trunk(settings)
        self.head = head(settings)
        self.frozen = settings["HEAD"] == "charge" and settings["FREEZE"]
        if self.frozen:
            self.trunk.requires_grad_(False)
            self.trunk.eval()
        for module in self.modules():
            if isinstance(module, SubmanifoldConv3d):
                module.backend = settings["BACKEND"]

    def train(self, mode: bool = True) -> SparseCellNet:
        super().train(mode)
        if self.frozen:
            self.trunk.eval()
        return self

    def sites(self, coords: Tensor) -> Sites:
        """What `forward` makes of coordinates (N, 4) [x, y, z, event], to be kept where the same come again.

        Raises:
            BadInput: coordinates that are not whole or lie outside SPATIAL.
        """
        return Sites(coords.roll(1, dims=-1), self.shape)

    def forward(self, coords: Tensor | Sites, features: Tensor) -> Tensor:
        """The output of each row, in the order of the rows.

        Args:
            coords: (N, 4) whole numbers [x, y, z, event], or the `sites` made of them.
            features: (N, N_FEATURES); those of rows with the same coordinates are summed.

        Returns:
            (N, 1).

        Raises:
            BadInput: as `sites`; features that do not fit; a BACKEND that does not work here.
        """
        sites = coords if isinstance(coords, Sites) else self.sites(coords)
        if features.shape != (len(sites.rows), self.features):
            raise BadInput(
                f"features of shape {tuple(features.shape)} for {len(sites.rows)} voxels; "
                f"the network takes {self.features} a voxel"
            )
        found = self.trunk(sites.collect(features), sites)
        out: Tensor = sites.spread(self.head(found))
        return out


def head(settings: Mapping[str, Any]) -> nn.Module:
    """N_CHANNELS numbers a voxel to one."""
    width = settings["N_CHANNELS"]
    if settings["HEAD"] == "binary":
        return nn.Linear(width, 1)
    hidden = [layer for _ in range(settings["N_HIDDEN"]) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, 1))


def kernel(settings: Mapping[str, Any], flat: bool) -> Triple:
    """Of the convolutions of a level, along drift, y, z."""
    size = settings["CONV_KERNEL"]
    return (1 if flat else size, size, size)
