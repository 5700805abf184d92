"""What all searchers share: the history, the points under way, and never the same point twice (but for that of an
empty space)."""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ray.tune.search import Searcher

from ground.files import write_json
from search_spaces import Domain, prune
from search_spaces.conditions import is_active, ordered

Point = dict[str, Any]
_TRIES = 1000
_NEAR = 200  # of these tries, those that stay near an infeasible proposal


@dataclass(frozen=True)
class Observation:
    """A point and its loss (always to be minimised); None where the trial failed, diverged or ran out of memory."""

    point: Point
    loss: float | None


class SpaceSearcher(Searcher):
    """A Ray Tune searcher over a search space. A point holds its active hyperparameters only.

    A proposal depends only on the seed, the history and the points under way, so a searcher that is rebuilt
    from a study's trials goes on as the one that was lost.

    Args:
        space: name -> domain.
        metric: the key of the objective in a trial's result.
        mode: "max" or "min".
        seed: fixes every proposal, given the same history.
    """

    def __init__(self, space: Mapping[str, Domain], metric: str, mode: str, seed: int) -> None:
        super().__init__(metric=metric, mode=mode)
        self.space = dict(space)
        self.seed = seed
        self.history: list[Observation] = []
        self.pending: dict[str, Point] = {}
        self.asked = 0
        self.known = 0
        """How many points of the history come from elsewhere: the initial design is that much smaller."""
        self.feasible: Callable[[Mapping[str, Any]], bool] = lambda point: True
        """Whether a point can be evaluated at all; no other is handed out."""
        self._order = ordered(self.space)

    @abstractmethod
    def propose(self, rng: np.random.Generator) -> Point:
        """The next point to try, given `history` and `pending`.

        It may hold inactive parameters, repeat a point or be infeasible: `suggest` sees to that.
        """

    def suggest(self, trial_id: str) -> Point | str | None:  # type: ignore[override]
        point: Point | None
        if self.space:
            rng = np.random.default_rng([self.seed, self.asked])
            point = self._fresh(prune(self.space, self.propose(rng)), rng)
        else:  # one setting, as often as asked for: its trials differ by their seeds
            point = {} if self.feasible({}) else None
        if point is None:
            return str(Searcher.FINISHED)
        self.asked += 1
        self.pending[trial_id] = point
        return dict(point)

    def _fresh(self, point: Point, rng: np.random.Generator) -> Point | None:
        taken = {self._key(o.point) for o in self.history} | {self._key(p) for p in self.pending.values()}
        proposed, good = point, self.feasible(point)
        if good and self._key(point) not in taken:
            return point
        for number in range(_TRIES):
            # what made an infeasible point a good proposal is kept as far as it can be
            near = not good and number < _NEAR
            point = self._near(proposed, (number + 1) / _NEAR, rng) if near else self.random_point(rng)
            if self._key(point) not in taken and self.feasible(point):
                return point
        return None  # a finite space, used up, or next to nothing in it is feasible

    def _near(self, point: Point, share: float, rng: np.random.Generator) -> Point:
        """A point with about that share of its parameters, one at least, drawn anew."""
        random, anew = self.random_point(rng), rng.random(len(self._order)) < share
        anew[int(rng.integers(len(anew)))] = True
        near: Point = {}
        for name, drawn in zip(self._order, anew, strict=True):
            if is_active(self.space[name], near):
                keep = name in point and not drawn
                near[name] = point[name] if keep else random.get(name, sample(self.space[name], rng))
        return {name: near[name] for name in self.space if name in near}

    def _key(self, point: Mapping[str, Any]) -> str:
        return json.dumps({name: point[name] for name in self.space if name in point})

    def random_point(self, rng: np.random.Generator) -> Point:
        point: Point = {}
        for name in self._order:
            if is_active(self.space[name], point):
                point[name] = sample(self.space[name], rng)
        return {name: point[name] for name in self.space if name in point}

    def _own(self, parameters: Mapping[str, Any]) -> Point:
        """The active parameters, each value in its one form: as proposed, whatever files it went through."""
        point: Point = {}
        for name in self._order:
            if is_active(self.space[name], point):
                point[name] = self.space[name].canonical(parameters[name])
        return {name: point[name] for name in self.space if name in point}

    def filled(self, point: Mapping[str, Any]) -> Point:
        """A point with a place in every dimension, for models: inactive parameters are all at their middle."""
        return {name: point[name] if name in point else middle(domain) for name, domain in self.space.items()}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        point = self.pending.pop(trial_id, None)
        if point is not None:
            value = None if error or not result else result.get(self.metric)
            self.add_evaluated_point(point, value)

    def add_evaluated_point(  # type: ignore[override]
        self,
        parameters: Mapping[str, Any],
        value: float | None,
        error: bool = False,
        pruned: bool = False,
        intermediate_values: list[float] | None = None,
    ) -> None:
        """Tell of a point that was evaluated elsewhere, before or by another study; a non-finite value is bad."""
        loss = None
        if not error and value is not None and math.isfinite(value):
            loss = -float(value) if self.mode == "max" else float(value)
        self.history.append(Observation(self._own(parameters), loss))

    def warm_start(self, points: Iterable[tuple[Mapping[str, Any], float | None]]) -> None:
        """Tell of another study's points and their values: they stand in for points of the initial design."""
        for parameters, value in points:
            self.add_evaluated_point(parameters, value)
            self.known += 1

    def add_pending_point(self, trial_id: str, parameters: Mapping[str, Any]) -> None:
        """Tell of a point that is being evaluated by a trial this searcher did not start."""
        self.pending[trial_id] = self._own(parameters)

    def contains(self, parameters: Mapping[str, Any]) -> bool:
        """Whether exactly the active hyperparameters are there, each within its domain."""
        own = prune(self.space, parameters)
        active = {name for name, domain in self.space.items() if is_active(domain, own)}
        return set(parameters) == active and all(self.space[name].contains(parameters[name]) for name in active)

    def losses(self) -> np.ndarray:
        """The loss of each observation, failures told as the worst seen and outliers drawn in.

        One run that blew up would otherwise flatten the model of all the others: what is worse than the median by
        more than three times the spread of the better half counts as just that bad.
        """
        good = np.array([o.loss for o in self.history if o.loss is not None], dtype=float)
        if not len(good):
            return np.zeros(len(self.history))
        median = float(np.median(good))
        cap = median + 3.0 * max(median - float(good.min()), 1e-12)
        worst = float(min(good.max(), cap))
        return np.array([worst if o.loss is None else min(o.loss, cap) for o in self.history])

    def get_state(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "asked": self.asked,
            "known": self.known,
            "history": [[o.point, o.loss] for o in self.history],
            "pending": dict(self.pending),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:  # type: ignore[override]
        self.seed, self.asked, self.pending = state["seed"], state["asked"], dict(state["pending"])
        self.known = state.get("known", 0)
        self.history = [Observation(point, loss) for point, loss in state["history"]]

    def save(self, checkpoint_path: str) -> None:
        write_json(Path(checkpoint_path), self.get_state())

    def restore(self, checkpoint_path: str) -> None:
        self.set_state(json.loads(Path(checkpoint_path).read_text(encoding="utf-8")))


def sample(domain: Domain, rng: np.random.Generator) -> Any:
    """One random value of a domain."""
    if domain.kind == "choice":
        return domain.options[int(rng.integers(len(domain.options)))]
    if domain.kind == "randint":
        return int(rng.integers(int(domain.low), int(domain.high)))
    if domain.kind == "uniform":
        return float(rng.uniform(domain.low, domain.high))
    value = math.exp(rng.uniform(math.log(domain.low), math.log(domain.high)))
    if domain.kind == "lograndint":
        return int(min(max(math.floor(value), domain.low), domain.high - 1))
    return float(min(max(value, domain.low), domain.high))


def middle(domain: Domain) -> Any:
    """The fixed value that stands for an inactive parameter: the middle of a range, the first option."""
    if domain.kind == "choice":
        return domain.options[0]
    low, high = domain.ends()
    value = math.sqrt(low * high) if domain.log else (low + high) / 2
    return math.floor(value) if domain.integer else min(max(value, low), high)
