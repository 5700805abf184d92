"""The networks and the names of their layers, known without building any."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any

from ground.errors import BadInput

EFFICIENTNETS = tuple(f"efficientnet_b{i}" for i in range(8))
LITE = "efficientnet_lite0"
RESNETS = ("resnet18", "resnet34", "resnet50")
NETS = ("cnn", *EFFICIENTNETS, LITE, *RESNETS)

POOL, FEATURES, PROBABILITIES = "pool", "features", "probabilities"
_REPEATS = (1, 2, 2, 3, 3, 4, 1)
_DEPTHS = (1.0, 1.1, 1.2, 1.4, 1.8, 2.2, 2.6, 3.1)
_ALSO = {"pool5": POOL, "avg_pool": POOL, "classprob": PROBABILITIES}
"""What DeepProfiler's own configurations call them."""


def blocks(net: str) -> tuple[int, ...]:
    """How many blocks each stage of an EfficientNet has: the ones of B0 times the depth coefficient, rounded up."""
    depth = 1.0 if net == LITE else _DEPTHS[EFFICIENTNETS.index(net)]
    # the lite networks leave the first and the last stage alone, which for lite0 is no difference
    return tuple(math.ceil(depth * repeats) for repeats in _REPEATS)


def layers(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The layers whose features can be had of the network that the settings name.

    cnn: block1, block2, … (after the max pooling), pool, features (the dense layer). EfficientNets, as Keras counts
    them: block1a, block2a, block2b, … (after the projection) and block6a_activation and the like (after the depthwise
    convolution, its normalisation and activation), pool. ResNets: layer1 to layer4, pool. All: probabilities. Maps are
    averaged over the crop.
    """
    net = str(config["NET"])
    if net == "cnn":
        found = [*(f"block{i + 1}" for i in range(config["BLOCKS"])), POOL, FEATURES]
    elif net in RESNETS:
        found = [*(f"layer{i}" for i in range(1, 5)), POOL]
    else:
        each = [f"block{i + 1}{chr(ord('a') + j)}" for i, count in enumerate(blocks(net)) for j in range(count)]
        found = [name for block in each for name in (f"{block}_activation", block)] + [POOL]
    return (*found, PROBABILITIES)


def known(config: Mapping[str, Any], layer: str) -> str:
    """The layer that a user means.

    Raises:
        BadInput: the network has no such layer.
    """
    word = layer.strip().lower()
    word = _ALSO.get(word, word)
    there = layers(config)
    if word not in there:
        near = difflib.get_close_matches(word, there, n=1)
        some = f"did you mean {near[0]}?" if near else f"there are {', '.join(there[-8:])}"
        raise BadInput(f"{config['NET']} has no layer {layer!r}; {some}")
    return word
