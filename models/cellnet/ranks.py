"""One network trained by several ranks, each on other files of a step: as one rank would on all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from models.cellnet.network import _EPS, NormReLU

T = TypeVar("T")


class _Sum(torch.autograd.Function):
    """The sum over ranks. Each rank's loss depends on what all of them gave, so gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return summed(values.clone())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return summed(grad.clone())


class NormAcrossRanks(NormReLU):
    """Batch normalisation over the voxels of all ranks.

    torch's own (SyncBatchNorm) works on GPUs only, and takes no rank without any row.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C) -> (N, C); N may differ between ranks and be 0."""
        if not self.training:
            return super().forward(x)
        sums: Tensor = _Sum.apply(torch.cat([x.sum(0), x.new_full((1,), len(x))]))
        count = sums[-1].detach()
        if float(count) < 2:
            # as of one rank: there is no spread to normalise by
            return self._made(x - self.running_mean, self.running_var)
        centred = x - sums[:-1] / count
        variance: Tensor = _Sum.apply(centred.square().sum(0)) / count
        with torch.no_grad():
            self.running_mean.lerp_(sums[:-1] / count, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        return self._made(centred, variance)

    def _made(self, centred: Tensor, variance: Tensor) -> Tensor:
        normal = centred * torch.rsqrt(variance + _EPS) * self.weight + self.bias
        return F.leaky_relu(normal, self.leakiness)


def over_ranks(network: nn.Module) -> None:
    """Let every normalisation of the network count the voxels of all ranks, its parameters as they are."""
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, NormReLU):
                wide = NormAcrossRanks(len(child.weight), 1 - child.momentum, child.leakiness)
                wide.weight, wide.bias = child.weight, child.bias
                wide.running_mean, wide.running_var = child.running_mean, child.running_var
                setattr(module, name, wide.train(child.training))


def summed(values: Tensor) -> Tensor:
    """The sum over ranks."""
    dist.all_reduce(values)
    return values


def add_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Each rank's gradients become the sum over ranks; one message for all of them."""
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = summed(torch.cat([gradient.flatten() for gradient in gradients]))
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)


def gathered(mine: T, ranks: int) -> list[T]:
    """What each rank has, in the order of ranks."""
    every: list[T] = [mine] * ranks
    dist.all_gather_object(every, mine)
    return every
