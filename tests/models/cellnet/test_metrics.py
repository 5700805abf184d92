"""Scores against slow ones written out, and against scikit-learn's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from models.cellnet import metrics
from models.cellnet.metrics import ChargeTally, GhostTally
from models.cellnet.scorers import AreaScorer, RmseScorer


def cloud(seed: int, events: int = 4, most: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probability, truth and event of some voxels; an event may have none."""
    rng = np.random.default_rng(seed)
    event = np.repeat(np.arange(events), rng.integers(0, most, events))
    y = np.where(rng.random(len(event)) < 0.3, rng.gamma(2, 0.3, len(event)), 0).astype(np.float32)
    logit = rng.normal(-1, 3, len(event)) + 2.5 * (y > 0.17)
    return (1 / (1 + np.exp(-logit))).astype(np.float32), y, event


def slow_area(p: np.ndarray, real: np.ndarray, event: np.ndarray, events: int) -> float:
    """The published figure as it is defined, threshold by threshold and event by event."""
    efficiencies, purities = [], []
    for threshold in [k / 50 for k in range(50)]:
        each = []
        for number in range(events):
            mine = event == number
            kept = mine & (p > np.float32(threshold))
            right = (kept & real).sum()
            wanted = (mine & real).sum()
            each.append((right / wanted if wanted else 1.0, right / kept.sum() if kept.sum() else 1.0))
        efficiencies.append(np.mean([e for e, _ in each]))
        purities.append(np.mean([q for _, q in each]))
    following = [*efficiencies[1:], 0.0]
    return float(sum((e - f) * q for e, f, q in zip(efficiencies, following, purities, strict=True)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_the_area_is_the_published_one(seed: int, events: int) -> None:
    p, y, event = cloud(seed, events)
    real = metrics.is_real(y, 0.17)
    expected = slow_area(p, real, event, events)
    assert AreaScorer(real, event, events).score({"probability": p}) == pytest.approx(expected, abs=1e-9)
    tally = GhostTally(0.17)
    half = events // 2
    for low, high in ((0, half), (half, events)):
        mine = (event >= low) & (event < high)
        tally.add(p[mine], y[mine], event[mine] - low, ["Mu"] * (high - low))
    assert tally.scores()["area"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.02, 0.06, 0.14, 0.5, 0.58, 0.98, 1.0])
def test_a_probability_at_a_threshold_is_not_above_it(value: float) -> None:
    thresholds = np.arange(50, dtype=np.float64) / 50
    expected = (np.float32(value) > thresholds.astype(np.float32)).sum()
    assert metrics.passed(np.array([value], np.float32))[0] == expected


def test_perfect_and_worthless_predictions() -> None:
    _, y, event = cloud(3, 6)
    real = metrics.is_real(y, 0.17)
    scorer = AreaScorer(real, event, 6)
    assert scorer.score({"probability": real.astype(np.float32)}) == pytest.approx(1.0)
    share = np.mean([real[event == e].mean() if (event == e).any() else 1.0 for e in range(6)])
    assert scorer.score({"probability": np.full(len(y), 0.5, np.float32)}) == pytest.approx(share)
    assert math.isnan(scorer.score({"probability": np.full(len(y), np.nan, np.float32)}))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 2**6 - 1))
def test_some_events_are_scored_as_if_there_were_no_others(seed: int, mask: int) -> None:
    p, y, event = cloud(seed, 6)
    chosen = np.array([e for e in range(6) if mask >> e & 1], int)
    rows = np.isin(event, chosen)
    renumbered = np.searchsorted(chosen, event[rows])
    whole = AreaScorer(metrics.is_real(y, 0.17), event, 6)
    alone = AreaScorer(metrics.is_real(y[rows], 0.17), renumbered, len(chosen))
    part = whole.take(chosen)
    assert part.samples == len(chosen)
    np.testing.assert_array_equal(part.rows["probability"], renumbered)
    assert part.score({"probability": p[rows]}) == pytest.approx(alone.score({"probability": p[rows]}), nan_ok=True)
    charges = RmseScorer(y, metrics.is_real(y, 0.1), event, 6)
    reduced = charges.reduce({"charge": p})
    kept = {"charge": reduced["charge"][np.isin(charges.rows["charge"], chosen)]}
    real = metrics.is_real(y, 0.1) & rows
    expected = math.sqrt(((p - y)[real].astype(float) ** 2).mean()) if real.any() else math.nan
    assert charges.take(chosen).score(kept) == pytest.approx(expected, nan_ok=True, rel=1e-6)


