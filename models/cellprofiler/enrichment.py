"""Whether profiles that should match are each other's nearest: the field's scores, on matrices of similarity.

`similarity` is (n, n), larger is nearer; `match` (n, n) bool says what should be near. A profile never meets itself:
the diagonals count nowhere. Ranks go from the nearest to the farthest; of equals the first row comes first.

Sources: enrichment, precision and recall at k, hit at k and percent replicating as in cytominer-eval 0.1; the odds of
each query and the interpolated mean average precision as in Moshkov et al. 2024 (their evaluation notebooks).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

KINDS = ("cosine", "pearson")


def similarities(profiles: np.ndarray, kind: str = "cosine") -> np.ndarray:
    """(n, n) float64 cosines, or Pearson correlations, of rows (n, d); a row without length is like no other (0)."""
    x = np.asarray(profiles, np.float64)
    if kind == "pearson":
        x = x - x.mean(1, keepdims=True)
    length = np.sqrt((x**2).sum(1, keepdims=True))
    x = np.divide(x, length, out=np.zeros_like(x), where=length > 0)
    return np.clip(x @ x.T, -1, 1)


def matches(labels: Sequence[str], split: str | None = None) -> np.ndarray:
    """(n, n) bool: equal labels, or with `split` (a separator such as |) any part in common; the diagonal is False."""
    parts = [set(label.split(split)) if split else {label} for label in labels]
    names = {name: column for column, name in enumerate(sorted(set().union(*parts)))}
    has = np.zeros((len(parts), len(names)), np.float32)
    for row, some in enumerate(parts):
        has[row, [names[name] for name in some]] = 1
    out = has @ has.T > 0
    np.fill_diagonal(out, False)
    return out


def enrichment(similarity: np.ndarray, match: np.ndarray, quantile: float = 0.99) -> dict[str, float]:
    """Odds ratio of matching among the nearest pairs: v11·v22 / (v12·v21), with Fisher's one-sided p value.

    All ordered pairs; near are those strictly above the quantile of all of them.

    Returns:
        threshold, odds (infinite where no match is far), p_value, and v11 (near matches), v12 (near others), v21, v22.
    """
    from scipy.stats import fisher_exact

    other = ~np.eye(len(similarity), dtype=bool)
    values, same = similarity[other], match[other]
    names = ("threshold", "odds", "p_value", "v11", "v12", "v21", "v22")
    if not len(values):
        return dict.fromkeys(names, math.nan)
    threshold = float(np.quantile(values, quantile))
    near = values > threshold
    v11, v12 = int((near & same).sum()), int((near & ~same).sum())
    v21, v22 = int(same.sum()) - v11, int((~same).sum()) - v12
    # symmetric matrices hold every pair twice; the published test counts both
    odds, p = fisher_exact([[v11, v12], [v21, v22]], alternative="greater")
    return dict(zip(names, (threshold, float(odds), float(p), v11, v12, v21, v22), strict=True))


def odds_of_queries(similarity: np.ndarray, match: np.ndarray, percentile: float = 99.0) -> np.ndarray:
    """(n,) odds ratio of each query among its own neighbours above their percentile; NaN without any match.

    Infinite odds become v22, the number of others that are far, so that a mean can be taken.
    """
    n = len(similarity)
    if n < 2:
        return np.full(n, np.nan)
    values, same = _without_self(similarity), _without_self(match)
    near = values > np.percentile(values, percentile, axis=1, keepdims=True)
    v11, v12 = (near & same).sum(1), (near & ~same).sum(1)
    v21, v22 = (~near & same).sum(1), (~near & ~same).sum(1)
    below = v12 * v21
    # 0/0, where nothing is near, counts as no odds
    odds = np.where(below > 0, v11 * v22 / np.maximum(below, 1), np.where(v11 * v22 > 0, v22, 0.0))
    return np.where(same.any(1), odds, np.nan)


def _without_self(matrix: np.ndarray) -> np.ndarray:
    """(n, n - 1): rows without their diagonal element."""
    n = len(matrix)
    return matrix[~np.eye(n, dtype=bool)].reshape(n, n - 1)


def ranked(similarity: np.ndarray, match: np.ndarray) -> np.ndarray:
    """(n, n - 1) bool: of each query, from the nearest on, whether that one matches."""
    if len(similarity) < 2:
        return np.zeros((len(similarity), 0), bool)
    order = np.argsort(-_without_self(similarity), axis=1, kind="stable")
    return np.take_along_axis(_without_self(match), order, axis=1)


def at_k(hits: np.ndarray, ks: Sequence[int]) -> dict[int, tuple[float, float]]:
    """k -> (precision, recall) among the k nearest, averaged over queries that have a match; from `ranked`."""
    count = hits.sum(1)
    asked = hits[count > 0]
    if not len(asked):
        return dict.fromkeys(ks, (math.nan, math.nan))
    found = np.cumsum(asked, axis=1)
    out = {}
    for k in ks:
        there = found[:, min(k, found.shape[1]) - 1]
        out[k] = float((there / k).mean()), float((there / count[count > 0]).mean())
    return out


def hits_at(hits: np.ndarray, percents: Sequence[float]) -> dict[float, int]:
    """p % -> matches of 0-based rank at most p·n/100, less int(p·matches/100), the number to be expected by chance."""
    n = len(hits)
    ranks = np.nonzero(hits)[1]
    return {p: int((ranks <= int(p * n / 100)).sum()) - int(p * len(ranks) / 100) for p in percents}


def percent_replicating(similarity: np.ndarray, match: np.ndarray, quantile: float = 0.95) -> float:
    """Share of matching pairs above the quantile of all other pairs; NaN where there are none of either."""
    upper = np.triu(np.ones(match.shape, bool), 1)
    same, other = similarity[upper & match], similarity[upper & ~match]
    if not len(same) or not len(other):
        return math.nan
    return float((same > np.quantile(other, quantile)).mean())


def replicating(
    similarity: np.ndarray, labels: Sequence[str], quantile: float = 0.95
) -> tuple[dict[str, float], float]:
    """Of each label with two rows or more the median similarity of its pairs, and the quantile of pairs of different
    labels: a label replicates where its median is above."""
    names, code = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    row, column = np.triu_indices(len(code), 1)
    same = code[row] == code[column]
    values = similarity[row, column]
    median: dict[str, float] = {}
    order = np.argsort(code[row[same]], kind="stable")
    owners, starts, counts = np.unique(code[row[same]][order], return_index=True, return_counts=True)
    for owner, start, count in zip(owners, starts, counts, strict=True):
        median[str(names[owner])] = float(np.median(values[same][order[start : start + count]]))
    return median, float(np.quantile(values[~same], quantile)) if (~same).any() else math.nan


def interpolated(hits: np.ndarray, fewest: int = 2, published: bool = False) -> np.ndarray:
    """(n,) mean over recalls linspace(0, 1, n) of the highest precision at that recall or more; from `ranked`.

    Args:
        hits: (n, n - 1).
        fewest: matches that a query needs; NaN for the others.
        published: exactly what the loop of the publication gives, which lags behind by one recall of the grid: a recall
            takes the highest precision above the next higher recall, or the one where the rank after would be a match.
    """
    n, count = len(hits), hits.sum(1)
    if n < 2:
        return np.full(n, np.nan)
    rank = np.arange(1, n)
    precision = np.where(hits, np.cumsum(hits, axis=1) / rank, 0.0)
    # the best from a rank on; what is asked of a recall is the best from the rank that reaches it
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    first = np.argsort(~hits, axis=1, kind="stable")  # ranks of the matches, ascending, then the rest
    reached = np.take_along_axis(best, first, axis=1)
    grid, matched = np.linspace(0, 1, n), count[:, None]
    if published:
        # the query itself is ranked last there, so that all n are retrieved in the end
        after = np.where(np.arange(n) < matched, np.pad(first + 1, ((0, 0), (0, 1))), n + 1)
        higher = np.append(grid[1:], 1.0)
        level = np.floor(higher * matched + 1e-9).astype(int)
        level -= level / np.maximum(matched, 1) > higher  # its comparisons are exact
        above = np.take_along_axis(np.pad(reached, ((0, 0), (0, 1))), level, axis=1)
        at = level / np.maximum(np.take_along_axis(after, level, axis=1) - 1, 1)
        values = np.maximum(np.where(level < matched, above, 0.0), at)
    else:
        wanted = np.ceil(grid * matched - 1e-9).astype(int)
        values = np.take_along_axis(reached, np.maximum(wanted, 1) - 1, axis=1)
    return np.where(count >= max(fewest, 1), values.mean(1), np.nan)


def summary(similarity: np.ndarray, match: np.ndarray, quantiles: Sequence[float], ks: Sequence[int]) -> dict[str, Any]:
    """The scores above in one table: name -> number."""
    hits = ranked(similarity, match)
    out: dict[str, Any] = {}
    for quantile in quantiles:
        found = enrichment(similarity, match, quantile)
        out[f"odds at {quantile:g}"], out[f"p value at {quantile:g}"] = found["odds"], found["p_value"]
    queries = odds_of_queries(similarity, match)
    there = np.isfinite(queries)
    out["odds of queries"] = float(queries[there].mean()) if there.any() else math.nan
    curves = interpolated(hits)
    there = np.isfinite(curves)
    out["interpolated mAP"] = float(curves[there].mean()) if there.any() else math.nan
    for k, (precision, recall) in at_k(hits, ks).items():
        out[f"precision at {k}"], out[f"recall at {k}"] = precision, recall
    out |= {f"hits at {p:g}%": score for p, score in hits_at(hits, (1, 5, 10)).items()}
    out["percent replicating"] = 100 * percent_replicating(similarity, match)
    return out
