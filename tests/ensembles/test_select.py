"""Choosing members: on predictions whose quality is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensembles import select
from ensembles.pool import Growing, Pool
from ensembles.select import BAGS, MAX_MEMBERS, RULES, curve, draw, uniform
from models.base import Family
from models.ndt.metrics import CoBps
from models.registry import get
from tests.ensembles.pools import Geometric, Points, SideBySide, Squares, noisy, pool_of


def spiking(noise: list[float], samples: int = 30, seed: int = 0) -> Pool:
    """Candidates of the NDT's family that know the true rates up to noise of their own."""
    rng = np.random.default_rng(seed)
    rates = rng.gamma(2.0, 0.2, (samples, 12, 5))
    scorer = CoBps(rng.poisson(rates).astype(np.float32))
    noisy_rates = [(rates * np.exp(s * rng.normal(size=rates.shape))).astype(np.float32) for s in noise]
    found = [scorer.reduce({CoBps.NAME: one}) for one in noisy_rates]
    found.sort(key=lambda p: -scorer.score(p))
    return Pool(get("ndt"), found, scorer, np.arange(samples))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("make", [spiking, noisy])
def test_averaging_noisy_models_beats_the_best_one(rule: str, make: Any) -> None:
    candidates = make([0.8] * 12)
    weights = RULES[rule](candidates, np.random.default_rng(0))
    assert weights.sum() == pytest.approx(1.0)
    assert (weights >= 0).all()
    assert (weights > 0).sum() > 3
    assert candidates.value(candidates.combine(weights)) > candidates.value(candidates.predictions[0]) + 0.02


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("make", [spiking, noisy])
def test_bad_models_are_left_out(rule: str, make: Any) -> None:
    weights = RULES[rule](make([0.4] * 4 + [4.0] * 8), np.random.default_rng(0))
    assert weights[:4].sum() > 0.95


def test_topn_takes_the_best_size_and_breaks_ties_to_the_smaller() -> None:
    candidates = noisy([0.6] * 6)
    weights = RULES["topn"](candidates, np.random.default_rng(0))
    assert (weights > 0).sum() == int(np.argmax(curve(candidates))) + 1
    same = Pool(candidates.family, [candidates.predictions[0]] * 4, candidates.scorer, candidates.groups)
    assert (RULES["topn"](same, np.random.default_rng(0)) > 0).sum() == 1


FAMILIES: list[Family] = [Squares(), Geometric(), SideBySide()]


def members(family: Family, count: int, samples: int, seed: int) -> Pool:
    rng = np.random.default_rng(seed)
    shape = (samples, 1)
    return pool_of(family, [rng.gamma(2.0, 1.0, shape) for _ in range(count)], rng.integers(1, 3, shape)[:, 0])


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: type(family).__name__)
@given(st.integers(0, 1000), st.integers(1, 6), st.integers(2, 9))
@settings(max_examples=20, deadline=None)
def test_curve_scores_what_combine_gives(family: Family, seed: int, count: int, samples: int) -> None:
    pool = members(family, count, samples, seed)
    for n, score in enumerate(curve(pool), 1):
        assert score == pytest.approx(pool.value(family.combine(pool.predictions[:n], [1.0] * n)), rel=1e-9)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: type(family).__name__)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_growing_is_combining_all_at_once(family: Family, joined: list[int], seed: int) -> None:
    pool = members(family, 4, 5, seed)
    growing = Growing(pool)
    for member in joined:
        combined = growing.join(member)
    counts = np.bincount(joined, minlength=4).astype(float)
    assert np.array_equal(growing.counts, counts)
    np.testing.assert_allclose(combined["value"], pool.combine(counts)["value"], rtol=1e-9)


def test_a_geometric_mean_is_chosen_by_its_own_rule() -> None:
    """Half of the truth and twice the truth: one of each is their perfect geometric mean, two to one the arithmetic."""
    truth = np.random.default_rng(0).gamma(3.0, 1.0, 40)
    for family, expected in ((Geometric(), [1 / 2, 1 / 2]), (Squares(), [2 / 3, 1 / 3])):
        pool = pool_of(family, [truth / 2, truth * 2], truth)
        weights = RULES["greedy"](pool, np.random.default_rng(0))
        assert weights == pytest.approx(expected)
        assert pool.value(pool.combine(weights)) == pytest.approx(0.0, abs=1e-20)
    geometric = pool_of(Geometric(), [truth / 2, truth * 2], truth)
    assert (RULES["topn"](geometric, np.random.default_rng(0)) > 0).sum() == 2


