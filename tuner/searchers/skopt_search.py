"""Bayesian optimization by scikit-optimize's Gaussian process, made safe for parallel workers."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from skopt import Optimizer
from skopt.acquisition import gaussian_ei
from skopt.learning import GaussianProcessRegressor
from skopt.learning.gaussian_process.kernels import ConstantKernel, Matern
from skopt.sampler import Lhs
from skopt.space import Categorical, Dimension, Integer, Real
from skopt.utils import normalize_dimensions
from threadpoolctl import threadpool_limits

from search_spaces import Domain, prune
from tuner.searchers.base import Point, SpaceSearcher, middle

_GLOBAL, _LOCAL, _AROUND = 2000, 4000, 5
_CANDIDATES = 300  # the most promising ones, of which the first feasible is proposed


class RegularizedGP(GaussianProcessRegressor):
    """skopt's Gaussian process with weak priors on its kernel parameters: the mode of their posterior is fitted.

    A dozen length scales cannot be had from ten noisy trials alone: maximum likelihood calls half of the parameters
    irrelevant and the rest jagged. Length scales are log-normal around a value that grows with the square root of
    the number of dimensions (Hvarfner et al. 2024), the noise around a fiftieth of the spread.
    """

    def log_marginal_likelihood(self, theta: Any = None, eval_gradient: bool = False, clone_kernel: bool = True) -> Any:
        value = super().log_marginal_likelihood(theta, eval_gradient, clone_kernel)
        if theta is None:
            return value
        scales = len(theta) - 2  # the first is the amplitude, the last the noise
        mean = np.r_[0.0, np.full(scales, _log_length(scales)), math.log(0.02)]
        deviation = np.r_[1.5, np.ones(scales), 1.5]
        z = (np.asarray(theta) - mean) / deviation
        penalty = 0.5 * float(z @ z)
        return (value[0] - penalty, value[1] - z / deviation) if eval_gradient else value - penalty


def _log_length(dimensions: int) -> float:
    return -0.5 + math.log(dimensions) / 2


def _model(dimensions: int, seed: int) -> RegularizedGP:
    kernel = ConstantKernel(1.0, (0.01, 1000.0)) * Matern(
        np.full(dimensions, math.exp(_log_length(dimensions))), [(0.01, 100.0)] * dimensions, nu=2.5
    )
    return RegularizedGP(kernel=kernel, normalize_y=True, noise="gaussian", n_restarts_optimizer=1, random_state=seed)


class SkOptSearch(SpaceSearcher):
    """`skopt.Optimizer` as a Ray Tune searcher.

    Points under way are told to the optimizer with a lie, the mean that the model of the finished points expects
    there (the "kriging believer" of Ginsbourger et al. 2010), so parallel workers spread out; failed trials are
    told as the worst value seen. Four choices make it good at 12 noisy dimensions and few trials:

    - kernel parameters have weak priors (`RegularizedGP`);
    - what counts as the best so far is the model's mean at a finished point, not the luckiest noisy value;
    - expected improvement is maximised over candidates all over the space and around the best points, which a
      gradient ascent would leave for the corners, where a model of few points is merely uncertain;
    - kernel parameters are fitted once a proposal, to the finished points; the model with the believed points
      takes them over. One thread does it all.
    """

    def propose(self, rng: np.random.Generator) -> Point:
        dimensions = [dimension(domain, name) for name, domain in self.space.items()]
        count = max(0, initial_points(len(dimensions)) - self.known)
        if self.asked < count or sum(o.loss is not None for o in self.history) < 3:
            return self._initial(dimensions, count, rng)
        # more threads than the driver's one core would slow the fit and take cores from the trials
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer = self._optimizer(dimensions, rng)
            return self._point(self._most_promising(optimizer, rng))

    def _optimizer(self, dimensions: list[Dimension], rng: np.random.Generator) -> Optimizer:
        """An optimizer that knows all finished and believed points."""
        space = normalize_dimensions(dimensions)
        rows = [self._row(o.point) for o in self.history]
        losses = _standardized(self.losses())
        model = _model(space.transformed_n_dims, _seed(rng))
        model.fit(space.transform(rows), losses)
        if self.pending:
            under_way = [self._row(point) for point in self.pending.values()]
            losses = np.concatenate([losses, model.predict(space.transform(under_way))])
            rows += under_way
        believer = GaussianProcessRegressor(
            kernel=model.kernel_, alpha=max(model.noise_, 1e-10), normalize_y=True, optimizer=None
        )
        optimizer = Optimizer(
            dimensions,
            base_estimator=believer,
            n_initial_points=0,
            acq_func="EI",
            acq_optimizer="sampling",
            acq_optimizer_kwargs={"n_points": 1},  # its own proposal is not used
            random_state=_seed(rng),
        )
        optimizer.tell(rows, losses.tolist())
        return optimizer

    def _most_promising(self, optimizer: Optimizer, rng: np.random.Generator) -> list[object]:
        space, model = optimizer.space, optimizer.models[-1]
        finished = np.asarray(space.transform([self._row(o.point) for o in self.history]))
        mean = model.predict(finished)
        anchors = finished[rng.choice(np.argsort(mean)[:_AROUND], _LOCAL)]
        reach = 0.15 * 10 ** rng.uniform(-1.0, 0.3, (_LOCAL, 1))
        moved = rng.random(anchors.shape) < 0.35
        near = np.clip(np.where(moved, anchors + reach * rng.normal(size=anchors.shape), anchors), 0.0, 1.0)
        candidates = np.concatenate([rng.random((_GLOBAL, near.shape[1])), near])
        # there and back: integers and choices land on their own values
        candidates = np.asarray(space.transform(self._imputed(space.inverse_transform(candidates))))
        gain = gaussian_ei(candidates, model, y_opt=mean.min(), xi=0.0)
        order = np.argsort(-gain, kind="stable")[:_CANDIDATES]
        rows: list[list[object]] = space.inverse_transform(candidates[order])
        return next((row for row in rows if self.feasible(prune(self.space, self._point(row)))), rows[0])

    def _initial(self, dimensions: list[Dimension], count: int, rng: np.random.Generator) -> Point:
        """The next point of a Latin hypercube that only the seed decides; beyond it, random points."""
        if self.asked >= count:
            return self.random_point(rng)
        rows = Lhs(criterion="maximin", iterations=200).generate(dimensions, count, random_state=self.seed % 2**31)
        return self._point(rows[self.asked])

    def _row(self, point: Point) -> list[object]:
        return [_coded(value, self.space[name]) for name, value in self.filled(point).items()]

    def _imputed(self, rows: list[list[object]]) -> list[list[object]]:
        """Rows with inactive parameters at their middle: the model knows of no others."""
        if not any(domain.when for domain in self.space.values()):
            return rows
        names = list(self.space)
        table = np.array(rows, dtype=object)
        active: dict[str, np.ndarray] = {}
        for name in self._order:
            active[name] = np.ones(len(table), dtype=bool)
            for parent, values in self.space[name].when.items():
                codes = [_coded(value, self.space[parent]) for value in values]
                column = np.rint(table[:, names.index(parent)].astype(float))
                active[name] &= active[parent] & np.isin(column, codes)
            table[~active[name], names.index(name)] = _coded(middle(self.space[name]), self.space[name])
        return table.tolist()

    def _point(self, row: list[object]) -> Point:
        return {name: _plain(value, domain) for (name, domain), value in zip(self.space.items(), row, strict=True)}


def initial_points(dimensions: int) -> int:
    """How many points are spread over the space before the model takes over."""
    return max(5, min(10, dimensions))


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _standardized(losses: np.ndarray) -> np.ndarray:
    spread = float(losses.std())
    return (losses - losses.mean()) / spread if spread > 0 else losses - losses.mean()


def _coded(value: Any, domain: Domain) -> Any:
    """A value as skopt has it, and as `_plain` reads it back."""
    return domain.position(value) if domain.kind == "choice" else value


def _plain(value: object, domain: Domain) -> object:
    """skopt's numpy scalar as a Python value inside the domain."""
    number = float(value)  # type: ignore[arg-type]
    if domain.kind == "choice":
        return domain.options[round(number)]
    if domain.integer:
        return int(min(max(round(number), domain.low), domain.high - 1))
    return min(max(number, domain.low), domain.high) if math.isfinite(number) else domain.low


def dimension(domain: Domain, name: str) -> Dimension:
    """A domain as skopt has it; a choice by the positions of its options, which may be of any type."""
    if domain.kind == "choice":
        return Categorical(list(range(len(domain.options))), name=name)
    prior = "log-uniform" if domain.log else "uniform"
    if domain.integer:
        low, high = int(domain.low), int(domain.high) - 1
        # skopt wants two ends; an integer range of one value is a choice of one
        return Integer(low, high, prior=prior, name=name) if low < high else Categorical([low], name=name)
    return Real(domain.low, domain.high, prior=prior, name=name)
