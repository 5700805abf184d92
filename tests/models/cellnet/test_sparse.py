"""Sparse convolutions are dense ones read at the voxels: forward and every gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ground.errors import BadInput
from models.cellnet.sparse import Sites, StridedConv3d, SubmanifoldConv3d, TransposedConv3d
from models.cellnet.sparse.conv import SparseConv3d
from models.cellnet.sparse.keys import MARGIN, Triple

KERNELS: list[Triple] = [(1, 1, 1), (3, 3, 3), (1, 3, 3), (5, 3, 1)]
STRIDES: list[Triple] = [(2, 2, 2), (4, 2, 2), (1, 2, 2)]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


@st.composite
def clouds(draw: st.DrawFn) -> tuple[Tensor, Triple]:
    """Distinct voxels of up to three events in a small box, in any order, often at its border."""
    shape = tuple(draw(st.integers(1, 6)) for _ in range(3))
    limits = (2, *(size - 1 for size in shape))
    axes = [st.one_of(st.integers(0, most), st.sampled_from([0, most])) for most in limits]
    cells = draw(st.lists(st.tuples(*axes), max_size=30, unique=True))
    return torch.tensor(cells, dtype=torch.int64).reshape(-1, 4), shape  # type: ignore[return-value]


def dense(values: Tensor, coords: Tensor, shape: Triple) -> Tensor:
    """(N, C) at `coords` -> (events, C, X, Y, Z), zero elsewhere."""
    image = values.new_zeros(3, *shape, values.shape[1])
    return image.index_put(tuple(coords.T), values).permute(0, 4, 1, 2, 3)


def read(image: Tensor, coords: Tensor) -> Tensor:
    event, x, y, z = coords.T
    return image[event, :, x, y, z]


def kernel(conv: SparseConv3d) -> Tensor:
    """The weights as conv3d takes them: (outputs, inputs, x, y, z)."""
    return conv.weight.permute(2, 1, 0).unflatten(2, conv.size)


def submanifold(x: Tensor, conv: SparseConv3d, sites: Sites) -> Tensor:
    padding = tuple(size // 2 for size in conv.size)
    return read(F.conv3d(dense(x, sites.coords, sites.shape), kernel(conv), padding=padding), sites.coords)


def strided(x: Tensor, conv: SparseConv3d, sites: Sites) -> Tensor:
    image = dense(x, sites.coords, sites.shape)
    missing = [-size % step for size, step in zip(sites.shape, conv.size, strict=True)]
    padded = F.pad(image, (0, missing[2], 0, missing[1], 0, missing[0]))
    return read(F.conv3d(padded, kernel(conv), stride=conv.size), sites.coarser(conv.size).sites.coords)


def transposed(x: Tensor, conv: SparseConv3d, sites: Sites) -> Tensor:
    coarser = sites.coarser(conv.size).sites
    there = kernel(conv).transpose(0, 1)
    return read(F.conv_transpose3d(dense(x, coarser.coords, coarser.shape), there, stride=conv.size), sites.coords)


def agree(conv: SparseConv3d, reference: object, sites: Sites, rows: int, dtype: torch.dtype) -> None:
    """Outputs and gradients of inputs and weights are those of the dense convolution."""
    conv = conv.to(dtype)
    x = torch.randn(rows, conv.weight.shape[1], dtype=dtype, requires_grad=True)
    ours, theirs = conv(x, sites), reference(x, conv, sites)  # type: ignore[operator]
    cotangent = torch.randn_like(theirs)
    assert ours.shape == theirs.shape
    close(ours, theirs, dtype)
    found = torch.autograd.grad(ours, (x, conv.weight), cotangent)
    expected = torch.autograd.grad(theirs, (x, conv.weight), cotangent)
    for one, other in zip(found, expected, strict=True):
        close(one, other, dtype)


def close(one: Tensor, other: Tensor, dtype: torch.dtype) -> None:
    scale = max(1.0, float(other.detach().abs().max())) if other.numel() else 1.0
    torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE[dtype] * scale)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", KERNELS)
@settings(max_examples=25, deadline=None)
@given(cloud=clouds(), seed=st.integers(0, 99))
def test_submanifold_is_dense(size: Triple, dtype: torch.dtype, cloud: tuple[Tensor, Triple], seed: int) -> None:
    torch.manual_seed(seed)
    sites = Sites(*cloud)
    agree(SubmanifoldConv3d(3, 2, size), submanifold, sites, len(sites), dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", STRIDES)
@settings(max_examples=25, deadline=None)
@given(cloud=clouds(), seed=st.integers(0, 99))
def test_down_and_up_are_dense(size: Triple, dtype: torch.dtype, cloud: tuple[Tensor, Triple], seed: int) -> None:
    torch.manual_seed(seed)
    sites = Sites(*cloud)
    agree(StridedConv3d(3, 2, size), strided, sites, len(sites), dtype)
    agree(TransposedConv3d(3, 2, size), transposed, sites, len(sites.coarser(size).sites), dtype)


def test_many_portions_are_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is gathered at a time does not show in the result."""
    torch.manual_seed(0)
    sites = Sites(torch.stack([torch.randint(0, most, (900,)) for most in (3, 9, 8, 7)], 1), (9, 8, 7))
    monkeypatch.setattr("models.cellnet.sparse.conv._PORTION", {"cpu": 27 * 3 * 40})
    agree(SubmanifoldConv3d(3, 2, (3, 3, 3)), submanifold, sites, len(sites), torch.float64)
    agree(StridedConv3d(3, 2, (2, 2, 2)), strided, sites, len(sites), torch.float64)
    agree(TransposedConv3d(3, 2, (2, 2, 2)), transposed, sites, len(sites.coarser((2, 2, 2)).sites), torch.float64)


