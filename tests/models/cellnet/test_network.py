"""SparseCellNet is the dense U-ResNet read at the voxels, with the original's parameters."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ground.errors import BadInput
from models.cellnet.network import Block, Level, NormReLU, SparseCellNet
from models.cellnet.sparse.conv import SparseConv3d, SubmanifoldConv3d

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
    "N_HIDDEN": 2,
    "FREEZE": False,
    "BACKEND": "torch",
}
SMALL: dict[str, Any] = {"N_CHANNELS": 4, "N_STRIDES": 3, "REPS": 1, "SPATIAL": [16, 12, 8]}


def made(seed: int = 0, **settings: Any) -> SparseCellNet:
    torch.manual_seed(seed)
    return SparseCellNet({**SETTINGS, **settings})


def numbers(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def event(rows: int = 150, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two events' distinct voxels in a box of 16x12x8, in no order, and their features."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randperm(16 * 12 * 8 * 2, generator=generator)[:rows]
    coords = torch.stack([cells // 96 % 16, cells // 8 % 12, cells % 8, cells // 1536], 1)
    return coords, torch.randn(rows, 3, generator=generator)


class Dense:
    """The network on whole images (events, C, X, Y, Z) that are zero outside a mask of the occupied cells."""

    def __init__(self, net: SparseCellNet) -> None:
        self.net = net

    def __call__(self, coords: Tensor, features: Tensor) -> Tensor:
        x, y, z, n = coords.T
        image = features.new_zeros(2, *self.net.shape, features.shape[1])
        image = image.index_put((n, x, y, z), features).permute(0, 4, 1, 2, 3)
        mask = torch.zeros(2, 1, *self.net.shape, dtype=features.dtype)
        mask[n, 0, x, y, z] = 1
        trunk = self.net.trunk
        image = self.level(self.conv(image, trunk.first, mask), trunk.levels, mask)
        found = self.norm(image, trunk.norm, mask)[n, :, x, y, z]
        return self.net.head(found)

    def weight(self, conv: SparseConv3d) -> Tensor:
        return conv.weight.permute(2, 1, 0).unflatten(2, conv.size)

    def conv(self, image: Tensor, conv: SparseConv3d, mask: Tensor) -> Tensor:
        return F.conv3d(image, self.weight(conv), padding=tuple(n // 2 for n in conv.size)) * mask

    def norm(self, image: Tensor, norm: NormReLU, mask: Tensor) -> Tensor:
        count = mask.sum()
        mean = image.sum((0, 2, 3, 4), keepdim=True) / count
        variance = ((image - mean).square() * mask).sum((0, 2, 3, 4), keepdim=True) / count
        weight, bias = (p.view(1, -1, 1, 1, 1) for p in (norm.weight, norm.bias))
        return F.leaky_relu((image - mean) / (variance + 1e-4).sqrt() * weight + bias, norm.leakiness) * mask

    def block(self, image: Tensor, block: Block, mask: Tensor) -> Tensor:
        branch = self.conv(self.norm(image, block.norm1, mask), block.conv1, mask)
        branch = self.conv(self.norm(branch, block.norm2, mask), block.conv2, mask)
        return branch + (image if block.shortcut is None else self.conv(image, block.shortcut, mask))

    def level(self, image: Tensor, level: Level, mask: Tensor) -> Tensor:
        for block in level.before:
            image = self.block(image, block, mask)
        if level.deepest:
            return image
        size = level.down.size
        coarse = F.max_pool3d(mask, size)
        branch = F.conv3d(self.norm(image, level.norm_down, mask), self.weight(level.down), stride=size)
        branch = self.norm(self.level(branch, level.deeper, coarse), level.norm_up, coarse)
        branch = F.conv_transpose3d(branch, self.weight(level.up).transpose(0, 1), stride=size) * mask
        image = torch.cat([image, branch], 1)
        for block in level.after:
            image = self.block(image, block, mask)
        return image


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"DOWNSAMPLE_T": 4, "SPATIAL": [16, 12, 8], "REPS": 2},
        {"N_2D": 1, "LEAKINESS": 0.33, "N_STRIDES": 3},
        {"N_2D": 3, "CONV_KERNEL": 5, "HEAD": "charge"},
        {"N_STRIDES": 1, "CONV_KERNEL": 1},
    ],
)
def test_it_is_the_dense_network_at_the_voxels(settings: dict[str, Any]) -> None:
    net = made(**{**SMALL, **settings}).double()
    for module in net.modules():
        if isinstance(module, NormReLU):  # as after some training, not ones and zeros
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    coords, features = event()
    features = features.double().requires_grad_()
    ours, theirs = net(coords, features), Dense(net)(coords, features)
    assert ours.shape == (150, 1)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    cotangent = torch.randn_like(ours)
    wanted = [features, *net.parameters()]
    for one, other in zip(
        torch.autograd.grad(ours, wanted, cotangent), torch.autograd.grad(theirs, wanted, cotangent), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("downsample", "count"), [(2, 1_406_433), (4, 1_488_353)])
def test_it_has_the_originals_parameters(downsample: int, count: int) -> None:
    assert numbers(made(DOWNSAMPLE_T=downsample)) == count


def test_parameters_and_buffers_come_in_the_originals_order() -> None:
    """A checkpoint of the original can be read by counting."""
    net = made(**{**SMALL, "N_STRIDES": 2})
    order = [name for name in net.trunk.state_dict() if name.endswith(".weight")]
    assert [name.removesuffix(".weight") for name in order] == [
        "first",
        *(f"levels.before.0.{name}" for name in ("norm1", "conv1", "norm2", "conv2")),
        *(f"levels.{name}" for name in ("norm_down", "down")),
        *(f"levels.deeper.before.0.{name}" for name in ("norm1", "conv1", "norm2", "conv2")),
        *(f"levels.{name}" for name in ("norm_up", "up")),
        *(f"levels.after.0.{name}" for name in ("shortcut", "norm1", "conv1", "norm2", "conv2")),
        "norm",
    ]
    assert list(net.trunk.norm.state_dict()) == ["weight", "bias", "running_mean", "running_var"]


@pytest.mark.parametrize("hidden", [0, 1, 3])
def test_the_charge_head_has_its_layers(hidden: int) -> None:
    net = made(HEAD="charge", N_HIDDEN=hidden)
    assert numbers(net.head) == hidden * (16 * 16 + 16) + 17
    assert numbers(net.trunk) == 1_406_433 - 17


def test_levels_that_look_at_y_and_z_only_have_smaller_kernels() -> None:
    net = made(N_2D=1, DOWNSAMPLE_T=4)
    assert (net.trunk.first.size, net.trunk.levels.down.size) == ((1, 3, 3), (1, 2, 2))
    deeper = net.trunk.levels.deeper
    assert deeper.before[0].conv1.size == (3, 3, 3)
    assert deeper.down.size == deeper.up.size == (4, 2, 2)


def test_weights_start_as_the_originals() -> None:
    for module in made().modules():
        if isinstance(module, SparseConv3d) and module.weight.numel() > 20_000:
            kernel, inputs, _ = module.weight.shape
            expected, weight = math.sqrt(2 / (inputs * kernel)), module.weight.detach()
            assert float(weight.std()) == pytest.approx(expected, rel=0.03)
            assert abs(float(weight.mean())) < 4 * expected / math.sqrt(weight.numel())


def test_rows_come_back_in_the_order_they_came() -> None:
    net = made(**SMALL)
    coords, features = event()
    order = torch.randperm(len(coords))
    torch.testing.assert_close(net(coords[order], features[order]), net(coords, features)[order])


def test_events_do_not_see_each_other() -> None:
    net = made(**SMALL).eval()
    coords, features = event()
    one = coords[:, 3] == 0
    torch.testing.assert_close(net(coords[one], features[one]), net(coords, features)[one])
    moved = coords.clone()
    moved[:, 3] = 7 - 3 * coords[:, 3]
    torch.testing.assert_close(net(moved, features), net(coords, features))


def test_duplicates_are_summed() -> None:
    net = made(**SMALL)
    coords, features = event()
    twice = net(torch.cat([coords, coords[:40]]), torch.cat([features, 2 * features[:40]]))
    features[:40] *= 3
    once = net(coords, features)
    torch.testing.assert_close(twice[:150], once)
    assert torch.equal(twice[150:], twice[:40])


def test_maps_can_be_kept() -> None:
    net = made(**SMALL)
    coords, features = event()
    sites = net.sites(coords)
    assert torch.equal(net(sites, features), net(coords, features))
    kept = sites.neighbours((3, 3, 3))
    net(sites, features + 1)
    assert sites.neighbours((3, 3, 3)) is kept


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("training", [True, False])
def test_events_of_no_or_one_voxel(rows: int, training: bool) -> None:
    net = made(**SMALL).train(training)
    before = {name: value.clone() for name, value in net.named_buffers()}
    coords, features = event()
    out = net(coords[:rows], features[:rows])
    assert out.shape == (rows, 1) and out.isfinite().all()
    out.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())


def test_momentum_is_what_is_kept() -> None:
    coords, features = event()
    net = made(**SMALL, MOMENTUM=0.75)
    net(coords, features)
    sites = net.sites(coords)
    with torch.no_grad():
        first = net.trunk.first(sites.collect(features), sites)
    norm = net.trunk.levels.before[0].norm1
    torch.testing.assert_close(norm.running_mean, 0.25 * first.mean(0))
    torch.testing.assert_close(norm.running_var, 0.75 + 0.25 * first.var(0))


def test_a_frozen_trunk_stays_as_it_is() -> None:
    net = made(**SMALL, HEAD="charge", FREEZE=True).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    coords, features = event()
    net(coords, features).square().sum().backward()
    optimizer.step()
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("head.") for name in changed)


def test_freeze_is_of_the_charge_head() -> None:
    assert all(p.requires_grad for p in made(**SMALL, FREEZE=True).parameters())


def test_voxels_that_do_not_fit() -> None:
    net = made(**SMALL)
    coords, features = event()
    with pytest.raises(BadInput, match="beyond the 16 cells"):
        net(coords + torch.tensor([8, 0, 0, 0]), features)
    with pytest.raises(BadInput, match="takes 3 a voxel"):
        net(coords, features[:, :2])
    with pytest.raises(BadInput, match="150 voxels"):
        net(coords, features[:149])


def test_training_learns_which_voxels_are_true() -> None:
    """A rule that needs neighbours: true is what has a voxel right above it."""
    coords, features = event(400)
    cells = {tuple(cell) for cell in coords.tolist()}
    truth = torch.tensor([[(x, y, z + 1, n) in cells] for x, y, z, n in coords.tolist()]).float()
    net = made(**SMALL)
    sites, optimizer = net.sites(coords), torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(40):
        loss = F.binary_cross_entropy_with_logits(net(sites, torch.ones_like(features)), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1 < F.binary_cross_entropy(truth.mean().expand_as(truth), truth)


def test_the_backend_is_every_convolutions() -> None:
    coords, features = event()
    net = made(**SMALL, BACKEND="spconv")
    assert {conv.backend for conv in net.modules() if isinstance(conv, SubmanifoldConv3d)} == {"spconv"}
    with pytest.raises(BadInput, match="BACKEND spconv"):
        net(coords, features)
