"""The seed's network: the Keras design of 3,281,579 parameters that first inverted traces of many cells."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.cellspike.tower import Inverter, Stack, Tower

SLOPE, REACH = 0.3, 1.2
"""Of the leaky ReLUs below 0; of the outputs, 1.2 tanh."""


def _norm(width: int) -> nn.BatchNorm1d:
    """Batch normalisation with Keras's defaults; what torch calls momentum is the share of the new."""
    return nn.BatchNorm1d(width, eps=1e-3, momentum=0.01)


class KerasNet(Inverter):
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
        made = [Tower(stack, bins, probes, SLOPE, _norm, channels_first=False) for _ in range(towers)]
        super().__init__(made, dense, outputs, features, _norm if flat_norm else None)
        self.dropout = dropout
        for module in self.modules():
            if isinstance(module, (nn.Conv1d, nn.Linear)):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        flat = F.dropout(self.flattened(x, features), self.dropout, self.training)
        for layer in self.dense:
            flat = F.dropout(F.leaky_relu(layer(flat), SLOPE), self.dropout, self.training)
        return REACH * torch.tanh(self.last(flat))
