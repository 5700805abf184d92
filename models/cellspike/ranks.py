"""Several processes that train one network: sums over all of them. With one process, what was put in."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.base import Place


class Ranks:
    """The ranks of torch's default process group.

    Args:
        place: which rank this is.
        device: where tensors that are exchanged lie.
    """

    def __init__(self, place: Place, device: torch.device) -> None:
        self.rank, self.count, self.device = place.rank, place.ranks, device

    def summed(self, numbers: np.ndarray) -> np.ndarray:
        """Sums over ranks, in double precision."""
        if self.count == 1:
            return numbers
        tensor = torch.as_tensor(numbers, dtype=torch.float64).to(self.device)
        dist.all_reduce(tensor)
        return tensor.cpu().numpy()

    def largest(self, number: float) -> float:
        """The largest of all ranks' numbers."""
        if self.count == 1:
            return number
        tensor = torch.tensor([number], dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return float(tensor)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Every gradient becomes the mean over ranks: one exchange of one flat vector."""
        self._average([p.grad for p in parameters if p.grad is not None])

    def average_buffers(self, network: nn.Module) -> None:
        """Running statistics of normalisations become the means over ranks.

        They are linear in what each batch had, so how often this is done changes nothing.
        """
        self._average([b for b in network.buffers() if b.is_floating_point()])

    def _average(self, tensors: list[Tensor]) -> None:
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.count
        done = 0
        for tensor in tensors:
            tensor.copy_(flat[done : done + tensor.numel()].view_as(tensor))
            done += tensor.numel()

    def span(self, count: int) -> tuple[int, int]:
        """This rank's share of `count` samples: contiguous; all shares differ by at most one."""
        return count * self.rank // self.count, count * (self.rank + 1) // self.count
