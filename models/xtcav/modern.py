"""Networks of today for one-channel images: a small convolutional and a small residual one, and by their usual names
ResNet-18 (He et al. 2016) and MobileNetV3-Small (Howard et al. 2019).

The last two are torchvision's layer by layer, parameter names included, but for the stem of one channel and the place
where scalars join; they are written out here because torchvision has no build for a CPU-only torch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ground.errors import BadInput


class Small(nn.Module):
    """Stages that each halve the image and widen by half, a coarse grid of means, one dense layer.

    The grid keeps where on the screen something is: the axes are time and energy, so a mean over all pixels would
    lose what is to be learned.

    Args:
        shape: (h, w) of the images.
        residual: each stage is a residual block (pre-activation) in place of one convolution.
    """

    def __init__(
        self, config: dict[str, Any], shape: tuple[int, int], scalars: int, outputs: int, residual: bool
    ) -> None:
        super().__init__()
        width, depth = config["WIDTH"], config["DEPTH"]
        if min(shape) < 2**depth:
            raise BadInput(f"images of {shape[0]}x{shape[1]} pixels are too small for DEPTH {depth}")
        stages: list[nn.Module] = [nn.Conv2d(1, width, 5, 2, 2, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        for _ in range(depth - 1):
            wider = width + (width + 1) // 2
            stages += [Block(width, wider)] if residual else _plain(width, wider)
            width = wider
        self.body = nn.Sequential(*stages)
        rows, columns = (-(-size // 2**depth) for size in shape)
        self.grid = (min(config["GRID"], rows), min(config["GRID"], columns))
        units = width * self.grid[0] * self.grid[1] + scalars
        self.dense = nn.Sequential(nn.Dropout(config["DROPOUT"]))
        if config["HIDDEN"]:
            self.dense.extend([nn.Linear(units, config["HIDDEN"]), nn.ReLU(), nn.Dropout(config["DROPOUT"])])
            units = config["HIDDEN"]
        self.last = nn.Linear(units, outputs)
        _start(self)

    def forward(self, images: Tensor, scalars: Tensor) -> Tensor:
        """(n, 1, h, w) and (n, S) -> (n, outputs)."""
        cells = F.adaptive_avg_pool2d(self.body(images), self.grid).flatten(1)
        return self.last(self.dense(torch.cat([cells, scalars], 1)))


def _plain(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


class Block(nn.Module):
    """Two 3x3 convolutions, the first halving the image, beside a 1x1 shortcut of its 2x2 means."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.main(x) + self.shortcut(F.avg_pool2d(x, 2, ceil_mode=True)))


def _start(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """Scalars join the 512 means before `fc`."""

    def __init__(self, scalars: int, outputs: int, channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        widths = (64, 64, 128, 256, 512)
        for stage in range(1, 5):
            stride = 1 if stage == 1 else 2
            first = BasicBlock(widths[stage - 1], widths[stage], stride)
            setattr(self, f"layer{stage}", nn.Sequential(first, BasicBlock(widths[stage], widths[stage], 1)))
        self.fc = nn.Linear(512 + scalars, outputs)
        _start(self)

    def forward(self, images: Tensor, scalars: Tensor) -> Tensor:
        """(n, 1, h, w) and (n, S) -> (n, outputs)."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, 2, 1)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(torch.cat([x.mean((2, 3)), scalars], 1))


class SqueezeExcitation(nn.Module):
    """Channels weighted by a small network of their means."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)))))


class InvertedResidual(nn.Module):
    """Widen by 1x1, filter each channel, weigh channels, narrow by 1x1."""

    def __init__(self, inputs: int, side: int, wide: int, outputs: int, squeeze: bool, hard: bool, stride: int) -> None:
        super().__init__()
        act = nn.Hardswish if hard else nn.ReLU
        layers: list[nn.Module] = [] if wide == inputs else [_convnorm(inputs, wide, 1, 1, 1, act)]
        layers.append(_convnorm(wide, wide, side, stride, wide, act))
        if squeeze:
            layers.append(SqueezeExcitation(wide, _whole8(wide // 4)))
        layers.append(_convnorm(wide, outputs, 1, 1, 1, None))
        self.block = nn.Sequential(*layers)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.shortcut else self.block(x)


def _whole8(channels: int) -> int:
    """The nearest multiple of 8 that is not more than a tenth below."""
    whole = max(8, (channels + 4) // 8 * 8)
    return whole + 8 if whole < 0.9 * channels else whole


def _convnorm(inputs: int, outputs: int, side: int, stride: int, groups: int, act: type[nn.Module] | None) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, side, stride, (side - 1) // 2, groups=groups, bias=False)
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(outputs, eps=0.001, momentum=0.01)]
    return nn.Sequential(*layers, *([] if act is None else [act()]))


# kernel, width, outputs, squeeze, hard swish, stride: Howard et al. 2019, table 2
_BNECKS = (
    (3, 16, 16, True, False, 2), (3, 72, 24, False, False, 2), (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2), (5, 240, 40, True, True, 1), (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1), (5, 144, 48, True, True, 1), (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1), (5, 576, 96, True, True, 1),
)  # fmt: skip


class MobileNetV3Small(nn.Module):
    """Scalars join the 576 means before `classifier`."""

    def __init__(self, scalars: int, outputs: int, channels: int = 1, dropout: float = 0.2) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convnorm(channels, 16, 3, 2, 1, nn.Hardswish)]
        inputs = 16
        for side, wide, out, squeeze, hard, stride in _BNECKS:
            layers.append(InvertedResidual(inputs, side, wide, out, squeeze, hard, stride))
            inputs = out
        layers.append(_convnorm(inputs, 576, 1, 1, 1, nn.Hardswish))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(576 + scalars, 1024), nn.Hardswish(), nn.Dropout(dropout), nn.Linear(1024, outputs)
        )
        _start(self)
        for module in self.classifier:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor, scalars: Tensor) -> Tensor:
        """(n, 1, h, w) and (n, S) -> (n, outputs)."""
        return self.classifier(torch.cat([self.features(images).mean((2, 3)), scalars], 1))
