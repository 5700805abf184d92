"""The field's scores against slow references, written from their definitions."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import fisher_exact
from sklearn.metrics import precision_recall_curve
from sklearn.metrics.pairwise import cosine_similarity

from models.cellprofiler import enrichment
from models.cellprofiler.enrichment import at_k, hits_at, interpolated, matches, odds_of_queries, ranked, similarities


def drawn(seed: int, n: int, labels: int = 4) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Similarities without ties, matches, labels."""
    rng = np.random.default_rng(seed)
    names = [f"L{k}" for k in rng.integers(0, labels, n)]
    x = rng.normal(size=(n, 5)) + rng.normal(size=(labels, 5))[[int(name[1:]) for name in names]]
    return similarities(x), matches(names), names


def test_similarities_are_cosines_and_correlations() -> None:
    x = np.random.default_rng(0).normal(size=(8, 5))
    np.testing.assert_allclose(similarities(x), cosine_similarity(x), atol=1e-12)
    np.testing.assert_allclose(similarities(x, "pearson"), np.corrcoef(x), atol=1e-12)
    x[2] = 0
    assert not similarities(x)[2].any()


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcde"), min_size=1, max_size=3), min_size=1, max_size=9))
def test_mechanisms_match_by_any_part(parts: list[list[str]]) -> None:
    labels = ["|".join(part) for part in parts]
    for i, one in enumerate(parts):
        for j, other in enumerate(parts):
            assert matches(labels, "|")[i, j] == (i != j and bool(set(one) & set(other)))
            assert matches(labels)[i, j] == (i != j and labels[i] == labels[j])


def slow_odds(similarity: np.ndarray, match: np.ndarray, quantile: float) -> tuple[float, float, list[int]]:
    """Pair by pair."""
    n = len(similarity)
    values = [similarity[i, j] for i in range(n) for j in range(n) if i != j]
    threshold = pd.Series(values).quantile(quantile)
    table = [[0, 0], [0, 0]]
    for i in range(n):
        for j in range(n):
            if i != j:
                table[int(not similarity[i, j] > threshold)][int(not match[i, j])] += 1
    (v11, v12), (v21, v22) = table
    odds = math.inf if v12 * v21 == 0 and v11 * v22 else math.nan if v12 * v21 == 0 else v11 * v22 / (v12 * v21)
    return odds, fisher_exact(table, alternative="greater")[1], [v11, v12, v21, v22]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 5000), st.integers(3, 25), st.sampled_from([0.5, 0.9, 0.95]))
def test_enrichment_pair_by_pair(seed: int, n: int, quantile: float) -> None:
    similarity, match, _ = drawn(seed, n)
    odds, p, table = slow_odds(similarity, match, quantile)
    found = enrichment.enrichment(similarity, match, quantile)
    assert [found[name] for name in ("v11", "v12", "v21", "v22")] == table
    np.testing.assert_allclose(found["odds"], odds)
    assert found["p_value"] == pytest.approx(p)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 5000), st.integers(3, 40))
def test_odds_of_each_query(seed: int, n: int) -> None:
    similarity, match, _ = drawn(seed, n)
    for i, found in enumerate(odds_of_queries(similarity, match, 80)):
        others = [j for j in range(n) if j != i]
        values = similarity[i, others]
        near, same = values > np.percentile(values, 80), match[i, others]
        if not same.any():
            assert math.isnan(found)
            continue
        v11, v12, v21, v22 = (int((a & b).sum()) for a in (near, ~near) for b in (same, ~same))
        odds = fisher_exact([[v11, v12], [v21, v22]])[0]
        expected = 0.0 if math.isnan(odds) else v22 if math.isinf(odds) else odds
        assert found == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 5000), st.integers(2, 30))
