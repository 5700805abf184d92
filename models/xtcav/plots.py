"""Pictures for the report: confusion matrix, reliability, the most confident errors; targets against predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from models.xtcav.data import XtcavData
from models.xtcav.metrics import calibration_error, confusion, posterior, reliability

ERRORS = 8
THIN = 120  # pixels a side of an image in the report
POINTS = 3000


def pictures(data: XtcavData, prediction: Mapping[str, np.ndarray]) -> list[tuple[str, Any]]:
    """(caption, figure) of each picture that the evaluated rows allow."""
    if "values" in prediction:
        return [against_truth(data, prediction)] if np.isfinite(data.eval.targets).any() else []
    known = np.flatnonzero(data.eval.labels >= 0)
    if not len(known):
        return []
    likelihood, labels = prediction["likelihood"][known], data.eval.labels[known]
    out = [confusion_matrix(likelihood, labels), reliability_curve(posterior(likelihood, data.shares), labels)]
    wrong = most_confident_errors(likelihood, labels)
    if len(wrong):
        out.append(errors(data, known[wrong], likelihood[wrong], labels[wrong]))
    return out


def confusion_matrix(likelihood: np.ndarray, labels: np.ndarray) -> tuple[str, Any]:
    """Counts of the likeliest class, coloured by the share of their row."""
    counts = confusion(labels, likelihood.argmax(1), likelihood.shape[1])
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    names = [str(k) for k in range(len(counts))]
    figure = go.Figure(
        go.Heatmap(
            z=share, x=names, y=names, text=counts, texttemplate="%{text}", colorscale="Blues", zmin=0, zmax=1,
            colorbar_title="share of row",
        )
    )  # fmt: skip
    figure.update_layout(xaxis_title="predicted class", yaxis_title="true class", height=420)
    figure.update_yaxes(autorange="reversed")
    return f"Confusion matrix of {len(labels)} validation shots (rows: truth)", figure


def reliability_curve(probabilities: np.ndarray, labels: np.ndarray) -> tuple[str, Any]:
    """How often the most probable class is right, against how probable it was said to be."""
    table = reliability(probabilities, labels)
    figure = go.Figure()
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line={"dash": "dot", "color": "#999999"}, showlegend=False)
    error = np.sqrt(table[:, 1] * (1 - table[:, 1]) / table[:, 2])
    figure.add_scatter(
        x=table[:, 0], y=table[:, 1], error_y={"array": error}, mode="markers+lines", name="share right",
        marker_size=4 + 16 * np.sqrt(table[:, 2] / table[:, 2].max()),
    )  # fmt: skip
    figure.update_layout(xaxis_title="probability of the most probable class", yaxis_title="share right", height=420)
    wrong = calibration_error(probabilities, labels)
    return f"Reliability (expected calibration error {wrong:.3f}; larger marks hold more shots)", figure


def most_confident_errors(likelihood: np.ndarray, labels: np.ndarray, most: int = ERRORS) -> np.ndarray:
    """Rows whose class was missed, those first where it was missed with most certainty."""
    guess = likelihood.argmax(1)
    wrong = np.flatnonzero(guess != labels)
    return wrong[np.argsort(-likelihood[wrong, guess[wrong]], kind="stable")][:most]


def errors(data: XtcavData, rows: np.ndarray, likelihood: np.ndarray, labels: np.ndarray) -> tuple[str, Any]:
    """The images of some rows, as the network sees them."""
    guess = likelihood.argmax(1)
    order = np.argsort(rows, kind="stable")  # files are read in ascending order
    images = np.empty((len(rows), *data.image_shape), np.float32)
    images[order] = data.eval.images(rows[order])[:, 0]
    ids = data.eval.ids
    titles = [
        f"run {ids['run'][row]} fiducial {ids['fiducials'][row]}<br>truth {true}, predicted {told} ({p:.2f})"
        for row, true, told, p in zip(rows, labels, guess, likelihood.max(1), strict=True)
    ]
    columns = min(4, len(rows))
    lines = -(-len(rows) // columns)
    figure = make_subplots(lines, columns, subplot_titles=titles, vertical_spacing=0.16, horizontal_spacing=0.03)
    thin = max(1, -(-max(data.image_shape) // THIN))
    for place, image in enumerate(images):
        z = np.round(image[::thin, ::thin].astype(float), 2)
        at = {"row": place // columns + 1, "col": place % columns + 1}
        figure.add_heatmap(z=z, showscale=False, colorscale="Viridis", **at)
    figure.update_xaxes(showticklabels=False)
    figure.update_yaxes(showticklabels=False, autorange="reversed")
    figure.update_annotations(font_size=11)
    figure.update_layout(height=300 * lines)
    return "The most confident errors (time to the right, energy downwards; preprocessed images)", figure


def against_truth(data: XtcavData, prediction: Mapping[str, np.ndarray]) -> tuple[str, Any]:
    """Predicted against true value of each target, where it is present."""
    names = data.targets
    figure = make_subplots(1, len(names), subplot_titles=list(names))
    for column, _ in enumerate(names):
        true, told = data.eval.targets[:, column], prediction["values"][:, column]
        there = np.flatnonzero(np.isfinite(true))[:POINTS]
        ends = [float(true[there].min()), float(true[there].max())] if len(there) else [0.0, 1.0]
        at = {"row": 1, "col": column + 1}
        figure.add_scatter(x=ends, y=ends, mode="lines", line={"dash": "dot", "color": "#999999"}, **at)
        figure.add_scatter(x=true[there], y=told[there], mode="markers", marker_size=5, **at)
    figure.update_layout(showlegend=False, height=380)
    figure.update_xaxes(title_text="measured")
    figure.update_yaxes(title_text="predicted", col=1)
    return "Predicted against measured targets of the validation shots", figure
