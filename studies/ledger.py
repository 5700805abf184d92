"""Every checkpoint of a study as one table, derived from the trial folders and never the other way round."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ground.files import atomic_path
from ground.tables import read_table
from studies.results import RUNNING, USABLE, read_card, read_config, read_result
from studies.study import Study

_FIRST = ["trial_id", "val_ckpt"]


def trial_configs(study: Study) -> list[dict[str, Any]]:
    """The config.json of each trial, in the order they were proposed."""
    configs = [read_config(path) for path in study.trials.glob("*/config.json")]
    return sorted(configs, key=lambda c: (c["number"], c["trial_id"]))


def ended_trials(study: Study) -> dict[str, dict[str, Any]]:
    """The results of a study's ended trials, by trial id."""
    found = {c["trial_id"]: read_result(study.trials / c["trial_id"]) for c in trial_configs(study)}
    return {trial_id: result for trial_id, result in found.items() if result is not None}


def table(study: Study) -> pd.DataFrame:
    """One row a snapshot, best first; trials without one (failed, diverged early) at the end, with their reason.

    Columns: trial_id, val_ckpt (the snapshot), metrics, seconds, status, reason, path (relative; empty once
    pruned), then every hyperparameter.
    """
    rows: list[dict[str, Any]] = []
    for config in trial_configs(study):
        folder = study.trials / config["trial_id"]
        result = read_result(folder) or {"status": RUNNING, "reason": "", "seconds": None}
        common = {key: result[key] for key in ("seconds", "status", "reason")}
        found = False
        for name in study.family.snapshots:
            card = read_card(folder / f"{name}.json")
            if card is None:
                continue
            found = True
            weights = folder / f"{name}.safetensors"
            rows.append({
                "trial_id": config["trial_id"],
                "val_ckpt": name,
                **{k: v for k, v in card["metrics"].items() if k != "seconds"},
                **common,
                "path": str(weights.relative_to(study.path)) if weights.exists() else "",
                **config["settings"],
            })  # fmt: skip
        if not found:
            rows.append({"trial_id": config["trial_id"], "val_ckpt": "", **common, "path": "", **config["settings"]})
    metric = study.family.metric
    frame = pd.DataFrame(rows, columns=None if rows else [*_FIRST, metric.name, "seconds", "status", "reason", "path"])
    if metric.name not in frame:
        frame[metric.name] = float("nan")
    for name in frame.columns[frame.isna().any()].drop(metric.name, errors="ignore"):
        given = [row.get(name) for row in rows]
        if all(value is None or type(value) is int for value in given):
            # as floats they were 100.0 until the row without a value had one, and 100 then
            frame[name] = pd.Series([math.nan if value is None else value for value in given], dtype=object)
    # stable: of equals, the one proposed first
    frame = frame.sort_values(metric.name, ascending=metric.mode == "min", kind="stable", na_position="last")
    last = ["seconds", "status", "reason", "path"]
    searched = [name for name in study.config["space"] if name in frame]
    middle = [c for c in frame.columns if c not in {*_FIRST, metric.name, *last, *searched}]
    return frame[[*_FIRST, metric.name, *middle, *last, *searched]].reset_index(drop=True)


def usable(study: Study, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of `table` that may be members of an ensemble: of trials that ended well, with weights on disk and a
    finite metric; of snapshots that are the same moment of a trial only the first.

    An imported archive is taken as it was published, equal moments included.
    """
    score = pd.to_numeric(frame[study.family.metric.name], errors="coerce")
    rows = frame[frame["status"].isin(USABLE) & (frame["path"] != "") & np.isfinite(score)]
    return rows if study.config.get("imported") or "step" not in rows else rows.drop_duplicates(["trial_id", "step"])


def write(study: Study, keep: int) -> pd.DataFrame:
    """Bring models.csv up to date and drop the weights of ended trials but for the best `keep` usable checkpoints.

    A checkpoint is a moment of a trial: of snapshots of the same moment, which hold the same weights, the first stays.
    """
    frame = table(study)
    kept = set(usable(study, frame).head(keep).index)
    for index in frame.index[(frame["status"] != RUNNING) & (frame["path"] != "")]:
        if index not in kept:
            (study.path / str(frame.at[index, "path"])).unlink(missing_ok=True)
            frame.at[index, "path"] = ""
    with atomic_path(study.path / "models.csv") as path:
        frame.to_csv(path)
    return frame


def read(path: Path, *numbers: str) -> pd.DataFrame:
    """A models.csv, ours or AESMTE3's; trial ids stay text.

    Args:
        numbers: columns that it must have besides, with finite numbers or nothing.

    Raises:
        BadInput: no such file, or not such a table.
    """
    return read_table(path, _FIRST, numbers)
