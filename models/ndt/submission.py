"""Submissions to the Neural Latents Benchmark (EvalAI): one group a dataset, six arrays of rates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from ground.files import atomic_path
from models.base import Predictor
from models.ndt.data import SpikeData

ARRAYS = (
    "train_rates_heldin",
    "train_rates_heldout",
    "eval_rates_heldin",
    "eval_rates_heldout",
    "eval_rates_heldin_forward",
    "eval_rates_heldout_forward",
)


def submission_arrays(predict: Predictor, data: SpikeData) -> dict[str, np.ndarray]:
    """The six arrays, float32 (trials, bins, units); forward bins of training trials are not asked for."""
    arrays = dict(predict(data))
    trained = predict(data.for_training_trials())
    for name in ("heldin", "heldout"):
        arrays[f"train_rates_{name}"] = trained[f"eval_rates_{name}"]
    return {name: arrays[name] for name in ARRAYS if name in arrays}


def write_submission(datasets: Mapping[str, Mapping[str, np.ndarray]], out: Path) -> None:
    """Write one group a dataset."""
    with atomic_path(out) as temporary, h5py.File(temporary, "w") as file:
        for dataset, arrays in datasets.items():
            group = file.create_group(dataset)
            for name, array in arrays.items():
                group.create_dataset(name, data=array, compression="gzip")
