"""Spike counts from NDT and LFADS HDF5 files, checked before anything is trained on them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ground.errors import BadInput
from ground.hdf5 import reading_hdf5

LARGEST_COUNT = 1000  # more spikes in one bin than any neuron fires
_WHOLE, _SAMPLED = 64 * 2**20, 256  # bytes that a fingerprint reads whole; trials of what is larger


@dataclass(frozen=True)
class Spikes:
    """Counts of one set of trials, float32; what a file does not hold is None.

    Attributes:
        heldin: (trials, bins, held-in units).
        heldout: (trials, bins, held-out units).
        heldin_forward, heldout_forward: the same units in the bins after the observed ones.
        truth: expected spikes a bin, (trials, bins + forward, units), where the true rates are known.
    """

    heldin: np.ndarray
    heldout: np.ndarray | None = None
    heldin_forward: np.ndarray | None = None
    heldout_forward: np.ndarray | None = None
    truth: np.ndarray | None = None

    @property
    def trials(self) -> int:
        return int(self.heldin.shape[0])

    def take(self, trials: np.ndarray) -> Spikes:
        """The same of some trials."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: array[trials] for name, array in arrays.items() if array is not None})

    @property
    def forward(self) -> np.ndarray | None:
        """(trials, forward bins, units), held-in first."""
        if self.heldin_forward is None:
            return None
        if self.heldout_forward is None:
            return self.heldin_forward
        return np.concatenate([self.heldin_forward, self.heldout_forward], 2)


@dataclass(frozen=True)
class SpikeData:
    """What an NDT learns from (`train`) and is scored on (`eval`)."""

    train: Spikes
    eval: Spikes
    source: str

    @property
    def bins(self) -> int:
        return int(self.train.heldin.shape[1])

    @property
    def forward_bins(self) -> int:
        forward = self.train.forward
        return 0 if forward is None else int(forward.shape[1])

    @property
    def heldin_units(self) -> int:
        return int(self.train.heldin.shape[2])

    @property
    def heldout_units(self) -> int:
        return 0 if self.train.heldout is None else int(self.train.heldout.shape[2])

    def for_training_trials(self) -> SpikeData:
        """The same data with the training trials in the place of the evaluated ones."""
        return replace(self, eval=self.train)


def load_h5(path: Path, phase: str = "val", heldout_share: float = 0.25) -> SpikeData:
    """Read a file in NDT form (`train_data_heldin`, ...) or LFADS form (`train_data`, `valid_data`, ...).

    An LFADS file knows no held-out units; `heldout_share` of its units, spread evenly, are held out, so that
    co-bps can be scored.

    Raises:
        BadInput: missing or unreadable file, missing arrays, shapes that do not agree, impossible counts.
    """
    with reading_hdf5(path) as file:
        if "train_data_heldin" in file:
            return _ndt(file, path, phase)
        if "train_data" in file:
            return _lfads(file, path, heldout_share)
        keys = ", ".join(sorted(file)) or "nothing"
        raise BadInput(f"{path}: neither an NDT file (train_data_heldin) nor an LFADS file (train_data); has {keys}")


def open_h5(path: Path) -> SpikeData:
    """Read a file for prediction: any with `eval_data_heldin` will do, training trials or not."""
    with reading_hdf5(path) as file:
        if "train_data" not in file and "eval_data_heldin" not in file:
            raise BadInput(f"{path}: has no eval_data_heldin")
        if "train_data" not in file and "train_data_heldin" not in file:
            spikes = _part(file, path, "eval")
            return SpikeData(spikes, spikes, str(path))
    return load_h5(path, "test")


def _ndt(file: h5py.File, path: Path, phase: str) -> SpikeData:
    if "eval_data_heldin" not in file:
        raise BadInput(f"{path}: has no eval_data_heldin")
    train, evaluated = _part(file, path, "train"), _part(file, path, "eval")
    if phase == "val":
        if train.heldout is None:
            raise BadInput(f"{path}: has no train_data_heldout: co-bps needs held-out units to learn")
        if evaluated.heldout is None:
            raise BadInput(f"{path}: has no eval_data_heldout: a search needs it to score (is this a test-phase file?)")
    for name in ("heldin", "heldout", "heldin_forward", "heldout_forward"):
        a, b = getattr(train, name), getattr(evaluated, name)
        if a is not None and b is not None and a.shape[1:] != b.shape[1:]:
            raise BadInput(
                f"{path}: train_data_{name} {a.shape} and eval_data_{name} {b.shape} differ in bins or units"
            )
    if phase == "val" and evaluated.heldout is not None and not np.nansum(evaluated.heldout):
        raise BadInput(f"{path}: eval_data_heldout holds not one spike, so co-bps is undefined")
    return SpikeData(train, evaluated, str(path))


def _part(file: h5py.File, path: Path, part: str) -> Spikes:
    arrays = {}
    for name in ("heldin", "heldout", "heldin_forward", "heldout_forward"):
        key = f"{part}_data_{name}"
        arrays[name] = _counts(file, path, key) if key in file else None
    heldin, heldout = arrays["heldin"], arrays["heldout"]
    forward, heldout_forward = arrays["heldin_forward"], arrays["heldout_forward"]
    assert heldin is not None
    pairs = (
        ("heldout", heldin, heldout, (0, 1)),
        ("heldin_forward", heldin, forward, (0, 2)),
        ("heldout_forward", heldout, heldout_forward, (0, 2)),
        ("heldout_forward", forward, heldout_forward, (0, 1)),
    )
    for name, a, b, axes in pairs:
        if a is not None and b is not None and any(a.shape[x] != b.shape[x] for x in axes):
            raise BadInput(f"{path}: {part}_data_{name} {b.shape} does not fit the other arrays ({a.shape})")
    if heldout is not None and forward is not None and heldout_forward is None:
        raise BadInput(f"{path}: has {part}_data_heldin_forward but no {part}_data_heldout_forward")
    key = f"{part}_truth"
    truth = np.asarray(file[key][()], dtype=np.float32) if key in file else None
    return Spikes(heldin, heldout, forward, heldout_forward, truth)


