"""Losses against their formulas written out."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.cellnet import config
from models.cellnet.losses import Coarse, Term, charge_terms, coarse_cells, ghost_terms, scaled_target, unscaled

COMPLETE = config.resolve({})
LOGITS = torch.tensor([-3.0, -0.5, 0.2, 2.0, 40.0, -40.0])
Y = torch.tensor([0.0, 0.7, 0.0, 2.5, 0.0, 1.0])
LABEL = (Y > 0.001).float()


def value(terms: list[Term]) -> torch.Tensor:
    return torch.stack([term.total / term.number for term in terms]).sum()


def expected(name: str) -> float:
    p = 1 / (1 + np.exp(-LOGITS.double().numpy()))
    y, label = Y.double().numpy(), LABEL.double().numpy()
    right = np.where(label > 0, p, 1 - p)
    bce = np.where(label > 0, np.logaddexp(0, -LOGITS.numpy()), np.logaddexp(0, LOGITS.numpy()))
    return {
        "bce": bce.mean(),
        "bce_l1": bce.mean() + 0.3 * p.mean(),
        "label_weighted": (bce * np.where(label > 0, 7.0, 1.0)).mean(),
        "charge_weighted": (bce * np.where(label > 0, y, 0.25)).mean(),
        "focal": (bce * (1 - right) ** 1.5).mean(),
    }[name]


@pytest.mark.parametrize("name", config.LOSSES["ghost"])
def test_ghost_losses_are_what_they_say(name: str) -> None:
    chosen = {**COMPLETE, "L1": 0.3, "POSITIVE_WEIGHT": 7.0, "NEGATIVE_WEIGHT": 0.25, "FOCAL_GAMMA": 1.5}
    logits = LOGITS.clone().requires_grad_()
    found = value(ghost_terms(name, chosen, logits, Y, LABEL))
    assert float(found.detach()) == pytest.approx(expected(name), rel=1e-5)
    (gradient,) = torch.autograd.grad(found, logits)
    assert torch.isfinite(gradient).all()  # also where a sigmoid has long been 0 or 1


def test_sums_of_parts_are_the_sum_of_the_whole() -> None:
    whole = ghost_terms("label_weighted", COMPLETE, LOGITS, Y, LABEL)[0]
    parts = [
        ghost_terms("label_weighted", COMPLETE, *(t[s] for t in (LOGITS, Y, LABEL)))[0] for s in (slice(2), slice(2, 6))
    ]
    assert float(sum(p.total for p in parts)) == pytest.approx(float(whole.total), rel=1e-6)
    assert sum(p.number for p in parts) == whole.number


def test_charge_losses_are_of_the_scaled_target() -> None:
    output = torch.tensor([0.5, 1.0, -1.0, 3.0, 0.0, 9.0])
    chosen = {**COMPLETE, "TARGET_UNIT": 2.0, "HUBER": 1.0}
    error = (output - Y / 2).abs()
    assert torch.isclose(value(charge_terms("mse", chosen, output, Y)), (error**2).mean())
    huber = torch.where(error < 1, error**2 / 2, error - 0.5)
    assert torch.isclose(value(charge_terms("huber", chosen, output, Y)), huber.mean())
    logs = {**chosen, "TARGET_SCALE": "log1p"}
    assert torch.isclose(value(charge_terms("mse", logs, output, Y)), ((output - torch.log1p(Y / 2)) ** 2).mean())


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=9), st.sampled_from(["linear", "log1p"]))
def test_a_target_scaled_and_back_is_itself(values: list[float], scale: str) -> None:
    chosen = {**COMPLETE, "TARGET_SCALE": scale, "TARGET_UNIT": 1000.0}
    y = torch.tensor(values)
    torch.testing.assert_close(unscaled(chosen, scaled_target(chosen, y)), y, rtol=1e-3, atol=1e-3)


def downsampled(output: Any, y: Any, coords: Any, truths: list[Any], size: tuple[int, ...], weight: float) -> float:
    """The loss of coarse cells, voxel by voxel."""
    true: dict[Any, float] = defaultdict(float)
    for event, truth in enumerate(truths):
        for x, yy, z, charge in truth:
            true[event, int(x) // size[0], int(yy) // size[1], int(z) // size[2]] += charge
    cells = [(e, x // size[0], yy // size[1], z // size[2]) for x, yy, z, e in coords.tolist()]
    rest = {cell: true[cell] for cell in cells if cell in true}
    for cell, charge in zip(cells, output.tolist(), strict=True):
        if cell in rest:
            rest[cell] -= charge
    alone = [
        (o - t) ** 2 for o, t, cell in zip(output.tolist(), y.tolist(), cells, strict=True) if t > 0 or cell not in true
    ]
    single = float(np.mean(alone)) if alone else 0.0
    return single + weight * (float(np.mean([v**2 for v in rest.values()])) if rest else 0.0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.sampled_from([(5, 5, 5), (1, 2, 3)]))
def test_the_loss_of_coarse_cells_is_that_of_voxels_counted_one_by_one(seed: int, events: int, size: Any) -> None:
    rng = np.random.default_rng(seed)
    active = [np.unique(rng.integers(0, 12, (rng.integers(1, 20), 3)), axis=0) for _ in range(events)]
    coords = torch.from_numpy(np.concatenate([np.insert(a, 3, e, axis=1) for e, a in enumerate(active)]))
    truths = [
        np.column_stack([np.unique(rng.integers(0, 12, (rng.integers(0, 15), 3)), axis=0)]).astype(np.float32)
        for _ in range(events)
    ]
    truths = [np.column_stack([t, rng.uniform(0.1, 2, len(t))]).astype(np.float32) for t in truths]
    known = {(e, *map(int, t[:3])): t[3] for e, truth in enumerate(truths) for t in truth}
    y = torch.tensor([known.get((e, x, yy, z), 0.0) for x, yy, z, e in coords.tolist()], dtype=torch.float32)
    output = torch.from_numpy(rng.normal(0.5, 1, len(y)).astype(np.float32))
    coarse = coarse_cells(coords, events, truths, size)
    chosen = {**COMPLETE, "COARSE_WEIGHT": 0.5}
    terms = charge_terms("downsample_mse", chosen, output, y, coarse)
    found = sum(float(term.total) / max(1, term.number) for term in terms)
    assert found == pytest.approx(downsampled(output, y, coords, truths, size, 0.5), rel=1e-4, abs=1e-5)


def test_coarse_sums_are_of_charges_and_have_gradients() -> None:
    chosen = {**COMPLETE, "TARGET_SCALE": "log1p", "TARGET_UNIT": 1.0}
    output = torch.log1p(torch.tensor([1.0, 2.0])).requires_grad_()
    coarse = Coarse(torch.tensor([0, 0]), torch.tensor([3.0]))
    single, cells = charge_terms("downsample_mse", chosen, output, torch.tensor([1.0, 2.0]), coarse)
    assert float(cells.total.detach()) == pytest.approx(0.0, abs=1e-6) and single.number == 2
    more = charge_terms("downsample_mse", chosen, output + 0.1, torch.tensor([1.0, 2.0]), coarse)[1].total
    (gradient,) = torch.autograd.grad(more, output)
    assert (gradient > 0).all()
