"""Networks that tell the class of a cell, and the features of their layers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ground.errors import BadInput
from models.cellprofiler import names
from models.cellprofiler.config import RANDOM
from models.cellprofiler.vision import timm


class Cnn(nn.Module):
    """BLOCKS times convolution 3x3, batch normalisation, ReLU and max pooling, the channels of each block twice those
    before; then pooling over the crop, a dense layer and the classes.

    Args:
        config: complete settings.
        channels: of a crop.
        classes: how many.
    """

    def __init__(self, config: Mapping[str, Any], channels: int, classes: int) -> None:
        super().__init__()
        widths = [channels, *(config["WIDTH"] * 2**i for i in range(config["BLOCKS"]))]
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, 3, padding=1, bias=False),
                    nn.BatchNorm2d(after),
                    nn.MaxPool2d(2),
                    nn.ReLU(),
                )
                for before, after in itertools.pairwise(widths)
            )
        )  # the pooling before the ReLU: the same numbers, a quarter of the work
        pool: nn.Module = nn.AdaptiveAvgPool2d(1) if config["POOL"] == "avg" else nn.AdaptiveMaxPool2d(1)
        self.pool = nn.Sequential(pool, nn.Flatten())
        self.features = nn.Sequential(nn.Linear(widths[-1], config["FEATURES"]), nn.ReLU())
        self.dropout = nn.Dropout(config["DROPOUT"])
        self.classifier = nn.Linear(config["FEATURES"], classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.dropout(self.features(self.pool(self.blocks(x)))))
        return out


class CellNetwork(nn.Module):
    """A network on crops whose every layer can be looked at.

    Args:
        config: complete settings.
        channels: of a crop.
        box: its side in pixels.
        classes: how many.

    Raises:
        BadInput: the crop is too small for the network.
    """

    def __init__(self, config: Mapping[str, Any], channels: int, box: int, classes: int) -> None:
        super().__init__()
        net = config["NET"]
        self.known = names.layers(config)
        smallest = 2 ** config["BLOCKS"] if net == "cnn" else 32
        if box < smallest:
            raise BadInput(f"crops of {box}x{box} pixels are too small for {net}: {smallest} are the least")
        chosen = config["INPUT"]
        self.centred = chosen == "centred" or (chosen == "auto" and config["WEIGHTS"] != RANDOM)
        self.body: nn.Module
        if net == "cnn":
            self.body = Cnn(config, channels, classes)
        else:
            self.body = timm().create_model(
                f"tf_{net}" if net == names.LITE else net,
                pretrained=False,
                in_chans=channels,
                num_classes=classes,
                drop_rate=config["DROPOUT"],
            )

    def forward(self, x: Tensor) -> Tensor:
        """Crops (n, C, h, w) float32 from 0 to 1 (`pixels.normalise`) -> (n, classes) logits."""
        if self.centred:
            x = 2 * x - 1
        out: Tensor = self.body(x)
        return out

    def looked_at(self, x: Tensor, layers: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (n, classes) and, of each named layer, (n, d): maps are averaged over the crop.

        Args:
            x: as in `forward`.
            layers: some of `names.layers`.
        """
        with self._watched([layer for layer in layers if layer != names.PROBABILITIES]) as seen:
            logits = self(x)
        if names.PROBABILITIES in layers:
            seen[names.PROBABILITIES] = logits.float().softmax(1)
        return logits, {layer: seen[layer] for layer in layers}

    @contextmanager
    def _watched(self, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        seen: dict[str, Tensor] = {}

        def keep(layer: str, output: Tensor) -> None:
            seen[layer] = output.mean((2, 3)) if output.ndim == 4 else output

        def hook(layer: str) -> Any:
            return lambda _module, _inputs, output: keep(layer, output)

        hooks = [self.layer(layer).register_forward_hook(hook(layer)) for layer in layers]
        try:
            yield seen
        finally:
            for handle in hooks:
                handle.remove()

    def layer(self, name: str) -> nn.Module:
        """The module whose output is the layer of this name.

        Raises:
            BadInput: the network has no such layer.
        """
        if name not in self.known or name == names.PROBABILITIES:
            raise BadInput(f"no module of the network is called {name}")
        body: Any = self.body
        if isinstance(body, Cnn):
            if name.startswith("block"):
                return body.blocks[int(name[5:]) - 1]
            return body.pool if name == names.POOL else body.features
        if name == names.POOL:
            return body.global_pool
        if name.startswith("layer"):
            return getattr(body, name)
        place, _, activation = name[5:].partition("_")
        stage = int(place[:-1]) - 1
        block = body.blocks[stage][ord(place[-1]) - ord("a")]
        if not activation:
            return block
        # the first stage expands nothing, so its depthwise convolution comes first
        return block.bn1 if stage == 0 else block.bn2

    @property
    def stem(self) -> nn.Conv2d:
        """The first convolution."""
        return next(module for module in self.body.modules() if isinstance(module, nn.Conv2d))

    @property
    def classifier(self) -> str:
        """What the names of the last layer's tensors in `body` begin with."""
        return next(name for name in ("classifier", "fc") if hasattr(self.body, name))


LAYOUT = torch.channels_last
"""How crops and kernels lie in memory: a step takes half the time or less, on a CPU too (measured with every net)."""


def placed(network: CellNetwork, device: str | torch.device) -> CellNetwork:
    """The network where it is to run, its kernels in `LAYOUT`."""
    return network.to(device=device, memory_format=LAYOUT)  # type: ignore[call-overload, no-any-return]