def _counts(file: h5py.File, path: Path, key: str) -> np.ndarray:
    dataset = file[key]
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "iufb":
        raise BadInput(f"{path}: {key} is not an array of numbers")
    if dataset.ndim != 3:
        raise BadInput(f"{path}: {key} has shape {dataset.shape}; spike counts are (trials, bins, units)")
    if 0 in dataset.shape:
        raise BadInput(f"{path}: {key} is empty, shape {dataset.shape}")
    array = np.asarray(dataset[()], dtype=np.float32)
    values = array
    if file.attrs.get("padded") and key == "eval_data_heldout":
        # our own preparation marks bins that are not part of a trial as NaN, all units at once
        padding = np.isnan(array).all(2)
        values = array[~padding]
    if not np.isfinite(values).all():
        raise BadInput(f"{path}: {key} holds {int((~np.isfinite(values)).sum())} non-finite values")
    if (values < 0).any():
        raise BadInput(f"{path}: {key} holds negative counts (smallest {values.min():g})")
    if (values != np.floor(values)).any():
        raise BadInput(f"{path}: {key} holds fractions; spike counts are whole numbers")
    if values.max(initial=0) > LARGEST_COUNT:
        raise BadInput(f"{path}: {key} holds a count of {values.max():g} in one bin; are these spike counts?")
    return array


def _lfads(file: h5py.File, path: Path, share: float) -> SpikeData:
    if "valid_data" not in file:
        raise BadInput(f"{path}: has no valid_data")
    train, valid = _counts(file, path, "train_data"), _counts(file, path, "valid_data")
    if train.shape[1:] != valid.shape[1:]:
        raise BadInput(f"{path}: train_data {train.shape} and valid_data {valid.shape} differ in bins or units")
    units = train.shape[2]
    if units < 2:
        raise BadInput(f"{path}: {units} unit; co-smoothing needs at least two")
    count = min(max(1, round(units * share)), units - 1)
    heldout = np.unique(np.linspace(0, units - 1, count + 2)[1:-1].round().astype(int))
    heldin = np.setdiff1d(np.arange(units), heldout)
    order = np.concatenate([heldin, heldout])
    factor = float(np.asarray(file["conversion_factor"][()]).reshape(-1)[0]) if "conversion_factor" in file else 1.0
    parts = []
    for name, array in (("train", train), ("valid", valid)):
        key, truth = f"{name}_truth", None
        if key in file:
            truth = np.asarray(file[key][()], dtype=np.float32) / factor
            if truth.shape != array.shape:
                raise BadInput(f"{path}: {key} {truth.shape} is not the shape of its data {array.shape}")
            truth = truth[:, :, order]
        parts.append(Spikes(array[:, :, heldin], array[:, :, heldout], truth=truth))
    if parts[1].heldout is not None and parts[1].heldout.sum() == 0:
        raise BadInput(f"{path}: the units held out of valid_data hold not one spike")
    return SpikeData(parts[0], parts[1], str(path))


def load(config: Mapping[str, Any], phase: str) -> SpikeData:
    """The data of a search space's `data` block (see `file_of`)."""
    return load_h5(file_of(config, phase), phase, float(config.get("heldout_share", 0.25)))


def file_of(config: Mapping[str, Any], phase: str) -> Path:
    """The file that a `data` block means.

    `path` names one; `generator: lorenz` makes one; `dataset` names one of the NLB datasets, whose file is
    prepared on demand from the raw NWB.

    Raises:
        BadInput: the block names none of them, or something unknown.
    """
    known = {"path", "generator", "dataset", "heldout_share", "bin_ms", "options"}
    unknown = sorted(set(config) - known)
    if unknown:
        raise BadInput(f"unknown data key {unknown[0]}; known are {', '.join(sorted(known))}")
    if "path" in config:
        return Path(config["path"]).expanduser()
    if config.get("generator") == "lorenz":
        from models.ndt import lorenz

        return lorenz.ensure(config.get("options") or {})
    if "generator" in config:
        raise BadInput(f"unknown generator {config['generator']!r}; there is lorenz")
    if "dataset" in config:
        from models.ndt import prepare

        return prepare.ensure(str(config["dataset"]), phase, int(config.get("bin_ms", 5)))
    raise BadInput("the data block names neither path, dataset nor generator")


def fingerprint(config: Mapping[str, Any]) -> str:
    """A digest of the counts that a `data` block means: each array's shape and type, and its content.

    Small arrays count whole, of larger ones a few hundred trials, spread evenly.
    """
    path = file_of(config, "val")
    digest = hashlib.sha256(repr(config.get("heldout_share")).encode())
    with reading_hdf5(path) as file:
        for name in sorted(file):
            dataset = file[name]
            if not isinstance(dataset, h5py.Dataset) or "_data" not in name:
                continue
            digest.update(repr((name, dataset.shape, str(dataset.dtype))).encode())
            rows = dataset.shape[0] if dataset.ndim else 0
            if dataset.nbytes <= _WHOLE or rows <= _SAMPLED:
                digest.update(np.ascontiguousarray(dataset[()]).tobytes())
            else:
                chosen = np.unique(np.linspace(0, rows - 1, _SAMPLED).astype(int))
                digest.update(np.ascontiguousarray(dataset[chosen]).tobytes())
    return digest.hexdigest()
