"""Schedulers by name: whether a trial may run to its end."""

from __future__ import annotations

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

SCHEDULERS = ("none", "asha")


def create(name: str, metric: str, mode: str) -> TrialScheduler:
    """`none` lets every trial run; `asha` stops the worse two thirds at each third of the budget (Li et al. 2020)."""
    if name == "none":
        return FIFOScheduler()
    # time is the percentage of a trial's budget, so that rungs mean the same for every family
    return AsyncHyperBandScheduler(
        time_attr="percent", metric=metric, mode=mode, grace_period=15, max_t=100, reduction_factor=3
    )
