"""Pictures for the report: wells in the plane, confusion and accuracy of classes, crops, and bars beside baselines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from models.cellprofiler import baselines
from models.cellprofiler.data import CellData
from models.cellprofiler.metrics import confusion

SHOWN_CLASSES, SHOWN_CELLS = 8, 6
_SIDE = 64  # pixels a side of a crop in the report, at most
_PALETTE = (
    "#4269d0",
    "#efb118",
    "#ff725c",
    "#6cc5b0",
    "#3ca951",
    "#ff8ab7",
    "#a463f2",
    "#97bbf5",
    "#9c6b4e",
    "#9498a0",
)
_SYMBOLS = ("circle", "diamond", "square", "cross", "x", "triangle-up", "star", "pentagon")


def pictures(data: CellData, prediction: Mapping[str, np.ndarray]) -> list[tuple[str, Any]]:
    """(caption, figure) of each picture that the evaluated wells allow."""
    known = data.wells.target[data.samples] >= 0
    out = [plane(data, prediction["profile"])]
    if known.any():
        each = baselines.precisions(data, dict(prediction))
        out.append(bars(data, prediction))
        out += confusions(data, prediction["probabilities"])
        out.append(by_class(data, prediction["probabilities"], each))
    out.append(grid(data))
    return out


def components(profile: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, 2) first principal components of rows, and the share of the variance of each (2,)."""
    x = profile - profile.mean(0)
    # rows are fewer than features as a rule: the small matrix has the same eigenvalues
    values, vectors = np.linalg.eigh(x @ x.T if len(x) <= x.shape[1] else x.T @ x)
    order = np.argsort(-values)[:2]
    top = np.clip(values[order], 0, None)
    total = max(float((x**2).sum()), 1e-12)
    places = vectors[:, order] * np.sqrt(top) if len(x) <= x.shape[1] else x @ vectors[:, order]
    places = np.pad(places, ((0, 0), (0, 2 - places.shape[1])))
    return places, np.pad(top / total, (0, 2 - len(top)))


def plane(data: CellData, profile: np.ndarray) -> tuple[str, Any]:
    """Wells by the first two principal components, coloured by label, a symbol a plate."""
    places, share = components(profile.astype(np.float64))
    wells = data.wells.take(data.samples)
    names, label = np.unique(wells.label, return_inverse=True)
    plates, plate = np.unique(wells.plate, return_inverse=True)
    text = [
        f"{key}<br>{name}, {cells} cells" for key, name, cells in zip(wells.keys, wells.label, wells.cells, strict=True)
    ]
    figure = go.Figure()
    for number, name in enumerate(names):
        rows = np.flatnonzero(label == number)
        figure.add_scatter(
            x=places[rows, 0], y=places[rows, 1], mode="markers", name=str(name), text=[text[row] for row in rows],
            hoverinfo="text", showlegend=len(names) <= 40,
            marker={"color": _PALETTE[number % len(_PALETTE)], "size": 8,
                    "symbol": [_SYMBOLS[plate[row] % len(_SYMBOLS)] for row in rows]},
        )  # fmt: skip
    figure.update_layout(
        xaxis_title=f"first principal component ({share[0]:.0%} of the variance)",
        yaxis_title=f"second ({share[1]:.0%})", height=520,
    )  # fmt: skip
    return f"{len(wells)} wells by the profiles' principal components (a symbol a plate: {len(plates)})", figure


def bars(data: CellData, prediction: Mapping[str, np.ndarray]) -> tuple[str, Any]:
    """Mean average precision of the ensemble and the baselines, with intervals."""
    found = {"this ensemble": baselines.scores(data, prediction, classes=False)}
    for name, others in baselines.predictions(data, data).items():
        found[name] = baselines.scores(data, others, classes=False)
    means = [scores["map"] for scores in found.values()]
    up = [max(0.0, scores["map_high"] - mean) for scores, mean in zip(found.values(), means, strict=True)]
    down = [max(0.0, mean - scores["map_low"]) for scores, mean in zip(found.values(), means, strict=True)]
    figure = go.Figure(
        go.Bar(
            x=list(found), y=means, text=[f"{mean:.3f}" for mean in means],
            error_y={"type": "data", "array": up, "arrayminus": down, "symmetric": False},
        )
    )  # fmt: skip
    figure.update_layout(yaxis_title="mean average precision", height=420)
    return "Wells of one label find each other (on the wells that all of these were chosen on; 95 % intervals)", figure


