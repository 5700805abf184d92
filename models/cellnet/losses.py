"""Losses of ghost removal (on logits) and of charge regression, as sums that are divided at the end.

A loss is a list of terms, each a sum over something and how many there are of it; its value is the sum of their means.
Several files of a step, or several ranks, thus weigh by their voxels: sums and numbers are added before the division.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.cellnet.config import Triple, triple


class Term(NamedTuple):
    """One mean of a loss.

    Attributes:
        total: a sum, with its gradient.
        number: of how many.
    """

    total: Tensor
    number: int


class Coarse(NamedTuple):
    """What the loss of coarse cells compares with.

    Attributes:
        cell: (N,) int64 the coarse cell with truth that each voxel lies in; -1 where its cell has none.
        truth: (C,) float32 the true sum of each such cell, over all true voxels.
    """

    cell: Tensor
    truth: Tensor


def ghost_terms(name: str, config: Mapping[str, Any], logits: Tensor, y: Tensor, label: Tensor) -> list[Term]:
    """A loss of the probabilities sigmoid(logits).

    Args:
        name: bce; bce_l1 (plus L1 times the mean probability); label_weighted (true voxels weigh POSITIVE_WEIGHT);
            charge_weighted (true voxels weigh their y, others NEGATIVE_WEIGHT); focal (Lin et al. 2017, without alpha).
        logits, y, label: (N,); the truth in its units, and whether it is above the threshold.
    """
    each = F.binary_cross_entropy_with_logits(logits, label, reduction="none")
    if name == "label_weighted":
        each = each * torch.where(label > 0, config["POSITIVE_WEIGHT"], 1.0)
    elif name == "charge_weighted":
        each = each * torch.where(label > 0, y, config["NEGATIVE_WEIGHT"])
    elif name == "focal":
        # exp(-each) is the probability of what is true
        each = each * (-torch.expm1(-each)).clamp_min(1e-12) ** config["FOCAL_GAMMA"]
    elif name == "bce_l1":
        each = each + config["L1"] * torch.sigmoid(logits)
    return [Term(each.sum(), len(each))]


def charge_terms(
    name: str, config: Mapping[str, Any], output: Tensor, y: Tensor, coarse: Coarse | None = None
) -> list[Term]:
    """A loss of predicted charges.

    Args:
        name: mse, huber (threshold HUBER), or downsample_mse: the mean square over true voxels and those whose coarse
            cell has no truth, plus COARSE_WEIGHT times the mean square over coarse cells of true minus predicted sum.
        output: (N,) as the network gives it.
        y: (N,) truth in its units.
        coarse: of downsample_mse; its sums in the units of y.
    """
    target = scaled_target(config, y)
    if name == "huber":
        return [Term(F.huber_loss(output, target, reduction="sum", delta=config["HUBER"]), len(y))]
    if name == "mse":
        return [Term(F.mse_loss(output, target, reduction="sum"), len(y))]
    assert coarse is not None
    alone = (y > 0) | (coarse.cell < 0)
    inside = coarse.cell >= 0
    sums = torch.zeros_like(coarse.truth, dtype=output.dtype)
    # sums are of charges: logarithms do not add up
    sums = sums.index_add(0, coarse.cell[inside], unscaled(config, output[inside]) / config["TARGET_UNIT"])
    squares = (coarse.truth / config["TARGET_UNIT"] - sums).square().sum()
    single = (output[alone] - target[alone]).square().sum()
    return [Term(single, int(alone.sum())), Term(config["COARSE_WEIGHT"] * squares, len(sums))]


def scaled_target(config: Mapping[str, Any], y: Tensor) -> Tensor:
    """What a charge head learns of y."""
    scaled = y / config["TARGET_UNIT"]
    return torch.log1p(scaled.clamp_min(0)) if config["TARGET_SCALE"] == "log1p" else scaled


def unscaled(config: Mapping[str, Any], output: Tensor) -> Tensor:
    """The charge, in the units of y, that an output of a charge head means."""
    # a logarithm of 40 is far beyond any charge, and its exponential still finite
    linear = torch.expm1(output.clamp(max=40.0)) if config["TARGET_SCALE"] == "log1p" else output
    return linear * config["TARGET_UNIT"]


def coarse_cells(coords: Tensor, events: int, truths: Sequence[Any], size: Triple) -> Coarse:
    """The coarse cells of a batch that hold truth and an active voxel.

    Args:
        coords: (N, 4) int64 x, y, z, event.
        truths: of each event (M, 4+), all its true voxels: x, y, z, value.
        size: voxels along x, y, z that make a cell.
    """
    device = coords.device
    divisor = torch.tensor(size, device=device)
    parts, values = [], []
    for event in range(events):
        truth = torch.as_tensor(truths[event][:, :4], device=device)
        cells = torch.div(truth[:, :3].long(), divisor, rounding_mode="floor")
        parts.append(torch.cat([cells, torch.full_like(cells[:, :1], event)], 1))
        values.append(truth[:, 3].float())
    active = torch.cat([torch.div(coords[:, :3], divisor, rounding_mode="floor"), coords[:, 3:]], 1)
    true = torch.cat(parts) if parts else active[:0]
    unique, place = torch.unique(torch.cat([active, true]), dim=0, return_inverse=True)
    mine, theirs = place[: len(active)], place[len(active) :]
    sums = torch.zeros(len(unique), device=device)
    if parts:
        sums.index_add_(0, theirs, torch.cat(values))
    has_truth = torch.zeros(len(unique), dtype=torch.bool, device=device)
    has_truth[theirs] = True
    seen = torch.zeros_like(has_truth)
    seen[mine] = True
    kept = has_truth & seen
    number = torch.where(kept, torch.cumsum(kept, 0) - 1, -1)
    return Coarse(number[mine], sums[kept])


def coarse_size(config: Mapping[str, Any]) -> Triple:
    return triple("COARSE", config["COARSE"])
