"""The NDT's own pictures: spikes, inferred and (where known) true rates of a few held-out units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from plotly.subplots import make_subplots
from scipy.ndimage import gaussian_filter1d

from models.ndt.data import SpikeData

UNITS, TRIALS = 3, 40


def pictures(data: SpikeData, prediction: Mapping[str, np.ndarray]) -> list[tuple[str, Any]]:
    """Rasters of single trials, and the trial average (PSTH) of the busiest held-out units."""
    spikes = data.eval.heldout
    if spikes is None:
        return []
    rates = prediction["eval_rates_heldout"]
    truth = data.eval.truth
    if truth is not None:
        truth = truth[:, : data.bins, data.heldin_units :]
    busiest = np.argsort(-spikes.sum((0, 1)))[:UNITS]
    return [rasters(spikes, rates, truth, busiest), averages(spikes, rates, truth, busiest)]


def rasters(spikes: np.ndarray, rates: np.ndarray, truth: np.ndarray | None, units: np.ndarray) -> tuple[str, Any]:
    columns = [("spikes", spikes), ("inferred rate", rates)] + ([("true rate", truth)] if truth is not None else [])
    figure = make_subplots(len(units), len(columns), column_titles=[c for c, _ in columns], vertical_spacing=0.06)
    for row, unit in enumerate(units, 1):
        # trials in the order of their inferred activity: structure shows that a random order hides
        order = np.argsort(rates[:, :, unit].argmax(1), kind="stable")[:TRIALS]
        top = float(np.quantile(rates[:, :, unit], 0.995))
        for column, (name, values) in enumerate(columns, 1):
            scale = {"colorscale": "Greys"} if name == "spikes" else {"colorscale": "Viridis", "zmin": 0, "zmax": top}
            figure.add_heatmap(z=values[order, :, unit], showscale=False, row=row, col=column, **scale)
        figure.update_yaxes(title_text=f"held-out {unit}", row=row, col=1)
    figure.update_layout(height=230 * len(units))
    return (
        f"Single trials of held-out units ({min(TRIALS, len(spikes))} trials, sorted by inferred peak; x: bins)",
        figure,
    )


def averages(spikes: np.ndarray, rates: np.ndarray, truth: np.ndarray | None, units: np.ndarray) -> tuple[str, Any]:
    figure = make_subplots(1, len(units), subplot_titles=[f"held-out unit {u}" for u in units])
    for column, unit in enumerate(units, 1):
        first = column == 1
        smoothed = gaussian_filter1d(spikes[:, :, unit].mean(0), 2.0)
        lines = [("PSTH of spikes, smoothed", smoothed, "#999999"), ("inferred", rates[:, :, unit].mean(0), "#1f77b4")]
        if truth is not None:
            lines.append(("true", truth[:, :, unit].mean(0), "#d62728"))
        for name, values, color in lines:
            figure.add_scatter(
                y=values, name=name, legendgroup=name, showlegend=first, line_color=color, row=1, col=column
            )
    figure.update_yaxes(title_text="spikes a bin", col=1)
    figure.update_xaxes(title_text="bin")
    return "Trial averages of held-out units", figure