@pytest.mark.parametrize("rule", RULES)
def test_features_side_by_side_are_chosen_together(rule: str) -> None:
    """Two bits make the label; a model sees one of them, the next the other: only together are they right."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (60, 2))
    first, second = (bits[:, [i]] + 0.01 * rng.normal(size=(60, 1)) for i in (0, 1))
    again = bits[:, [0]] + 0.01 * rng.normal(size=(60, 1))
    pool = pool_of(SideBySide(), [first, again, second], bits @ [1, 2])
    weights = RULES[rule](pool, np.random.default_rng(0))
    assert weights[2] > 0
    assert weights[:2].sum() > 0
    assert pool.value(pool.combine(weights)) == 1.0
    assert pool.value(pool.combine(uniform(3, 2))) < 0.8


# ---- bags


def seen(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> list[Pool]:
    """The pools that the bags of one choice see."""
    bags: list[Pool] = []

    def watched(bag: Pool) -> np.ndarray:
        bags.append(bag)
        return uniform(len(bag.predictions), len(bag.predictions))

    monkeypatch.setattr(select, "grow", watched)
    select.greedy(pool, np.random.default_rng(0))
    return bags


def test_bags_see_half_of_the_groups_and_half_of_the_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    # sample s of candidate c is 1000 c + s: what a bag sees says where it is from
    groups = np.arange(60) % 30
    pool = pool_of(Points(), [1000.0 * c + np.arange(60) for c in range(21)], groups=groups)
    bags = seen(pool, monkeypatch)
    assert len(bags) == BAGS == 20
    samples = [frozenset((bag.predictions[0]["value"] % 1000).astype(int)) for bag in bags]
    candidates = [[int(p["value"][0] // 1000) for p in bag.predictions] for bag in bags]
    assert all(len(some) == 30 and len({groups[s] for s in some}) == 15 for some in samples)
    assert all(chosen[:2] == [0, 1] and 11 <= len(chosen) <= 13 for chosen in candidates)
    assert len(set(samples)) > 15 and len({tuple(chosen) for chosen in candidates}) > 15
    assert len(frozenset().union(*samples)) == 60
    assert {c for chosen in candidates for c in chosen} == set(range(21))


def test_bags_of_many_samples_are_small() -> None:
    pool = pool_of(Points(), [np.arange(5000.0)] * 3, groups=np.arange(5000) // 10)
    samples, _ = draw(pool, np.random.default_rng(0))
    assert len(samples) == 200
    samples, _ = draw(pool_of(Points(), [np.arange(5000.0)], groups=np.arange(5000) // 2500), np.random.default_rng(0))
    assert len(samples) == 2500  # a group is never cut


def test_a_bag_of_all_samples_would_not_forgive_a_memory() -> None:
    """Candidates that know one sample each by heart: bags that miss that sample leave them out."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=40)
    honest = [truth + 0.9 * rng.normal(size=40) for _ in range(4)]
    values = [*honest, *(np.where(np.arange(40) == s, truth, 0.0) for s in range(20))]
    weights = RULES["greedy"](pool_of(Squares(), values, truth), np.random.default_rng(0))
    assert weights[:4].sum() > 0.3


def test_at_most_25_members_the_heaviest_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_of(Points(), [np.arange(40.0)] * 60)

    def flat(bag: Pool) -> np.ndarray:
        return uniform(len(bag.predictions), len(bag.predictions))

    monkeypatch.setattr(select, "grow", flat)
    weights = select.greedy(pool, np.random.default_rng(0))
    assert (weights > 0).sum() == MAX_MEMBERS == 25
    assert weights.sum() == pytest.approx(1.0)
    monkeypatch.setattr(select, "MAX_MEMBERS", 60)
    everyone = select.greedy(pool, np.random.default_rng(0))
    assert (everyone > 0).sum() == 60
    assert everyone[weights > 0].min() >= everyone[weights == 0].max()


def test_growing_stops_at_its_best_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = noisy([0.5] * 20, samples=50)
    weights = select.grow(pool)
    size = round(1 / weights[weights > 0].min())
    counts = weights * size
    assert np.allclose(counts, counts.round())
    assert 3 <= size < 2 * MAX_MEMBERS
    value = pool.value(pool.combine(weights))
    assert all(value >= pool.value(pool.combine(counts + (np.arange(20) == m))) for m in range(20))


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_tiny_validation_sets(samples: int) -> None:
    candidates = spiking([0.5] * 3, samples)
    for rule in RULES.values():
        weights = rule(candidates, np.random.default_rng(0))
        assert weights.sum() == pytest.approx(1.0)


def test_candidates_that_cannot_be_scored_do_not_win() -> None:
    truth = np.arange(20.0)
    pool = pool_of(Squares(), [truth + 1, np.full(20, np.nan), truth + 2], truth)
    for rule in RULES.values():
        weights = rule(pool, np.random.default_rng(0))
        assert weights[1] == 0 and np.isfinite(pool.scorer.score(pool.combine(weights)))


@given(st.lists(st.floats(0.01, 10.0), min_size=1, max_size=6), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_combination_is_the_weighted_mean(weights: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts: list[Mapping[str, Any]] = [{"a": rng.random((3, 2))} for _ in weights]
    expected = np.average([p["a"] for p in parts], axis=0, weights=weights)
    np.testing.assert_allclose(get("ndt").combine(parts, weights)["a"], expected, rtol=1e-12)