def test_a_large_box_does_not_wrap_around() -> None:
    """Cells at opposite borders of neighbouring rows, planes and events have neighbouring places in memory only."""
    shape = (1024, 1024, 512)
    far = [(n, x, y, z) for n in (0, 8) for x in (0, 1023) for y in (0, 1023) for z in (0, 511)]
    sites = Sites(torch.tensor([*far, (8, 1023, 1023, 510), (1, 0, 0, 0)]), shape)
    table = sites.neighbours((3, 3, 3))
    there = table < len(sites)
    pair = [sites.coords.tolist().index(cell) for cell in ([8, 1023, 1023, 510], [8, 1023, 1023, 511])]
    assert there.sum() == len(sites) + 2
    assert table[pair[0], 14] == pair[1] and table[pair[1], 12] == pair[0]


@settings(max_examples=50, deadline=None)
@given(cloud=clouds(), seed=st.integers(0, 99))
def test_rows_come_back_in_their_order_and_duplicates_are_summed(cloud: tuple[Tensor, Triple], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    coords, shape = cloud
    rows = torch.randint(0, max(1, len(coords)), (2 * len(coords),), generator=generator)
    sites = Sites(coords[rows], shape)
    features = torch.rand(len(rows), 2, generator=generator, dtype=torch.float64)
    assert torch.equal(sites.spread(sites.coords), coords[rows])
    sums = torch.zeros(len(coords), 2, dtype=torch.float64).index_add(0, rows, features)
    torch.testing.assert_close(sites.spread(sites.collect(features)), sums[rows])


def test_maps_are_made_once() -> None:
    sites = Sites(torch.tensor([[0, 1, 1, 1], [0, 1, 1, 2]]), (4, 4, 4))
    assert sites.neighbours((3, 3, 3)) is sites.neighbours((3, 3, 3))
    assert sites.coarser((2, 2, 2)) is sites.coarser((2, 2, 2))


@pytest.mark.parametrize(
    ("coords", "says"),
    [
        ([[0, 4, 0, 0]], "x reaches from 4 to 4, beyond the 4 cells of SPATIAL"),
        ([[0, 0, 0, 0], [0, 0, 0, -1]], "z reaches from -1 to 0"),
        ([[-1, 0, 0, 0]], "event -1"),
        ([[2**60, 0, 0, 0]], "too many to number"),
        ([[0, 0, 0]], "shape (1, 3)"),
        ([[0.0, 0.0, 0.0, 0.0]], "float32"),
    ],
)
def test_what_has_no_key_is_refused(coords: list[list[float]], says: str) -> None:
    with pytest.raises(BadInput, match=says.replace("(", r"\(").replace(")", r"\)")):
        Sites(torch.tensor(coords), (4, 5, 6))


@pytest.mark.parametrize("size", [(2, 3, 3), (3, 3, 2 * MARGIN + 3)])
def test_kernels_that_the_margin_does_not_allow(size: Triple) -> None:
    with pytest.raises(ValueError, match="odd"):
        Sites(torch.tensor([[0, 1, 1, 1]]), (9, 9, 9)).neighbours(size)


def test_gradients_are_skipped_where_none_is_wanted() -> None:
    sites = Sites(torch.tensor([[0, 1, 1, 1], [0, 1, 1, 2]]), (4, 4, 4))
    conv = SubmanifoldConv3d(2, 2, (3, 3, 3))
    conv.weight.requires_grad_(False)
    x = torch.rand(2, 2, requires_grad=True)
    conv(x, sites).sum().backward()
    assert conv.weight.grad is None and x.grad is not None
    down = StridedConv3d(2, 2, (2, 2, 2))
    down(torch.rand(2, 2), sites).sum().backward()
    assert down.weight.grad is not None
