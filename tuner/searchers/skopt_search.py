"""Bayesian optimization by scikit-optimize's Gaussian process, made safe for parallel workers."""

from __future__ import annotations

import math
import warnings

import numpy as np
from skopt import Optimizer
from skopt.learning import GaussianProcessRegressor
from skopt.sampler import Lhs
from skopt.space import Categorical, Dimension, Integer, Real
from skopt.utils import cook_estimator, normalize_dimensions
from threadpoolctl import threadpool_limits

from search_spaces import Domain
from tuner.searchers.base import Point, SpaceSearcher


class SkOptSearch(SpaceSearcher):
    """`skopt.Optimizer` as a Ray Tune searcher.

    Points under way are told to the optimizer with a lie, the mean that a first model expects there (the
    "kriging believer" of Ginsbourger et al. 2010), so parallel workers spread out. Failed trials are told as
    the worst value seen. Kernel parameters are fitted once a proposal, to the finished points; the model with
    the believed points takes them over. One thread does it all.
    """

    acquisition = "EI"
    xi = 0.0

    def propose(self, rng: np.random.Generator) -> Point:
        dimensions = [dimension(domain, name) for name, domain in self.space.items()]
        count = initial_points(len(dimensions))
        if self.asked < count or sum(o.loss is not None for o in self.history) < 3:
            return self._initial(dimensions, count, rng)
        # more threads than the driver's one core would slow the fit and take cores from the trials
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            space = normalize_dimensions(dimensions)
            rows = [self._row(o.point) for o in self.history]
            losses = _standardized(self.losses())
            model = cook_estimator("GP", space=space, random_state=int(rng.integers(2**31)), noise="gaussian")
            model.fit(space.transform(rows), losses)
            if self.pending:
                under_way = [self._row(point) for point in self.pending.values()]
                losses = np.concatenate([losses, model.predict(space.transform(under_way))])
                rows += under_way
            # the kernel that the finished points chose, and their noise, now for the believed points too
            believer = GaussianProcessRegressor(
                kernel=model.kernel_, alpha=max(model.noise_, 1e-10), normalize_y=True, optimizer=None
            )
            optimizer = Optimizer(
                dimensions,
                base_estimator=believer,
                n_initial_points=0,
                acq_func=self.acquisition,
                acq_optimizer="auto",
                acq_func_kwargs={"xi": self.xi},
                acq_optimizer_kwargs={"n_points": 5000, "n_restarts_optimizer": 3},
                random_state=int(rng.integers(2**31)),
            )
            optimizer.tell(rows, losses.tolist())
            return self._point(optimizer.ask())

    def _initial(self, dimensions: list[Dimension], count: int, rng: np.random.Generator) -> Point:
        """The next point of a Latin hypercube that only the seed decides; beyond it, random points."""
        if self.asked >= count:
            return self.random_point(rng)
        rows = Lhs(criterion="maximin", iterations=200).generate(dimensions, count, random_state=self.seed % 2**31)
        return self._point(rows[self.asked])

    def _row(self, point: Point) -> list[object]:
        return [point[name] for name in self.space]

    def _point(self, row: list[object]) -> Point:
        return {name: plain(value, domain) for (name, domain), value in zip(self.space.items(), row, strict=True)}


def initial_points(dimensions: int) -> int:
    """How many points are spread over the space before the model takes over."""
    return max(5, min(10, dimensions))


def _standardized(losses: np.ndarray) -> np.ndarray:
    spread = float(losses.std())
    return (losses - losses.mean()) / spread if spread > 0 else losses - losses.mean()


def plain(value: object, domain: Domain) -> object:
    """skopt's numpy scalar as a Python value inside the domain."""
    if domain.kind == "choice":
        # by equality: skopt hands back numpy copies of the options
        return next(option for option in domain.options if option == value)
    number = float(value)  # type: ignore[arg-type]
    if domain.integer:
        return int(min(max(round(number), domain.low), domain.high - 1))
    return min(max(number, domain.low), domain.high) if math.isfinite(number) else domain.low


def dimension(domain: Domain, name: str) -> Dimension:
    if domain.kind == "choice":
        return Categorical(list(domain.options), name=name)
    prior = "log-uniform" if domain.log else "uniform"
    if domain.integer:
        low, high = int(domain.low), int(domain.high) - 1
        # skopt wants two ends; an integer range of one value is a choice of one
        return Integer(low, high, prior=prior, name=name) if low < high else Categorical([low], name=name)
    return Real(domain.low, domain.high, prior=prior, name=name)
