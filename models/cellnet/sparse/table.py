"""Sparse 3-D convolutions whose outputs are where voxels are (Graham, Engelcke & van der Maaten 2018).

Each equals a dense `conv3d` of an image that is zero where no voxel is, read at the occupied cells. A layer gathers
what each voxel's kernel meets into rows of a table, some at a time, and multiplies them by all its weights at once; a
missing neighbour is a row of zeros. The gradients gather as well, by the same table: nothing is scattered, so results
do not depend on the order of threads, and nothing but the layer's input is kept for the backward pass. Where most
neighbours are missing, `pairs` takes over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.cellnet.sparse.keys import Triple
from models.cellnet.sparse.maps import Sites
from models.cellnet.sparse.pairs import by_pairs

_PORTION = {"cpu": 2**20, "cuda": 2**26}
"""Numbers gathered at a time: on a CPU what stays near the core, elsewhere what keeps the device busy."""


def _gathered(source: Tensor, table: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Portions of rows, and of each row what `table` (M, K) names: (rows, K · C), valid until the next portion."""
    (count, kernel), channels = table.shape, source.shape[1]
    padded = torch.cat([source, source.new_zeros(1, channels)])
    portion = max(1, _PORTION.get(source.device.type, 2**20) // (kernel * channels))
    buffer = source.new_empty(min(portion, count) * kernel, channels)
    for begin in range(0, count, portion):
        rows = slice(begin, min(begin + portion, count))
        names = table[rows].reshape(-1)
        held = torch.index_select(padded, 0, names, out=buffer[: len(names)])
        yield rows, held.view(-1, kernel * channels)


def _gather_multiply(source: Tensor, table: Tensor, weight: Tensor) -> Tensor:
    """Σ over k of source[table[:, k]] @ weight[k]: (N, C), (M, K), (K, C, D) -> (M, D)."""
    matrix = weight.flatten(0, 1)
    out = source.new_empty(len(table), weight.shape[2])
    for rows, held in _gathered(source, table):
        torch.mm(held, matrix, out=out[rows])
    return out


def _place_multiply(source: Tensor, place: Tensor, weight: Tensor) -> Tensor:
    """source[place // V] @ weight[place % V]: (P, C), (N,), (V, C, D) -> (N, D)."""
    everywhere = source @ weight.transpose(0, 1).flatten(1)
    return everywhere.view(-1, weight.shape[2]).index_select(0, place)


def _gather_gradients(
    x: Tensor, grad: Tensor, table: Tensor, weight: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of x (M, C) and weight (K, C, D), where row table[m, k] of the output took x[m] @ weight[k]."""
    kernel, inputs, outputs = weight.shape
    back = weight.transpose(1, 2).flatten(0, 1)
    to_x = torch.empty_like(x) if wanted[0] else None
    to_weight = weight.new_zeros(inputs, kernel * outputs) if wanted[1] else None
    for rows, held in _gathered(grad, table):
        if to_x is not None:
            torch.mm(held, back, out=to_x[rows])
        if to_weight is not None:
            to_weight.addmm_(x[rows].T, held)
    if to_weight is not None:
        to_weight = to_weight.view(inputs, kernel, outputs).transpose(0, 1)
    return to_x, to_weight


class _Submanifold(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, table)
        return _gather_multiply(x, table, weight)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, table = ctx.saved_tensors
        # the neighbour at an offset took this row at the opposite one
        to_x, to_weight = _gather_gradients(x, grad, table, weight.flip(0), ctx.needs_input_grad[:2])
        return to_x, None if to_weight is None else to_weight.flip(0), None


class _Strided(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, children: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, children, place)
        return _gather_multiply(x, children, weight)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight, children, place = ctx.saved_tensors
        to_x = _place_multiply(grad, place, weight.transpose(1, 2)) if ctx.needs_input_grad[0] else None
        to_weight = None
        if ctx.needs_input_grad[1]:
            to_weight = weight.new_zeros(weight.shape).flatten(0, 1)
            for rows, held in _gathered(x, children):
                to_weight.addmm_(held.T, grad[rows])
            to_weight = to_weight.view(weight.shape)
        return to_x, to_weight, None, None


class _Transposed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, children: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, children)
        return _place_multiply(x, place, weight)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight, children = ctx.saved_tensors
        return *_gather_gradients(x, grad, children, weight, ctx.needs_input_grad[:2]), None, None


def submanifold(x: Tensor, weight: Tensor, size: Triple, sites: Sites) -> Tensor:
    """Outputs where the inputs are: (N, C), (K, C, D), a kernel of odd `size` -> (N, D)."""
    lists = sites.pairs(size)
    if lists is not None:
        return by_pairs(x, weight, lists)
    out: Tensor = _Submanifold.apply(x, weight, sites.neighbours(size))
    return out


def strided(x: Tensor, weight: Tensor, size: Triple, sites: Sites) -> Tensor:
    """One output for each block of `size` cells that holds a voxel: (N, C), (V, C, D) -> (P, D)."""
    coarser = sites.coarser(size)
    out: Tensor = _Strided.apply(x, weight, coarser.children, coarser.place)
    return out


def transposed(x: Tensor, weight: Tensor, size: Triple, sites: Sites) -> Tensor:
    """From blocks of `size` cells back to the voxels that they were made of: (P, C), (V, C, D) -> (N, D)."""
    coarser = sites.coarser(size)
    out: Tensor = _Transposed.apply(x, weight, coarser.children, coarser.place)
    return out
