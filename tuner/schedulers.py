"""Schedulers by name: whether a trial may run to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler

SCHEDULERS = ("none", "asha")


def create(name: str, metric: str, mode: str) -> TrialScheduler:
    """`none` lets every trial run; `asha` stops the worse two thirds at each rung of the budget (Li et al. 2020)."""
    from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler

    if name == "none":
        return FIFOScheduler()
    # time is the percentage of a trial's budget, so that rungs mean the same for every family
    return AsyncHyperBandScheduler(
        time_attr="percent", metric=metric, mode=mode, grace_period=15, max_t=100, reduction_factor=3
    )
