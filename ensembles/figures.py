"""The report's figures that every family shares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ensembles.artifact import Artifact
from search_spaces import Domain
from studies import ledger
from studies.study import Study

Section = tuple[str, go.Figure]
_FORESTS = 300


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


def history(trials: pd.DataFrame, metric: str, mode: str) -> Section:
    best = trials[metric].cummax() if mode == "max" else trials[metric].cummin()
    figure = go.Figure([
        go.Scatter(x=trials["number"], y=trials[metric], mode="markers", name="trial", text=trials["trial_id"]),
        go.Scatter(x=trials["number"], y=best, mode="lines", line_shape="hv", name="best so far"),
    ])  # fmt: skip
    figure.update_layout(xaxis_title="trial, in the order proposed", yaxis_title=metric)
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
    order = np.argsort(found.importances_mean)
    figure = go.Figure(
        go.Bar(
            x=found.importances_mean[order],
            y=features.columns[order],
            orientation="h",
            error_x={"type": "data", "array": found.importances_std[order]},
        )
    )
    figure.update_layout(xaxis_title="loss of explained variance when the parameter is shuffled")
    return f"Parameter importance (random forest over {len(trials)} trials)", figure


def coordinates(trials: pd.DataFrame, space: dict[str, Domain], metric: str) -> Section:
    features = encoded(trials, space)
    axes = []
    for name in features:
        domain = space[name]
        label = name.removeprefix("MODEL.").removeprefix("TRAIN.")
        values = features[name]
        label = f"log10 {label}" if domain.log else label
        if values.isna().any():
            label, values = f"{label} (bottom: none)", _at_the_bottom(values)
        axis = {"label": label, "values": values}
        if domain.kind == "choice":
            axis |= {"tickvals": list(range(len(domain.options))), "ticktext": [str(o) for o in domain.options]}
        axes.append(axis)
    axes.append({"label": metric, "values": trials[metric]})
    line = {"color": trials[metric], "colorscale": "Viridis", "showscale": True}
    figure = go.Figure(go.Parcoords(dimensions=axes, line=line, labelangle=-20, labelside="bottom"))
    figure.update_layout(margin={"b": 110})
    return "Parallel coordinates (drag along an axis to filter)", figure


def learning_curves(study: Study, trials: pd.DataFrame) -> Section:
    metric = study.family.metric.name
    figure = go.Figure()
    for trial_id in trials["trial_id"]:
        try:
            rows = pd.read_csv(study.trials / trial_id / "metrics.csv")
        except (FileNotFoundError, pd.errors.EmptyDataError):
            continue
        if metric in rows and "step" in rows:
            figure.add_scatter(x=rows["step"], y=rows[metric], mode="lines", name=trial_id, opacity=0.7)
    figure.update_layout(xaxis_title="step", yaxis_title=f"validation {metric}")
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
    figure.update_layout(xaxis_title="checkpoints averaged, best first", yaxis_title=found.meta["metric"]["name"])
    return "Ensemble size", figure
