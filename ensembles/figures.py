"""The report's figures that every family shares."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ensembles.artifact import Artifact
from ground.errors import BadInput
from search_spaces import Domain
from studies import ledger
from studies.results import read_metrics
from studies.study import Study

Section = tuple[str, go.Figure]
"""A caption and its figure. `layout.meta` may say `least_width` (pixels; narrower windows scroll) and `notes` (what
stands below it, name -> words)."""
_FORESTS = 300
_AXIS_WIDTH, _SIDES = 76, 40  # pixels: between two parallel axes, beside the outer ones
_LONGEST = 24  # characters of a setting beside a bar
_LINE, _LINES = 9, 3  # of an axis's label: characters that fit between two axes, lines at most
_PLAIN: dict[str, Any] = {"template": "plotly_white", "margin": {"l": 60, "r": 20, "t": 80, "b": 50}}


def search_figures(study: Study, frame: pd.DataFrame) -> list[Section]:
    """History, importance, parallel coordinates and learning curves of a study."""
    metric = study.family.metric
    trials = (
        frame.dropna(subset=[metric.name]).sort_values(metric.name, ascending=metric.mode == "min", kind="stable")
        .drop_duplicates("trial_id")
    )  # fmt: skip
    order = {c["trial_id"]: c["number"] for c in ledger.trial_configs(study)}
    trials = trials.assign(number=trials["trial_id"].map(order)).sort_values("number")
    sections = [history(trials, metric.name, metric.mode)]
    known = importance(trials, study.space, metric.name)
    if known is not None:
        sections.append(known)
    sections.append(coordinates(trials, study.space, metric.name))
    sections.append(learning_curves(study, trials))
    return sections


def shown(text: Any) -> str:
    """Text as a figure shows it literally: in its labels, a few HTML tags would be obeyed."""
    return html.escape(str(text), quote=False)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Settings without their first part (MODEL., TRAIN.), where what is left says which one it is."""
    short = {name: name.partition(".")[2] or name for name in names}
    every = [*short.values()]
    return {name: rest if every.count(rest) == 1 else name for name, rest in short.items()}


def history(trials: pd.DataFrame, metric: str, mode: str) -> Section:
    best = trials[metric].cummax() if mode == "max" else trials[metric].cummin()
    figure = go.Figure([
        go.Scatter(x=trials["number"], y=trials[metric], mode="markers", name="trial",
                   text=[shown(name) for name in trials["trial_id"]]),
        go.Scatter(x=trials["number"], y=best, mode="lines", line_shape="hv", name="best so far"),
    ])  # fmt: skip
    figure.update_layout(_PLAIN, xaxis_title="trial, in the order proposed", yaxis_title=shown(metric))
    return "Optimization history", figure


def encoded(trials: pd.DataFrame, space: dict[str, Domain]) -> pd.DataFrame:
    """Hyperparameters as numbers: logarithms where the range is logarithmic, positions of choices.

    NaN where a trial has none (another choice rules it out); a column that no trial has is left out.
    """
    out = {}
    for name, domain in space.items():
        if name not in trials:
            continue
        if domain.kind == "choice":
            out[name] = trials[name].map(lambda value, domain=domain: _position(value, domain)).astype(float)
        else:
            numbers = pd.to_numeric(trials[name], errors="coerce")
            out[name] = np.log10(numbers.where(numbers > 0)) if domain.log else numbers
    frame = pd.DataFrame(out, index=trials.index)
    return frame.dropna(axis=1, how="all")


def _position(value: Any, domain: Domain) -> float:
    try:
        return float(domain.position(value))
    except ValueError:
        return float("nan")


def _at_the_bottom(column: pd.Series[Any]) -> pd.Series[Any]:
    """Missing values a little below all others."""
    low, high = column.min(), column.max()
    return column.fillna(low - 0.1 * ((high - low) or 1.0))


