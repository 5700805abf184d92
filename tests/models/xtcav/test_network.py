from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ground.errors import BadInput
from models.xtcav.augment import augmented, shifted
from models.xtcav.build import build, last_layer
from models.xtcav.config import MODERN, PUBLISHED, resolve
from models.xtcav.modern import MobileNetV3Small, ResNet18
from models.xtcav.network import NETS, PublishedNet, convnet_app, flat_shape, pad_same, published, same_padding

# k1ch, k1dim, k2ch, k2dim, h3u of the original's command lines, and the variables that its log told
TOLD = {
    (1, 2, 1, 2, 10): 544,
    (2, 2, 1, 2, 10): 553,
    (1, 2, 2, 2, 10): 1029,
    (2, 2, 2, 2, 10): 1042,
    (2, 4, 2, 2, 10): 1066,
    (2, 2, 2, 4, 10): 1090,
    (2, 4, 2, 4, 10): 1114,
    (2, 4, 2, 4, 100): 10204,
    (8, 8, 8, 6, 100): 41736,
    (8, 8, 8, 6, 10): 6726,
    (8, 8, 8, 6, 16): 9060,
}


def variables(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("line", "count"), TOLD.items())
def test_convnet_app_has_the_variables_of_its_log(line: tuple[int, ...], count: int) -> None:
    settings = dict(zip(("K1CH", "K1DIM", "K2CH", "K2DIM", "H3U"), line, strict=True))
    network = build(resolve({"NET": "convnet_app", **settings}), (726, 568), 0, 4)
    assert variables(network) == count


@pytest.mark.parametrize(
    ("name", "count", "flat"),
    [
        ("tensorflow_simple", 9060, (8, 6)),
        ("keras_simple", 4452, (4, 3)),
        ("six_layer", 94724, (9, 7)),
        ("seven_layer", 65904, (5, 4)),
        ("lasing_report", 13234, (15, 19)),
        ("two_colour", 139396 + 256, (14, 11)),
    ],
)
def test_published_nets_have_their_variables(name: str, count: int, flat: tuple[int, int]) -> None:
    net = NETS[name]
    network = PublishedNet(net, net.image, 0, net.outputs)
    assert variables(network) == count == net.variables
    assert flat_shape(net, net.image) == flat


def test_two_colour_without_its_normalisation() -> None:
    network = PublishedNet(NETS["two_colour"], NETS["two_colour"].image, 0, 4)
    norms = sum(variables(m) for m in network.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)))
    assert (norms, variables(network) - norms) == (256, 139396)


def test_torchvisions_nets_have_their_parameters() -> None:
    assert variables(ResNet18(0, 1000, channels=3)) == 11_689_512
    assert variables(MobileNetV3Small(0, 1000, channels=3)) == 2_542_856
    assert variables(ResNet18(0, 4)) == 11_689_512 - 2 * 64 * 49 - 996 * 513


@pytest.mark.parametrize(
    ("size", "window", "stride", "pads"),
    [
        (726, 8, 1, (3, 4)), (568, 6, 1, (2, 3)),  # convolutions of 8 and 6
        (726, 13, 10, (3, 4)), (568, 13, 10, (2, 3)),  # the first pool
        (73, 13, 10, (5, 5)), (57, 13, 10, (3, 3)),  # the second
    ],
)  # fmt: skip
def test_same_pads_as_tensorflow(size: int, window: int, stride: int, pads: tuple[int, int]) -> None:
    assert same_padding(size, window, stride) == pads


@given(st.integers(1, 200), st.integers(1, 20), st.integers(1, 20))
def test_same_gives_the_rounded_up_size(size: int, window: int, stride: int) -> None:
    before, after = same_padding(size, window, stride)
    assert 0 <= after - before <= 1
    if before + after:
        assert (size + before + after - window) // stride + 1 == math.ceil(size / stride)


def test_the_odd_row_of_padding_is_at_the_bottom_right() -> None:
    padded = pad_same(torch.ones(1, 1, 5, 5), 2, (1, 1))
    assert padded.shape == (1, 1, 6, 6)
    assert padded[0, 0, :5, :5].all() and not padded[0, 0, 5].any() and not padded[0, 0, :, 5].any()