def filled(seed: int, count: int = 8) -> tuple[GhostTally, np.ndarray, np.ndarray]:
    tally, every = GhostTally(0.17), []
    for number in range(count):
        p, y, event = cloud(seed + number, 3, 400)
        tally.add(p, y, event, ["Mu", "Electron", "Mu"])
        every.append((p, y))
    return tally, *(np.concatenate(column) for column in zip(*every, strict=True))


def test_other_scores_agree_with_scikit_learn() -> None:
    tally, p, y = filled(7)
    real, scores = y >= 0.17, tally.scores()
    assert scores["roc_auc"] == pytest.approx(roc_auc_score(real, p), abs=2e-4)
    assert scores["average_precision"] == pytest.approx(average_precision_score(real, p), abs=2e-3)
    assert scores["ghost_ratio"] == pytest.approx((~real).sum() / real.sum())
    cells = np.minimum((p.astype(float) * 15).astype(int), 14)
    error = sum(abs(p[cells == c].mean() - real[cells == c].mean()) * (cells == c).mean() for c in np.unique(cells))
    assert scores["calibration_error"] == pytest.approx(error, rel=1e-4)
    assert {"area_Mu", "area_Electron"} <= set(scores)


def test_the_tuned_threshold_is_where_efficiency_times_purity_is_largest() -> None:
    tally, *_ = filled(11)
    scores = tally.scores()
    efficiency, purity = metrics.curve(tally.every, tally.real)
    assert scores["efficiency"] * scores["purity"] == pytest.approx((efficiency * purity).max())
    assert metrics.THRESHOLDS[np.argmax(efficiency * purity)] == scores["threshold"]
    assert "efficiency_of_all_true" not in scores
    table = tally.reliability()
    assert table[:, 2].sum() == tally.every.sum() and (np.diff(table[:, 0]) > 0).all()


def test_efficiency_against_all_true_voxels_counts_inactive_ones() -> None:
    p, y, event = np.array([0.9, 0.8], np.float32), np.array([1.0, 1.0], np.float32), np.array([0, 0])
    tally = GhostTally(0.17)
    tally.add(p, y, event, ["Mu"], np.array([4]))
    scores = tally.scores()
    assert scores["efficiency"] == 1.0 and scores["efficiency_of_all_true"] == 0.5


def test_a_decision_is_scored_as_it_was_made() -> None:
    p, y = np.array([0.9, 0.8, 0.7, 0.1], np.float32), np.array([1.0, 0.0, 1.0, 0.0], np.float32)
    tally = GhostTally(0.17)
    # the first event keeps two, one of them real, of one real voxel; the second keeps none of its real one
    tally.add(p, y, np.array([0, 0, 1, 1]), ["Mu", "Mu"], np.array([2, 1]), np.array([1, 1, 0, 0], np.uint8))
    scores = tally.scores()
    assert (scores["efficiency"], scores["purity"]) == (0.5, 0.75) and "threshold" not in scores
    assert scores["efficiency_of_all_true"] == 0.25


@pytest.mark.parametrize("kind", [GhostTally, ChargeTally])
def test_tables_of_ranks_merge_to_those_of_one(kind: Any) -> None:
    whole, parts = kind(0.17), [kind(0.17), kind(0.17)]
    for number in range(4):
        p, y, event = cloud(number, 2)
        for tally in (whole, parts[number % 2]):
            tally.add(p, y, event, ["Mu", "Electron"])
    merged = parts[0].merge(parts[1:]).scores()
    for name, value in whole.scores().items():
        assert merged[name] == pytest.approx(value, nan_ok=True), name
    assert set(merged) == set(whole.scores())


def test_charges_are_scored_on_real_voxels_and_by_events() -> None:
    y = np.array([0.0, 2.0, 1.0, 0.0, 5.0], np.float32)
    charge = np.array([1.0, 2.5, 0.5, 0.0, 4.0], np.float32)
    tally = ChargeTally(0.0)
    tally.add(charge, y, np.array([0, 0, 0, 1, 1]), ["Mu", "Mu"])
    scores = tally.scores()
    assert scores["charge_rmse"] == pytest.approx(math.sqrt((0.25 + 0.25 + 1) / 3))
    assert scores["charge_bias"] == pytest.approx(-1 / 3)
    assert scores["charge_rmse_all"] == pytest.approx(math.sqrt((1 + 0.25 + 0.25 + 1) / 5))
    assert scores["charge_total"] == pytest.approx(7 / 8)
    assert scores["charge_total_spread"] == pytest.approx(0.1)
