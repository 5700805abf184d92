"""The Lorenz-driven Poisson population on which LFADS and the NDT are tested, generated with known true rates.

A few initial conditions of the Lorenz system (sigma 10, rho 28, beta 8/3) are integrated; each unit's log-rate
is a random mixture of the three standardised coordinates; counts are Poisson (Pandarinath et al. 2018,
Nature Methods, "synthetic data from Lorenz"). Every trial belongs to one condition.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.integrate import solve_ivp

from ground.errors import BadInput
from ground.files import atomic_path
from ground.limits import shown
from ground.paths import made
from ground.settings import Table, mark, resolve
from models.ndt.folders import folder

DEFAULTS: dict[str, int | float] = {
    "conditions": 30,
    "train_trials": 240,
    "eval_trials": 90,
    "bins": 50,
    "forward_bins": 10,
    "heldin_units": 24,
    "heldout_units": 8,
    "rate": 0.35,
    "seed": 0,
}
_MOST = {"bins": 10_000, "forward_bins": 10_000, "heldin_units": 10_000, "heldout_units": 10_000, "rate": 100}
_TABLE: Table = {
    name: (default, 0 if name in ("seed", "forward_bins") else 1e-6 if name == "rate" else 1, _MOST.get(name, 100_000))
    for name, default in DEFAULTS.items()
}


def checked(options: Mapping[str, Any]) -> dict[str, int | float]:
    """All options.

    Raises:
        BadInput: an unknown one, or a value of the wrong kind or range.
    """
    unknown = sorted(str(name) for name in set(options) - set(DEFAULTS))
    if unknown:
        raise BadInput(f"unknown lorenz option {shown(unknown[0])[1:-1]}; known are {', '.join(DEFAULTS)}")
    try:
        return resolve("lorenz", _TABLE, options)
    except BadInput as error:
        raise BadInput(f"lorenz option {error}") from None


def generate(options: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of an NDT file, with `train_truth` and `eval_truth` (expected spikes a bin).

    Args:
        options: any of `DEFAULTS`; `rate` is the mean expected spikes a bin.
    """
    o = checked(options)
    rng = np.random.default_rng(int(o["seed"]))
    bins, units = int(o["bins"] + o["forward_bins"]), int(o["heldin_units"] + o["heldout_units"])
    times = np.arange(bins) * 0.025
    settle = 5.0
    paths = np.stack([
        solve_ivp(_flow, (0, settle + times[-1]), start, t_eval=settle + times, rtol=1e-7, atol=1e-7).y.T
        for start in rng.normal([0, 0, 25], 10, (int(o["conditions"]), 3))
    ])  # fmt: skip
    paths = (paths - paths.mean((0, 1))) / paths.std((0, 1))
    mixing = rng.normal(0, 0.5, (3, units))
    rates = np.exp(paths @ mixing)
    rates *= o["rate"] * rng.uniform(0.5, 1.5, units) / rates.mean((0, 1))
    arrays: dict[str, np.ndarray] = {}
    cut, split = int(o["bins"]), int(o["heldin_units"])
    for part in ("train", "eval"):
        condition = rng.permutation(np.arange(int(o[f"{part}_trials"])) % int(o["conditions"]))
        truth = rates[condition]
        counts = rng.poisson(truth).astype(np.float32)
        arrays[f"{part}_data_heldin"] = counts[:, :cut, :split]
        arrays[f"{part}_data_heldout"] = counts[:, :cut, split:]
        if o["forward_bins"]:
            arrays[f"{part}_data_heldin_forward"] = counts[:, cut:, :split]
            arrays[f"{part}_data_heldout_forward"] = counts[:, cut:, split:]
        arrays[f"{part}_truth"] = truth.astype(np.float32)
        arrays[f"{part}_condition"] = condition
    return arrays


def _flow(_t: float, y: np.ndarray) -> list[float]:
    return [10.0 * (y[1] - y[0]), y[0] * (28.0 - y[2]) - y[1], y[0] * y[1] - 8.0 / 3.0 * y[2]]


def ensure(options: Mapping[str, Any]) -> Path:
    """The file of these options in NDT_CACHE_DIR, generated if it is not there yet."""
    checked(options)
    path = made(folder("NDT_CACHE_DIR")) / f"lorenz_{mark({**DEFAULTS, **options})}_train.h5"
    if not path.exists():
        arrays = generate(options)
        with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
            for name, array in arrays.items():
                file.create_dataset(name, data=array, compression="gzip")
    return path
