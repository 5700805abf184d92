"""Whether a network can be trained on trials of some shape, told before memory is taken for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ground.errors import BadInput
from models.ndt.data import LONGEST

MOST_BYTES = 128 * 2**30
"""Of a training step; no device has more."""


def refuse_unfit(config: Mapping[str, Any], trials: int, length: int, units: int) -> None:
    """Raises BadInput where the trials are too long, or a training step would take more memory than any device has.

    Args:
        config: complete settings.
        trials: for training.
        length: observed and forward bins.
        units: held-in and held-out ones.
    """
    if length > LONGEST:
        raise BadInput(f"trials of {length} bins; {LONGEST} are the most")
    width = units * max(config["MODEL.EMBED_DIM"], 1)
    heads, hidden = config["MODEL.NUM_HEADS"], config["MODEL.HIDDEN_SIZE"]
    inner = heads * math.ceil(width / heads)
    layers, counts = config["MODEL.NUM_LAYERS"], 1
    if config["MODEL.LOSS.TYPE"] == "cel":
        counts = config["MODEL.MAX_SPIKE_COUNT"]
    batch = min(config["TRAIN.BATCH_SIZE"], trials)
    parameters = layers * (4 * width * inner + 2 * width * hidden) + width * units * counts
    activations = layers * (heads * length + 4 * width + hidden) * length * batch + batch * length * units * counts
    # float32; of each parameter also its gradient and Adam's two moments
    size = 4 * (4 * parameters + activations)
    if size > MOST_BYTES:
        raise BadInput(
            f"a training step of {layers} layers, {heads} heads and {hidden} hidden units on {batch} trials of "
            f"{length} bins x {units} units would take {size / 2**30:.0f} GiB; {MOST_BYTES >> 30} are the most"
        )
