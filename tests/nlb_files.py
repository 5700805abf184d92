"""NWB pairs in the DANDI layout of the seven NLB datasets: Lorenz-driven spikes, the trial fields each needs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pynwb import NWBHDF5IO, NWBFile, TimeSeries

from models.ndt.lorenz import generate
from models.ndt.prepare import DATASETS

TRIALS = {"train": 8, "val": 4, "test": 4}
HELDIN, HELDOUT = 6, 3
LENGTH = 2.4  # seconds from one trial's start to the next's


def write_pair(dataset: str, raw: Path, seed: int = 0) -> Path:
    """A training file (train and val trials, all units, behaviour) and a test file (held-in units alone)."""
    source = DATASETS[dataset]
    folder = raw / source.dandiset / source.subject
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    stem = f"{source.subject}_ses-x_desc"
    splits = ["train"] * TRIALS["train"] + ["val"] * TRIALS["val"]
    _write(folder / f"{stem}-train_behavior+ecephys.nwb", dataset, rng.permutation(splits).tolist(), True, rng)
    _write(folder / f"{stem}-test_ecephys.nwb", dataset, ["test"] * TRIALS["test"], False, rng)
    return folder


def _write(path: Path, dataset: str, splits: list[str], full: bool, rng: np.random.Generator) -> None:
    file = NWBFile("generated", str(path.name), datetime(2021, 1, 1, tzinfo=UTC))
    starts = 0.5 + LENGTH * np.arange(len(splits))
    end = float(starts[-1] + LENGTH + 1.0)
    fields = _fields(dataset, starts, rng, full)
    for name in fields:
        if name not in ("start_time", "stop_time"):
            file.add_trial_column(name, name)
    file.add_trial_column("split", "train, val or test")
    for index, split in enumerate(splits):
        file.add_trial(**{name: values[index] for name, values in fields.items()}, split=split)
    units = HELDIN + (HELDOUT if full else 0)
    file.add_unit_column("heldout", "whether the unit is held out")
    bins = int(end / 0.02)
    options = {"conditions": 1, "train_trials": 1, "eval_trials": 1, "bins": bins, "forward_bins": 1}
    options |= {"heldin_units": units, "heldout_units": 1, "rate": 0.5, "seed": int(rng.integers(1000))}
    truth = generate(options)
    counts = truth["train_data_heldin"][0].astype(int)
    for unit in range(units):
        at = np.repeat(np.arange(bins), counts[:, unit]) * 0.02
        times = np.unique(np.round(at + rng.uniform(0, 0.0199, len(at)), 4))
        heldout = unit >= HELDIN
        file.add_unit(spike_times=times, obs_intervals=np.array([[0.0, end]]), heldout=heldout)
    if full and dataset != "dmfc_rsg":
        name = "finger_vel" if dataset == "mc_rtt" else "hand_vel"
        samples = int(end * 1000)
        walk = np.cumsum(rng.normal(size=(samples, 2)), 0)
        series = TimeSeries(
            name=name, data=walk, unit="mm/s", timestamps=np.arange(samples) / 1000, comments="columns=[x,y]"
        )
        module = file.create_processing_module("behavior", "movement")
        module.add(series)
    with NWBHDF5IO(str(path), "w") as io:
        io.write(file)


def _fields(dataset: str, starts: np.ndarray, rng: np.random.Generator, full: bool) -> dict[str, Any]:
    count = len(starts)
    fields: dict[str, Any] = {"start_time": starts, "stop_time": starts + LENGTH - 0.1}
    if dataset == "mc_rtt":
        fields["stop_time"] = starts + 0.6
        return fields
    if dataset == "dmfc_rsg":
        set_time = starts + 0.3
        tp = rng.uniform(700, 1200, count)
        fields |= {
            "set_time": set_time,
            "go_time": set_time + tp / 1000,
            "is_eye": np.zeros(count, int),
            "theta": np.zeros(count, int),
            "is_short": np.zeros(count, int),
            "ts": np.full(count, 800.0),
            "tp": tp if full else np.full(count, np.nan),
            "is_outlier": np.zeros(count, int),
        }
        fields["start_time"] = starts - 0.4
        fields["stop_time"] = fields["go_time"] + 0.4
        return fields
    fields["move_onset_time"] = starts + 0.6
    if dataset == "area2_bump":
        fields |= {"ctr_hold_bump": np.arange(count) % 2, "cond_dir": np.full(count, 90.0)}
    else:
        fields |= {"trial_type": np.arange(count) % 2, "trial_version": np.zeros(count, int)}
    return fields
