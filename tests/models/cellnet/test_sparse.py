"""Sparse convolutions are dense ones read at the voxels: forward and every gradient."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks import cellnet
from ground.errors import BadInput
from models.cellnet.sparse import Sites, StridedConv3d, SubmanifoldConv3d, TransposedConv3d, backend, maps, table
from models.cellnet.sparse.conv import SparseConv3d
from models.cellnet.sparse.keys import MARGIN, Triple

KERNELS: list[Triple] = [(1, 1, 1), (3, 3, 3), (1, 3, 3), (5, 3, 1)]
STRIDES: list[Triple] = [(2, 2, 2), (4, 2, 2), (1, 2, 2)]
Install = Callable[..., None]
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


@pytest.fixture(params=[0.0, 2.0], ids=["table", "lists"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of computing a submanifold convolution, whatever is quicker."""
    monkeypatch.setattr(maps, "LISTED", request.param)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", KERNELS)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


@pytest.mark.usefixtures("way")
def test_many_portions_are_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is gathered at a time does not show in the result."""
    torch.manual_seed(0)
    sites = Sites(torch.stack([torch.randint(0, most, (900,)) for most in (3, 9, 8, 7)], 1), (9, 8, 7))
    monkeypatch.setattr("models.cellnet.sparse.table._PORTION", {"cpu": 27 * 3 * 40})
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
    assert sites.pairs((3, 3, 3)) is sites.pairs((3, 3, 3)) is not None


@pytest.mark.usefixtures("way")
def test_maps_made_in_inference_mode_serve_training() -> None:
    torch.manual_seed(0)
    conv, down = SubmanifoldConv3d(2, 2, (3, 3, 3)), StridedConv3d(2, 2, (2, 2, 2))
    coords, x = torch.randint(0, 4, (30, 4)), torch.rand(30, 2)

    def run(sites: Sites) -> Tensor:
        return down(conv(sites.collect(x), sites), sites).sum()

    with torch.inference_mode():
        kept = Sites(coords, (4, 4, 4))
        run(kept)
    run(kept).backward()
    expected = torch.autograd.grad(run(Sites(coords, (4, 4, 4))), conv.weight)[0]
    assert torch.equal(conv.weight.grad, expected)  # type: ignore[arg-type]


def test_lists_are_made_where_few_neighbours_are() -> None:
    cells = torch.cartesian_prod(torch.zeros(1, dtype=torch.int64), *[torch.arange(5)] * 3)
    full, line = Sites(cells, (5, 5, 5)), Sites(cells[:5], (5, 5, 5))
    assert full.pairs((3, 3, 3)) is None
    lists = line.pairs((3, 3, 3))
    assert lists is not None
    found = sorted(zip(lists.target.tolist(), lists.source.tolist(), strict=True))
    assert found == [(0, 1), (1, 0), (1, 2), (2, 1), (2, 3), (3, 2), (3, 4), (4, 3)]


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


@pytest.mark.usefixtures("way")
def test_gradients_are_skipped_where_none_is_wanted() -> None:
    sites = Sites(torch.tensor([[0, 1, 1, 1], [0, 1, 1, 2]]), (4, 4, 4))
    conv = SubmanifoldConv3d(2, 2, (3, 3, 3))
    conv.weight.requires_grad_(False)
    x = torch.rand(2, 2, requires_grad=True)
    conv(x, sites).sum().backward()
    assert conv.weight.grad is None and x.grad is not None
    expected = x.grad
    x.grad = None
    conv.weight.requires_grad_(True)
    conv(x, sites).sum().backward()
    assert torch.equal(x.grad, expected)  # type: ignore[arg-type]
    alone = torch.autograd.grad(conv(x.detach(), sites).sum(), conv.weight)
    assert torch.equal(alone[0], conv.weight.grad)  # type: ignore[arg-type]
    down = StridedConv3d(2, 2, (2, 2, 2))
    down(torch.rand(2, 2), sites).sum().backward()
    assert down.weight.grad is not None


class Voxels:
    """A stand-in for spconv's SparseConvTensor."""

    def __init__(
        self, features: Tensor, indices: Tensor, shape: list[int], events: int, indice_dict: dict[str, int]
    ) -> None:
        assert indices.dtype == torch.int32 and int(indices[:, 0].max()) < events
        self.features, self.indices, self.shape, self.events = features, indices, shape, events
        self.indice_dict = indice_dict