def test_kernels_may_stride_and_biases_begin_anywhere() -> None:
    settings = {"NET": "convnet_app", "K1STRD": "2,3", "K2STRD": "1,2", "BIAS": "1:0.1,3:-0.5", "POOL": "3,2"}
    network = build(resolve(settings), (64, 60), 0, 4)
    shapes, images = [], torch.zeros(2, 1, 64, 60)
    for stage in network.convs:  # type: ignore[attr-defined, union-attr]
        images = stage(images)
        shapes.append(tuple(images.shape[2:]))
    # SAME: rows and columns over the stride, rounded up
    assert shapes == [(32, 20), (32, 20), (16, 10), (16, 5), (16, 5), (8, 3)]
    assert flat_shape(published(resolve(settings)), (64, 60)) == (8, 3)
    assert network(torch.zeros(2, 1, 64, 60), torch.zeros(2, 0)).shape == (2, 4)
    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert [{round(v, 6) for v in m.bias.tolist()} for m in layers] == [{0.1}, {0.0}, {-0.5}, {0.0}]
    with pytest.raises(BadInput, match="no bias in layer 5; there is in 1, 2, 3, 4"):
        build(resolve({**settings, "BIAS": "5:1"}), (64, 60), 0, 4)
    with pytest.raises(BadInput, match="no bias in layer 1; there is in 6"):
        build(resolve({"NET": "two_colour", "BIAS": "1:1"}), (363, 284), 0, 4)


def test_shapes_of_the_seeds_net() -> None:
    network = PublishedNet(convnet_app(1, 2, 1, 2, 10), (726, 568), 0, 4)
    shapes, images = [], torch.zeros(1, 1, 726, 568)
    for stage in network.convs:
        images = stage(images)
        shapes.append(tuple(images.shape[2:]))
    assert shapes == [(726, 568), (726, 568), (73, 57), (73, 57), (73, 57), (8, 6)]


def test_average_pool_leaves_out_what_is_padded() -> None:
    network = PublishedNet(NETS["lasing_report"], (24, 24), 0, 2)
    ones = torch.ones(1, 16, 12, 12)
    assert torch.allclose(network.convs[2](ones), torch.ones(1, 16, 2, 2))


def test_initial_values_are_cut_at_two_deviations() -> None:
    torch.manual_seed(0)
    network = PublishedNet(NETS["tensorflow_simple"], (726, 568), 0, 4)
    for layer, std in ((network.convs[3], 0.03), (network.dense[0], 0.03), (network.last, 0.1)):
        weight = layer.weight.detach().numpy()
        assert np.abs(weight).max() <= 2 * std
        # a normal cut at two deviations has .88 of its deviation
        assert weight.std() == pytest.approx(0.88 * std, rel=0.15)
        assert not layer.bias.detach().numpy().any()
    wide = published(resolve({"NET": "tensorflow_simple", "KSTD": 0.5, "WSTD": 0.2}))
    assert (wide.kstd, wide.wstd, wide.last) == (0.5, 0.2, 0.2)


@pytest.mark.parametrize("name", [*MODERN, *PUBLISHED])
def test_every_net_gives_outputs_and_takes_scalars(name: str) -> None:
    config = resolve({"NET": name, "DEPTH": 3})
    network = build(config, (300, 260), 2, 3).eval()
    images, scalars = torch.randn(2, 1, 300, 260), torch.randn(2, 2)
    with torch.no_grad():
        plain, other = network(images, scalars), network(images, scalars + 5)
    assert plain.shape == (2, 3)
    assert not torch.equal(plain, other)
    assert last_layer(network).out_features == 3
    without = build(resolve({"NET": name, "DEPTH": 3, "SCALARS": False}), (300, 260), 2, 3)
    assert variables(without) < variables(network)


@pytest.mark.parametrize("config", [{"NET": "seven_layer"}, {"NET": "cnn", "DEPTH": 5}])
def test_images_too_small_are_told(config: dict[str, object]) -> None:
    with pytest.raises(BadInput, match="too small"):
        build(resolve(config), (20, 20), 0, 4)


def test_shifts_move_and_repeat_the_edge() -> None:
    images = torch.arange(16.0).reshape(1, 1, 4, 4)
    down = shifted(images, torch.tensor([[1, 0]]), 2)
    assert torch.equal(down[0, 0, 1:], images[0, 0, :3]) and torch.equal(down[0, 0, 0], images[0, 0, 0])
    right = shifted(images, torch.tensor([[0, -2]]), 2)
    assert torch.equal(right[0, 0, :, :2], images[0, 0, :, 2:])
    generator = torch.Generator().manual_seed(0)
    same = augmented(images, 0, 0.0, 0.0, generator)
    assert same is images
    assert not torch.equal(augmented(images, 1, 0.1, 0.1, generator), images)
