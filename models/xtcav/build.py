"""The network that the settings name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from models.xtcav.config import PUBLISHED
from models.xtcav.modern import MobileNetV3Small, ResNet18, Small
from models.xtcav.network import PublishedNet, published


def build(config: Mapping[str, Any], shape: tuple[int, int], scalars: int, outputs: int) -> nn.Module:
    """A fresh network (n, 1, h, w), (n, scalars) -> (n, outputs).

    Raises:
        BadInput: images too small for it.
    """
    name, joined = config["NET"], scalars if config["SCALARS"] else 0
    if name in PUBLISHED:
        return PublishedNet(published(dict(config)), shape, joined, outputs)
    if name == "resnet18":
        return ResNet18(joined, outputs)
    if name == "mobilenet_v3_small":
        return MobileNetV3Small(joined, outputs, dropout=config["DROPOUT"])
    return Small(dict(config), shape, joined, outputs, residual=name == "residual")


LAYOUT = torch.channels_last
"""How images and kernels lie in memory: a step takes a third less time, on a CPU too (measured with every net)."""


def placed(network: nn.Module, device: torch.device | str) -> nn.Module:
    """The network where it is to run, its kernels in `LAYOUT`."""
    return network.to(device=device, memory_format=LAYOUT)  # type: ignore[call-overload, no-any-return]


def last_layer(network: nn.Module) -> nn.Linear:
    """The output layer."""
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    return layers[-1]
