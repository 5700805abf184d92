"""The settings of an image network and its training, under one check."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ground.errors import BadInput
from ground.settings import Table
from ground.settings import resolve as checked
from models.xtcav.schedule import parse

PUBLISHED = (
    "convnet_app",
    "tensorflow_simple",
    "keras_simple",
    "six_layer",
    "seven_layer",
    "lasing_report",
    "two_colour",
)
MODERN = ("cnn", "residual", "resnet18", "mobilenet_v3_small")
SCHEDULES = ("cosine", "plateau", "constant")

_SETTINGS: Table = {
    "NET": ("cnn", (*MODERN, *PUBLISHED), None),
    # cnn and residual: channels of the first stage, stages (each halves the image), cells of the last pooling, hidden
    # units of the dense layer
    "WIDTH": (16, 1, 512),
    "DEPTH": (4, 1, 7),
    "GRID": (4, 1, 32),
    "HIDDEN": (64, 0, 4096),
    "DROPOUT": (0.2, 0.0, 0.95),
    # convnet_app: channels, side, strides (rows, columns) of the kernels, units of the dense layer, window and stride
    # of both pools
    "K1CH": (8, 1, 4096),
    "K1DIM": (8, 1, 1024),
    "K1STRD": ("1,1", None, None),
    "K2CH": (8, 1, 4096),
    "K2DIM": (6, 1, 1024),
    "K2STRD": ("1,1", None, None),
    "H3U": (10, 1, 65536),
    "POOL": ("13,10", None, None),
    # of the published nets: standard deviation of the truncated normal at the start, kernels and dense (0: the net's),
    # and the biases of some layers
    "KSTD": (0.0, 0.0, None),
    "WSTD": (0.0, 0.0, None),
    "BIAS": ("", None, None),
    "SCALARS": (True, None, None),
    "OPTIMIZER": ("adamw", ("adamw", "adam", "momentum"), None),
    "MOMENTUM": (0.9, 0.0, 0.9999),
    "LR": (2e-3, 0.0, None),
    "LR.SCHEDULE": ("cosine", None, None),
    "WARMUP": (0.05, 0.0, 0.9),
    "WEIGHT_DECAY": (1e-2, 0.0, None),
    "PENALTY.L1": (0.0, 0.0, None),
    "PENALTY.L2": (0.0, 0.0, None),
    "PENALTY.LAST": (1.0, 0.0, None),
    "CLIP": (0.0, 0.0, None),
    "AVERAGE": (0.0, 0.0, 0.9999),
    "BATCH_SIZE": (32, 1, None),
    "EPOCHS": (12, 1, None),
    "STEPS": (0, 0, None),
    "EVALS": (0, 0, None),
    "PATIENCE": (0, 0, None),
    "PIECE_STEPS": (50, 1, None),
    "LABEL_SMOOTHING": (0.05, 0.0, 0.9),
    "CLASS_WEIGHTS": ("none", ("none", "balanced", "root"), None),
    "SAMPLING": ("plain", ("plain", "balanced", "weighted"), None),
    "SHIFT": (2, 0, 4096),
    "GAIN": (0.0, 0.0, 0.9),
    "NOISE": (0.0, 0.0, None),
    "HUBER": (1.0, 1e-6, None),
    "PRESENCE": (1.0, 0.0, None),
    "MEMORY": (0.9, 0.01, None),
}

DEFAULTS: dict[str, Any] = {name: default for name, (default, _, _) in _SETTINGS.items()}


def resolve(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The complete settings: defaults overlaid by `settings`, checked.

    Raises:
        BadInput: as `ground.settings.resolve`.
    """
    config = checked("xtcav", _SETTINGS, settings)
    schedule = str(config["LR.SCHEDULE"]).lower()
    if schedule not in SCHEDULES:
        parse(schedule)
    config["LR.SCHEDULE"] = schedule
    for name in _PAIRS:
        pair(config, name)
    biases(config)
    return config


_PAIRS = {"POOL": "window,stride such as 13,10", "K1STRD": "rows,columns such as 2,2", "K2STRD": "rows,columns"}


def pair(config: Mapping[str, Any], name: str) -> tuple[int, int]:
    """The two numbers of POOL ("13,10"), K1STRD or K2STRD.

    Raises:
        BadInput: not two whole numbers above zero.
    """
    text = config[name]
    try:
        first, second = (int(part) for part in str(text).split(","))
    except ValueError:
        raise BadInput(f"{name} is {text!r}; it takes {_PAIRS[name]}") from None
    if first < 1 or second < 1:
        raise BadInput(f"{name} is {text!r}; both are at least 1")
    return first, second


def biases(config: Mapping[str, Any]) -> dict[int, float]:
    """The first values of BIAS ("1=0.1,3=0.5"), by layer: convolutions and dense layers, counted from 1.

    Raises:
        BadInput: not such numbers.
    """
    text = config["BIAS"]
    try:
        # the original wrote 1:0.1, which unquoted YAML takes for hours and minutes
        pairs = [part.replace(":", "=").split("=") for part in str(text).split(",") if part]
        found = {int(layer): float(value) for layer, value in pairs}
        if len(found) < len(pairs) or any(not math.isfinite(value) for value in found.values()):
            raise ValueError
    except ValueError:
        raise BadInput(f"BIAS is {text!r}; it takes layer=value,... such as 1=0.1,3=0.5") from None
    return found
