"""The settings of a network on cells and of its training, under one check."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ground.errors import BadInput
from ground.settings import Table
from ground.settings import resolve as checked
from models.cellprofiler import names
from models.cellprofiler.schedule import SCHEDULES, steps
from models.cellprofiler.wells import AGGREGATES

RANDOM, IMAGENET = "random", "imagenet"
SUFFIXES = (".safetensors", ".pth", ".pt")
"""Of files that WEIGHTS may name; the latter two are read without unpickling anything but tensors."""

_SETTINGS: Table = {
    "NET": ("cnn", names.NETS, None),
    # cnn: channels of the first block (each has twice those of the one before), blocks (each halves the crop), units of
    # the dense layer, and how the last map becomes a vector
    "WIDTH": (8, 1, 512),
    "BLOCKS": (4, 1, 8),
    "FEATURES": (256, 1, 8192),
    "POOL": ("avg", ("avg", "max"), None),
    "DROPOUT": (0.0, 0.0, 0.95),
    # random, imagenet (of the networks that have such weights), or a local file (.safetensors, .pth)
    "WEIGHTS": ("random", None, None),
    # filters of the first convolution that stand for more channels than they were trained on become as much smaller
    "STEM_RESCALE": (False, None, None),
    # pixels from 0 to 1 (unit) or from -1 to 1 (centred); auto: centred unless WEIGHTS is random
    "INPUT": ("auto", ("auto", "unit", "centred"), None),
    "EPOCHS": (20, 1, None),
    "BATCH_SIZE": (32, 2, None),
    "EVAL_BATCH": (128, 1, None),
    "OPTIMIZER": ("sgd", ("sgd", "adamw"), None),
    "LR": (0.005, 0.0, None),
    "MOMENTUM": (0.9, 0.0, 0.9999),
    "SCHEDULE": ("constant", SCHEDULES, None),
    # epochs of harmonic rise before the cosine
    "WARMUP": (5, 0, None),
    # of SCHEDULE steps: epoch=rate,... from 0 on
    "STEPS": ("", None, None),
    "L2": (1e-5, 0.0, None),
    "WEIGHT_DECAY": (0.0, 0.0, None),
    "LABEL_SMOOTHING": (0.0, 0.0, 0.9),
    "MIXUP": (0.0, 0.0, None),
    # largest norm of the gradient; 0: no limit
    "CLIP": (0.0, 0.0, None),
    "AUGMENT": ("none", ("none", "a", "b", "c"), None),
    "BALANCE": (True, None, None),
    "TOP_K": (5, 1, None),
    # what the profile is made of: each combination is tried on the validation wells, without any training
    "LAYERS": (names.POOL, None, None),
    "AGGREGATES": (",".join(AGGREGATES), None, None),
    "LAMBDAS": ("none,0.01,0.1,1", None, None),
    # epochs without a better validation metric that are borne; 0: all are trained
    "PATIENCE": (0, 0, None),
    "PIECE_STEPS": (50, 1, None),
    "AMP": (True, None, None),
}

DEFAULTS: dict[str, Any] = {name: default for name, (default, _, _) in _SETTINGS.items()}


def resolve(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The complete settings: defaults overlaid by `settings`, checked.

    Raises:
        BadInput: as `ground.settings.resolve`; a layer that the network has not; no such steps, aggregates, lambdas.
    """
    config = checked("cellprofiler", _SETTINGS, settings)
    config["LAYERS"] = ",".join(layers(config))
    aggregates(config)
    lambdas(config)
    if config["SCHEDULE"] == "steps":
        steps(config["STEPS"])
    config["WEIGHTS"] = _weights(config)
    return config


def _weights(config: Mapping[str, Any]) -> str:
    """WEIGHTS, a file as an absolute path: trials run in folders of their own."""
    word = config["WEIGHTS"]
    if word.lower() == RANDOM:
        return RANDOM
    if word.lower() == IMAGENET:
        if config["NET"] != names.LITE:
            raise BadInput(f"WEIGHTS imagenet comes with {names.LITE} only; for {config['NET']} it takes a local file")
        return IMAGENET
    if Path(word).suffix not in SUFFIXES:
        raise BadInput(f"WEIGHTS is {word!r}; it takes random, imagenet or a file ({', '.join(SUFFIXES)})")
    return str(Path(word).expanduser().absolute())


def layers(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The layers that LAYERS lists, each once.

    Raises:
        BadInput: none, or one that the network has not.
    """
    found = tuple(dict.fromkeys(names.known(config, word) for word in _listed(config, "LAYERS", "layers such as pool")))
    return found


def aggregates(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The ways in which cells become a well, as AGGREGATES lists them.

    Raises:
        BadInput: none, or an unknown one.
    """
    found = _listed(config, "AGGREGATES", ", ".join(AGGREGATES))
    for word in found:
        if word.lower() not in AGGREGATES:
            raise BadInput(f"AGGREGATES has {word!r}; it takes some of {', '.join(AGGREGATES)}")
    return tuple(dict.fromkeys(word.lower() for word in found))


def lambdas(config: Mapping[str, Any]) -> tuple[float | None, ...]:
    """The regularisations of the sphering that LAMBDAS lists; None is for `none`: standardised only.

    Raises:
        BadInput: no number at all, or one that is not above zero.
    """
    takes = "numbers above 0, or none, such as none,1e-3,1e-1"
    found: list[float | None] = []
    for word in _listed(config, "LAMBDAS", takes):
        try:
            number = None if word.lower() == "none" else float(word)
            if number is not None and not 0 < number < math.inf:
                raise ValueError
        except ValueError:
            raise BadInput(f"LAMBDAS has {word!r}; it takes {takes}") from None
        found.append(number)
    return tuple(dict.fromkeys(found))


def _listed(config: Mapping[str, Any], name: str, takes: str) -> list[str]:
    found = [word.strip() for word in str(config[name]).split(",") if word.strip()]
    if not found:
        raise BadInput(f"{name} is empty; it takes {takes}")
    return found
