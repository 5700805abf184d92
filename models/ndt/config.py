"""The settings of an NDT, under the names its users know, with one check for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ground.settings import Table
from ground.settings import resolve as checked

_SETTINGS: Table = {
    "MODEL.HIDDEN_SIZE": (128, 1, 65536),
    "MODEL.DROPOUT": (0.2, 0.0, 0.99),
    "MODEL.DROPOUT_RATES": (0.2, 0.0, 0.99),
    "MODEL.DROPOUT_EMBEDDING": (0.2, 0.0, 0.99),
    "MODEL.NUM_HEADS": (2, 1, 1024),
    "MODEL.NUM_LAYERS": (4, 1, 256),
    "MODEL.ACTIVATION": ("relu", ("relu", "gelu"), None),
    "MODEL.EMBED_DIM": (0, 0, 1024),
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
    "MODEL.MAX_SPIKE_COUNT": (20, 1, 1000),
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
        BadInput: as `ground.settings.resolve`.
    """
    known = {name: value for name, value in settings.items() if not ignored(name)}
    if str(known.get("TRAIN.EARLY_STOP")).lower() == "masked_loss":
        known["TRAIN.EARLY_STOP"] = "masked"
    return checked("NDT", _SETTINGS, known)
