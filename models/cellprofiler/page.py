"""The page of an evaluation: scores of the tables side by side, pictures, labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ground.files import write_text
from ground.page import Page, facts, sortable
from models.cellprofiler.evaluated import ACTIVITY, LABELS, MECHANISMS, Evaluated
from models.cellprofiler.plots import components

_BINS = np.linspace(-1, 1, 81)
_MOST_LABELS = 60  # named in a picture


def page(
    path: Path,
    found: Sequence[Evaluated],
    table: pd.DataFrame,
    frames: Sequence[pd.DataFrame],
    values: Sequence[np.ndarray],
    about: Mapping[str, Any],
) -> None:
    """Write it; the library that draws is inside the one file.

    Args:
        found, table: scores, and the same side by side.
        frames, values: wells and features of each table.
        about: facts for the head of the page.
    """
    sections = [bars(found)]
    scored = [one for one in found if LABELS in one.scores]
    if scored:
        sections += [odds(scored), precision(scored), similarity(scored)]
    if len(scored) == 2:
        sections.append(against(scored[0], scored[1]))
    sections += [plane(one.name, x, frame) for one, x, frame in zip(found, values, frames, strict=True)]
    about_it = [
        (name, about[name])
        for name in ("label", "control", "moa", "similarity", "pairs", "rows", "features", "notes")
        if about[name]
    ]
    classes = pd.concat([one.classes.assign(table=one.name) for one in found], ignore_index=True)
    made = Page(f"Profiles of {', '.join(one.name for one in found)}")
    made.add("Facts", facts(about_it))
    made.add("Scores", sortable("Scores", list(table), table.to_numpy(object).tolist()))
    for caption, figure in sections:
        made.figure(caption, figure)
    made.add("Labels", sortable("Labels", list(classes), classes.to_numpy(object).tolist()))
    write_text(path, made.html())


def bars(found: Sequence[Evaluated]) -> tuple[str, Any]:
    """Mean average precision of each section, with intervals."""
    figure = go.Figure()
    for one in found:
        sections = [name for name in (LABELS, ACTIVITY, MECHANISMS) if name in one.scores]
        mean, low, high = (
            np.array([one.scores[name][score] for name in sections]) for score in ("mAP", "mAP, from", "mAP, to")
        )
        figure.add_bar(
            x=sections, y=mean, name=one.name, text=[f"{value:.3f}" for value in mean],
            error_y={"type": "data", "array": high - mean, "arrayminus": mean - low, "symmetric": False},
        )  # fmt: skip
    figure.update_layout(yaxis_title="mean average precision", barmode="group", showlegend=True)
    return "Mean average precision (95 % intervals over labels or mechanisms)", figure


def odds(found: Sequence[Evaluated]) -> tuple[str, Any]:
    """Odds ratio of one label against the share of nearest pairs."""
    figure = go.Figure()
    for one in found:
        curve = {q: value for q, value in one.curves["odds"].items() if np.isfinite(value)}
        figure.add_scatter(x=[1 - q for q in curve], y=list(curve.values()), mode="lines+markers", name=one.name)
    figure.update_layout(xaxis_title="share of pairs that count as near", yaxis_title="odds ratio", showlegend=True)
    figure.update_xaxes(type="log", autorange="reversed")
    return "Enrichment: how much oftener near pairs are of one label", figure


def precision(found: Sequence[Evaluated]) -> tuple[str, Any]:
    """Precision against the number of neighbours."""
    figure = go.Figure()
    for one in found:
        curve = one.curves["precision"]
        figure.add_scatter(x=list(curve), y=list(curve.values()), mode="lines+markers", name=one.name)
    figure.update_layout(xaxis_title="nearest neighbours", yaxis_title="share of the same label", showlegend=True)
    return "Precision among the nearest wells", figure


def similarity(found: Sequence[Evaluated]) -> tuple[str, Any]:
    """How similar pairs of one label and of different labels are."""
    figure = go.Figure()
    middle = (_BINS[1:] + _BINS[:-1]) / 2
    for one in found:
        for kind, words, dash in (("same", "one label", "solid"), ("other", "different labels", "dot")):
            counts = np.histogram(one.curves[kind], _BINS)[0]
            share = counts / max(1, counts.sum())
            figure.add_scatter(x=middle, y=share, mode="lines", line_dash=dash, name=f"{one.name}, {words}")
    figure.update_layout(xaxis_title="similarity", yaxis_title="share of pairs", showlegend=True)
    return "Similarity of pairs of wells", figure


def against(one: Evaluated, other: Evaluated) -> tuple[str, Any]:
    """Each label's mean average precision in one table against the other."""
    both = one.classes.merge(other.classes, on="label", suffixes=("", "_other")).dropna(subset=["mAP", "mAP_other"])
    figure = go.Figure()
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line={"dash": "dot", "color": "#999999"}, showlegend=False)
    figure.add_scatter(x=both["mAP"], y=both["mAP_other"], text=both["label"], mode="markers", showlegend=False)
    figure.update_layout(xaxis_title=one.name, yaxis_title=other.name)
    return "Labels: mean average precision in both tables", figure


def plane(name: str, values: np.ndarray, frame: pd.DataFrame) -> tuple[str, Any]:
    """Wells by their first two principal components."""
    places, share = components(values)
    labels = frame["_label"].to_numpy(str)
    figure = go.Figure()
    groups = np.unique(labels) if len(np.unique(labels)) <= _MOST_LABELS else np.array([""])
    for label in groups:
        rows = np.flatnonzero(labels == label) if label else np.arange(len(labels))
        figure.add_scatter(x=places[rows, 0], y=places[rows, 1], mode="markers", name=str(label), text=labels[rows])
    figure.update_layout(
        xaxis_title=f"first principal component ({share[0]:.0%})", yaxis_title=f"second ({share[1]:.0%})",
        showlegend=len(groups) > 1,
    )  # fmt: skip
    return f"{name}: wells by principal components", figure
