"""Scores of inferred rates: bits per spike and R2."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

ZERO_RATE = 1e-9  # what nlb_tools puts in place of a zero rate


def bits_per_spike(rates: np.ndarray, spikes: np.ndarray) -> float:
    """(NLL of each unit's mean rate - NLL of the rates) / (spikes * ln 2), Poisson (Pei et al. 2021, NLB'21).

    Equal to `nlb_tools.evaluation.bits_per_spike`, but leaves the caller's array as it is. Over held-out units it
    is co-bps, over forward bins fp-bps.

    Args:
        rates: expected spikes a bin, (trials, bins, units).
        spikes: counts of the same shape; NaN entries do not count.

    Returns:
        Bits per spike; NaN where there is not one spike or a rate is negative or not finite.
    """
    if rates.shape != spikes.shape:
        raise ValueError(f"rates {rates.shape} and spikes {spikes.shape} differ in shape")
    rates = np.asarray(rates, dtype=np.float64)
    spikes = np.asarray(spikes, dtype=np.float64)
    counted = ~np.isnan(spikes)
    total = float(spikes[counted].sum())
    if total <= 0 or not np.isfinite(rates[counted]).all() or (rates[counted] < 0).any():
        return math.nan
    null = np.broadcast_to(np.nanmean(spikes, axis=(0, 1)), spikes.shape)
    # log(k!) is in both likelihoods and cancels
    return float(_gain(rates[counted], null[counted], spikes[counted]) / (total * math.log(2)))


def _gain(rates: np.ndarray, null: np.ndarray, spikes: np.ndarray) -> float:
    rates = np.where(rates == 0, ZERO_RATE, rates)
    null = np.where(null == 0, ZERO_RATE, null)
    fired = spikes > 0
    return float(null.sum() - rates.sum() + (spikes[fired] * np.log(rates[fired] / null[fired])).sum())


def bits_per_spike_tensor(rates: Tensor, spikes: Tensor) -> float:
    """`bits_per_spike` where the data lives: one pass on the device, one number back."""
    rates, spikes = rates.double(), spikes.double()
    null = spikes.nanmean((0, 1), keepdim=True).expand_as(spikes)
    counted = ~spikes.isnan()
    spikes = torch.where(counted, spikes, 0.0)
    rates = torch.where(rates == 0, ZERO_RATE, rates)
    null = torch.where(null == 0, ZERO_RATE, null)
    gain = (null - rates)[counted].sum() + torch.xlogy(spikes, rates).sum() - torch.xlogy(spikes, null).sum()
    value = float(gain / (spikes.sum() * math.log(2)))
    return value if math.isfinite(value) else math.nan


def r2(rates: np.ndarray, truth: np.ndarray) -> float:
    """Coefficient of determination of inferred against true rates, averaged over units whose truth varies.

    Args:
        rates, truth: (trials, bins, units).
    """
    inferred = np.asarray(rates, dtype=np.float64).reshape(-1, rates.shape[-1])
    true = np.asarray(truth, dtype=np.float64).reshape(-1, truth.shape[-1])
    spread = ((true - true.mean(0)) ** 2).sum(0)
    error = ((true - inferred) ** 2).sum(0)
    varies = spread > 0
    return float(np.mean(1 - error[varies] / spread[varies])) if varies.any() else math.nan
