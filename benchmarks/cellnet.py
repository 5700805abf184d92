"""CellNet's convolutions and steps on one core, in CPU time: sparse ones on tables against a dense conv3d.

Voxels are generated: straight tracks three voxels thick at random angles, so that about 16 of a voxel's 27 neighbours
are there, as with tiled events. First 12,000 of them in a box of 112x160x80, 16 to 16 channels, forward and backward,
against torch's conv3d of the whole box; both must find the same numbers. Then sparse alone in a TPC of 750x748x288, and
whole steps of SparseCellNet (16 channels, 4 levels) with Adam. Maps are timed apart: they can be kept.

    python -m benchmarks.cellnet [--voxels 12000 23000 83000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.clock import instruction_set
from ground.machine import tune_allocator
from models.cellnet.network import SparseCellNet
from models.cellnet.sparse import Sites, SubmanifoldConv3d

BOX, TPC, KERNEL = (112, 160, 80), (750, 748, 288), (3, 3, 3)
SETTINGS: dict[str, Any] = {
    "N_CHANNELS": 16,
    "N_STRIDES": 4,
    "REPS": 2,
    "N_2D": 0,
    "DOWNSAMPLE_T": 2,
    "CONV_KERNEL": 3,
    "LEAKINESS": 0.0,
    "MOMENTUM": 0.99,
    "SPATIAL": [1024, 1024, 512],
    "N_FEATURES": 3,
    "HEAD": "binary",
    "BACKEND": "torch",
}


def tracks(voxels: int, box: tuple[int, int, int], seed: int = 0) -> Tensor:
    """(N, 4) int64 [event 0, x, y, z] of thick straight tracks, each cell once; N is `voxels` or a little more."""
    rng = np.random.default_rng(seed)
    cells = np.empty((0, 3), dtype=np.int64)
    while len(cells) < voxels:
        direction = rng.normal(size=3)
        direction /= np.abs(direction).max()
        middle = rng.uniform(0, box) + np.arange(0, rng.uniform(30, min(300, max(box))), 0.5)[:, None] * direction
        across = [axis for axis in range(3) if axis != np.abs(direction).argmax()]
        around = np.zeros((9, 3), dtype=np.int64)
        around[:, across] = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), -1).reshape(9, 2)
        track = (np.floor(middle).astype(np.int64)[:, None] + around).reshape(-1, 3)
        track = track[((track >= 0) & (track < box)).all(1)]
        cells = np.unique(np.concatenate([cells, track]), axis=0)
    return F.pad(torch.from_numpy(cells), (1, 0))


def best(way: Callable[[], Any], rounds: int) -> float:
    """CPU seconds of the quickest round."""
    times = []
    for _ in range(rounds):
        begun = time.process_time()
        way()
        times.append(time.process_time() - begun)
    return min(times)


def convolution(coords: Tensor, shape: tuple[int, int, int], rounds: int, dense: bool = False) -> dict[str, float]:
    """CPU seconds of one 3³ convolution of 16 channels, forward and backward; of its maps; of the dense one.

    Raises:
        ArithmeticError: dense and sparse disagree.
    """
    maps = best(lambda: Sites(coords, shape).neighbours(KERNEL), rounds)
    sites = Sites(coords, shape)
    torch.manual_seed(0)
    conv = SubmanifoldConv3d(16, 16, KERNEL)
    x, cotangent = torch.randn(2, len(sites), 16).unbind()
    x.requires_grad_()
    present = float((sites.neighbours(KERNEL) < len(sites)).sum()) / len(sites)

    def ours() -> tuple[Tensor, ...]:
        return torch.autograd.grad(conv(x, sites), (x, conv.weight), cotangent)

    found = {"voxels": len(sites), "neighbours": present, "maps": maps, "ours": best(ours, rounds)}
    if dense:
        at = (0, slice(None), *sites.coords[:, 1:].T)
        weight = conv.weight.detach().permute(2, 1, 0).reshape(16, 16, *KERNEL).requires_grad_()
        image, back = torch.zeros(2, 1, 16, *shape).unbind()
        image[at], back[at] = x.detach().T, cotangent.T
        image.requires_grad_()

        def theirs() -> tuple[Tensor, ...]:
            return torch.autograd.grad(F.conv3d(image, weight, padding=1), (image, weight), back)

        found["dense"] = best(theirs, min(rounds, 3))
        of_image, of_weight = theirs()
        pairs = zip(ours(), (of_image[at].T, of_weight.flatten(2).permute(2, 1, 0)), strict=True)
        if any((one - other).abs().max() > 1e-4 * other.abs().max() for one, other in pairs):
            raise ArithmeticError("the dense and the sparse convolution disagree")
    return found


def step(coords: Tensor, rounds: int) -> dict[str, float]:
    """CPU seconds of a whole training step with Adam, and of making all its maps."""
    torch.manual_seed(0)
    net = SparseCellNet(SETTINGS)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    rows, features = coords.roll(-1, 1), torch.randn(len(coords), 3)
    truth = (torch.rand(len(coords), 1) < 0.05).float()
    sites = net.sites(rows)

    def update() -> None:
        loss = F.binary_cross_entropy_with_logits(net(sites, features), truth)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()

    def maps() -> None:
        at = net.sites(rows)
        for _ in range(SETTINGS["N_STRIDES"] - 1):
            at.neighbours(KERNEL)
            at = at.coarser((2, 2, 2)).sites
        at.neighbours(KERNEL)

    return {"maps": best(maps, rounds), "step": best(update, rounds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voxels", type=int, nargs="+", default=[12_000, 23_000, 83_000], help="in the TPC")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions, the best counts (default 5)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tune_allocator()  # as a trial does
    print(f"CPU seconds on one core, {instruction_set()}, best of {arguments.rounds}")
    one = convolution(tracks(12_000, BOX), BOX, arguments.rounds, dense=True)
    print(
        f"16 to 16 channels, {one['voxels']} voxels in {'x'.join(map(str, BOX))}: ours {one['ours']:.4f} s, "
        f"dense {one['dense']:.3f} s: {one['dense'] / one['ours']:.0f} x"
    )
    for voxels in arguments.voxels:
        coords = tracks(voxels, TPC)
        one = convolution(coords, TPC, arguments.rounds)
        print(
            f"{one['voxels']:7} voxels with {one['neighbours']:.1f} of 27 neighbours: "
            f"{one['voxels'] / one['ours'] / 1e6:.2f} million voxels/s, maps {one['maps']:.3f} s",
            flush=True,
        )
        whole = step(coords, arguments.rounds)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{'':7} whole step {whole['step']:.2f} s ({one['voxels'] / whole['step']:.0f} voxels/s), "
            f"all maps {whole['maps']:.3f} s, at most {memory:.2f} GiB resident so far",
            flush=True,
        )


if __name__ == "__main__":
    main()