class DenseSubMConv3d(torch.nn.Module):
    """spconv's layer with its layout of weights (outputs, x, y, z, inputs), computed by a dense convolution."""

    def __init__(self, inputs: int, outputs: int, size: list[int], bias: bool, indice_key: str) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(outputs, *size, inputs))
        self.name = indice_key

    def forward(self, voxels: Voxels) -> Voxels:
        event, x, y, z = voxels.indices.long().T
        image = voxels.features.new_zeros(voxels.events, *voxels.shape, voxels.features.shape[1])
        image = image.index_put((event, x, y, z), voxels.features).permute(0, 4, 1, 2, 3)
        padding = tuple(size // 2 for size in self.weight.shape[1:4])
        out = F.conv3d(image, self.weight.permute(0, 4, 1, 2, 3), padding=padding)[event, :, x, y, z]
        made = {**voxels.indice_dict, self.name: voxels.indice_dict.get(self.name, 0) + 1}
        return Voxels(out, voxels.indices, voxels.shape, voxels.events, made)


class Flipped(DenseSubMConv3d):
    def forward(self, voxels: Voxels) -> Voxels:
        out = super().forward(voxels)
        out.features = out.features.flip(0)
        return out


class Undefined(DenseSubMConv3d):
    def forward(self, voxels: Voxels) -> Voxels:
        out = super().forward(voxels)
        out.features = out.features * torch.nan
        return out


class Forward(DenseSubMConv3d):
    """As spconv's CPU build: only the backward pass fails."""

    def forward(self, voxels: Voxels) -> Voxels:
        out = super().forward(voxels)
        out.features.register_hook(_no_cuda)
        return out


def _no_cuda(grad: Tensor) -> Tensor:
    raise AssertionError("Torch not compiled with CUDA enabled")


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Makes packages importable whose layer is the given one; those not named are not there."""

    def put(**layers: type[DenseSubMConv3d]) -> None:
        for package in backend.PACKAGES:
            module = None
            if package in layers:
                module = ModuleType(f"{package}.pytorch")
                module.SubMConv3d, module.SparseConvTensor = layers[package], Voxels  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, package, None if module is None else ModuleType(package))
            monkeypatch.setitem(sys.modules, f"{package}.pytorch", module)

    # the machine of the tests has no CUDA: what is computed there in the program is computed here
    probe = backend.probe
    monkeypatch.setattr(backend, "probe", lambda found, device: probe(found, torch.device("cpu")))
    backend.choose.cache_clear()
    yield put
    backend.choose.cache_clear()


@pytest.mark.parametrize("size", [(3, 3, 3), (1, 3, 3), (5, 3, 1)])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cloud=clouds(), seed=st.integers(0, 99))
def test_weights_are_arranged_as_spconv_takes_them(
    install: Install, size: Triple, cloud: tuple[Tensor, Triple], seed: int
) -> None:
    install(spconv=DenseSubMConv3d)
    torch.manual_seed(seed)
    sites, conv = Sites(*cloud), SubmanifoldConv3d(3, 2, size).double()
    found = backend.Spconv("spconv")
    x = torch.randn(len(sites), 3, dtype=torch.float64, requires_grad=True)
    for _ in range(2):
        ours, theirs = conv(x, sites), found(x, conv.weight, size, sites)
        close(ours, theirs, torch.float64)
        cotangent = torch.randn_like(ours)
        pairs = (torch.autograd.grad(out, (x, conv.weight), cotangent) for out in (ours, theirs))
        for one, other in zip(*pairs, strict=True):
            close(one, other, torch.float64)
    if len(sites):
        assert list(sites.kept["spconv"][2].values()) == [2]


def test_on_cuda_the_first_that_works_is_taken(install: Install) -> None:
    cuda = torch.device("cuda")
    install(spconv=DenseSubMConv3d, spconv_triton=DenseSubMConv3d)
    assert backend.choose("auto", cuda)._package == "spconv_triton"  # type: ignore[attr-defined]
    backend.choose.cache_clear()
    install(spconv=DenseSubMConv3d, spconv_triton=Flipped)
    assert backend.choose("auto", cuda)._package == "spconv"  # type: ignore[attr-defined]
    assert backend.choose("torch", cuda) is table.submanifold


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (Flipped, "spconv: its numbers differ from torch's"),
        (Undefined, "spconv: its numbers differ"),
        (Forward, "spconv: Torch not compiled with CUDA enabled"),
        (None, "spconv.*None in sys.modules"),
    ],
)
def test_what_does_not_work_is_not_taken(install: Install, layer: type[DenseSubMConv3d] | None, says: str) -> None:
    install(**({} if layer is None else {"spconv": layer}))
    cuda = torch.device("cuda")
    assert backend.choose("auto", cuda) is table.submanifold
    with pytest.raises(BadInput, match=says) as error:
        backend.choose("spconv", cuda)
    assert "\n" not in str(error.value)


def test_spconv_is_never_taken_on_a_cpu(install: Install) -> None:
    install(spconv=DenseSubMConv3d)
    cpu = torch.device("cpu")
    assert backend.choose("auto", cpu) is backend.choose("torch", cpu) is table.submanifold
    conv = SubmanifoldConv3d(3, 2, (3, 3, 3), backend="spconv")
    with pytest.raises(BadInput, match="cpu device"):
        conv(torch.rand(1, 3), Sites(torch.tensor([[0, 1, 1, 1]]), (4, 4, 4)))


def test_spconv_itself_agrees_where_it_is_installed() -> None:
    """Forward, which its CPU build has, too."""
    pytest.importorskip("spconv.pytorch")
    torch.manual_seed(0)
    sites = Sites(torch.stack([torch.randint(0, most, (400,)) for most in (3, 9, 8, 7)], 1), (9, 8, 7))
    found = backend.Spconv("spconv")
    for size in ((3, 3, 3), (1, 3, 3), (5, 5, 5)):
        conv, x = SubmanifoldConv3d(5, 7, size), torch.randn(len(sites), 5)
        with torch.no_grad():
            close(found(x, conv.weight, size, sites), conv(x, sites), torch.float32)


@pytest.mark.alone
@pytest.mark.slow
def test_sparse_is_much_faster_than_dense() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = cellnet.convolution(cellnet.tracks(12_000, cellnet.BOX), cellnet.BOX, 3, dense=True)
    finally:
        torch.set_num_threads(threads)
    assert 14 < found["neighbours"] < 18
    assert found["dense"] / found["ours"] > 30