def test_neighbours_one_by_one(seed: int, n: int) -> None:
    similarity, match, _ = drawn(seed, n)
    hits = ranked(similarity, match)
    ks, precisions, recalls, ranks = (1, 3, 10), [], [], []
    for i in range(n):
        order = sorted((j for j in range(n) if j != i), key=lambda j: -similarity[i, j])
        assert [bool(match[i, j]) for j in order] == hits[i].tolist()
        ranks += [rank for rank, j in enumerate(order) if match[i, j]]
        if match[i].any():
            top = [sum(match[i, j] for j in order[:k]) for k in ks]
            precisions.append([hit / k for hit, k in zip(top, ks, strict=True)])
            recalls.append([hit / match[i].sum() for hit in top])
    for place, k in enumerate(ks):
        precision, recall = at_k(hits, ks)[k]
        if precisions:
            assert precision == pytest.approx(np.mean([row[place] for row in precisions]))
            assert recall == pytest.approx(np.mean([row[place] for row in recalls]))
        else:
            assert math.isnan(precision) and math.isnan(recall)
    for p, score in hits_at(hits, (1, 5, 50, 100)).items():
        assert score == sum(rank <= int(p * n / 100) for rank in ranks) - int(p * len(ranks) / 100)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 5000), st.integers(3, 25))
def test_percent_replicating_pair_by_pair(seed: int, n: int) -> None:
    similarity, match, names = drawn(seed, n)
    pairs = [(i, j) for i in range(n) for j in range(i)]
    same = [similarity[p] for p in pairs if match[p]]
    other = [similarity[p] for p in pairs if not match[p]]
    found = enrichment.percent_replicating(similarity, match, 0.8)
    medians, threshold = enrichment.replicating(similarity, names, 0.8)
    if not same or not other:
        assert math.isnan(found)
        return
    assert found == pytest.approx(np.mean(np.array(same) > pd.Series(other).quantile(0.8)))
    assert threshold == pytest.approx(pd.Series(other).quantile(0.8))
    assert set(medians) == {name for name in names if names.count(name) > 1}
    for name, median in medians.items():
        of = [similarity[i, j] for i, j in pairs if names[i] == names[j] == name]
        assert median == pytest.approx(np.median(of))


def published(similarity: np.ndarray, match: np.ndarray) -> tuple[float, float]:
    """Interpolated mean average precision by scikit-learn's curves: with the published walk along the grid, and as it
    is meant: the highest precision at a recall or more, of ranks that there are."""
    s, n = similarity.copy(), len(similarity)
    np.fill_diagonal(s, -1)
    grid = np.linspace(0, 1, n)[::-1]
    walked, meant = [], []
    for i in range(n):
        if match[i].sum() < 2:
            continue
        precision, recall, _ = precision_recall_curve(match[i], s[i])
        best, j, values = np.maximum.accumulate(precision), 0, []
        for r in grid:
            values.append(best[j])
            while r < recall[j]:
                j += 1
        walked.append(np.mean(values))
        meant.append(np.mean([precision[:-1][recall[:-1] >= r - 1e-12].max() for r in grid]))
    return (float(np.mean(walked)), float(np.mean(meant))) if walked else (math.nan, math.nan)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 5000), st.integers(3, 40), st.integers(1, 9))
def test_interpolated_precision_by_scikit_learns_curves(seed: int, n: int, labels: int) -> None:
    similarity, match, _ = drawn(seed, n, labels)
    hits = ranked(similarity, match)
    if (match.sum(1) < 2).all():
        assert np.isnan(interpolated(hits)).all()
        return
    walked, meant = published(similarity, match)
    assert np.nanmean(interpolated(hits)) == pytest.approx(meant)
    assert np.nanmean(interpolated(hits, published=True)) == pytest.approx(walked)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_hardly_any_rows(n: int) -> None:
    found = enrichment.summary(np.eye(n), np.zeros((n, n), bool), (0.99,), (5,))
    assert math.isnan(found["precision at 5"]) and math.isnan(found["interpolated mAP"])
    assert math.isnan(found["percent replicating"]) and found["hits at 1%"] == 0
