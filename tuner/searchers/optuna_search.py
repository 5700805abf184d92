"""Optuna's Gaussian-process sampler over our spaces."""

from __future__ import annotations

import warnings

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState, create_trial

from search_spaces import Domain
from tuner.searchers.base import Point, SpaceSearcher


class OptunaGPSearch(SpaceSearcher):
    """The study is rebuilt from the history at every proposal; points under way enter as running trials."""

    def propose(self, rng: np.random.Generator) -> Point:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        distributions = {name: _distribution(domain) for name, domain in self.space.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sampler = optuna.samplers.GPSampler(seed=int(rng.integers(2**31)), deterministic_objective=False)
            study = optuna.create_study(direction="minimize", sampler=sampler)
            for observation, loss in zip(self.history, self.losses(), strict=True):
                study.add_trial(
                    create_trial(params=self._coded(observation.point), distributions=distributions, value=float(loss))
                )
            for point in self.pending.values():
                study.add_trial(
                    create_trial(params=self._coded(point), distributions=distributions, state=TrialState.RUNNING)
                )
            params = study.ask(distributions).params
        return {
            name: domain.options[params[name]] if domain.kind == "choice" else params[name]
            for name, domain in self.space.items()
        }

    def _coded(self, point: Point) -> Point:
        """All dimensions, as the sampler only models those that every trial has; choices by position: options may be
        of any type."""
        return {
            name: self.space[name].position(value) if self.space[name].kind == "choice" else value
            for name, value in self.filled(point).items()
        }


def _distribution(domain: Domain) -> BaseDistribution:
    if domain.kind == "choice":
        return CategoricalDistribution(list(range(len(domain.options))))
    if domain.integer:
        return IntDistribution(int(domain.low), int(domain.high) - 1, log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log)
