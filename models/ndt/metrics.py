"""Scores of inferred rates: bits per spike and R2."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from models.base import Prediction, Scorer

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


class CoBps(Scorer):
    """Co-smoothing bits per spike of the held-out rates, prepared for one truth.

    Logarithms are needed only where spikes fell, and the null model is a constant: what is kept of a prediction is
    its rates at those entries (`fired`) and its sum over each trial (`mass`). Both are linear in the rates.

    Args:
        spikes: held-out counts (trials, bins, units); NaN entries do not count.
    """

    NAME = "eval_rates_heldout"

    def __init__(self, spikes: np.ndarray) -> None:
        self._counted = ~np.isnan(spikes)
        self._all = bool(self._counted.all())
        self._at = np.nonzero(np.nan_to_num(spikes) > 0)
        self._note_more(spikes[self._at].astype(np.float64))
        self._entries = self._counted.sum(1, dtype=np.float64)  # (trials, units)
        self._sums: np.ndarray = np.asarray(np.nansum(spikes, axis=1, dtype=np.float64))
        self._shape = spikes.shape
        self.samples = len(spikes)
        self.rows = {"fired": self._at[0]}
        self._prepare()

    def _note_more(self, spikes: np.ndarray) -> None:
        """Where more than one spike fell, and how many more."""
        self._more = np.flatnonzero(spikes > 1)
        self._extra = spikes[self._more] - 1

    def _prepare(self) -> None:
        spikes, entries = self._sums.sum(0), self._entries.sum(0)
        self._total = float(spikes.sum())
        null = np.divide(spikes, entries, out=np.zeros_like(spikes), where=entries > 0)
        null[null == 0] = ZERO_RATE
        self._null = float((null * entries).sum() - (spikes * np.log(null)).sum())

    def reduce(self, prediction: Mapping[str, np.ndarray]) -> Prediction:
        rates = np.asarray(prediction[self.NAME])
        if rates.shape != self._shape:
            raise ValueError(f"rates {rates.shape} and spikes {self._shape} differ in shape")
        fired = rates[self._at]
        if not self._all:
            rates = np.where(self._counted, rates, 0.0)
        mass = rates.sum((1, 2), dtype=np.float64)
        if not np.isfinite(mass).all() or (rates < 0).any():
            mass = np.full_like(mass, np.nan)
        return {"fired": np.where(fired == 0, np.float32(ZERO_RATE), fired), "mass": mass}

    def score(self, reduced: Mapping[str, np.ndarray]) -> float:
        if self._total <= 0:
            return math.nan
        # log(k!) is in both likelihoods and cancels
        rates = reduced["fired"].astype(np.float64, copy=False)
        likely = log_sum(rates) + float(self._extra @ np.log(rates[self._more]))
        return (self._null + likely - float(reduced["mass"].sum())) / (self._total * math.log(2))

    def take(self, samples: np.ndarray) -> CoBps:
        part = object.__new__(CoBps)
        chosen = np.isin(self.rows["fired"], samples)
        place = np.full(self.samples, -1)
        place[samples] = np.arange(len(samples))
        trial, *rest = (axis[chosen] for axis in self._at)
        part._at = (place[trial], *rest)
        extra = np.zeros(len(chosen))
        extra[self._more] = self._extra
        part._note_more(1 + extra[chosen])
        part._counted, part._all = self._counted[samples], self._all
        part._entries, part._sums = self._entries[samples], self._sums[samples]
        part._shape = (len(samples), *self._shape[1:])
        part.samples, part.rows = len(samples), {"fired": part._at[0]}
        part._prepare()
        return part


def log_sum(values: np.ndarray) -> float:
    """The sum of logarithms of positive numbers: of products of eight, where these can be held, for an eighth of the
    logarithms."""
    whole = len(values) - len(values) % 8
    with np.errstate(over="ignore", under="ignore", divide="ignore"):
        products = np.multiply.reduce(values[:whole].reshape(8, -1), axis=0)
        total = float(np.log(products).sum() + np.log(values[whole:]).sum())
    return total if math.isfinite(total) else float(np.log(values).sum())


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
