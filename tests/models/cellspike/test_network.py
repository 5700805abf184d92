from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks import cellspike as benchmark
from benchmarks.plain_cellspike import PlainNet
from ground.errors import BadInput
from models.cellspike.config import resolve
from models.cellspike.network import build, parameters, shapes
from models.cellspike.tower import PooledConv


def design(
    filters: list[int], kernel: int, pool: int, fc: list[int], kind: str = "torch", **more: Any
) -> dict[str, Any]:
    """Settings of a stack of equal kernels and pools."""
    out: dict[str, Any] = {"DESIGN": kind, "CONV_DEPTH": len(filters), "FC_DEPTH": len(fc), "FC_LAST": 0}
    for number, width in enumerate(filters, 1):
        out |= {f"FILTERS_{number}": width, f"KERNEL_{number}": kernel, f"POOL_{number}": pool}
    out |= {f"FC_{number}": width for number, width in enumerate(fc, 1)}
    return {**out, "DROPOUT": 0.0, **more}


def ontra(**more: Any) -> dict[str, Any]:
    """Design a2f791f3a."""
    return design([30, 90, 180], 4, 4, [512, 512, 512, 256, 128], **more)


SEED = design([64, 256, 256, 256], 6, 3, [480, 480, 120, 120], "keras")
SMALL = design([5, 7], 3, 2, [11], DROPOUT=0.2)


@pytest.mark.parametrize(
    ("settings", "sizes", "count"),
    [
        (SEED, (1600, 3, 19), 3_281_579),
        (ontra(), (1600, 3, 19), 2_980_599),
        (ontra(), (1600, 4, 15), 2_980_203),
        (ontra(BATCH_NORM_FLAT=True), (1600, 3, 19), 2_989_239),
        (ontra(LAYER_NORM=True), (1600, 3, 19), 2_989_239),
        (ontra(BATCH_NORM_FLAT=True), (1600, 4, 15), 2_988_843),
        (ontra(LAYER_NORM=True), (1600, 4, 15), 2_988_843),
        (ontra(BATCH_NORM_CNN_SLOT=3, BATCH_NORM_FLAT=True), (4000, 3, 19), 6_412_539),
    ],
)
def test_designs_have_their_published_parameters(settings: Any, sizes: tuple[int, int, int], count: int) -> None:
    assert parameters(build(settings, *sizes)) == count


def test_the_second_keras_design_has_the_parameters_of_its_log() -> None:
    settings = design([32, 64, 64, 64, 128, 128], 7, 3, [256, 256, 240], "keras", BATCH_NORM_CNN_SLOT=0)
    network = build(settings, 8000, 11, 18)
    running = sum(b.numel() for name, b in network.named_buffers() if "running" in name)
    assert (parameters(network), parameters(network) + running) == (608_120, 608_142)


def test_the_seeds_layers_are_those_of_its_table() -> None:
    assert [length for _, length in shapes(SEED, 1600)] == [1595, 531, 526, 175, 170, 56, 51, 17]
    counts = [sum(p.numel() for p in m.parameters()) for m in build(SEED, 1600, 3, 19).modules()
              if isinstance(m, (nn.Conv1d, nn.Linear))]  # fmt: skip
    assert counts == [1216, 98560, 393472, 393472, 2089440, 230880, 57720, 14520, 2299]


def plain(network: Any, x: Tensor, slope: float, keras: bool) -> Tensor:
    """The design of torch's own layers, one after another, with the network's weights."""
    act = nn.LeakyReLU(slope) if keras else nn.ReLU()
    h = x.transpose(1, 2)
    for block in (m for m in network.modules() if isinstance(m, PooledConv)):
        h = nn.functional.conv1d(h, block.conv.weight, block.conv.bias)
        pool = nn.MaxPool1d(block.pool)
        h = pool(act(h)) if keras else act(pool(h))
    h = h.transpose(1, 2).flatten(1) if keras else h.flatten(1)
    for layer in network.dense:
        h = act(layer(h))
    return 1.2 * torch.tanh(network.last(h)) if keras else network.last(h)


@pytest.mark.parametrize("kind", ["torch", "keras"])
def test_forward_and_gradients_equal_the_plain_layers(kind: str) -> None:
    torch.manual_seed(0)
    network = build(design([8, 12, 16], 4, 3, [24, 20], kind), 200, 3, 5)
    x, target = torch.randn(6, 200, 3), torch.rand(6, 5)
    found = []
    for out in (network(x), plain(network, x, 0.3, kind == "keras")):
        network.zero_grad()
        nn.functional.mse_loss(out, target).backward()
        found.append((out.detach(), [p.grad.clone() for p in network.parameters() if p.grad is not None]))
    (ours, grads), (theirs, expected) = found
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert len(grads) == len(expected) == len(list(network.parameters()))
    for one, other in zip(grads, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_benchmarks_plain_network_is_the_same_function() -> None:
    config = resolve(benchmark.SETTINGS)
    ours, theirs = build(config, 1600, 3, 19).eval(), PlainNet(config, 1600, 3, 19).eval()
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            other.copy_(mine)
    x = torch.randn(2, 1600, 3)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-6)


@pytest.mark.alone
@pytest.mark.slow
def test_training_is_faster_than_the_textbook_loop(tmp_path: Path) -> None:
    times = benchmark.training(5, tmp_path)
    assert times["plain"] / times["ours"] > benchmark.FLOORS["training"]


