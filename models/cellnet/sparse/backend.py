"""Who computes submanifold convolutions: torch by tables, everywhere, or kernels made for it on a CUDA device.

They are by far most of the work. The kernels are those of spconv (Yan Yan and contributors) or of spconv-triton, which
has the same interface. Neither is asked for on a CPU, where spconv's backward pass does not work.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ground.errors import BadInput
from models.cellnet.sparse import table
from models.cellnet.sparse.keys import Triple
from models.cellnet.sparse.maps import Sites

Submanifold = Callable[[Tensor, Tensor, Triple, Sites], Tensor]
"""(N, C) features, (K, C, D) weights, the kernel's size, where -> (N, D)."""

PACKAGES = ("spconv_triton", "spconv")

_TOLERANCE = 1e-3
"""Of the largest value: float32 in another order of summing, and no shortened products."""


@cache
def choose(name: str, device: torch.device) -> Submanifold:
    """What computes submanifold convolutions on a device.

    Args:
        name: "torch"; "spconv", which must work; "auto": spconv where it works, else torch.

    Raises:
        BadInput: spconv was asked for and cannot be had.
    """
    if name == "torch" or (name == "auto" and device.type != "cuda"):
        return table.submanifold
    if device.type != "cuda":
        raise BadInput(f"BACKEND spconv does not train on a {device.type} device; torch and auto work on any")
    faults = []
    for package in PACKAGES:
        try:
            found = Spconv(package)
            probe(found, device)
            return found
        except Exception as error:  # whatever a foreign library does wrong, it is not to be used
            faults.append(f"{package}: {' '.join(str(error).split())[:200] or type(error).__name__}")
    if name == "auto":
        return table.submanifold
    raise BadInput(f"BACKEND spconv does not work here ({'; '.join(faults)})")


class Spconv:
    """Submanifold convolution by a package with spconv's interface. Its own maps are kept with the `Sites`.

    Args:
        package: the name to import.

    Raises:
        ImportError: it is not there.
    """

    def __init__(self, package: str) -> None:
        self._package = package
        self._library = importlib.import_module(f"{package}.pytorch")
        self._layers: dict[tuple[int, int, Triple], torch.nn.Module] = {}

    def __call__(self, x: Tensor, weight: Tensor, size: Triple, sites: Sites) -> Tensor:
        if not len(sites):
            return table.submanifold(x, weight, size, sites)
        gradients = torch.is_grad_enabled()
        if self._package not in sites.kept:
            sites.kept[self._package] = (sites.coords.int(), int(sites.coords[:, 0].max()) + 1, {})
        indices, events, maps = sites.kept[self._package]
        voxels = self._library.SparseConvTensor(x, indices, list(sites.shape), events, indice_dict=maps)
        layer = self._layer(weight.shape[1], weight.shape[2], size)
        # its maps, which this call may make, are to serve training, too
        with torch.inference_mode(False), torch.set_grad_enabled(gradients):
            out: Any = torch.func.functional_call(layer, {"weight": arranged(weight, size)}, (voxels,))
        maps.update(out.indice_dict)
        result: Tensor = out.features
        return result

    def _layer(self, inputs: int, outputs: int, size: Triple) -> torch.nn.Module:
        """A layer without weights of its own; all of a kernel's size share their maps."""
        key = (inputs, outputs, size)
        if key not in self._layers:
            name = "submanifold {}x{}x{}".format(*size)
            with torch.device("meta"):
                self._layers[key] = self._library.SubMConv3d(inputs, outputs, list(size), bias=False, indice_key=name)
        return self._layers[key]


def arranged(weight: Tensor, size: Triple) -> Tensor:
    """(K, inputs, outputs) as spconv takes them: (outputs, x, y, z, inputs)."""
    return weight.permute(2, 0, 1).unflatten(1, size).contiguous()


def probe(found: Submanifold, device: torch.device) -> None:
    """Compare outputs and gradients with torch's on some voxels of two events.

    Raises:
        ArithmeticError: they differ.
    """
    generator = torch.Generator().manual_seed(0)
    coords = torch.stack([torch.randint(0, most, (300,), generator=generator) for most in (2, 9, 8, 7)], 1)
    sites = Sites(coords.to(device), (9, 8, 7))
    for inputs, outputs in ((3, 16), (16, 32)):
        shapes = ((len(sites), inputs), (27, inputs, outputs), (len(sites), outputs))
        x, weight, cotangent = (torch.randn(shape, generator=generator).to(device) for shape in shapes)
        with torch.inference_mode(False), torch.enable_grad():
            ours, theirs = (_with_gradients(way, x, weight, cotangent, sites) for way in (table.submanifold, found))
        for expected, value in zip(ours, theirs, strict=True):
            close = (value - expected).abs().max() <= _TOLERANCE * expected.abs().max()  # False of NaN
            if not close:
                raise ArithmeticError("its numbers differ from torch's")


def _with_gradients(way: Submanifold, x: Tensor, weight: Tensor, cotangent: Tensor, sites: Sites) -> tuple[Tensor, ...]:
    x, weight = x.detach().clone().requires_grad_(), weight.detach().clone().requires_grad_()
    out = way(x, weight, (3, 3, 3), sites)
    return out.detach(), *torch.autograd.grad(out, (x, weight), cotangent)