def confusions(data: CellData, probabilities: np.ndarray) -> list[tuple[str, Any]]:
    """Counts of the likeliest class, coloured by the share of their row; classes that occur only."""
    labels = data.wells.target[data.samples]
    if probabilities.shape[1] != len(data.classes):
        return []
    counts = confusion(labels, probabilities.argmax(1), probabilities.shape[1])
    there = np.flatnonzero(counts.sum(0) + counts.sum(1))
    counts = counts[np.ix_(there, there)]
    names = [data.classes[k] for k in there]
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    text: dict[str, Any] = {"text": counts, "texttemplate": "%{text}"} if len(there) <= 30 else {}
    figure = go.Figure(
        go.Heatmap(z=share, x=names, y=names, colorscale="Blues", zmin=0, zmax=1, colorbar_title="share", **text)
    )
    figure.update_layout(xaxis_title="told", yaxis_title="label", height=max(420, min(1000, 16 * len(there) + 160)))
    figure.update_yaxes(autorange="reversed")
    return [(f"Confusion matrix of {int(counts.sum())} wells, the classes of their cells averaged", figure)]


def by_class(data: CellData, probabilities: np.ndarray, precision: np.ndarray) -> tuple[str, Any]:
    """How often wells of each label are told, and their mean average precision; the worst found first."""
    wells = data.wells.take(data.samples)
    names, label = np.unique(wells.label, return_inverse=True)
    right = (probabilities.argmax(1) == wells.target).astype(np.float64)
    count = np.bincount(label)
    accuracy = np.bincount(label, right) / count
    found = np.isfinite(precision)
    queries = np.bincount(label, found, len(names))
    mean = np.bincount(label, np.where(found, precision, 0.0), len(names)) / np.maximum(queries, 1)
    order = np.argsort(mean, kind="stable")
    figure = go.Figure([
        go.Bar(x=names[order], y=mean[order], name="average precision", text=[f"{count[k]} wells" for k in order]),
        go.Scatter(x=names[order], y=accuracy[order], name="share told rightly", mode="markers"),
    ])  # fmt: skip
    figure.update_layout(height=460, yaxis_range=[0, 1.02])
    return "By label: how well its wells find each other, and how often their class is told", figure


def grid(data: CellData, seed: int = 0) -> tuple[str, Any]:
    """Some cells of some labels, every channel, each crop stretched by itself as the network sees it."""
    rng = np.random.default_rng(seed)
    wells = data.wells.take(data.well_of)
    names = np.unique(wells.label)
    names = names[np.sort(rng.permutation(len(names))[:SHOWN_CLASSES])]
    channels = len(data.store.channels)
    figure = make_subplots(
        len(names),
        SHOWN_CELLS,
        row_titles=[str(name) for name in names],
        vertical_spacing=0.01,
        horizontal_spacing=0.01,
    )
    for row, name in enumerate(names, 1):
        cells = np.flatnonzero(wells.label == name)
        cells = np.sort(rng.permutation(cells)[:SHOWN_CELLS])
        for column, crop in enumerate(data.store.read(data.eval[cells]).astype(np.float32), 1):
            thin = max(1, -(-crop.shape[-1] // _SIDE))
            crop = crop[:, ::thin, ::thin]
            low, high = crop.min((1, 2), keepdims=True), crop.max((1, 2), keepdims=True)
            shown = np.concatenate(list((crop - low) / np.maximum(high - low, 1e-6)), axis=1)
            figure.add_trace(
                go.Heatmap(z=(255 * shown).astype(np.uint8), showscale=False, colorscale="Gray", hoverinfo="skip"),
                row=row,
                col=column,
            )
    figure.update_xaxes(showticklabels=False)
    figure.update_yaxes(showticklabels=False, autorange="reversed")
    figure.update_annotations(font_size=11, textangle=0, xanchor="left")
    height = 60 + max(60, 1100 // (SHOWN_CELLS * channels)) * len(names)
    figure.update_layout(height=height, margin={"t": 40, "b": 10, "r": 160})
    return f"Cells of some labels ({', '.join(data.store.channels)} from left to right; each crop stretched)", figure
