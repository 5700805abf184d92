from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import search_spaces
from search_spaces import Domain
from tuner import searchers
from tuner.searchers.base import SpaceSearcher, sample

MIXED = {
    "lr": Domain("loguniform", 1e-5, 1e-2),
    "width": Domain("randint", 1, 6),
    "depth": Domain("lograndint", 1, 64),
    "kind": Domain("choice", options=("relu", "gelu", True, 3)),
    "drop": Domain("uniform", 0.1, 0.7),
}


def feed(searcher: SpaceSearcher, count: int, parallel: int = 3) -> list[dict[str, object]]:
    """Run a searcher on a smooth function, some trials failing, several at a time."""
    points: list[dict[str, object]] = []
    waiting: list[str] = []
    for number in range(count):
        point = searcher.suggest(str(number))
        assert isinstance(point, dict)
        points.append(point)
        waiting.append(str(number))
        if len(waiting) == parallel:
            done = waiting.pop(0)
            p = points[int(done)]
            value = -((math.log10(float(p["lr"])) + 3) ** 2) - float(p["drop"])  # type: ignore[arg-type]
            searcher.on_trial_complete(done, {"score": math.nan if int(done) % 5 == 4 else value})
    return points


@pytest.mark.parametrize("name", searchers.names())
def test_proposals_lie_in_the_space_and_never_repeat(name: str) -> None:
    points = feed(searchers.create(name, MIXED, "score", "max", 1), 22)
    for point in points:
        assert all(MIXED[k].contains(v) for k, v in point.items())
        assert type(point["width"]) is int
        assert type(point["depth"]) is int
        assert type(point["drop"]) is float
    assert len({str(p) for p in points}) == len(points)


@pytest.mark.parametrize("name", searchers.names())
def test_seed_decides(name: str) -> None:
    one, two, other = (feed(searchers.create(name, MIXED, "score", "max", seed), 14) for seed in (1, 1, 2))
    assert one == two
    assert one != other


@pytest.mark.parametrize("name", searchers.names())
def test_saved_and_restored_goes_on_the_same(name: str, tmp_path: Path) -> None:
    whole = searchers.create(name, MIXED, "score", "max", 5)
    feed(whole, 13)
    whole.save(str(tmp_path / "s.json"))
    again = searchers.create(name, MIXED, "score", "max", 0)
    again.restore(str(tmp_path / "s.json"))
    assert again.suggest("next") == whole.suggest("next")


def test_pending_points_move_the_next_one() -> None:
    free = searchers.create("skopt", MIXED, "score", "max", 3)
    feed(free, 14, parallel=1)
    busy = searchers.create("skopt", MIXED, "score", "max", 3)
    busy.set_state(free.get_state())
    first = free.suggest("a")
    assert isinstance(first, dict)
    busy.add_pending_point("elsewhere", first)
    assert busy.suggest("a") != first


@pytest.mark.parametrize("name", searchers.names())
def test_a_finite_space_is_used_up(name: str) -> None:
    space = {"a": Domain("randint", 0, 3), "b": Domain("choice", options=("x", "y"))}
    searcher = searchers.create(name, space, "score", "min", 0)
    seen = set()
    for number in range(6):
        point = searcher.suggest(str(number))
        assert isinstance(point, dict)
        seen.add(str(point))
        searcher.on_trial_complete(str(number), {"score": float(number)})
    assert len(seen) == 6
    assert searcher.suggest("more") == "FINISHED"


def test_failures_are_told_as_the_worst() -> None:
    searcher = searchers.create("skopt", {"x": Domain("uniform", 0, 1)}, "score", "max", 0)
    for x, value in ((0.1, 1.0), (0.2, 2.0), (0.3, math.nan), (0.4, None), (0.5, -1e9)):
        searcher.add_evaluated_point({"x": x}, value)
    losses = searcher.losses()
    assert losses[2] == losses[3] == losses.max()
    assert losses[1] == losses.min() == -2.0
    assert losses.max() < 100  # one wreck does not flatten the rest


def test_every_point_failed() -> None:
    searcher = searchers.create("skopt", MIXED, "score", "max", 0)
    for number in range(15):
        assert isinstance(searcher.suggest(str(number)), dict)
        searcher.on_trial_complete(str(number), None, error=True)


def test_skopt_beats_random_on_a_smooth_function() -> None:
    best = {}
    for name in ("skopt", "random"):
        scores = []
        for seed in range(3):
            points = feed(searchers.create(name, MIXED, "score", "max", seed), 30)
            scores.append(max(-((math.log10(float(p["lr"])) + 3) ** 2) - float(p["drop"]) for p in points))  # type: ignore[arg-type]
        best[name] = np.mean(scores)
    assert best["skopt"] > best["random"]


@given(st.sampled_from(list(MIXED)), st.integers(0, 2**32))
@settings(max_examples=200)
def test_samples_lie_in_their_domain(name: str, seed: int) -> None:
    assert MIXED[name].contains(sample(MIXED[name], np.random.default_rng(seed)))


def test_a_suggestion_at_120_trials_is_cheap() -> None:
    """Measured against one plain fit of the same model in the same run: machines differ, ratios less."""
    import time

    from skopt.space import Space
    from skopt.utils import cook_estimator, normalize_dimensions

    from tuner.searchers.skopt_search import dimension

    space = search_spaces.load("mc_maze").space
    searcher = searchers.create("skopt", space, "score", "max", 0)
    rng = np.random.default_rng(0)
    points = [searcher.random_point(rng) for _ in range(120)]
    for point in points:
        searcher.add_evaluated_point(point, float(rng.normal()))
    searcher.asked = 120
    for number in range(7):
        searcher.add_pending_point(f"p{number}", searcher.random_point(rng))
    dimensions: Space = normalize_dimensions([dimension(d, n) for n, d in space.items()])
    rows = dimensions.transform([[p[n] for n in space] for p in points])
    model = cook_estimator("GP", space=dimensions, random_state=0, noise="gaussian", n_restarts_optimizer=2)
    begun = time.perf_counter()
    model.fit(rows, rng.normal(size=120))
    fit = time.perf_counter() - begun
    begun = time.perf_counter()
    searcher.suggest("next")
    assert time.perf_counter() - begun < 6 * fit + 1
