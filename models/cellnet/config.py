"""The settings of a sparse network and its training, under one check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ground.errors import BadInput
from ground.settings import Table
from ground.settings import resolve as checked

Triple = tuple[int, int, int]
Task = Literal["ghost", "charge"]
TASKS: tuple[Task, ...] = ("ghost", "charge")
LARGEST = 32_767
"""Voxels along a side: predictions name them by 16-bit numbers."""
HEADS = {"ghost": "binary", "charge": "charge"}
LOSSES: dict[Task, tuple[str, ...]] = {
    "ghost": ("bce", "bce_l1", "label_weighted", "charge_weighted", "focal"),
    "charge": ("mse", "huber", "downsample_mse"),
}

_SETTINGS: Table = {
    # width of the first level (level i has i times as many channels), levels, residual blocks of each
    "N_CHANNELS": (16, 1, 256),
    "N_STRIDES": (4, 1, 8),
    "REPS": (2, 1, 8),
    # the first so many levels are convolved and halved in y and z only
    "N_2D": (0, 0, 8),
    "CONV_KERNEL": (3, 1, 7),
    # cells of the drift direction that one step down joins
    "DOWNSAMPLE_T": (2, 2, 4),
    "LEAKINESS": (0.0, 0.0, 1.0),
    # the share of the running statistics that each step keeps (PyTorch's momentum is 1 - this)
    "MOMENTUM": (0.99, 0.0, 0.9999),
    "SPATIAL": ("1024,1024,512", None, None),
    # of the charge head: hidden layers; whether all below it stays as INIT gave it
    "N_HIDDEN": (2, 0, 8),
    "FREEZE": (False, None, None),
    "BACKEND": ("auto", ("auto", "torch", "spconv"), None),
    "EPOCHS": (20, 1, None),
    "FILES_PER_STEP": (1, 1, None),
    "OPTIMIZER": ("adam", ("adam", "adamw"), None),
    "LR": (1e-2, 0.0, None),
    "WEIGHT_DECAY": (0.0, 0.0, None),
    "SCHEDULE": ("constant", ("constant", "cosine", "plateau"), None),
    # share of the training over which the rate rises (constant, cosine)
    "WARMUP": (0.0, 0.0, 0.9),
    # plateau: epochs without a lower training loss that are borne, and what the rate is then multiplied by
    "PLATEAU_PATIENCE": (2, 0, None),
    "PLATEAU_FACTOR": (0.2, 1e-6, 0.999),
    # largest norm of the gradient; 0: no limit
    "CLIP": (0.0, 0.0, None),
    # auto: bce of ghosts, mse of charges
    "LOSS": ("auto", ("auto", *LOSSES["ghost"], *LOSSES["charge"]), None),
    "L1": (0.1, 0.0, None),
    "POSITIVE_WEIGHT": (10.0, 1e-6, None),
    "NEGATIVE_WEIGHT": (1.0, 1e-6, None),
    "FOCAL_GAMMA": (2.0, 0.0, 10.0),
    "HUBER": (1.0, 1e-6, None),
    "COARSE": ("5,5,5", None, None),
    "COARSE_WEIGHT": (1.0, 0.0, None),
    # planes' charges as they are, or log(1 + v / INPUT_UNIT)
    "INPUT_SCALE": ("log1p", ("none", "log1p"), None),
    "INPUT_UNIT": (1000.0, 1e-6, None),
    # a charge head learns y / TARGET_UNIT, or log(1 + y / TARGET_UNIT)
    "TARGET_SCALE": ("linear", ("linear", "log1p"), None),
    "TARGET_UNIT": (1.0, 1e-6, None),
    # epochs between validations; validations without a better score that are borne (0: no end)
    "EVALS": (1, 1, None),
    "PATIENCE": (0, 0, None),
    "PIECE_STEPS": (50, 1, None),
}

DEFAULTS: dict[str, Any] = {name: default for name, (default, _, _) in _SETTINGS.items()}


def resolve(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The complete settings: defaults overlaid by `settings`, checked.

    Raises:
        BadInput: as `ground.settings.resolve`; sizes that are none.
    """
    config = checked("cellnet", _SETTINGS, settings)
    if config["CONV_KERNEL"] % 2 == 0:
        raise BadInput(f"CONV_KERNEL is {config['CONV_KERNEL']}; a kernel that is centred has an odd size")
    if config["DOWNSAMPLE_T"] not in (2, 4):
        raise BadInput(f"DOWNSAMPLE_T is {config['DOWNSAMPLE_T']}; it takes 2 or 4")
    triple("COARSE", config["COARSE"])
    if max(triple("SPATIAL", config["SPATIAL"])) > LARGEST:
        raise BadInput(f"SPATIAL is {config['SPATIAL']}; a side has at most {LARGEST} voxels")
    return config


def triple(name: str, text: str) -> tuple[int, int, int]:
    """The three sizes of a setting such as "1024,1024,512", along x, y, z.

    Raises:
        BadInput: not three whole numbers above zero.
    """
    try:
        x, y, z = (int(float(part)) for part in str(text).split(","))
    except ValueError:
        raise BadInput(f"{name} is {text!r}; it takes three sizes x,y,z such as {DEFAULTS[name]}") from None
    if min(x, y, z) < 1:
        raise BadInput(f"{name} is {text!r}; sizes are at least 1")
    return x, y, z


def network_settings(config: Mapping[str, Any], task: str, features: int) -> dict[str, Any]:
    """What the network is built from: the settings, its head and how many features a voxel has."""
    return {
        **config,
        "SPATIAL": list(triple("SPATIAL", config["SPATIAL"])),
        "HEAD": HEADS[task],
        "N_FEATURES": features,
    }


def loss_name(config: Mapping[str, Any], task: Task) -> str:
    """The loss of a training.

    Raises:
        BadInput: it belongs to the other task.
    """
    name = str(config["LOSS"])
    if name == "auto":
        return LOSSES[task][0]
    if name not in LOSSES[task]:
        raise BadInput(f"LOSS is {name}; with task: {task} in the data block it takes one of {', '.join(LOSSES[task])}")
    return name
