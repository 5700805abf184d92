"""All scores of one table of wells: its labels, its mechanisms, its controls."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from models.cellprofiler import enrichment
from models.cellprofiler.metrics import average_precision, bootstrap, mean_finite

LABELS, MECHANISMS, ACTIVITY, CONTROLS = (
    "wells of one label",
    "labels of one mechanism",
    "wells of one label against controls",
    "control wells of one plate",
)
_THRESHOLD = 0.05  # of corrected p values
_COPAIRS = {"cosine": "cosine", "pearson": "correlation"}


@dataclass(frozen=True)
class Asked:
    """How tables are evaluated.

    Attributes:
        kind: of similarity, "cosine" or "pearson".
        quantiles: of pairs, above which they count as near.
        ks: how many neighbours are looked at.
        other_plates: mean average precision is of wells on other plates only.
        split: what parts several mechanisms of one label; None: mechanisms match as they are written.
        null: random rankings that p values come from.
        seed: of those.
    """

    kind: str = "cosine"
    quantiles: Sequence[float] = (0.99, 0.995)
    ks: Sequence[int] = (5, 10, 50)
    other_plates: bool = False
    split: str | None = "|"
    null: int = 10_000
    seed: int = 0


@dataclass
class Evaluated:
    """What was found.

    Attributes:
        name: of the table.
        scores: section -> score -> number.
        classes: a row a label.
        notes: what could not be said, and why.
        curves: for pictures.
    """

    name: str
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    classes: pd.DataFrame = field(default_factory=pd.DataFrame)
    notes: list[str] = field(default_factory=list)
    curves: dict[str, Any] = field(default_factory=dict)


def evaluated(name: str, values: np.ndarray, wells: pd.DataFrame, asked: Asked) -> Evaluated:
    """Every score that the table allows.

    Args:
        name: of the table.
        values: (wells, features), finite.
        wells: columns label, plate, control (bool), mechanism (None where it is not known).
        asked: how.
    """
    out = Evaluated(name)
    treated = np.flatnonzero(~wells["control"].to_numpy(bool))
    controls = np.flatnonzero(wells["control"].to_numpy(bool))
    rows, x = wells.iloc[treated].reset_index(drop=True), values[treated]
    counts = rows["label"].value_counts()
    if (counts > 1).any() and len(counts) > 1:
        _labels(out, x, rows, asked)
        if len(controls) > 1:
            _activity(out, values, wells, asked)
    else:
        out.notes.append("no label has two wells, or there is one label only: wells of one label are not scored")
        out.classes = pd.DataFrame({"label": counts.index, "wells": counts.to_numpy()})
    if rows["mechanism"].notna().any():
        _mechanisms(out, x, rows, asked)
    plates = wells["plate"].to_numpy(str)[controls]
    if len(np.unique(plates)) > 1 and len(np.unique(plates)) < len(plates):
        similarity = enrichment.similarities(values[controls], asked.kind)
        match = enrichment.matches(plates.tolist())
        found = {f"odds at {q:g}": enrichment.enrichment(similarity, match, q)["odds"] for q in asked.quantiles}
        out.scores[CONTROLS] = {"wells": float(len(plates)), "plates": float(len(np.unique(plates))), **found}
    return out


def _labels(out: Evaluated, x: np.ndarray, rows: pd.DataFrame, asked: Asked) -> None:
    """Wells of a label among all treated wells."""
    labels = rows["label"].tolist()
    similarity = enrichment.similarities(x, asked.kind)
    match = enrichment.matches(labels)
    precisions, table = _copairs(x, rows[["label", "plate"]], ["plate"] if asked.other_plates else [], asked)
    scores = _ranking(precisions["average_precision"].to_numpy(float), rows["label"].to_numpy())
    if len(table):
        scores["normalized mAP"] = mean_finite(precisions["normalized_average_precision"].to_numpy(float))
        scores["labels found, %"] = 100 * float(table["below_corrected_p"].mean())
    scores |= enrichment.summary(similarity, match, asked.quantiles, asked.ks)
    medians, threshold = enrichment.replicating(similarity, labels)
    scores["labels replicating, %"] = 100 * float(np.mean([m > threshold for m in medians.values()]))
    scores["labels replicating, % (copairs)"] = _replicating(x, rows[["label"]])
    out.scores[LABELS] = {"wells": float(len(rows)), "labels": float(rows["label"].nunique()), **scores}
    classes = pd.DataFrame({"label": rows["label"].value_counts(sort=False).index})
    classes["wells"] = classes["label"].map(rows["label"].value_counts())
    found = table.set_index("label") if len(table) else pd.DataFrame(columns=list(_COLUMNS))
    for column, words in _COLUMNS.items():
        classes[words] = classes["label"].map(found[column])
    classes["median similarity"] = classes["label"].map(medians)
    classes["replicates"] = classes["median similarity"] > threshold
    out.classes = classes.sort_values("mAP", ascending=False, kind="stable", ignore_index=True)
    hits = enrichment.ranked(similarity, match)
    out.curves["precision"] = _precision_curve(hits)
    out.curves["odds"] = {q: enrichment.enrichment(similarity, match, q)["odds"] for q in _GRID}
    upper = np.triu(np.ones(match.shape, bool), 1)
    out.curves["same"], out.curves["other"] = similarity[upper & match], similarity[upper & ~match]


_GRID = (0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999)
_COLUMNS = {
    "mean_average_precision": "mAP",
    "mean_normalized_average_precision": "normalized mAP",
    "p_value": "p value",
    "corrected_p_value": "corrected p value",
}


def _precision_curve(hits: np.ndarray) -> dict[int, float]:
    ks = sorted({*range(1, 11), *range(10, 51, 5)} & set(range(1, hits.shape[1] + 1)))
    return {k: precision for k, (precision, _) in enrichment.at_k(hits, ks).items()}


def _ranking(each: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The mean average precision of queries, with its interval over labels."""
    low, high = bootstrap(each, labels.astype(str))
    return {"mAP": mean_finite(each), "mAP, from": low, "mAP, to": high}


