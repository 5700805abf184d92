from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from copairs.map import average_precision as of_copairs
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from models.cellprofiler.metrics import average_precision, balanced_accuracy, bootstrap, confusion, pairs
from models.cellprofiler.scorers import BalancedAccuracy, MeanAveragePrecision, cosines


def unit(rows: int, d: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(rows, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("other_plates", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_that_of_copairs(other_plates: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    label, plate = rng.integers(0, 9, 70), rng.integers(0, 3, 70)
    profile = unit(70, 12, seed)
    meta = pd.DataFrame({"label": label, "plate": plate})
    expected = of_copairs(
        meta, profile, ["label"], ["plate"] if other_plates else [], [], ["label"], progress_bar=False
    )
    scorer = MeanAveragePrecision(label, plate, other_plates=other_plates)
    reduced = scorer.reduce({"profile": profile})
    np.testing.assert_allclose(scorer.each(reduced), expected["average_precision"], atol=1e-6)
    assert scorer.score(reduced) == pytest.approx(expected["average_precision"].mean(), abs=1e-6)


def slow(similarity: np.ndarray, positive: np.ndarray, counted: np.ndarray) -> float:
    """One query, rank by rank."""
    order = sorted(np.flatnonzero(counted), key=lambda j: (-similarity[j], positive[j]))
    hits, total = 0, 0.0
    for rank, j in enumerate(order, 1):
        if positive[j]:
            hits += 1
            total += hits / rank
    return total / hits if hits else math.nan


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 20), st.booleans())
def test_average_precision_rank_by_rank(seed: int, queries: int, gallery: int, coarse: bool) -> None:
    rng = np.random.default_rng(seed)
    similarity = rng.normal(size=(queries, gallery)).astype(np.float32)
    if coarse:  # many equal ones, zeros of both signs among them
        similarity = np.round(similarity) * np.float32(0.5)
    positive, counted = rng.random((2, queries, gallery)) < [[[0.3]], [[0.8]]]
    expected = [slow(*row) for row in zip(similarity, positive, counted, strict=True)]
    np.testing.assert_allclose(average_precision(similarity, positive, counted), expected, rtol=1e-12)


def test_a_query_that_ranks_what_is_not_finite_has_no_precision() -> None:
    similarity = np.random.default_rng(0).normal(size=(3, 6))
    positive, counted = np.arange(6)[None] < np.full((3, 1), 2), np.ones((3, 6), bool)
    similarity[0, 4], similarity[1, 5] = np.nan, np.inf
    counted[1, 5] = False
    assert np.isnan(average_precision(similarity, positive, counted)).tolist() == [True, False, False]


def test_a_profile_that_is_the_same_everywhere_earns_nothing() -> None:
    label = np.repeat(np.arange(10), 2)
    scorer = MeanAveragePrecision(label, np.zeros(20, int))
    same = scorer({"profile": np.tile(unit(1, 5, 0), (20, 1))})
    assert same == pytest.approx(1 / 19)
    assert scorer({"profile": np.zeros((20, 5), np.float32)}) == pytest.approx(1 / 19)
    assert scorer({"profile": np.eye(10, dtype=np.float32)[label]}) == 1.0


def test_what_is_not_finite_has_no_score() -> None:
    scorer = MeanAveragePrecision(np.array([0, 0, 1, 1]), np.zeros(4, int))
    profile = unit(4, 3, 0)
    profile[0, 0] = np.nan
    assert math.isnan(scorer({"profile": profile}))
    one = np.ones((4, 4))
    one[0, 0] = np.nan  # which is not even ranked
    assert math.isnan(scorer.score({"similarity": one}))
    assert math.isnan(MeanAveragePrecision(np.arange(4), np.zeros(4, int))({"profile": unit(4, 3, 0)}))  # no pairs
    assert math.isnan(BalancedAccuracy(np.zeros(2))({"probabilities": np.array([[np.nan, 1], [0, 1]])}))


def test_wells_of_unknown_label_neither_ask_nor_are_ranked() -> None:
    label, plate, profile = np.array([0, 0, 1, 1, -1, -1]), np.zeros(6, int), unit(6, 4, 1)
    with_unknown, without = MeanAveragePrecision(label, plate), MeanAveragePrecision(label[:4], plate[:4])
    assert with_unknown({"profile": profile}) == without({"profile": profile[:4]})
    assert np.isnan(with_unknown.each(with_unknown.reduce({"profile": profile}))[4:]).all()


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_some_samples_keep_the_whole_gallery(seed: int) -> None:
    rng = np.random.default_rng(seed)
    label, plate, profile = rng.integers(0, 5, 24), rng.integers(0, 2, 24), unit(24, 6, seed)
    scorer = MeanAveragePrecision(label, plate, other_plates=bool(seed % 2))
    reduced = scorer.reduce({"profile": profile})
    chosen = np.flatnonzero(rng.random(24) < 0.5)
    part = scorer.take(chosen)
    rows = {"similarity": reduced["similarity"][chosen]}
    assert part.samples == len(chosen)
    np.testing.assert_array_equal(part.each(rows), scorer.each(reduced)[chosen])
    again = part.take(np.arange(0, len(chosen), 2))
    np.testing.assert_array_equal(
        again.each({"similarity": rows["similarity"][::2]}), scorer.each(reduced)[chosen[::2]]
    )
    np.testing.assert_array_equal(part.reduce({"profile": profile})["similarity"], rows["similarity"])
    # a prediction of these samples alone brings its similarity to the gallery along
    alone = {"profile": profile[chosen], "similarity": cosines(profile[chosen], profile)}
    np.testing.assert_allclose(part.each(part.reduce(alone)), scorer.each(reduced)[chosen], atol=1e-6)


def test_profiles_of_a_part_without_similarity_are_refused() -> None:
    part = MeanAveragePrecision(np.array([0, 0, 1, 1]), np.zeros(4, int)).take(np.array([0, 2]))
    with pytest.raises(ValueError, match="without their similarity"):
        part.reduce({"profile": unit(2, 3, 0)})


def test_pairs_on_other_plates_only() -> None:
    label, plate = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 0])
    positive, counted = pairs(label, plate, np.arange(4), np.arange(4), True)
    assert positive[0].tolist() == [False, False, True, False]
    assert counted[0].tolist() == [False, False, True, True]  # neither itself nor its twin on its own plate
    assert pairs(label, plate, np.arange(4), np.arange(4), False)[1][0].tolist() == [False, True, True, True]


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 40))
def test_balanced_accuracy_is_the_references(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    y, p = rng.integers(0, 4, n), rng.random((n, 4))
    told = p.argmax(1)
    assert np.array_equal(confusion(y, told, 4), reference.confusion_matrix(y, told, labels=range(4)))
    recalls = [np.mean(told[y == k] == k) for k in np.unique(y)]
    scorer = BalancedAccuracy(y)
    assert scorer({"probabilities": p}) == pytest.approx(np.mean(recalls))
    chosen = np.arange(0, n, 2)
    assert scorer.take(chosen)({"probabilities": p[chosen]}) == BalancedAccuracy(y[chosen])(
        {"probabilities": p[chosen]}
    )
    y[0] = -1
    assert confusion(y, told, 4).sum() == n - 1
    assert math.isnan(balanced_accuracy(np.zeros((3, 3))))


def test_the_interval_is_over_groups() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(50), 20)
    effect = rng.normal(size=50)
    values = effect[group] + 0.01 * rng.normal(size=1000)
    low, high = bootstrap(values, group)
    assert low < effect.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * effect.std() / math.sqrt(50), rel=0.15)
    single = bootstrap(values, np.arange(1000))
    assert single[1] - single[0] < (high - low) / 3  # as if wells of a label were independent
    values[:20] = np.nan
    assert np.isfinite(bootstrap(values, group)).all()
    assert all(math.isnan(end) for end in bootstrap(values[:40], group[:40]))
