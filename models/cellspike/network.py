"""The network that inverts voltage traces: convolutions over time, then dense layers, one output a conductance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from models.cellspike.keras import KerasNet
from models.cellspike.tower import Inverter, Stack, Tower


class TorchNet(Inverter):
    """The later PyTorch design: convolution, maximum, ReLU; dense layers with ReLU and dropout; outputs unbounded.

    Args:
        stack: of the convolutions.
        dense: units of the dense layers.
        bins, probes, outputs, features, towers: as `build`.
        dropout: its rate after each dense layer.
        flat_norm: batch normalisation of the flat vector.
        legacy: reshape traces instead of transposing them, as the original program did.

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
        legacy: bool = False,
    ) -> None:
        made = [Tower(stack, bins, probes, legacy=legacy) for _ in range(towers)]
        super().__init__(made, dense, outputs, features, nn.BatchNorm1d if flat_norm else None)
        self.dropout = dropout

    def forward(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        flat = self.flattened(x, features)
        for layer in self.dense:
            flat = F.dropout(F.relu(layer(flat)), self.dropout, self.training)
        return self.last(flat)


def dense(settings: Mapping[str, Any]) -> list[int]:
    """Units of the dense layers: FC_1 to FC_DEPTH, and FC_LAST where it is not 0."""
    units = [int(settings[f"FC_{number}"]) for number in range(1, int(settings["FC_DEPTH"]) + 1)]
    last = int(settings.get("FC_LAST", 0))
    return units + [last] * bool(last)


def shapes(settings: Mapping[str, Any], bins: int) -> list[tuple[str, int]]:
    """Each convolution's and pool's length of output.

    Raises:
        BadInput: one does not fit; the message names it.
    """
    return Stack.of(settings).shapes(bins)


def build(
    settings: Mapping[str, Any], bins: int, probes: int, outputs: int, features: int = 0, towers: int = 1
) -> nn.Module:
    """The network of these settings, with fresh weights.

    Its input is (n, bins, probes) as files hold it, or (n, bins, probes, towers) where towers is above 1: then each
    stimulus has a CNN of its own. Features (n, features) join before the first dense layer. Output: (n, outputs).

    Args:
        settings: complete settings; DESIGN says which design.
        bins, probes: of a trace; stimuli appended in time count as bins.
        outputs: conductances.

    Raises:
        BadInput: the convolutions do not fit into so many bins.
    """
    common: dict[str, Any] = {
        "stack": Stack.of(settings),
        "dense": dense(settings),
        "bins": bins,
        "probes": probes,
        "outputs": outputs,
        "features": features,
        "towers": towers,
        "dropout": float(settings["DROPOUT"]),
        "flat_norm": bool(settings.get("BATCH_NORM_FLAT", False)),
    }
    if settings["DESIGN"] == "keras":
        return KerasNet(**common)
    return TorchNet(**common, legacy=bool(settings.get("LEGACY_RESHAPE", False)))


def parameters(network: nn.Module) -> int:
    """How many trainable numbers it has."""
    return sum(p.numel() for p in network.parameters())