def _copairs(
    x: np.ndarray, meta: pd.DataFrame, other: list[str], asked: Asked, reference: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """copairs' average precision of each row, and its table of labels with p values.

    Args:
        meta: label and plate of each row; with `reference` also that column, -1 in treated rows, in controls' their own
            numbers.
        other: columns that positives must differ in.
        reference: negatives are controls only.
    """
    from copairs.map import average_precision as of_pairs
    from copairs.map import mean_average_precision
    from copairs.matching import UnpairedException

    names = ["label", "reference"] if reference else ["label"]
    try:
        each = of_pairs(
            meta.reset_index(drop=True), x, names, other, [], names, distance=_COPAIRS[asked.kind], progress_bar=False
        )
    except UnpairedException:
        empty = np.full(len(meta), math.nan)
        return pd.DataFrame({"average_precision": empty, "normalized_average_precision": empty}), pd.DataFrame()
    each = each.reindex(range(len(meta)))
    # rows with no positive have no precision (0/0 there)
    each.loc[~(each["n_pos_pairs"] > 0), ["average_precision", "normalized_average_precision"]] = math.nan
    if each["average_precision"].isna().all():
        return each, pd.DataFrame()
    with tempfile.TemporaryDirectory() as cache:  # else it keeps random rankings of other seeds in the user's home
        table = mean_average_precision(
            each, ["label"], asked.null, _THRESHOLD, asked.seed, progress_bar=False, cache_dir=cache
        )
    return each, table


def _replicating(x: np.ndarray, meta: pd.DataFrame) -> float:
    """Percent of labels whose replicates' median correlation is above the 95th percentile of random sets' (copairs)."""
    from copairs.replicating import correlation_test

    found = correlation_test(x, meta.reset_index(drop=True), ["label"], [], n_samples=1000, progress_bar=False)
    return 100 * float(found.percent_score("right")[0])


def _activity(out: Evaluated, values: np.ndarray, wells: pd.DataFrame, asked: Asked) -> None:
    """Do wells of a label differ from controls: their replicates ranked among control wells only."""
    control = wells["control"].to_numpy(bool)
    meta = wells[["label", "plate"]].assign(reference=np.where(control, np.arange(len(wells)), -1))
    each, table = _copairs(values, meta, ["plate"] if asked.other_plates else [], asked, reference=True)
    precision = np.where(control, math.nan, each["average_precision"].to_numpy(float))
    scores = _ranking(precision, wells["label"].to_numpy())
    if len(table):
        table = table[~table["label"].isin(set(wells["label"][control]))]
        scores["labels active, %"] = 100 * float(table["below_corrected_p"].mean())
        out.classes["activity mAP"] = out.classes["label"].map(table.set_index("label")["mean_average_precision"])
        out.classes["activity corrected p"] = out.classes["label"].map(table.set_index("label")["corrected_p_value"])
    out.scores[ACTIVITY] = {"controls": float(control.sum()), **scores}


def _mechanisms(out: Evaluated, x: np.ndarray, rows: pd.DataFrame, asked: Asked) -> None:
    """Labels (medians of their wells) of one mechanism among all labels whose mechanism is known."""
    known = rows["mechanism"].notna().to_numpy()
    frame = pd.DataFrame(x[known]).assign(label=rows["label"][known].to_numpy())
    medians = frame.groupby("label").median()
    mechanism = rows[known].groupby("label")["mechanism"].first().loc[medians.index]
    match = enrichment.matches(mechanism.tolist(), asked.split)
    if not match.any():
        out.notes.append(f"no two of {len(medians)} labels have a mechanism in common: mechanisms are not scored")
        return
    similarity = enrichment.similarities(medians.to_numpy(), asked.kind)
    each = average_precision(similarity, match, ~np.eye(len(match), dtype=bool))
    scores = _ranking(each, mechanism.to_numpy())
    scores |= enrichment.summary(similarity, match, asked.quantiles, asked.ks)
    out.scores[MECHANISMS] = {"labels": float(len(medians)), "with a match": float(match.any(1).sum()), **scores}
    out.classes = out.classes.merge(
        pd.DataFrame({"label": medians.index, "mechanism": mechanism.to_numpy(), "mechanism AP": each}),
        on="label",
        how="left",
    )
