"""Choosing members: on predictions whose quality is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensembles.select import RULES, Pool, curve, estimate, fold_curve, out_of_fold, uniform
from models.ndt.metrics import bits_per_spike
from models.registry import get


def pool(noise: Sequence[float], samples: int = 30, seed: int = 0) -> Pool:
    """Candidates that know the true rates up to noise of their own."""
    rng = np.random.default_rng(seed)
    rates = rng.gamma(2.0, 0.2, (samples, 12, 5))
    spikes = rng.poisson(rates).astype(np.float32)
    found = [
        {"eval_rates_heldout": (rates * np.exp(s * rng.normal(size=rates.shape))).astype(np.float32)} for s in noise
    ]
    truth = {"eval_rates_heldout": spikes}
    found.sort(key=lambda p: -bits_per_spike(p["eval_rates_heldout"], spikes))
    return Pool(get("ndt"), found, truth)


@pytest.mark.parametrize("rule", RULES)
def test_averaging_noisy_models_beats_the_best_one(rule: str) -> None:
    candidates = pool([0.8] * 12)
    weights = RULES[rule](candidates, np.random.default_rng(0))
    assert weights.sum() == pytest.approx(1.0)
    assert (weights >= 0).all()
    assert (weights > 0).sum() > 3
    assert candidates.score(candidates.combine(weights)) > candidates.score(candidates.predictions[0]) + 0.02


@pytest.mark.parametrize("rule", RULES)
def test_bad_models_are_left_out(rule: str) -> None:
    candidates = pool([0.4] * 4 + [4.0] * 8)
    weights = RULES[rule](candidates, np.random.default_rng(0))
    assert weights[:4].sum() > 0.95


def test_topn_takes_the_best_size_and_breaks_ties_to_the_smaller() -> None:
    candidates = pool([0.6] * 6)
    weights = RULES["topn"](candidates, np.random.default_rng(0))
    scores = curve(candidates)
    assert (weights > 0).sum() == int(np.argmax(scores)) + 1
    same = Pool(candidates.family, [candidates.predictions[0]] * 4, candidates.truth)
    assert (RULES["topn"](same, np.random.default_rng(0)) > 0).sum() == 1


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(2, 9))
@settings(max_examples=20, deadline=None)
def test_curve_equals_scoring_each_mean(seed: int, count: int, samples: int) -> None:
    candidates = pool([0.7] * count, samples, seed)
    for n, score in enumerate(curve(candidates), 1):
        mean = candidates.combine(uniform(count, n))
        assert score == pytest.approx(candidates.score(mean), abs=1e-5)


def test_out_of_fold_never_sees_what_it_is_scored_on() -> None:
    """A candidate that is the truth on one fold and rubbish elsewhere must not profit from that fold."""
    candidates = pool([0.5] * 5)
    seen: list[int] = []

    def rule(inner: Pool, rng: np.random.Generator) -> np.ndarray:
        seen.append(inner.samples)
        return uniform(len(inner.predictions), 1)

    found = out_of_fold(candidates, rule, 0, folds=5)
    assert seen == [24] * 5
    assert found.error > 0
    # memorising candidates: each is perfect on its own sample, useless on all others
    truth = candidates.truth["eval_rates_heldout"]
    flat = np.full_like(truth, truth.mean())
    cheats = []
    for sample in range(len(truth)):
        cheat = flat.copy()
        cheat[sample] = truth[sample]
        cheats.append({"eval_rates_heldout": cheat})
    cheating = Pool(candidates.family, cheats, candidates.truth)
    weights = RULES["greedy"](cheating, np.random.default_rng(0))
    inside = cheating.score(cheating.combine(weights))
    outside = out_of_fold(cheating, RULES["greedy"], 0).score
    assert outside < inside - 0.02


def test_fold_curve_and_standard_error() -> None:
    candidates = pool([0.8] * 6, samples=40)
    found = fold_curve(candidates, 0)
    assert len(found) == 6
    assert found[-1].score > found[0].score
    # more trials, smaller error
    few = estimate(pool([0.8], 20), pool([0.8], 20).predictions[0]).error
    many = estimate(pool([0.8], 320), pool([0.8], 320).predictions[0]).error
    assert many < few


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_tiny_validation_sets(samples: int) -> None:
    candidates = pool([0.5] * 3, samples)
    for rule in RULES.values():
        weights = rule(candidates, np.random.default_rng(0))
        assert weights.sum() == pytest.approx(1.0)
        assert np.isfinite(out_of_fold(candidates, rule, 0).score)


@given(st.lists(st.floats(0.01, 10.0), min_size=1, max_size=6), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_combination_is_the_weighted_mean(weights: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts: list[Mapping[str, Any]] = [{"a": rng.random((3, 2))} for _ in weights]
    expected = np.average([p["a"] for p in parts], axis=0, weights=weights)
    np.testing.assert_allclose(get("ndt").combine(parts, weights)["a"], expected, rtol=1e-12)