@pytest.mark.alone
@pytest.mark.slow
def test_reading_in_order_costs_what_h5py_takes(tmp_path: Path) -> None:
    seconds = benchmark.reading(5, tmp_path)
    assert seconds["plain"] / seconds["in order"] > benchmark.FLOORS["in order"]


def test_probes_are_transposed_and_reshaped_only_for_old_weights() -> None:
    torch.manual_seed(1)
    ours, old = (build({**SMALL, "LEGACY_RESHAPE": legacy}, 60, 3, 4).eval() for legacy in (False, True))
    old.load_state_dict(ours.state_dict())
    x = torch.randn(2, 60, 3)
    scrambled = x.reshape(2, 3, 60).transpose(1, 2)
    torch.testing.assert_close(old(x), ours(scrambled))
    assert not torch.allclose(old(x), ours(x), atol=1e-3)
    # what one probe shows reaches only the filters' weights for that probe
    with torch.no_grad():
        for block in (m for m in ours.modules() if isinstance(m, PooledConv)):
            block.conv.weight[:, 0] = 0
            break
    other = x.clone()
    other[:, :, 0] += 5
    torch.testing.assert_close(ours(other), ours(x))


def test_each_stimulus_has_a_tower_of_its_own() -> None:
    torch.manual_seed(2)
    network = build(SMALL, 60, 3, 4, towers=2).eval()
    single = build(SMALL, 60, 3, 4)
    convolutions = sum(p.numel() for m in single.modules() if isinstance(m, PooledConv) for p in m.parameters())
    joined = (parameters(single) - convolutions - 11 - 4 * 12) * 2
    assert parameters(network) == 2 * convolutions + joined + 11 + 4 * 12
    x = torch.randn(5, 60, 3, 2)
    swapped = network(x.flip(3))
    assert network(x).shape == (5, 4)
    assert not torch.allclose(swapped, network(x), atol=1e-4)
    network.towers = network.towers[::-1]
    network.dense[0].weight.data = network.dense[0].weight.data.roll(network.dense[0].in_features // 2, 1)
    torch.testing.assert_close(network(x), swapped)


@pytest.mark.parametrize("kind", ["torch", "keras"])
def test_features_join_before_the_dense_layers(kind: str) -> None:
    settings = {**SMALL, "DESIGN": kind, "BATCH_NORM_FLAT": True}
    network = build(settings, 60, 3, 4, features=6).eval()
    assert parameters(network) == parameters(build(settings, 60, 3, 4)) + 6 * 11
    x, features = torch.randn(2, 60, 3), torch.randn(2, 6)
    assert not torch.allclose(network(x, features), network(x, features + 1))


def test_slots_place_normalisation_where_the_module_list_is_so_long() -> None:
    def kinds(**slots: int) -> list[str]:
        tower = build({**SMALL, **slots}, 60, 3, 4).towers[0]
        return [type(getattr(layer, "layer", layer)).__name__ for layer in tower.layers]

    conv, batch, instance = "PooledConv", "BatchNorm1d", "InstanceNorm1d"
    assert kinds() == [conv, conv]
    assert kinds(BATCH_NORM_CNN_SLOT=3) == [conv, batch, conv]
    assert kinds(INSTANCE_NORM_SLOT=6) == [conv, conv, instance]
    # what was inserted counts
    assert kinds(BATCH_NORM_CNN_SLOT=3, INSTANCE_NORM_SLOT=4) == [conv, batch, instance, conv]
    assert kinds(BATCH_NORM_CNN_SLOT=3, INSTANCE_NORM_SLOT=7) == [conv, batch, conv, instance]
    assert kinds(BATCH_NORM_CNN_SLOT=0) == [batch, conv, conv]


def test_normalised_networks_train() -> None:
    network = build({**SMALL, "BATCH_NORM_CNN_SLOT": 3, "INSTANCE_NORM_SLOT": 4, "LAYER_NORM": True}, 60, 3, 4).train()
    x = torch.randn(4, 60, 3)
    network(x).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    assert not torch.equal(network(x), network(x))  # dropout


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=8),
    st.integers(1, 400),
)
def test_a_stack_fits_or_its_first_impossible_layer_is_named(stack: list[tuple[int, int]], bins: int) -> None:
    settings = design([2] * len(stack), 1, 1, [3])
    for number, (kernel, pool) in enumerate(stack, 1):
        settings |= {f"KERNEL_{number}": kernel, f"POOL_{number}": pool}
    x = torch.zeros(1, 1, bins)
    for number, (kernel, pool) in enumerate(stack, 1):
        for name, layer in (("conv", nn.Conv1d(x.shape[1], 1, kernel)), ("pool", nn.MaxPool1d(pool))):
            try:
                x = layer(x).detach()
            except RuntimeError:
                with pytest.raises(BadInput, match=f"layer {name} {number}:"):
                    build(settings, bins, 1, 1)
                return
    assert shapes(settings, bins)[-1][1] == x.shape[2]
    assert build(settings, bins, 1, 1)(torch.zeros(2, bins, 1)).shape == (2, 1)


def test_the_shipped_design_that_cannot_work_is_refused() -> None:
    with pytest.raises(BadInput, match="layer pool 5: POOL_5 is 4, but of 1600 bins only 2 are left"):
        build(design([30] * 7, 4, 4, [128]), 1600, 3, 19)


def test_one_bin_has_no_variance() -> None:
    with pytest.raises(BadInput, match="INSTANCE_NORM_SLOT"):
        build(design([4], 1, 50, [3], INSTANCE_NORM_SLOT=3), 60, 1, 1)
