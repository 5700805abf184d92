"""The seed's network: the Keras design of 3,281,579 parameters that first inverted traces of many cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.cellspike.tower import Stack, Tower, flattened

SLOPE, REACH = 0.3, 1.2
"""Of the leaky ReLUs below 0; of the outputs, 1.2 tanh."""
_NORM: dict[str, Any] = {"eps": 1e-3, "momentum": 0.01}
"""Keras's defaults of batch normalisation: what torch calls momentum is the share of the new."""


class KerasNet(nn.Module):
    """Convolution, leaky ReLU, maximum; dropout after flattening and after each dense layer; 1.2 tanh out.

    Args:
        stack: of the convolutions.
        dense: units of the dense layers.
        bins, probes, outputs, features, towers: as `models.cellspike.network.build`.
        dropout: its rate.
        flat_norm: batch normalisation of the flat vector.

    Raises:
        BadInput: the stack does not fit into so many bins.
    """

    def __init__(
        self,
        stack: Stack,
        dense: Sequence[int],
        bins: int,
        probes: int,
        outputs: int,
        features: int = 0,
        towers: int = 1,
        dropout: float = 0.0,
        flat_norm: bool = False,
    ) -> None:
        super().__init__()
        self.towers = nn.ModuleList(
            Tower(stack, bins, probes, SLOPE, _NORM, channels_first=False) for _ in range(towers)
        )
        units = sum(int(tower.units) for tower in self.towers)  # type: ignore[arg-type]
        self.flat = nn.BatchNorm1d(units, **_NORM) if flat_norm else nn.Identity()
        self.dropout = dropout
        widths = [units + features, *dense]
        self.dense = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False))
        self.last = nn.Linear(widths[-1], outputs)
        for module in self.modules():
            if isinstance(module, (nn.Conv1d, nn.Linear)):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        flat = self.flat(flattened(self.towers, x))
        if features is not None:
            flat = torch.cat([flat, features], 1)
        flat = F.dropout(flat, self.dropout, self.training)
        for layer in self.dense:
            flat = F.dropout(F.leaky_relu(layer(flat), SLOPE), self.dropout, self.training)
        return REACH * torch.tanh(self.last(flat))