def importance(trials: pd.DataFrame, space: dict[str, Domain], metric: str) -> Section | None:
    """Permutation importance in a random forest fitted to the trials (Breiman 2001)."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    features = encoded(trials, space).apply(_at_the_bottom)
    if len(trials) < 5 or features.empty:
        return None
    forest = RandomForestRegressor(_FORESTS, random_state=0, min_samples_leaf=2).fit(features, trials[metric])
    found = permutation_importance(forest, features, trials[metric], n_repeats=20, random_state=0)
    order, short = np.argsort(found.importances_mean), short_names([*features])
    names = [features.columns[i] for i in order]
    figure = go.Figure(
        go.Bar(
            x=found.importances_mean[order],
            y=[*range(len(names))],  # shortened, two names may be one
            hovertext=[shown(name) for name in names],
            orientation="h",
            error_x={"type": "data", "array": found.importances_std[order]},
        )
    )
    figure.update_layout(_PLAIN, xaxis_title="loss of R² when shuffled")
    ticks = [shown(_cut(short[name], _LONGEST)) for name in names]
    figure.update_yaxes(automargin=True, tickfont_size=11, tickvals=[*range(len(names))], ticktext=ticks)
    return f"Parameter importance (random forest over {len(trials)} trials)", figure


def axis_label(name: str) -> str:
    """A name in lines so short that labels of neighbouring axes do not meet: broken after its separators, cut where
    that does not help."""
    lines = [""]
    for piece in re.findall(r"[^._\-\s/]*[._\-\s/]?", name):
        if len(lines[-1] + piece.rstrip()) > _LINE and lines[-1]:
            lines.append("")
        lines[-1] += piece
    lines = [line.strip() for line in lines if line.strip()] or [name[:_LINE]]
    if len(lines) > _LINES:
        lines = [*lines[: _LINES - 1], "".join(lines[_LINES - 1 :])]
    return "<br>" + "<br>".join(shown(_cut(line)) for line in lines)  # below the end of the axis's range


def _cut(text: str, length: int = _LINE) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def coordinates(trials: pd.DataFrame, space: dict[str, Domain], metric: str) -> Section:
    """One axis a setting, the metric last; full names, scales and options are in the notes."""
    features = encoded(trials, space)
    short = short_names([*features])
    axes: list[dict[str, Any]] = []
    notes: dict[str, str] = {}
    for name in features:
        domain, values = space[name], features[name]
        told = ["logarithm to base 10"] if domain.log else []
        label = f"log10 {short[name]}" if domain.log else short[name]
        axis: dict[str, Any] = {}
        if domain.kind == "choice":
            options = [str(option) for option in domain.options]
            axis |= {"tickvals": [*range(len(options))], "ticktext": [shown(_cut(option)) for option in options]}
            told.append("upwards: " + ", ".join(options))
        if values.isna().any():
            told.append("below all others (*): trials without it")
            label, values = f"{label} *", _at_the_bottom(values)
        notes[name] = "; ".join(told)
        axes.append({**axis, "label": axis_label(label), "values": values})
    axes.append({"label": axis_label(metric), "values": trials[metric]})
    notes[metric] = "the validation metric, which also colours the lines"
    line = {"color": trials[metric], "colorscale": "Viridis"}
    fonts = {"labelfont_size": 11, "tickfont_size": 10, "rangefont_size": 10}
    figure = go.Figure(go.Parcoords(dimensions=axes, line=line, labelside="bottom", **fonts))
    width = _AXIS_WIDTH * (len(axes) - 1) + 2 * _SIDES
    margin = {"l": _SIDES, "r": _SIDES, "t": 60, "b": 90}
    figure.update_layout(margin=margin, meta={"least_width": width, "notes": notes})
    return "Parallel coordinates (drag along an axis to filter)", figure


def learning_curves(study: Study, trials: pd.DataFrame) -> Section:
    """Of every trial; the best one on top and in colour."""
    metric, mode = study.family.metric.name, study.family.metric.mode
    figure = go.Figure()
    order = trials.sort_values(metric, ascending=mode == "max", kind="stable")["trial_id"]
    for trial_id in order:
        try:
            rows = read_metrics(study.trials / trial_id, metric)
        except BadInput:  # a curve less is no reason to have no report
            continue
        best = trial_id == order.iloc[-1]
        line = {"color": "#d62728", "width": 2.5} if best else {"color": "#7a8ca3", "width": 1.2}
        figure.add_scatter(
            x=rows["step"], y=rows[metric], mode="lines", line=line, opacity=1.0 if best else 0.6,
            name=shown(f"{trial_id}, the best" if best else trial_id), showlegend=best,
        )  # fmt: skip
    figure.update_layout(
        _PLAIN, xaxis_title="step", yaxis_title=shown(f"validation {metric}"), showlegend=True, hoverlabel_namelength=-1
    )
    return "Learning curves", figure


def size_curve(found: Artifact) -> Section:
    """Score against the number of averaged checkpoints, with the band of one standard error out of fold."""
    inside = found.meta["curve"]["in_sample"]
    folds = found.meta["curve"]["out_of_fold"]
    sizes = list(range(1, len(inside) + 1))
    middle = np.array([np.nan if f["score"] is None else f["score"] for f in folds], dtype=float)
    error = np.array([f["standard_error"] or 0.0 for f in folds], dtype=float)
    figure = go.Figure([
        go.Scatter(
            x=sizes + sizes[::-1], y=np.concatenate([middle + error, (middle - error)[::-1]]), fill="toself",
            line={"width": 0}, opacity=0.25, name="out of fold ± 1 s.e.", hoverinfo="skip",
        ),
        go.Scatter(x=sizes, y=middle, mode="lines+markers", name="out of fold"),
        go.Scatter(x=sizes, y=inside, mode="lines", line={"dash": "dot"}, name="in sample"),
    ])  # fmt: skip
    score = found.meta["scores"]["out_of_fold"]["score"]
    if score is not None:
        figure.add_hline(y=score, line_dash="dash", annotation_text=f"the ensemble, out of fold: {score:.4f}")
    name = shown(found.meta["metric"]["name"])
    figure.update_layout(_PLAIN, xaxis_title="checkpoints averaged, best first", yaxis_title=name)
    return "Ensemble size", figure
