"""The published networks of the XTCAV study (2016), layer by layer, with TensorFlow's padding and initial values.

Each is a row of convolutions with pools, then dense layers; scalars (beam energies) join before the first dense one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ground.errors import BadInput
from models.xtcav.config import biases, pair

Padding = Literal["same", "valid"]


@dataclass(frozen=True)
class Pool:
    """A pooling layer: window and stride in pixels, padding as TensorFlow names it."""

    window: int
    stride: int
    padding: Padding = "same"
    kind: Literal["max", "average"] = "max"

    def size(self, pixels: int) -> int:
        """Pixels a side that are left of so many (0 or less: the side is too small)."""
        if self.padding == "same":
            return math.ceil(pixels / self.stride)
        return (pixels - self.window) // self.stride + 1


@dataclass(frozen=True)
class Conv:
    """A convolution of `side`² (padding SAME), strides along rows and columns, its ReLU and its pool."""

    channels: int
    side: int
    pool: Pool | None
    stride: tuple[int, int] = (1, 1)

    def size(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns after the convolution, before the pool."""
        return math.ceil(shape[0] / self.stride[0]), math.ceil(shape[1] / self.stride[1])


@dataclass(frozen=True)
class Published:
    """A network as it was described.

    Attributes:
        convs, dense: its layers; the output layer comes on top.
        norm: batch normalisation "after" the pool (and after the dense ReLU), "before" the ReLU, or "none".
        bias: whether layers but the last have one.
        kstd, wstd, last: standard deviations of the initial kernels, dense weights and output weights.
        biases: initial biases that are not 0, by layer, counted from 1.
        image: rows and columns of the images it was made for.
        outputs: how many classes it told apart.
        variables: how many trainable numbers it then has.
    """

    convs: tuple[Conv, ...]
    dense: tuple[int, ...]
    norm: Literal["none", "before", "after"] = "none"
    bias: bool = True
    kstd: float = 0.03
    wstd: float = 0.03
    last: float = 0.03
    biases: Mapping[int, float] = field(default_factory=dict)
    image: tuple[int, int] = (726, 568)
    outputs: int = 4
    variables: int = 0


def convnet_app(k1ch: int, k1dim: int, k2ch: int, k2dim: int, h3u: int, pooled: Pool | None = None) -> Published:
    """Two convolutions with wide pools, a hidden and an output layer: `convnet_app.py`, by its command line."""
    pooled = pooled or Pool(13, 10)
    return Published((Conv(k1ch, k1dim, pooled), Conv(k2ch, k2dim, pooled)), (h3u,))


_SIMPLE = convnet_app(8, 8, 8, 6, 16)
NETS: dict[str, Published] = {
    "tensorflow_simple": replace(_SIMPLE, last=0.1, variables=9060),
    "keras_simple": replace(
        _SIMPLE, convs=tuple(replace(c, pool=Pool(10, 13, "valid")) for c in _SIMPLE.convs), variables=4452
    ),
    "six_layer": Published(
        (Conv(16, 12, Pool(3, 3, "valid")), Conv(16, 10, Pool(5, 5, "valid")), Conv(16, 8, Pool(5, 5, "valid"))),
        (48, 32),
        norm="after",
        variables=94724,
    ),
    "seven_layer": Published(
        (
            Conv(16, 12, Pool(3, 4, "valid")),
            Conv(16, 12, Pool(3, 4, "valid")),
            Conv(12, 10, Pool(3, 4, "valid")),
            Conv(8, 4, Pool(2, 2, "valid")),
        ),
        (32, 16),
        norm="after",
        variables=65904,
    ),
    # the report of February 2016: lasing or not
    "lasing_report": Published(
        (Conv(16, 16, Pool(12, 10, kind="average"), stride=(2, 2)),),
        (),
        kstd=0.01,
        wstd=0.01,
        last=0.01,
        image=(284, 363),
        outputs=2,
        variables=13234,
    ),
    # the tutorial on two colours; 256 numbers of batch normalisation come on top of what was told
    "two_colour": Published(
        (Conv(16, 8, Pool(2, 3)), Conv(16, 6, Pool(3, 3)), Conv(16, 6, Pool(3, 3))),
        (48, 32),
        norm="before",
        bias=False,
        image=(363, 284),
        variables=139396 + 256,
    ),
}


def published(config: dict[str, Any]) -> Published:
    """The network that NET names, with the settings that change it."""
    if config["NET"] == "convnet_app":
        k1ch, k1dim, k2ch, k2dim, h3u = (config[name] for name in ("K1CH", "K1DIM", "K2CH", "K2DIM", "H3U"))
        net = convnet_app(k1ch, k1dim, k2ch, k2dim, h3u, Pool(*pair(config, "POOL")))
        strides = (pair(config, "K1STRD"), pair(config, "K2STRD"))
        net = replace(net, convs=tuple(replace(c, stride=s) for c, s in zip(net.convs, strides, strict=True)))
    else:
        net = NETS[config["NET"]]
    kstd, wstd = config["KSTD"] or net.kstd, config["WSTD"]
    return replace(net, kstd=kstd, wstd=wstd or net.wstd, last=wstd or net.last, biases=biases(config))


