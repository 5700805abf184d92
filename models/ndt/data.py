"""Spike counts from NDT and LFADS HDF5 files, checked before anything is trained on them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ground import hdf5
from ground.errors import BadInput
from ground.hdf5 import reading_hdf5
from ground.paths import expanded
from models.ndt.options import resolve

LARGEST_COUNT = 1000  # more spikes in one bin than any neuron fires
LONGEST = 10_000
"""Bins of a trial: attention takes memory that grows with their square."""
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
    truth = None
    if key in file:
        bins = heldin.shape[1] + (0 if forward is None else forward.shape[1])
        units = None if heldout is None else heldin.shape[2] + heldout.shape[2]
        truth = hdf5.array(file, path, key, shape=(heldin.shape[0], bins, units), finite=True, least=0, dtype="f4")
    return Spikes(heldin, heldout, forward, heldout_forward, truth)


def _counts(file: h5py.File, path: Path, key: str) -> np.ndarray:
    meant = "spike counts are (trials, bins, units)"
    array = hdf5.array(file, path, key, rank=3, filled=True, meant=meant, dtype=np.float32)
    if array.shape[1] > LONGEST:
        raise BadInput(f"{path}: {key} has {array.shape[1]} bins a trial; {LONGEST} are the most: cut it into trials")
    values = array
    if file.attrs.get("padded") and key == "eval_data_heldout":
        # our own preparation marks bins that are not part of a trial as NaN, all units at once
        padding = np.isnan(array).all(2)
        values = array[~padding]
    hdf5.refuse_values(values, path, key, least=0)
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
    factor = _factor(file, path)
    parts = []
    for name, array in (("train", train), ("valid", valid)):
        key, truth = f"{name}_truth", None
        if key in file:
            meant = f"that is not the shape of its data {array.shape}"
            truth = hdf5.array(file, path, key, shape=array.shape, meant=meant, finite=True, dtype=np.float32)
            truth = truth[:, :, order] / factor
        parts.append(Spikes(array[:, :, heldin], array[:, :, heldout], truth=truth))
    if parts[1].heldout is not None and parts[1].heldout.sum() == 0:
        raise BadInput(f"{path}: the units held out of valid_data hold not one spike")
    return SpikeData(parts[0], parts[1], str(path))


def _factor(file: h5py.File, path: Path) -> float:
    """By how much an LFADS file's rates are larger than counts."""
    if "conversion_factor" not in file:
        return 1.0
    found = hdf5.array(file, path, "conversion_factor", finite=True).reshape(-1)
    if not len(found) or not found[0] > 0:
        raise BadInput(f"{path}: conversion_factor is no number above zero")
    return float(found[0])


def load(config: Mapping[str, Any], phase: str) -> SpikeData:
    """The data of a search space's `data` block (see `file_of`)."""
    return load_h5(file_of(config, phase), phase, resolve(config).heldout_share)


def shape(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Training trials, bins (observed and forward) and units (held-in and held-out) of a `data` block's file, by its
    description alone.

    Raises:
        BadInput: as `file_of`; no such arrays.
    """
    path = file_of(config, "val")
    about = path.stat()
    return _shape(path, about.st_size, about.st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _shape(path: Path, size: int, changed: int) -> tuple[int, int, int]:
    with reading_hdf5(path) as file:
        if "train_data_heldin" not in file:
            found = hdf5.described(file, path, "train_data", rank=3).shape
            return int(found[0]), int(found[1]), int(found[2])
        trials, bins, units = hdf5.described(file, path, "train_data_heldin", rank=3).shape
        if "train_data_heldin_forward" in file:
            bins += hdf5.described(file, path, "train_data_heldin_forward", rank=3).shape[1]
        if "train_data_heldout" in file:
            units += hdf5.described(file, path, "train_data_heldout", rank=3).shape[2]
    return int(trials), int(bins), int(units)


def file_of(config: Mapping[str, Any], phase: str) -> Path:
    """The file that a `data` block means, made where it is to be.

    Raises:
        BadInput: the block names none, or something unknown.
    """
    options = resolve(config)
    if options.path:
        return expanded(options.path)
    if options.generator:
        from models.ndt import lorenz

        return lorenz.ensure(options.options or {})
    from models.ndt import prepare

    return prepare.ensure(str(options.dataset), phase, options.bin_ms)


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
            hdf5.described(file, path, name)
            digest.update(repr((name, dataset.shape, str(dataset.dtype))).encode())
            rows = dataset.shape[0] if dataset.ndim else 0
            if dataset.nbytes <= _WHOLE or rows <= _SAMPLED:
                digest.update(np.ascontiguousarray(dataset[()]).tobytes())
            else:
                chosen = np.unique(np.linspace(0, rows - 1, _SAMPLED).astype(int))
                digest.update(np.ascontiguousarray(dataset[chosen]).tobytes())
    return digest.hexdigest()
