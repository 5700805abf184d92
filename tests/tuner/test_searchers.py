from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from skopt.learning import GaussianProcessRegressor

import search_spaces
from ground.files import write_json
from search_spaces import Domain
from tuner import searchers
from tuner.options import Options
from tuner.searchers.base import SpaceSearcher, sample
from tuner.searchers.skopt_search import SkOptSearch, _model, dimension, initial_points

MIXED = {
    "lr": Domain("loguniform", 1e-5, 1e-2),
    "width": Domain("randint", 1, 6),
    "depth": Domain("lograndint", 1, 64),
    "kind": Domain("choice", options=("relu", "gelu", True, 3)),
    "drop": Domain("uniform", 0.1, 0.7),
}

NESTED = {
    "momentum": Domain("uniform", 0.0, 1.0, when={"optimizer": ("sgd",)}),
    "optimizer": Domain("choice", options=("adam", "sgd", None)),
    "depth": Domain("randint", 1, 6),
    "layers": Domain("choice", options=([64, 128], [32, 32, 32], [16])),
    "skip": Domain("choice", options=(True, 1, None), when={"depth": (3, 4, 5), "layers": ([32, 32, 32], [16])}),
    "gate": Domain("loguniform", 1e-3, 1.0, when={"skip": (True, None)}),
    "lr": Domain("loguniform", 1e-5, 1e-2),
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


STACKS = {
    "depth": Domain("randint", 1, 7),
    **{f"pool{i}": Domain("randint", 1, 7, when={"depth": tuple(range(i, 7))}) for i in range(1, 7)},
    "lr": Domain("loguniform", 1e-5, 1e-2),
}


def pooled(point: Mapping[str, Any]) -> bool:
    """Whether 100 bins outlast the pools."""
    return math.prod(int(point[name]) for name in point if name.startswith("pool")) <= 100


@pytest.mark.parametrize("name", searchers.names())
def test_infeasible_points_are_never_proposed(name: str) -> None:
    searcher = searchers.create(name, STACKS, "score", "min", 3, pooled)
    rng, points = np.random.default_rng(0), []
    assert np.mean([pooled(searcher.random_point(rng)) for _ in range(200)]) < 0.8
    for number in range(12):
        point = searcher.suggest(str(number))
        assert isinstance(point, dict) and searcher.contains(point) and pooled(point)
        points.append(point)
        # more layers are better, so a search that goes by its model runs against the limit
        searcher.on_trial_complete(str(number), {"score": -float(point["depth"]) + abs(math.log10(point["lr"]) + 3)})
    assert len({str(p) for p in points}) == len(points)


def test_an_infeasible_proposal_is_mended_nearby() -> None:
    searcher = searchers.create("random", STACKS, "score", "min", 0, pooled)
    proposal = {"depth": 6, **{f"pool{i}": 3 for i in range(1, 7)}, "lr": 1e-3}
    kept, by_chance = [], []
    for seed in range(20):
        searcher.propose = lambda rng: dict(proposal)  # type: ignore[method-assign]
        searcher.asked = seed
        point, random = searcher.suggest(str(seed)), searcher.random_point(np.random.default_rng(seed))
        assert isinstance(point, dict) and pooled(point)
        kept.append(sum(point.get(key) == value for key, value in proposal.items()))
        by_chance.append(sum(random.get(key) == value for key, value in proposal.items()))
    assert np.mean(kept) > 2.5 * np.mean(by_chance)


def test_a_space_without_a_feasible_point_ends_the_search() -> None:
    searcher = searchers.create("random", STACKS, "score", "min", 0, lambda point: False)
    assert searcher.suggest("0") == "FINISHED"


def smooth(dimensions: int = 4) -> dict[str, Domain]:
    return {f"x{i}": Domain("uniform", 0, 1) for i in range(dimensions)}


def vector(point: object) -> np.ndarray:
    assert isinstance(point, dict)
    return np.array(list(point.values()), dtype=float)


def bowl(point: object) -> float:
    return float(((vector(point) - 0.37) ** 2).sum())


def shift(name: str, seeds: int = 6) -> float:
    """How much farther from a proposal the next one lies for knowing that it is under way, mean over seeds.

    Of `propose` itself: `suggest` would put a random point where a repetition is, which is farther still.
    """
    gained = []
    for seed in range(seeds):
        searcher = searchers.create(name, smooth(), "score", "min", seed)
        rng = np.random.default_rng(seed)
        for _ in range(12):
            point = searcher.random_point(rng)
            searcher.add_evaluated_point(point, bowl(point))
        searcher.asked = 12
        first = searcher.propose(np.random.default_rng([seed, 0]))
        alone = searcher.propose(np.random.default_rng([seed, 1]))
        searcher.add_pending_point("elsewhere", first)
        beside = searcher.propose(np.random.default_rng([seed, 1]))
        away, near = (float(np.linalg.norm(vector(p) - vector(first))) for p in (beside, alone))
        gained.append(away - near)
    return float(np.mean(gained))


@pytest.mark.parametrize("name", ["skopt", "optuna"])
def test_pending_points_move_the_next_one(name: str) -> None:
    assert shift(name) > 0.1


def test_pending_points_mean_nothing_to_random_search() -> None:
    assert shift("random") == 0  # so the test above measures what it says


def test_priors_keep_a_model_of_few_points_honest() -> None:
    """What the searcher's model says of unseen points, by the density it gives to the truth.

    Without priors fifteen noisy points make half of the length scales infinite and the model sure of what is wrong.
    """
    ours, plain = [], []
    dimensions = 12
    space = smooth(dimensions)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        slope = rng.normal(size=dimensions)
        rows, unseen = rng.random((15, dimensions)), rng.random((300, dimensions))
        noisy = np.sin(rows @ slope) + 0.1 * rng.normal(size=15)
        searcher = SkOptSearch(space, "score", "min", seed)
        for row, value in zip(rows, noisy, strict=True):
            searcher.add_evaluated_point(dict(zip(space, row, strict=True)), float(value))
        told = searcher.losses()
        truth = (np.sin(unseen @ slope) - told.mean()) / told.std()
        model = searcher._optimizer([dimension(d, n) for n, d in space.items()], rng).models[-1]
        bare = GaussianProcessRegressor(**_model(dimensions, seed).get_params(deep=False))
        bare.fit(rows, (told - told.mean()) / told.std())
        for fitted, out in ((model, ours), (bare, plain)):
            mean, deviation = fitted.predict(unseen, return_std=True)
            out.append(float(norm.logpdf(truth, mean, deviation).mean()))
    assert np.mean(ours) > np.mean(plain) + 1.0


def test_the_priors_gradient_is_theirs() -> None:
    rng = np.random.default_rng(0)
    model = _model(3, 0).fit(rng.random((9, 3)), rng.normal(size=9))
    theta = np.array([0.3, -0.2, 0.5, 0.1, -3.0])
    _, gradient = model.log_marginal_likelihood(theta, eval_gradient=True)
    for index, slope in enumerate(gradient):
        step = np.eye(5)[index] * 1e-5
        up, down = (model.log_marginal_likelihood(theta + sign * step) for sign in (1, -1))
        assert slope == pytest.approx((up - down) / 2e-5, rel=1e-3, abs=1e-4)


def test_improvement_is_on_the_best_not_on_the_worst() -> None:
    """A basin that is known well, and nothing known beyond: better than its bottom can only be elsewhere.

    Improvement on anything worse would be had surely, and most, at the bottom that is known.
    """
    distances = []
    for seed in range(8):
        searcher = searchers.create("skopt", smooth(2), "score", "min", seed)
        rng = np.random.default_rng(seed)
        known = 0.05 + 0.3 * rng.random((20, 2))
        for row in known:
            searcher.add_evaluated_point({"x0": row[0], "x1": row[1]}, float(((row - 0.2) ** 2).sum()))
        searcher.asked = 20
        proposed = vector(searcher.propose(np.random.default_rng([seed, 1])))
        distances.append(float(np.linalg.norm(known - proposed, axis=1).min()))
    assert np.mean(distances) > 0.5


def regret(name: str, seed: int) -> float:
    """The best of 30 points of a smooth function seen through noise, four under way at a time; zero is perfect."""
    searcher = searchers.create(name, smooth(), "score", "min", seed)
    rng = np.random.default_rng(seed)
    points: list[object] = []
    for number in range(30):
        points.append(searcher.suggest(str(number)))
        if number >= 3:
            value = bowl(points[number - 3]) + 0.01 * float(rng.normal())
            searcher.on_trial_complete(str(number - 3), {"score": value})
    return min(bowl(point) for point in points)


def test_regret_with_points_under_way() -> None:
    found, at_random = (np.mean([regret(name, seed) for seed in range(3)]) for name in ("skopt", "random"))
    assert found < 0.3 * at_random  # a tenth, where this was written


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


@given(st.sampled_from(list(MIXED)), st.integers(0, 2**32))
@settings(max_examples=200)
def test_samples_lie_in_their_domain(name: str, seed: int) -> None:
    assert MIXED[name].contains(sample(MIXED[name], np.random.default_rng(seed)))


@pytest.mark.alone
def test_a_suggestion_at_120_trials_is_cheap() -> None:
    """Measured against one plain fit of the same model in the same run: machines differ, ratios less."""
    import time

    from skopt.space import Space
    from skopt.utils import cook_estimator, normalize_dimensions

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


@pytest.mark.parametrize("name", searchers.names())
def test_points_hold_their_active_parameters_only(name: str) -> None:
    searcher = searchers.create(name, NESTED, "score", "max", 4)
    seen: dict[str, set[bool]] = {key: set() for key in NESTED}
    for number in range(24):
        point = searcher.suggest(str(number))
        assert isinstance(point, dict)
        assert searcher.contains(point)
        assert list(point) == [key for key in NESTED if key in point]
        skip = point["depth"] >= 3 and point["layers"] != [64, 128]
        assert ("momentum" in point) == (point["optimizer"] == "sgd")
        assert ("skip" in point) == skip
        assert ("gate" in point) == (skip and point["skip"] in (True, None) and type(point["skip"]) is not int)
        for key in NESTED:
            seen[key].add(key in point)
        searcher.on_trial_complete(str(number), {"score": worth(point)})
    assert all(seen[key] == {True, False} for key in ("momentum", "skip", "gate"))


def worth(point: object) -> float:
    assert isinstance(point, dict)
    score = -((math.log10(point["lr"]) + 3) ** 2) - 0.1 * point["depth"] + (point["optimizer"] == "sgd")
    return float(score - (point.get("momentum", 0.5) - 0.9) ** 2 + 0.3 * len(point["layers"]))


def test_contains_wants_exactly_the_active_ones() -> None:
    searcher = searchers.create("random", NESTED, "score", "max", 0)
    point = {"optimizer": "adam", "depth": 1, "layers": [16], "lr": 1e-3}
    assert searcher.contains(point)
    assert not searcher.contains({**point, "momentum": 0.5})
    assert not searcher.contains({**point, "optimizer": "sgd"})
    assert searcher.contains({**point, "optimizer": "sgd", "momentum": 0.5})
    assert not searcher.contains({**point, "depth": 3})
    assert not searcher.contains({**point, "depth": 3, "skip": True})
    assert searcher.contains({**point, "depth": 3, "skip": True, "gate": 0.1})
    assert searcher.contains({**point, "depth": 3, "skip": 1})
    assert not searcher.contains({**point, "foreign": 1})
    assert not searcher.contains({**point, "layers": [16, 16]})


@pytest.mark.parametrize("name", searchers.names())
def test_what_differs_in_inactive_parameters_only_is_one_point(name: str) -> None:
    space = {
        "kind": Domain("choice", options=("plain", "rich")),
        "grade": Domain("randint", 0, 3, when={"kind": ("rich",)}),
        "depth": Domain("choice", options=([1], [1, 2]), when={"grade": (2,)}),
    }
    searcher = searchers.create(name, space, "score", "min", 0)
    seen = []
    for number in range(5):
        point = searcher.suggest(str(number))
        assert isinstance(point, dict)
        seen.append(str(point))
        searcher.on_trial_complete(str(number), {"score": float(number)})
    assert len(set(seen)) == 5  # plain; rich 0, 1; rich 2 with either depth
    assert searcher.suggest("more") == "FINISHED"


def test_candidates_are_judged_with_the_values_that_the_model_has_for_what_is_inactive() -> None:
    searcher = SkOptSearch(NESTED, "score", "max", 0)
    rng = np.random.default_rng(0)
    anything = SkOptSearch({name: replace(domain, when={}) for name, domain in NESTED.items()}, "score", "max", 0)
    points = [anything.random_point(rng) for _ in range(200)]
    rows = searcher._imputed([anything._row(point) for point in points])
    assert rows == [searcher._row(search_spaces.prune(NESTED, point)) for point in points]
    assert rows != [anything._row(point) for point in points]


def test_told_points_lose_what_is_inactive() -> None:
    searcher = searchers.create("random", NESTED, "score", "max", 0)
    searcher.add_pending_point("a", {"optimizer": "adam", "momentum": 1, "depth": 2.0, "layers": [16], "lr": 1e-3})
    assert searcher.pending["a"] == {"optimizer": "adam", "depth": 2, "layers": [16], "lr": 1e-3}
    with pytest.raises(KeyError):
        searcher.add_pending_point("b", {"optimizer": "sgd", "depth": 2, "layers": [16], "lr": 1e-3})


@pytest.mark.parametrize("name", searchers.names())
def test_killed_twelve_times_proposes_the_same(name: str) -> None:
    """One worker; a search that is rebuilt from its trials, all through JSON, as `tuner.feed` does."""
    count = 26
    whole = searchers.create(name, NESTED, "score", "max", 7)
    expected = []
    for number in range(count):
        expected.append(whole.suggest(str(number)))
        whole.on_trial_complete(str(number), {"score": math.nan if number % 6 == 5 else worth(expected[-1])})

    written = json.dumps({key: domain.to_json() for key, domain in NESTED.items()})
    trials: list[str] = []
    values: list[float | None] = []

    def rebuilt() -> SpaceSearcher:
        space = {key: Domain.from_json(entry) for key, entry in json.loads(written).items()}
        assert space == NESTED
        searcher = searchers.create(name, space, "score", "max", 7)
        for number, text in enumerate(trials):
            if number < len(values):
                searcher.add_evaluated_point(json.loads(text), values[number])
            else:
                searcher.add_pending_point(str(number), json.loads(text))
        searcher.asked = len(trials)
        return searcher

    kills = {int(k) for k in np.random.default_rng(0).choice(2 * count, 12, replace=False)}  # half of them mid-trial
    searcher = rebuilt()
    for number in range(count):
        if 2 * number in kills:
            searcher = rebuilt()
        point = searcher.suggest(str(number))
        assert point == expected[number], number
        trials.append(json.dumps(point))
        if 2 * number + 1 in kills:
            searcher = rebuilt()
        values.append(None if number % 6 == 5 else worth(point))
        searcher.on_trial_complete(str(number), {"score": values[-1]})


def told(searcher: SpaceSearcher, count: int, sign: int, warm: bool) -> SpaceSearcher:
    rng = np.random.default_rng(1)
    points = [searcher.random_point(rng) for _ in range(count)]
    values = [sign * bowl(point) for point in points]
    if warm:
        searcher.warm_start(zip(points, values, strict=True))
    return searcher


def test_a_warm_start_takes_the_place_of_the_initial_design() -> None:
    space, count = smooth(), initial_points(4)

    def fresh() -> SpaceSearcher:
        return searchers.create("skopt", space, "score", "min", 2)

    design = fresh()
    rows = [design.suggest(str(n)) for n in range(count)]
    up, down = (told(fresh(), count, sign, True).suggest("a") for sign in (1, -1))
    assert up != down  # what was told decides: the model has spoken
    assert up not in rows
    # with fewer, what is missing to the design comes first, and values do not count yet
    few = [told(fresh(), count - 2, sign, True) for sign in (1, -1)]
    first, second, third = ([searcher.suggest(str(n)) for searcher in few] for n in range(3))
    assert first[0] == first[1]
    assert second[0] == second[1]
    assert third[0] != third[1]
    again = fresh()
    again.set_state(json.loads(json.dumps(few[0].get_state())))
    assert again.suggest("next") == few[0].suggest("next")


def test_a_study_is_warm_started_by_the_models_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from studies.study import Study
    from tuner.feed import StudyFeed

    monkeypatch.setenv("CONCERT_FAMILIES", str(Path(__file__).parents[1] / "families"))
    source = searchers.create("random", NESTED, "mse", "min", 0)
    rng = np.random.default_rng(5)
    points = [source.random_point(rng) for _ in range(initial_points(len(NESTED)) + 2)]
    config = {
        "family": "mean",
        "data": {},
        "fixed": {},
        "space": {key: domain.to_json() for key, domain in NESTED.items()},
        "seed": 3,
        "objective": "mse",
        "fingerprint": None,
    }
    firsts = []
    for sign in (1, -1):
        rows = [{"trial_id": str(n), "val_ckpt": "best", "mse": sign * worth(p), **p} for n, p in enumerate(points)]
        pd.DataFrame(rows).to_csv(tmp_path / f"{sign}.csv")
        write_json(tmp_path / str(sign) / "study.json", config)
        feed = StudyFeed(Study(tmp_path / str(sign), config), options(tmp_path / f"{sign}.csv"))
        assert feed.searcher.known == len(points)
        # lists, null and what is inactive survive the table; numbers to the last digit but one
        assert sorted(rounded(o.point) for o in feed.searcher.history) == sorted(rounded(p) for p in points)
        proposed = feed.suggest("ray")
        assert isinstance(proposed, dict)
        firsts.append(proposed["settings"])
    assert firsts[0] != firsts[1]


def rounded(point: dict[str, object]) -> str:
    return str({key: f"{value:.9g}" if isinstance(value, float) else value for key, value in point.items()})


def options(warm_start: Path) -> Options:
    return Options(samples=1, searcher="skopt", scheduler="none", workers=1, cpus_per_trial=1, gpus_per_trial=0,
                   address=None, keep=1, verbose=False, warm_start=warm_start)  # fmt: skip
