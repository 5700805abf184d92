"""Pictures for the report: an event in space, efficiency against purity, reliability; charges against the truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from models.cellnet import metrics
from models.cellnet.data import CellData, truth_arrays

POINTS = 20_000
_BINS = 80
PUBLISHED = {"cosmic muons and beam, TPC 1": 0.945, "the same, TPCs 1, 5, 9": 0.917, "1 GeV electrons": 0.831}
"""Areas of the original's network (at epoch 24), by sample."""


def pictures(data: CellData, prediction: Mapping[str, np.ndarray], real: float) -> list[tuple[str, Any]]:
    """(caption, figure) of each picture that the evaluated events allow.

    Args:
        real: voxels with at least this truth count as real.
    """
    if not len(data.eval) or any(data.eval.voxels(file).y is None for file in data.eval.files):
        return []
    truth = truth_arrays(data)
    if "charge" in prediction:
        return [residuals(np.asarray(prediction["charge"]), truth["y"], real)]
    probability = np.asarray(prediction["probability"])
    is_real = metrics.is_real(truth["y"], real)
    tally = metrics.GhostTally(real)
    tally.add(probability, truth["y"], truth["event"], ["any"] * len(truth["id"]))
    if "decision" in prediction:
        kept = np.asarray(prediction["decision"]) > 0
    else:
        kept = probability > tally.scores()["threshold"]
    return [
        in_space(data, truth["event"], np.asarray(prediction["voxel"]), is_real, kept),
        trade_off(tally),
        reliability(tally),
    ]


def in_space(
    data: CellData, event: np.ndarray, voxel: np.ndarray, real: np.ndarray, kept: np.ndarray
) -> tuple[str, Any]:
    """The event of median size, its voxels by truth and decision; at most POINTS of them."""
    sizes = np.bincount(event, minlength=len(data.eval))
    chosen = int(np.argsort(sizes, kind="stable")[len(sizes) // 2])
    rows = np.flatnonzero(event == chosen)
    shown = rows
    if len(rows) > POINTS:
        # what is real or kept first, and of the ghosts that were removed as many as there is room for
        rank = np.random.default_rng(0).random(len(rows)) + 2 * (real[rows] | kept[rows])
        shown = np.sort(rows[np.argsort(-rank)[:POINTS]])
    groups = (
        ("real, kept", real & kept, "#1f77b4", 2.5, True),
        ("real, lost", real & ~kept, "#ff7f0e", 2.5, True),
        ("ghost, kept", ~real & kept, "#d62728", 2.5, True),
        ("ghost, removed", ~real & ~kept, "#bbbbbb", 1.5, "legendonly"),
    )
    figure = go.Figure()
    for name, mask, color, size, visible in groups:
        at = voxel[shown[mask[shown]]]
        figure.add_scatter3d(
            x=at[:, 2], y=at[:, 0], z=at[:, 1], mode="markers", name=f"{name} ({int(mask[rows].sum())})",
            marker={"size": size, "color": color}, visible=visible,
        )  # fmt: skip
    titles = {"xaxis_title": "z (beam)", "yaxis_title": "x (drift)", "zaxis_title": "y (up)"}
    figure.update_layout(scene={**titles, "aspectmode": "data"}, height=560, legend_itemsizing="constant")
    left_out = "" if len(shown) == len(rows) else f", {len(shown)} of its voxels"
    return f"One event in space, in voxels (removed ghosts: click them in the legend{left_out})", figure


def trade_off(tally: metrics.GhostTally) -> tuple[str, Any]:
    """Efficiency against purity at all thresholds, with published areas in words."""
    efficiency, purity = metrics.curve(tally.every, tally.real)
    best = metrics.tuned(efficiency, purity)
    figure = go.Figure()
    labels = [f"p > {threshold:.2f}" for threshold in metrics.THRESHOLDS]
    figure.add_scatter(x=efficiency, y=purity, text=labels, mode="lines+markers", name="here")
    figure.add_scatter(
        x=efficiency[[best]], y=purity[[best]], mode="markers", name=f"largest product ({labels[best]})",
        marker={"size": 12, "symbol": "circle-open", "line": {"width": 2}},
    )  # fmt: skip
    figure.update_layout(xaxis_title="efficiency", yaxis_title="purity", height=420)
    figure.update_xaxes(range=[0, 1.02])
    figure.update_yaxes(range=[0, 1.02])
    published = ", ".join(f"{name} {value}" for name, value in PUBLISHED.items())
    here = metrics.area(efficiency, purity)
    return (
        f"Efficiency and purity, means over {len(tally.types)} events: area {here:.3f} (published: {published})",
        figure,
    )


def reliability(tally: metrics.GhostTally) -> tuple[str, Any]:
    """How often a voxel is real, against how probable it was said to be."""
    table = tally.reliability()
    figure = go.Figure()
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line={"dash": "dot", "color": "#999999"}, showlegend=False)
    size = 4 + 16 * np.log1p(table[:, 2]) / np.log1p(table[:, 2].max())
    figure.add_scatter(x=table[:, 0], y=table[:, 1], mode="markers+lines", marker_size=size, name="share real")
    figure.update_layout(xaxis_title="probability", yaxis_title="share of real voxels", height=420)
    wrong = metrics.calibration_error(tally.cells)
    return f"Reliability (expected calibration error {wrong:.4f}; larger marks hold more voxels)", figure


def residuals(charge: np.ndarray, y: np.ndarray, real: float) -> tuple[str, Any]:
    """Predicted against true charge of real voxels, and the distribution of the difference."""
    mine = metrics.is_real(y, real)
    known, told = y[mine].astype(np.float64), charge[mine].astype(np.float64)
    top = float(np.quantile(known, 0.99)) if len(known) else 1.0
    counts, x, z = np.histogram2d(known, told, bins=_BINS, range=[[0, top], [0, top]])
    figure = make_subplots(1, 2, subplot_titles=["real voxels (log counts)", "predicted − true"])
    figure.add_heatmap(x=x, y=z, z=np.log1p(counts.T), colorscale="Viridis", showscale=False, row=1, col=1)
    line = {"dash": "dot", "color": "#ffffff"}
    figure.add_scatter(x=[0, top], y=[0, top], mode="lines", line=line, showlegend=False, row=1, col=1)
    bars, edges = np.histogram(told - known, bins=_BINS, range=(-top, top))
    figure.add_bar(x=(edges[1:] + edges[:-1]) / 2, y=bars, showlegend=False, row=1, col=2)
    figure.update_xaxes(title_text="true", col=1)
    figure.update_yaxes(title_text="predicted", col=1)
    figure.update_layout(height=420)
    error = np.sqrt(((told - known) ** 2).mean()) if len(known) else np.nan
    return f"Charge of {len(known)} real voxels: root mean square error {error:.4g} in the truth's units", figure
