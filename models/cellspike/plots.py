"""Pictures of predicted conductances: against the truth, how sure each is, cells apart, and the traces themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from models.cellspike.statistics import IDENTIFIABLE, WEAK, Residuals, by_cell, residuals

if TYPE_CHECKING:
    from models.cellspike.data import CellData

BINS, EDGE = 30, 1.1
"""Of the two-dimensional histograms, as the field draws them."""
_WIDE_EDGE, _COLUMNS, _TRACES, _POINTS = 1.2, 5, 3, 1000
_COMPARTMENTS = {  # colour, ends of names
    "apical": ("purple", (".api", "_apical")),
    "axon": ("red", (".axn", "_axonal")),
    "soma": ("blue", (".som", "_somatic")),
    "dendrites": ("green", (".den", "_dend")),
}
_OTHER = "#7f7f7f"
_CLASSES = {"identifiable": "#2ca02c", "weak": "#ff7f0e", "not": "#bbbbbb"}

Picture = tuple[str, Any]


def pictures(data: CellData, prediction: Mapping[str, np.ndarray]) -> list[Picture]:
    """(caption, figure) of each picture that the evaluated rows allow."""
    told, truth = prediction["ustar"], data.eval.targets()
    out = [first_traces(data)]
    if truth is None:
        return [over_sweeps(data.names, told), *out]
    cells = data.eval.ids()["cell"]
    found = residuals(data.names, told, truth, cells)
    symbol = "u*" if data.reading.starred else "u"
    out = [against_truth(told, truth, found, symbol), identifiability(found), *out]
    if len(np.unique(cells)) > 1:
        out.append(cells_apart(told, truth, cells, data.cells, ()))
    return [*out, unit_histograms(data.names, told, truth, symbol)]


def compartment(name: str) -> str:
    """Where a conductance sits, as its name says: apical, axon, soma, dendrites, or "elsewhere"."""
    lower = name.lower()
    ends = {place: marks for place, (_, marks) in _COMPARTMENTS.items()}
    return next((place for place, marks in ends.items() if lower.endswith(marks)), "elsewhere")


def _grid(names: Sequence[str], titles: Sequence[str]) -> tuple[Any, list[dict[str, int]]]:
    columns = min(_COLUMNS, len(names))
    rows = -(-len(names) // columns)
    gap = 0.28 / rows
    figure = make_subplots(rows, columns, subplot_titles=titles, vertical_spacing=gap, horizontal_spacing=0.04)
    figure.update_annotations(font_size=10)
    figure.update_layout(height=90 + 210 * rows, showlegend=False)
    return figure, [{"row": n // columns + 1, "col": n % columns + 1} for n in range(len(names))]


def against_truth(prediction: np.ndarray, truth: np.ndarray, found: Residuals, symbol: str) -> Picture:
    """Counts of rows by prediction (across) and truth (upwards) of each conductance, with the diagonal."""
    titles = []
    for name, mean, std, rmse, mark in zip(found.names, found.mean, found.std, found.rmse, found.marks, strict=True):
        told = f"avr {mean:+.3f}, std {std:.3f}, mse {rmse**2:.4f}"
        titles.append(f"{name}<br>{told}" + (f" <b style='color:#d62728'>{mark}</b>" if mark else ""))
    figure, places = _grid(found.names, titles)
    edges = np.linspace(-EDGE, EDGE, BINS + 1)
    centres = np.round((edges[1:] + edges[:-1]) / 2, 4)
    for column, at in enumerate(places):
        counts, _, _ = np.histogram2d(truth[:, column], prediction[:, column], bins=(edges, edges))
        z = np.where(counts > 0, counts, np.nan)
        figure.add_heatmap(z=z, x=centres, y=centres, showscale=False, colorscale="Viridis", **at)
        diagonal = [-EDGE, EDGE]
        figure.add_scatter(x=diagonal, y=diagonal, mode="lines", line={"color": "#d62728", "width": 1}, **at)
    figure.update_xaxes(range=[-EDGE, EDGE], tickfont_size=9)
    figure.update_yaxes(range=[-EDGE, EDGE], tickfont_size=9)
    return f"Predicted (across) against true {symbol} of {found.samples:,} rows; residual: truth − prediction", figure


def identifiability(found: Residuals) -> Picture:
    """Explained variance of each conductance with its interval, coloured by what that interval is sure of."""
    figure = go.Figure()
    shown = np.nan_to_num(found.explained, nan=0.0)
    for kind, color in _CLASSES.items():
        rows = [n for n, c in enumerate(found.classes) if c == kind]
        figure.add_bar(
            x=[float(max(shown[n], -0.5)) for n in rows], y=[found.names[n] for n in rows], orientation="h",
            marker_color=color, name=kind,
            error_x={
                "type": "data", "symmetric": False, "color": "#333333",
                "array": np.nan_to_num(found.high[rows] - shown[rows]).clip(0),
                "arrayminus": np.nan_to_num(shown[rows] - found.low[rows]).clip(0),
            },
        )  # fmt: skip
    for bar in (IDENTIFIABLE, WEAK):
        figure.add_vline(x=bar, line={"dash": "dot", "color": "#999999"})
    figure.update_layout(height=210 + 24 * len(found.names), xaxis_title="explained variance", margin_l=190)
    figure.update_yaxes(autorange="reversed", categoryorder="array", categoryarray=list(found.names))
    figure.update_xaxes(range=[-0.55, 1.02])
    over = f"{found.groups:,} {found.over}"
    return f"Identifiability: explained variance, 95 % interval over {over}; lines at {IDENTIFIABLE} and {WEAK}", figure


def practice_and_witness(practice: Residuals, witness: Residuals) -> Picture:
    """Explained variance on cells that were trained on, and on morphologies never seen."""
    figure = go.Figure()
    for name, found, color in (("practice", practice, "#1f77b4"), ("witness", witness, "#ff7f0e")):
        explained = np.nan_to_num(found.explained).clip(-0.5)
        bars = {"type": "data", "symmetric": False, "array": np.nan_to_num(found.high - explained).clip(0),
                "arrayminus": np.nan_to_num(explained - found.low).clip(0)}  # fmt: skip
        label = f"{name}: {found.samples:,} rows, loss {found.loss:.4f}"
        figure.add_bar(x=list(found.names), y=explained, error_y=bars, name=label, marker_color=color)
    figure.update_layout(barmode="group", height=440, yaxis_title="explained variance")
    return "Practice cells against witness cells, whose morphologies training never saw", figure


def cells_apart(
    prediction: np.ndarray, truth: np.ndarray, cells: np.ndarray, names: Sequence[str], witness: Sequence[str]
) -> Picture:
    """The loss of each cell, worst first."""
    table = by_cell(prediction, truth, cells).sort_values("mse", ascending=False)
    labels = [names[cell] if 0 <= cell < len(names) else "unknown" for cell in table["cell"]]
    colors = ["#ff7f0e" if label in witness else "#1f77b4" for label in labels]
    figure = go.Figure(go.Bar(x=labels, y=table["mse"].round(5), text=table["rows"], marker_color=colors))
    figure.update_layout(height=400, yaxis_title="mean squared error")
    marked = "; orange: witness cells" if witness else ""
    return f"Loss of each of {len(labels)} cells (numbers: rows{marked})", figure


def first_traces(data: CellData) -> Picture:
    """The first evaluated traces."""
    segment = data.eval.segments[0]
    traces = data.eval.block(segment, 0, min(_TRACES, len(segment)), targets=False)[0][:_TRACES]
    stims = data.reading.stims if data.towers > 1 else ("",)
    return waveforms(traces.float().flatten(2).numpy(), data.step_ms, channels(data.reading.probes, stims))


def spread_and_error(spread: np.ndarray, residual: np.ndarray) -> Picture:
    """How far off rows are on which the members disagree so much: root mean square by tenths of the spread."""
    order = np.argsort(spread, axis=None)
    tenths = [part for part in np.array_split(order, 10) if len(part)]
    x = [float(np.sqrt((spread.ravel()[part] ** 2).mean())) for part in tenths]
    y = [float(np.sqrt((residual.ravel()[part] ** 2).mean())) for part in tenths]
    figure = go.Figure(go.Scatter(x=x, y=y, mode="lines+markers"))
    figure.update_layout(height=360, xaxis_title="spread of the members", yaxis_title="root mean square residual")
    return "How far off the ensemble is where its members disagree: values in tenths of their spread", figure


def channels(probes: Sequence[str], stims: Sequence[str]) -> list[str]:
    """What each channel of traces (bins, probes · stimuli) is."""
    return [f"{probe}, {stim}" if len(stims) > 1 else probe for probe in probes for stim in stims]


def waveforms(traces: np.ndarray, step_ms: float, names: Sequence[str]) -> Picture:
    """Some traces (n, bins, channels), and what each channel is."""
    figure = make_subplots(len(traces), 1, shared_xaxes=True, vertical_spacing=0.05)
    thin = max(1, traces.shape[1] // _POINTS)
    time = np.round(np.arange(0, traces.shape[1], thin) * step_ms, 4)
    colors = [color for color, _ in _COMPARTMENTS.values()]
    for row, trace in enumerate(traces, 1):
        for channel, name in enumerate(names):
            figure.add_scatter(
                x=time, y=np.round(trace[::thin, channel].astype(float), 4), name=name,
                legendgroup=str(channel), showlegend=row == 1, row=row, col=1,
                line={"color": colors[channel % len(colors)], "width": 1},
            )  # fmt: skip
    figure.update_layout(height=110 + 160 * len(traces))
    figure.update_xaxes(title_text="ms", row=len(traces), col=1)
    return f"The first {len(traces)} traces as they are stored, normalised", figure


def unit_histograms(names: Sequence[str], prediction: np.ndarray, truth: np.ndarray | None, symbol: str) -> Picture:
    """How often each value occurs: predictions filled, truth as a line, coloured by compartment."""
    figure, places = _grid(names, list(names))
    edges = np.linspace(-_WIDE_EDGE, _WIDE_EDGE, 2 * BINS + 1)
    centres = np.round((edges[1:] + edges[:-1]) / 2, 4)
    for column, (name, at) in enumerate(zip(names, places, strict=True)):
        color = _COMPARTMENTS.get(compartment(name), (_OTHER, ()))[0]
        # what lies beyond is counted at the edge
        counts = np.histogram(np.clip(prediction[:, column], -_WIDE_EDGE, _WIDE_EDGE), edges)[0]
        figure.add_bar(x=centres, y=counts, marker_color=color, marker_line_width=0, **at)
        if truth is not None:
            there = np.histogram(np.clip(truth[:, column], -_WIDE_EDGE, _WIDE_EDGE), edges)[0]
            figure.add_scatter(x=centres, y=there, mode="lines", line={"color": "#222222", "width": 1}, **at)
        for edge in (-1, 1):
            figure.add_vline(x=edge, line={"dash": "dot", "color": "#999999", "width": 1}, **at)
    figure.update_layout(bargap=0)
    told = ", ".join(f"{place} {color}" for place, (color, _) in _COMPARTMENTS.items())
    line = "" if truth is None else " (line: truth)"
    return f"Histograms of predicted {symbol}{line}, coloured by compartment: {told}", figure


def over_sweeps(names: Sequence[str], prediction: np.ndarray) -> Picture:
    """What recordings without a known truth are predicted to be, sweep by sweep."""
    figure, places = _grid(names, list(names))
    for column, (name, at) in enumerate(zip(names, places, strict=True)):
        color = _COMPARTMENTS.get(compartment(name), (_OTHER, ()))[0]
        thin = max(1, len(prediction) // _POINTS)
        y = np.round(prediction[::thin, column].astype(float), 4)
        figure.add_scatter(
            x=np.arange(0, len(prediction), thin), y=y, mode="markers", marker={"size": 4, "color": color}, **at
        )
    figure.update_yaxes(range=[-_WIDE_EDGE, _WIDE_EDGE])
    return "Predictions of recordings, in their order; between ±1 is what was trained on", figure
