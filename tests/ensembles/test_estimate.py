"""Scores that are honest, and their standard errors where these are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensembles.build import choose
from ensembles.estimate import Estimate, Folds, estimate, fold_curve, out_of_fold
from ensembles.pool import Pool, blocks
from ensembles.select import RULES, greedy, uniform
from models.ndt.metrics import CoBps
from models.registry import get
from tests.ensembles.pools import Points, SideBySide, Squares, WholeGroups, noisy, pool_of


def best(pool: Pool, rng: np.random.Generator) -> np.ndarray:
    return uniform(len(pool.predictions), 1)


def standard_error(values: np.ndarray) -> float:
    """Of the mean of independent values."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))


# ---- standard errors


@given(st.integers(2, 20), st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_the_error_of_a_mean_is_the_textbooks(count: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(3.0, 2.0, count)
    found = estimate(pool_of(Points(), [values]), {"value": values}, seed)
    assert found.score == pytest.approx(values.mean())
    assert found.error == pytest.approx(standard_error(values))


@given(st.integers(2, 20), st.integers(2, 6), st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_samples_of_a_group_are_one_observation(count: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    means, groups = rng.normal(size=count), rng.permutation(np.repeat(np.arange(count), size))
    values = means[groups]
    found = estimate(pool_of(Points(), [values], groups=groups), {"value": values}, seed)
    assert found.error == pytest.approx(standard_error(means))


def test_the_error_of_many_samples_is_right_on_average() -> None:
    errors = []
    for seed in range(40):
        values = np.random.default_rng(seed).normal(0.0, 2.0, 400)
        errors.append(estimate(pool_of(Points(), [values]), {"value": values}, seed).error)
    assert np.mean(errors) == pytest.approx(2.0 / 20, rel=0.1)


def test_blocks_are_shuffled() -> None:
    """A drift over the samples must not pass for an error of the mean: contiguous blocks would say 0.67."""
    values = np.linspace(-5, 5, 400)
    found = estimate(pool_of(Points(), [values]), {"value": values}, 0)
    assert found.error == pytest.approx(standard_error(values), rel=0.5)


def test_a_difference_is_paired() -> None:
    rng = np.random.default_rng(0)
    hard, gain = rng.normal(0, 10, 20), rng.normal(0.5, 0.1, 20)
    pool = pool_of(Points(), [hard])
    better, worse = (estimate(pool, {"value": value}, 3) for value in (hard + gain, hard))
    found = better.minus(worse)
    assert found.score == pytest.approx(gain.mean())
    assert found.error == pytest.approx(standard_error(gain))
    assert better.error > 20 * found.error


def test_the_difference_that_is_told_is_paired() -> None:
    """Samples differ far more than models do: the difference is known well, each score is not."""
    rng = np.random.default_rng(0)
    truth = np.zeros((60, 6))
    shared = rng.gamma(0.5, 4.0, (60, 1)) * rng.choice([-1, 1], (60, 6))
    pool = pool_of(Squares(), [shared + 0.3 * rng.normal(size=(60, 6)) for _ in range(8)], truth)
    _, scores, _ = choose(pool, "greedy", None, 0)
    single, difference = scores["best_single_out_of_fold"], scores["difference"]
    assert difference["score"] == pytest.approx(scores["out_of_fold"]["score"] - single["score"])
    assert 0 < difference["standard_error"] < 0.1 * single["standard_error"]
    _, scores, _ = choose(pool, "topn", 1, 0)
    assert scores["difference"] == {"score": 0.0, "standard_error": 0.0}


def test_one_group_has_no_error_and_no_fold() -> None:
    pool = pool_of(Points(), [np.arange(5.0)], groups=np.zeros(5, int))
    assert np.isnan(estimate(pool, pool.predictions[0], 0).error)
    assert np.isnan(out_of_fold(pool, {"best": best}, 0)["best"].score)
    assert np.isnan(Estimate(1.0, np.array([1.0])).error)


# ---- out of fold


def test_folds_are_ranked_without_what_they_are_scored_on() -> None:
    """Candidate c is worth ten on sample c and nothing elsewhere: whoever never saw a sample earns nothing there."""
    pool = pool_of(Points(), [10.0 * (np.arange(10) == c) for c in range(10)])
    assert pool.value(pool.predictions[0]) == 1.0
    for seed in range(5):
        assert out_of_fold(pool, {"best": best}, seed)["best"].score == 0.0
        assert fold_curve(pool, seed)[0].score == 0.0


def test_a_rule_sees_four_fifths() -> None:
    sizes: list[int] = []

    def rule(inner: Pool, rng: np.random.Generator) -> np.ndarray:
        sizes.append(inner.samples)
        assert inner.ranking() == list(range(len(inner.predictions)))
        return best(inner, rng)

    out_of_fold(noisy([0.5] * 5), {"rule": rule}, 0)
    assert sizes == [24] * 5


def test_out_of_fold_is_below_in_sample_where_candidates_remember() -> None:
    rng = np.random.default_rng(0)
    spikes = rng.poisson(rng.gamma(2.0, 0.2, (30, 12, 5))).astype(np.float32)
    scorer, flat = CoBps(spikes), np.full(spikes.shape, spikes.mean(), np.float32)
    cheats = []
    for sample in range(30):
        cheat = flat.copy()
        cheat[sample] = spikes[sample]
        cheats.append(scorer.reduce({CoBps.NAME: cheat}))
    pool = Pool(get("ndt"), cheats, scorer, np.arange(30))
    inside = scorer.score(pool.combine(greedy(pool, np.random.default_rng(0))))
    outside = out_of_fold(pool, RULES, 0)
    assert outside["greedy"].score < inside - 0.02
    assert outside["topn"].score < inside - 0.02


def test_predictions_of_the_folds_come_together_in_their_places() -> None:
    """One candidate only: out of fold is in sample, also where rows are no samples."""
    rng = np.random.default_rng(0)
    spikes = rng.poisson(0.6, (23, 6, 3)).astype(np.float32)
    scorer = CoBps(spikes)
    reduced = scorer.reduce({CoBps.NAME: rng.gamma(2.0, 0.3, spikes.shape).astype(np.float32)})
    pool = Pool(get("ndt"), [reduced], scorer, np.arange(23))
    whole = estimate(pool, reduced, 0)
    for found in (out_of_fold(pool, {"best": best}, 0)["best"], fold_curve(pool, 0)[0]):
        assert found.score == pytest.approx(whole.score, rel=1e-6)
        assert found.error == pytest.approx(whole.error, rel=1e-6)


def test_what_is_side_by_side_is_scored_fold_by_fold() -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (60, 2))
    values = [bits[:, [i % 2]] + 0.01 * rng.normal(size=(60, 1)) for i in range(4)]
    pool = pool_of(SideBySide(), values, bits @ [1, 2])
    found = out_of_fold(pool, {**RULES, "best": best}, 0)
    assert found["best"].score < 0.8
    assert found["greedy"].score > 0.9 and found["topn"].score > 0.9
    assert found["greedy"].minus(found["best"]).error > 0
    assert fold_curve(pool, 0)[-1].score > 0.9


def test_fold_curve_is_the_rule_of_that_size() -> None:
    pool = noisy([0.8] * 6, samples=40)
    for n, found in enumerate(fold_curve(pool, 2), 1):

        def first(inner: Pool, rng: np.random.Generator, n: int = n) -> np.ndarray:
            return uniform(len(inner.predictions), n)

        expected = out_of_fold(pool, {"first": first}, 2)["first"]
        assert (found.score, found.error) == (pytest.approx(expected.score), pytest.approx(expected.error))


# ---- groups


@given(st.lists(st.integers(0, 9), min_size=2, max_size=40), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_no_group_is_ever_split(groups: list[int], seed: int) -> None:
    of = np.array(groups)
    pool = noisy([0.5] * 4, len(of), seed)
    watched = Pool(pool.family, pool.predictions, WholeGroups(pool.scorer, of), of)
    greedy(watched, np.random.default_rng(seed), bags=3)  # bags
    out_of_fold(watched, {"best": best}, seed)  # folds and blocks
    fold_curve(watched, seed)
    estimate(watched, watched.predictions[0], seed)
    left_out = Folds(watched, seed).left_out
    if len(set(groups)) > 1:
        assert np.array_equal(np.sort(np.concatenate(left_out)), np.arange(len(of)))
        assert len(left_out) == min(5, len(set(groups)))


def test_blocks_depend_on_the_seed_alone() -> None:
    groups = np.repeat(np.arange(12), 3)
    one, again, other = (blocks(groups, 4, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert [len(block) for block in one] == [9] * 4
