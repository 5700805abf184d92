"""The settings of an image network and its training, under one check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ground.errors import BadInput
from ground.settings import Table
from ground.settings import resolve as checked
from models.xtcav.schedule import parse_steps

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
    # convnet_app: channels and side of the kernels, units of the dense layer, window and stride of both pools
    "K1CH": (8, 1, None),
    "K1DIM": (8, 1, None),
    "K2CH": (8, 1, None),
    "K2DIM": (6, 1, None),
    "H3U": (10, 1, None),
    "POOL": ("13,10", None, None),
    # of the published nets: standard deviation of the truncated normal at the start, kernels and dense (0: the net's)
    "KSTD": (0.0, 0.0, None),
    "WSTD": (0.0, 0.0, None),
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
    "SHIFT": (2, 0, None),
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
        parse_steps(schedule)
    config["LR.SCHEDULE"] = schedule
    pool(config["POOL"])
    return config


def pool(text: str) -> tuple[int, int]:
    """The window and stride of POOL, "13,10".

    Raises:
        BadInput: not two whole numbers above zero.
    """
    try:
        window, stride = (int(part) for part in str(text).split(","))
    except ValueError:
        raise BadInput(f"POOL is {text!r}; it takes window,stride such as 13,10") from None
    if window < 1 or stride < 1:
        raise BadInput(f"POOL is {text!r}; window and stride are at least 1")
    return window, stride
