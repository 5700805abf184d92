"""The convolutions of both designs: traces in, one flat vector out, and whether a stack of them fits.

Files hold traces as (bins, channels). A two-dimensional convolution of one row in torch's channels-last layout reads
exactly that memory, so the transposition to channels first costs nothing, and convolution and pooling run over
channels side by side: on a CPU about 1.5 times as fast as nn.Conv1d and nn.MaxPool1d, to equal results.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ground.errors import BadInput

NEVER = -9
"""A slot that no module list reaches."""
_MODULES = 3
"""Entries of one block in the module list that slots count: convolution, pooling, activation."""


@dataclass(frozen=True)
class Stack:
    """What a tower is made of: filters, kernel and pool of each block, and where it is normalised.

    Args:
        blocks: (filters, kernel, pool) of each.
        batch_slot, instance_slot: batch or instance normalisation follows where the module list has this length: 0
            the input, 3 the first block, 6 the second (one more for each inserted before); NEVER: nowhere.
        layer: layer normalisation of what the tower puts out.
    """

    blocks: tuple[tuple[int, int, int], ...]
    batch_slot: int = NEVER
    instance_slot: int = NEVER
    layer: bool = False

    @staticmethod
    def of(settings: Mapping[str, Any]) -> Stack:
        """The stack that settings name (CONV_DEPTH, FILTERS_1, KERNEL_1, POOL_1, ...)."""
        numbers = range(1, int(settings["CONV_DEPTH"]) + 1)
        blocks = tuple(
            (int(settings[f"FILTERS_{n}"]), int(settings[f"KERNEL_{n}"]), int(settings[f"POOL_{n}"])) for n in numbers
        )
        batch, instance = (int(settings.get(name, NEVER)) for name in ("BATCH_NORM_CNN_SLOT", "INSTANCE_NORM_SLOT"))
        return Stack(blocks, batch, instance, bool(settings.get("LAYER_NORM", False)))

    def shapes(self, bins: int) -> list[tuple[str, int]]:
        """The length after each layer.

        Args:
            bins: of the input.

        Raises:
            BadInput: a kernel or pool is longer than what is left; the message names the layer.
        """
        out: list[tuple[str, int]] = []
        length = bins
        for number, (_, kernel, pool) in enumerate(self.blocks, 1):
            for layer, setting, size, left in (
                ("conv", "KERNEL", kernel, length - kernel + 1),
                ("pool", "POOL", pool, (length - kernel + 1) // pool),
            ):
                if left < 1:
                    before = out[-1][1] if out else bins
                    raise BadInput(
                        f"layer {layer} {number}: {setting}_{number} is {size}, but of {bins} bins "
                        f"only {before} are left there"
                    )
                out.append((f"{layer} {number}", left))
            length = left
        return out


class PooledConv(nn.Module):
    """Valid convolution, maximum over windows, leaky ReLU, on (n, channels, 1, bins) in channels-last memory.

    A strictly growing activation picks the same maxima before pooling as after it, where it has fewer values to see;
    a ReLU too, except among the values it sets to 0.
    """

    def __init__(self, channels: int, filters: int, kernel: int, pool: int, slope: float) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, filters, kernel)
        self.pool, self.slope = pool, slope

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv.weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        out = F.conv2d(x.contiguous(memory_format=torch.channels_last), weight, self.conv.bias)
        out = F.max_pool2d(out, (1, self.pool))
        return F.leaky_relu(out, self.slope) if self.slope else F.relu(out)


class Row(nn.Module):
    """A one-dimensional layer applied to (n, channels, 1, bins)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.squeeze(2)).unsqueeze(2)


class Tower(nn.Module):
    """One CNN: (n, bins, channels) -> (n, units).

    Args:
        stack: what it is made of.
        bins, channels: of the input.
        slope: of the activation below 0.
        norm: batch normalisation of so many channels.
        legacy: reshape the input to (n, channels, bins) instead of transposing it.
        channels_first: the order of the flat vector, as torch (True) or Keras flattens.

    Raises:
        BadInput: the stack does not fit into so many bins, or instance normalisation would see one bin.
    """

    def __init__(
        self,
        stack: Stack,
        bins: int,
        channels: int,
        slope: float = 0.0,
        norm: Callable[[int], nn.Module] = nn.BatchNorm1d,
        legacy: bool = False,
        channels_first: bool = True,
    ) -> None:
        super().__init__()
        self.legacy, self.channels_first, self.channels, self.bins = legacy, channels_first, channels, bins
        lengths = [bins, *(left for layer, left in stack.shapes(bins) if layer.startswith("pool"))]
        layers: list[nn.Module] = []
        modules = 0

        def normalise(width: int, length: int) -> None:
            nonlocal modules
            if modules == stack.batch_slot:
                layers.append(Row(norm(width)))
                modules += 1
            if modules == stack.instance_slot:
                if length < 2:
                    raise BadInput(f"INSTANCE_NORM_SLOT is {modules}: one bin is left there, which has no variance")
                layers.append(Row(nn.InstanceNorm1d(width)))
                modules += 1

        normalise(channels, bins)
        for (filters, kernel, pool), left in zip(stack.blocks, lengths[1:], strict=True):
            layers.append(PooledConv(channels, filters, kernel, pool, slope))
            modules += _MODULES
            channels = filters
            normalise(channels, left)
        if stack.layer:
            layers.append(Row(nn.LayerNorm((channels, lengths[-1]))))
        self.layers = nn.Sequential(*layers)
        self.units = channels * lengths[-1]

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(len(x), self.channels, self.bins) if self.legacy else x.transpose(1, 2)
        x = self.layers(x.unsqueeze(2))
        return x.flatten(1) if self.channels_first else x.permute(0, 2, 3, 1).flatten(1)


class Inverter(nn.Module):
    """The parts of both designs: towers, the flat vector's normalisation, dense layers.

    Args:
        towers: a CNN, or one a stimulus.
        dense: units of the dense layers.
        outputs: of the last layer.
        features: how many join before the dense layers.
        norm: of the flat vector, from its length (None: none).
    """

    def __init__(
        self,
        towers: Sequence[Tower],
        dense: Sequence[int],
        outputs: int,
        features: int = 0,
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.towers = nn.ModuleList(towers)
        units = sum(tower.units for tower in towers)
        self.flat = nn.Identity() if norm is None else norm(units)
        widths = [units + features, *dense]
        self.dense = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.last = nn.Linear(widths[-1], outputs)

    def flattened(self, x: Tensor, features: Tensor | None) -> Tensor:
        """What towers put out for (n, bins, probes) or (n, bins, probes, towers), and features, side by side."""
        if len(self.towers) == 1:
            flat = self.flat(self.towers[0](x.flatten(2)))
        else:
            flat = self.flat(torch.cat([tower(x[..., number]) for number, tower in enumerate(self.towers)], 1))
        return flat if features is None else torch.cat([flat, features], 1)
