"""The settings of an inverting network and its training, under one check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ground.errors import BadInput
from ground.settings import Table
from ground.settings import resolve as checked
from models.cellspike.tower import NEVER

DEPTH = 8
"""Most blocks of convolutions, and most dense layers."""
_FILTERS = (30, 90, 180, 180)  # the later optimum of the original search, and on as it ends
_DENSE = (512, 512, 512, 256, 128)

_SETTINGS: Table = {
    # "torch": ReLU, linear output; "keras": leaky ReLU, tanh output, as the first runs
    "DESIGN": ("torch", ("torch", "keras"), None),
    "CONV_DEPTH": (3, 1, DEPTH),
    **{f"FILTERS_{i}": (_FILTERS[min(i, len(_FILTERS)) - 1], 1, 4096) for i in range(1, DEPTH + 1)},
    **{f"KERNEL_{i}": (4, 1, 1024) for i in range(1, DEPTH + 1)},
    **{f"POOL_{i}": (4, 1, 1024) for i in range(1, DEPTH + 1)},
    "FC_DEPTH": (3, 0, DEPTH),
    **{f"FC_{i}": (_DENSE[min(i, len(_DENSE)) - 1], 1, 65536) for i in range(1, DEPTH + 1)},
    # one more dense layer behind them; 0: none
    "FC_LAST": (0, 0, 65536),
    "DROPOUT": (0.05, 0.0, 0.95),
    # where the list of modules has this length; -9: nowhere
    "BATCH_NORM_CNN_SLOT": (NEVER, NEVER, 4 * DEPTH),
    "INSTANCE_NORM_SLOT": (NEVER, NEVER, 4 * DEPTH),
    "LAYER_NORM": (False, None, None),
    "BATCH_NORM_FLAT": (False, None, None),
    "LEGACY_RESHAPE": (False, None, None),
    # a larger network is refused; 0: none is
    "MAX_PARAMETERS": (50_000_000, 0, None),
    "BATCH_SIZE": (128, 1, None),
    # true: samples of each rank's step; false: of all ranks together
    "CONST_LOCAL_BATCH": (True, None, None),
    "EPOCHS": (60, 1, None),
    "OPTIMIZER": ("adam", ("adam", "adamw", "nadam"), None),
    "LR": (1e-3, 0.0, None),
    "WEIGHT_DECAY": (0.0, 0.0, None),
    "EPS": (1e-8, 0.0, 1.0),
    "WARMUP_EPOCHS": (0, 0, None),
    "SCHEDULE": ("plateau", ("constant", "plateau", "cosine"), None),
    "LR_FACTOR": (0.11, 1e-6, 0.999),
    "PLATEAU_PATIENCE": (8, 0, None),
    "PLATEAU_COOLDOWN": (2, 0, None),
    "PLATEAU_MIN_DELTA": (1e-4, 0.0, None),
    # epochs without a lower validation loss; 0: never
    "EARLY_STOP": (0, 0, None),
    "EARLY_STOP_MIN_DELTA": (2e-4, 0.0, None),
    "LOSS": ("mse", ("mse", "huber"), None),
    "HUBER_DELTA": (0.5, 1e-6, None),
    # largest norm of the gradient; 0: no limit
    "CLIP": (0.0, 0.0, None),
    "AMP": (True, None, None),
}

DEFAULTS: dict[str, Any] = {name: default for name, (default, _, _) in _SETTINGS.items()}


def resolve(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The complete settings: defaults overlaid by `settings`, checked.

    Raises:
        BadInput: as `ground.settings.resolve`; a warm-up that no training would outlast.
    """
    config = checked("cellspike", _SETTINGS, settings)
    if config["WARMUP_EPOCHS"] >= config["EPOCHS"]:
        raise BadInput(
            f"WARMUP_EPOCHS is {config['WARMUP_EPOCHS']} of {config['EPOCHS']} EPOCHS: "
            "the rate would never be the one that LR says"
        )
    if config["DESIGN"] == "keras" and config["LEGACY_RESHAPE"]:
        raise BadInput("LEGACY_RESHAPE is of weights of the torch design; DESIGN is keras")
    return config
