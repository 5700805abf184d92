"""Checkpoints of the original program (AESMTE3), read without trusting them.

A `.pth` is a pickle, and a pickle can run any code. Only what those files are made of is let through: torch
tensors, plain containers, numpy scalars and the yacs settings node, which is read as an OrderedDict.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ground import pickled
from ground.errors import BadInput
from ground.limits import LARGEST_WHOLE
from models.ndt import config as settings
from models.ndt.network import build
from models.ndt.prepare import known

_ALSO = {
    "yacs.config CfgNode",
    *(f"numpy{core}.multiarray scalar" for core in (".core", "._core")),
    "numpy dtype",
    *(f"numpy.dtypes {kind}DType" for kind in ("Float64", "Float32", "Int64", "Int32", "Bool")),
}
"""What its pickles name besides tensors and plain containers."""
_TRIAL_LENGTH = "MODEL.TRIAL_LENGTH"
_NEEDED = ("state_dict", "config", "max_spikes", "num_neurons", "trial_length")


def load(path: Path) -> dict[str, Any]:
    """The content of a published checkpoint.

    Raises:
        BadInput: unreadable, truncated, missing a part, or a pickle that asks for anything not on the list.
    """
    numpy_core: Any = getattr(np, "_core", None) or np.core
    types: list[Any] = [
        (OrderedDict, "yacs.config.CfgNode"),
        (numpy_core.multiarray.scalar, "numpy.core.multiarray.scalar"),
        numpy_core.multiarray.scalar,
        np.dtype,
        *(type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "?")),
    ]
    content = pickled.load(path, _ALSO, types)
    if not isinstance(content, dict):
        raise BadInput(f"{path}: not a checkpoint but a {type(content).__name__}")
    missing = [name for name in _NEEDED if name not in content]
    if missing:
        raise BadInput(f"{path}: has no {missing[0]}")
    return content


def flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted ones."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def convert(path: Path, dataset: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings and weights of a published checkpoint, as `Family.restore` takes them.

    The file says how many units and bins there are in all; which of them are held out and forward, the dataset does.

    Raises:
        BadInput: as `load`, weights that do not fit their settings, or another dataset's sizes.
    """
    content = load(path)
    if not isinstance(content["config"], Mapping) or not isinstance(content["state_dict"], Mapping):
        raise BadInput(f"{path}: its config or state_dict is no mapping")
    state = content["state_dict"]
    bad = [k for k, v in state.items() if not isinstance(v, torch.Tensor)]
    if bad:
        raise BadInput(f"{path}: its state_dict entry {bad[0]} is no tensor")
    flat = flatten(content["config"])
    try:
        config = settings.resolve({k: v for k, v in flat.items() if k in settings.DEFAULTS})
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    length, units = (_whole(path, name, content[name], 1) for name in ("trial_length", "num_neurons"))
    weights = {
        "network": dict(state),
        "length": length,
        "units": units,
        "max_spikes": _whole(path, "max_spikes", content["max_spikes"], 0),
        "seed": _whole(path, "SEED", flat.get("SEED", 0)),
        **_observed(path, dataset, units, length, _whole(path, _TRIAL_LENGTH, flat.get(_TRIAL_LENGTH, 0))),
    }
    try:
        build(config, weights, "cpu")
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise BadInput(f"{path}: weights do not fit the settings ({' '.join(lines[1:2]) or lines[0]})"[:300]) from None
    return config, weights


def _whole(path: Path, name: str, value: Any, least: int | None = None) -> int:
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    whole = number and math.isfinite(value) and value == int(value) and abs(value) <= LARGEST_WHOLE
    if not whole or (least is not None and value < least):
        raise BadInput(f"{path}: its {name} is no whole number{'' if least is None else f' from {least}'}")
    return int(value)


def _observed(path: Path, dataset: str, units: int, length: int, cut: int) -> dict[str, int]:
    """The observed bins and held-in units of a network for a dataset.

    Args:
        units, length: of the network, held-out units and forward bins among them.
        cut: the run's TRIAL_LENGTH; above zero, the network saw the trials' first `cut + forward` bins only.
    """
    source = known(dataset)
    if 0 < cut < source.bins:
        raise BadInput(
            f"{path}: {_TRIAL_LENGTH} is {cut}, so its network saw the first {cut + source.forward} bins only; "
            f"it cannot predict the {source.bins} + {source.forward} bins of {dataset}"
        )
    heldin = {sum(both): both[0] for both in source.units}
    if units not in heldin or length != source.bins + source.forward:
        raise BadInput(f"{path}: a network of {length} bins x {units} units is none of {dataset}")
    return {"bins": source.bins, "heldin_units": heldin[units]}


def subset_of_trials(config: Mapping[str, Any], seed: int, trials: int) -> np.ndarray:
    """The training trials an original run saw: with RANDOM_SUBSET_TRIALS below 1 a part, in drawn order.

    Args:
        config: complete settings.
        seed: the run's own (`config.SEED` of its checkpoint).
        trials: how many training trials the dataset has.
    """
    share = float(config["DATA.RANDOM_SUBSET_TRIALS"])
    if share >= 1:
        return np.arange(trials)
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(trials, generator=generator)[: int(trials * share)].numpy()