def same_padding(size: int, window: int, stride: int) -> tuple[int, int]:
    """Zeros before and after, as TensorFlow's SAME lays them: out = ⌈size / stride⌉, the odd one at the end."""
    total = max(0, (math.ceil(size / stride) - 1) * stride + window - size)
    return total // 2, total - total // 2


def pad_same(images: Tensor, window: int, strides: tuple[int, int]) -> Tensor:
    """(n, c, h, w) with the zeros that `same_padding` tells."""
    sides = zip(images.shape[-2:], strides, strict=True)
    rows, columns = (same_padding(size, window, stride) for size, stride in sides)
    return F.pad(images, (*columns, *rows)) if any((*rows, *columns)) else images


class SameConv(nn.Conv2d):
    """A convolution with SAME padding; any strides."""

    def __init__(self, inputs: int, outputs: int, side: int, strides: tuple[int, int], bias: bool) -> None:
        super().__init__(inputs, outputs, side, strides, bias=bias)
        self.side, self.steps = side, strides

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(pad_same(images, self.side, self.steps))


class Pooling(nn.Module):
    """One `Pool`.

    SAME pads with zeros: for the maximum that equals TensorFlow's -∞ as long as a ReLU came before. The average is
    over the pixels that exist, as TensorFlow's.
    """

    def __init__(self, layer: Pool) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, images: Tensor) -> Tensor:
        layer = self.layer
        steps = (layer.stride, layer.stride)
        padded = pad_same(images, layer.window, steps) if layer.padding == "same" else images
        if layer.kind == "max":
            return F.max_pool2d(padded, layer.window, layer.stride)
        means = F.avg_pool2d(padded, layer.window, layer.stride)
        if padded is images:
            return means
        there = pad_same(torch.ones_like(images[:1, :1]), layer.window, steps)
        return means / F.avg_pool2d(there, layer.window, layer.stride)


class PublishedNet(nn.Module):
    """A published network on images of any size that its pools allow.

    Args:
        net: its description.
        shape: (h, w) of the images.
        scalars: how many join before the first dense layer.
        outputs: of the last layer.

    Raises:
        BadInput: the images are too small, or the network has no layer whose bias is given.
    """

    def __init__(self, net: Published, shape: tuple[int, int], scalars: int, outputs: int) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        channels = 1
        for conv in net.convs:
            stages.append(SameConv(channels, conv.channels, conv.side, conv.stride, net.bias))
            channels = conv.channels
            if net.norm == "before":
                stages.append(_norm(channels))
            stages.append(nn.ReLU())
            if conv.pool is not None:
                stages.append(Pooling(conv.pool))
            if net.norm == "after":
                stages.append(_norm(channels))
        self.convs = nn.Sequential(*stages)
        height, width = flat_shape(net, shape)
        units = channels * height * width + scalars
        layers: list[nn.Module] = []
        for wide in net.dense:
            layers.append(nn.Linear(units, wide, bias=net.bias))
            layers += [_norm(wide, flat=True), nn.ReLU()] if net.norm == "before" else [nn.ReLU()]
            if net.norm == "after":
                layers.append(_norm(wide, flat=True))
            units = wide
        self.dense = nn.Sequential(*layers)
        self.last = nn.Linear(units, outputs)
        self._start(net)

    def _start(self, net: Published) -> None:
        """Normal values cut at two standard deviations; no biases but those asked for."""
        layers = [module for module in self.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
        for number, module in enumerate(layers, 1):
            std = net.last if module is self.last else net.kstd if isinstance(module, nn.Conv2d) else net.wstd
            nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
            if module.bias is not None:
                nn.init.constant_(module.bias, net.biases.get(number, 0.0))
        biased = [number for number, module in enumerate(layers, 1) if module.bias is not None]
        without = sorted(set(net.biases) - set(biased))
        if without:
            raise BadInput(f"BIAS: there is no bias in layer {without[0]}; there is in {', '.join(map(str, biased))}")

    def forward(self, images: Tensor, scalars: Tensor) -> Tensor:
        """(n, 1, h, w) and (n, S) -> (n, outputs)."""
        flat = torch.cat([self.convs(images).flatten(1), scalars], 1)
        return self.last(self.dense(flat))


def _norm(size: int, flat: bool = False) -> nn.Module:
    # what the original kept of its running means, .9, is torch's .1 of the new
    return (nn.BatchNorm1d if flat else nn.BatchNorm2d)(size, eps=1e-6, momentum=0.1)


def flat_shape(net: Published, shape: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns after the last pool.

    Raises:
        BadInput: nothing is left.
    """
    height, width = shape
    for conv in net.convs:
        height, width = conv.size((height, width))
        if conv.pool is not None:
            height, width = conv.pool.size(height), conv.pool.size(width)
        if min(height, width) < 1:
            raise BadInput(f"images of {shape[0]}x{shape[1]} pixels are too small for the pools of this network")
    return height, width
