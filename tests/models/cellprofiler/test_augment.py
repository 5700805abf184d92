from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.cellprofiler import augment


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ramp(n: int, side: int = 32) -> Tensor:
    """(n, 2, side, side): what a pixel's x is, and its y, from -1 to 1."""
    at = (2 * torch.arange(side) + 1) / side - 1
    return torch.stack([at.expand(side, side), at[:, None].expand(side, side)]).expand(n, -1, -1, -1).contiguous()


@pytest.mark.parametrize("kind", ["a", "b", "c"])
def test_the_seed_says_everything(kind: str) -> None:
    x = torch.rand(6, 3, 16, 16)
    one, same, other = (augment.augmented(x, kind, generator(s)) for s in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other) and one.shape == x.shape
    assert (one < 0).any() or (one > 1).any()  # nothing is clipped
    assert torch.equal(augment.augmented(x, "none", generator()), x)


@pytest.mark.parametrize("kind", ["a", "b", "c"])
def test_every_crop_has_its_own_draw(kind: str) -> None:
    x = torch.rand(1, 2, 16, 16).expand(8, -1, -1, -1).contiguous()
    out = augment.augmented(x, kind, generator())
    assert all(not torch.equal(out[i], out[j]) for i in range(8) for j in range(i))


def test_mirrors_and_quarter_turns_are_exact_and_all_of_them() -> None:
    x = torch.rand(1, 2, 9, 9).expand(400, -1, -1, -1).contiguous()
    out = augment.turned(x, *augment._turns(400, generator()))
    eight = [torch.rot90(y, k, (-2, -1)) for y in (x[0], x[0].flip(-1)) for k in range(4)]
    which = [[k for k, y in enumerate(eight) if torch.equal(y, one)] for one in out]
    assert all(len(found) == 1 for found in which)
    counts = torch.bincount(torch.tensor(which).flatten(), minlength=8)
    assert (counts > 25).all() and (counts < 80).all()  # 50 each


def test_light_of_b_is_drawn_for_each_channel() -> None:
    x = torch.rand(500, 2, 8, 8)
    out = augment.light_b(x, generator())
    offset = (out.mean((2, 3)) - x.mean((2, 3))).flatten()
    contrast = (out.std((2, 3)) / x.std((2, 3))).flatten()
    assert offset.abs().max() <= 0.1 + 1e-5 and offset.std() == pytest.approx(0.2 / math.sqrt(12), rel=0.1)
    assert contrast.min() >= 0.8 - 1e-4 and contrast.max() <= 1.2 + 1e-4
    assert contrast.std() == pytest.approx(0.4 / math.sqrt(12), rel=0.1)
    for drawn in (offset, contrast):
        assert abs(float(torch.corrcoef(drawn.reshape(500, 2).T)[0, 1])) < 0.2
    expected = (x - x.mean((2, 3), keepdim=True)) * contrast.reshape(500, 2, 1, 1)
    assert torch.allclose(out - out.mean((2, 3), keepdim=True), expected, atol=1e-4)


def test_light_of_a_is_the_same_for_all_channels() -> None:
    x = torch.rand(800, 3, 8, 8)
    out = augment.light_a(x, generator())
    gain = (out.std((2, 3)) / x.std((2, 3))).mean(1)
    offset = (out - gain[:, None, None, None] * x).mean((1, 2, 3))
    assert torch.allclose(out, gain[:, None, None, None] * x + offset[:, None, None, None], atol=1e-4)
    assert gain.mean() == pytest.approx(1, abs=0.02) and gain.std() == pytest.approx(0.1, rel=0.1)
    assert offset.mean() == pytest.approx(0, abs=0.02) and offset.std() == pytest.approx(0.1, rel=0.1)


def test_c_cuts_a_square_out_of_half_of_the_crops() -> None:
    x = ramp(600)
    out = augment.cut(x, generator())
    same = (out == x).flatten(1).all(1)
    assert 250 < int(same.sum()) < 350
    inner = out[~same][:, :, 2:-2, 2:-2]
    slope = (inner[:, 0, :, 1:] - inner[:, 0, :, :-1]).mean((1, 2)) / (2 / 32)
    assert slope.min() >= 0.8 - 1e-3 and slope.max() < 1 and slope.std() == pytest.approx(0.2 / 12**0.5, rel=0.15)
    # both axes alike, and the square within the crop
    assert torch.allclose(slope, (inner[:, 1, 1:] - inner[:, 1, :-1]).mean((1, 2)) / (2 / 32), atol=1e-4)
    centre = inner.mean((2, 3))
    assert (centre.abs() <= (1 - slope)[:, None] + 1e-4).all() and centre.abs().max() > 0.1


def test_a_shifts_turns_and_mirrors_a_little() -> None:
    n = 600
    out = augment.geometry_a(ramp(n), generator())
    inner = out[:, :, 12:20, 12:20]
    shift = inner.mean((2, 3)) / 2  # of the side
    assert shift.std(0).tolist() == pytest.approx([0.03, 0.03], rel=0.15) and shift.mean(0).abs().max() < 0.005
    across = (inner[..., 1:] - inner[..., :-1]).mean((2, 3)) * 16  # (n, 2): d(x, y of the crop) / d column
    down = (inner[..., 1:, :] - inner[..., :-1, :]).mean((2, 3)) * 16
    assert torch.allclose(across.norm(dim=1), torch.ones(n), atol=1e-3)  # nothing is stretched
    mirrored = (across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]).sign()
    assert 250 < int((mirrored < 0).sum()) < 350
    angle = torch.atan2(across[:, 1], across[:, 0] * mirrored)
    rest = torch.remainder(angle + math.pi / 4, math.pi / 2) - math.pi / 4
    assert rest.std() == pytest.approx(0.03 * math.pi, rel=0.1) and abs(float(rest.mean())) < 0.02
    quarter = torch.bincount(torch.remainder(torch.round((angle - rest) / (math.pi / 2)), 4).long(), minlength=4)
    assert (quarter > 110).all()
