"""The settings of an NDT, under the names its users know, with one check for all of them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from ground.errors import BadInput

# name: (default, smallest, largest); a tuple of words instead of bounds lists the choices.
_SETTINGS: dict[str, tuple[Any, Any, Any]] = {
    "MODEL.HIDDEN_SIZE": (128, 1, None),
    "MODEL.DROPOUT": (0.2, 0.0, 0.99),
    "MODEL.DROPOUT_RATES": (0.2, 0.0, 0.99),
    "MODEL.DROPOUT_EMBEDDING": (0.2, 0.0, 0.99),
    "MODEL.NUM_HEADS": (2, 1, None),
    "MODEL.NUM_LAYERS": (4, 1, None),
    "MODEL.ACTIVATION": ("relu", ("relu", "gelu"), None),
    "MODEL.EMBED_DIM": (0, 0, None),
    "MODEL.LINEAR_EMBEDDER": (False, None, None),
    "MODEL.LEARNABLE_POSITION": (True, None, None),
    "MODEL.POSITION.OFFSET": (True, None, None),
    "MODEL.CONTEXT_FORWARD": (-1, None, None),
    "MODEL.CONTEXT_BACKWARD": (0, None, None),
    "MODEL.CONTEXT_WRAP_INITIAL": (False, None, None),
    "MODEL.FULL_CONTEXT": (False, None, None),
    "MODEL.PRE_NORM": (True, None, None),
    "MODEL.SCALE_NORM": (False, None, None),
    "MODEL.FIXUP_INIT": (True, None, None),
    "MODEL.SPIKE_LOG_INIT": (False, None, None),
    "MODEL.RATE_INIT": (True, None, None),
    "MODEL.LOGRATE": (True, None, None),
    "MODEL.DECODER.LAYERS": (1, 1, 2),
    "MODEL.LOSS.TYPE": ("poisson", ("poisson", "cel"), None),
    "MODEL.LOSS.TOPK": (1.0, 1e-6, 1.0),
    "MODEL.MAX_SPIKE_COUNT": (20, 1, None),
    "MODEL.UNMASKED_LOSS_SCALE": (0.0, 0.0, None),
    "DATA.RANDOM_SUBSET_TRIALS": (1.0, 1e-6, 1.0),
    "TRAIN.BATCH_SIZE": (64, 1, None),
    "TRAIN.NUM_UPDATES": (50501, 1, None),
    "TRAIN.MAX_GRAD_NORM": (200.0, 1e-12, None),
    "TRAIN.USE_ZERO_MASK": (True, None, None),
    "TRAIN.MASK_RATIO": (0.2, 1e-6, 1.0),
    "TRAIN.MASK_TOKEN_RATIO": (1.0, 0.0, 1.0),
    "TRAIN.MASK_RANDOM_RATIO": (0.5, 0.0, 1.0),
    "TRAIN.MASK_MODE": ("timestep", ("timestep", "neuron", "full"), None),
    "TRAIN.MASK_MAX_SPAN": (1, 1, None),
    "TRAIN.MASK_SPAN_RAMP_START": (8000, 0, None),
    "TRAIN.MASK_SPAN_RAMP_END": (12000, 0, None),
    "TRAIN.LR.INIT": (1e-3, 0.0, None),
    "TRAIN.LR.SCHEDULE": (True, None, None),
    "TRAIN.LR.SCHEDULER": ("cosine", ("cosine", "invsqrt"), None),
    "TRAIN.LR.WARMUP": (5000, 0, None),
    "TRAIN.WEIGHT_DECAY": (0.0, 0.0, None),
    "TRAIN.EPS": (1e-8, 0.0, None),
    "TRAIN.PATIENCE": (3000, 1, None),
    "TRAIN.VAL_INTERVAL": (20, 1, None),
    "TRAIN.EARLY_STOP": ("co-bps", ("co-bps", "masked", "off"), None),
    "TRAIN.PARITY": (False, None, None),
}
# Bookkeeping of the original program that says nothing about a model; accepted and ignored.
_IGNORED = {
    "SEED", "VARIANT", "USE_TENSORBOARD", "TENSORBOARD_DIR", "CHECKPOINT_DIR", "LOG_DIR", "BASE_TASK_CONFIG",
    "DATA.DATAPATH", "DATA.TRAIN_FILENAME", "DATA.VAL_FILENAME", "DATA.TEST_FILENAME", "DATA.OVERFIT_TEST",
    "DATA.LOG_EPSILON", "MODEL.NAME", "MODEL.TRIAL_LENGTH", "MODEL.REQUIRES_RATES", "TRAIN.DO_VAL",
    "TRAIN.DO_R2", "TRAIN.CHECKPOINT_INTERVAL", "TRAIN.LOG_INTERVAL",
}  # fmt: skip
_IGNORED_PREFIXES = ("SYSTEM.", "TRAIN.TUNE_")

DEFAULTS: dict[str, Any] = {name: default for name, (default, _, _) in _SETTINGS.items()}


def ignored(name: str) -> bool:
    """Whether a setting of the original program has no meaning here."""
    return name in _IGNORED or name.startswith(_IGNORED_PREFIXES)


def resolve(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The complete settings: defaults overlaid by `settings`, checked.

    Raises:
        BadInput: an unknown name (with the nearest known one) or a value of the wrong kind or range.
    """
    config = dict(DEFAULTS)
    for name, value in settings.items():
        if ignored(name):
            continue
        if name not in _SETTINGS:
            near = difflib.get_close_matches(name, _SETTINGS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise BadInput(f"unknown NDT setting {name}{hint}")
        config[name] = _checked(name, value)
    return config


def _checked(name: str, value: Any) -> Any:
    default, low, high = _SETTINGS[name]
    if isinstance(low, tuple):
        word = str(value).lower()
        word = {"masked_loss": "masked", "poisson": "poisson"}.get(word, word)
        if word not in low:
            raise BadInput(f"{name} is {value!r}; it takes one of {', '.join(low)}")
        return word
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise BadInput(f"{name} is {value!r}; it takes true or false")
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        raise BadInput(f"{name} is {value!r}; it takes a number")
    if isinstance(default, int):
        if float(value) != int(value):
            raise BadInput(f"{name} is {value!r}; it takes a whole number")
        value = int(value)
    else:
        value = float(value)
    if (low is not None and value < low) or (high is not None and value > high):
        upper = "" if high is None else f" and at most {high}"
        raise BadInput(f"{name} is {value}; it must be at least {low}{upper}")
    return value
