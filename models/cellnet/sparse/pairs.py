"""Submanifold convolution where few of the neighbours are there, as on the coarser levels of a U.

Of each offset of the kernel, the voxels that have a neighbour there are gathered and multiplied by its weights; then
each voxel sums its own products. That spares the products with zeros that a table makes; again nothing is scattered.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.cellnet.sparse.maps import Pairs


def by_pairs(x: Tensor, weight: Tensor, pairs: Pairs) -> Tensor:
    """(N, C), (K, C, D) -> (N, D)."""
    out: Tensor = _ByPairs.apply(x, weight, pairs)
    return out


def _lists(pairs: Pairs) -> Iterator[tuple[int, slice]]:
    """The offsets that any voxel has a neighbour at, and their pairs."""
    for cell, (begin, end) in enumerate(pairwise([0, *pairs.ends])):
        if end > begin:
            yield cell, slice(begin, end)


def _add_products(out: Tensor, products: Tensor, pairs: Pairs) -> Tensor:
    """Add to each row (N, D) the products (P, D) of the pairs whose target it is."""
    if len(products):
        out += F.embedding_bag(pairs.order, products, pairs.first, mode="sum")
    return out


class _ByPairs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, pairs: Pairs) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.pairs = pairs
        products = x.new_empty(len(pairs.source), weight.shape[2])
        for cell, those in _lists(pairs):
            torch.mm(x.index_select(0, pairs.source[those]), weight[cell], out=products[those])
        return _add_products(x @ weight[len(weight) // 2], products, pairs)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        pairs: Pairs = ctx.pairs
        to_x, to_weight = ctx.needs_input_grad[:2]
        last, middle = len(weight) - 1, len(weight) // 2
        weights = torch.zeros_like(weight) if to_weight else None
        products = grad.new_empty(len(pairs.source), weight.shape[1]) if to_x else None
        if weights is not None:
            torch.mm(x.T, grad, out=weights[middle])
        for cell, those in _lists(pairs):
            # the source took the target at the opposite offset
            held = grad.index_select(0, pairs.source[those])
            if weights is not None:
                torch.mm(x.index_select(0, pairs.target[those]).T, held, out=weights[last - cell])
            if products is not None:
                torch.mm(held, weight[last - cell].T, out=products[those])
        inputs = None if products is None else _add_products(grad @ weight[middle].T, products, pairs)
        return inputs, weights, None
