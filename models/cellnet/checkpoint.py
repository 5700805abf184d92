"""Checkpoints of the original's form, `checkpoint_024.pth.tar`: {model, optimizer}, read without running pickles.

A network's tensors may have this family's names or those of the original's layers (SparseConvNet). The latter are
taken in their order, which is the same, each checked for its shape but for axes of one: weights (K, 1, in, out) there
are (K, in, out) here, offsets in the same order.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ground import pickled
from ground.errors import BadInput
from ground.files import atomic_path

_TRUNK_THERE = "sparseModel."
_TRUNK = "trunk."


def place(output: Path, epoch: int) -> Path:
    """Where the checkpoint of an epoch is."""
    return output / "checkpoints" / f"checkpoint_{epoch:03d}.pth.tar"


def write(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, plateau: list[float]) -> None:
    """Write a checkpoint, whole or not at all."""
    content = {"model": network.state_dict(), "optimizer": optimizer.state_dict(), "plateau": plateau}
    held = io.BytesIO()
    torch.save(content, held)
    with atomic_path(path) as temporary:
        temporary.write_bytes(held.getbuffer())


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint: `model`, and `optimizer` and `plateau` where it has them.

    Raises:
        BadInput: there is none, it is damaged, asks for more than tensors and plain values, or is not finite.
    """
    if not path.is_file():
        raise BadInput(f"{path}: no such checkpoint")
    content = pickled.load(path)
    model = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(model, Mapping) or not model or not all(isinstance(v, Tensor) for v in model.values()):
        raise BadInput(f"{path}: holds no model of named tensors")
    return dict(content)


def same_head(model: Mapping[str, Tensor], network: nn.Module) -> bool:
    """Whether the checkpoint's head is of the network's form, too."""
    given = [_plain(v) for name, v in model.items() if not name.startswith((_TRUNK, _TRUNK_THERE))]
    return given == [_plain(v) for name, v in network.state_dict().items() if not name.startswith(_TRUNK)]


def fill(path: Path, model: Mapping[str, Tensor], network: nn.Module, trunk_only: bool = False) -> None:
    """Give the network a checkpoint's weights.

    Args:
        path: for messages.
        trunk_only: leave the head as it is.

    Raises:
        BadInput: they do not fit.
    """
    own = network.state_dict()
    wanted = {name: v for name, v in own.items() if not trunk_only or name.startswith(_TRUNK)}
    there = {name: v for name, v in model.items() if not trunk_only or name.startswith((_TRUNK, _TRUNK_THERE))}
    if len(there) != len(wanted):
        raise BadInput(f"{path}: has {len(there)} tensors, the configured network {len(wanted)}")
    if any(name.startswith(_TRUNK_THERE) for name in there):
        pairs = list(zip(wanted, there, strict=True))
    else:
        pairs = [(name, name) for name in wanted]
    for name, given in pairs:
        if given not in there or _plain(there[given]) != _plain(wanted[name]):
            shape = tuple(there[given].shape) if given in there else "missing"
            raise BadInput(f"{path}: {given} is {shape}; the configured network takes {tuple(wanted[name].shape)}")
        own[name] = there[given].reshape(wanted[name].shape)
    network.load_state_dict(own)


def fill_optimizer(path: Path, state: Any, optimizer: torch.optim.Optimizer) -> None:
    """Give the optimizer a checkpoint's state.

    Raises:
        BadInput: it is of another network.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    own = optimizer.state_dict()
    kept = state.get("state") if isinstance(state, Mapping) else None
    if not isinstance(kept, Mapping) or (kept and set(kept) != set(range(len(parameters)))):
        raise BadInput(f"{path}: its optimizer is of another network")
    filled: dict[int, dict[str, Any]] = {}
    for number, values in kept.items():
        shape = parameters[number].shape
        filled[number] = {}
        for name, value in values.items():
            tensor = torch.as_tensor(value, dtype=torch.float32)
            if tensor.numel() not in (1, math.prod(shape)):
                raise BadInput(f"{path}: its optimizer is of another network ({name} of parameter {number})")
            filled[number][name] = tensor.reshape(shape) if name != "step" else tensor.reshape(())
    groups = state.get("param_groups") or [{}]
    # the rate is the one that training had come to; the rest is configured
    lr = groups[0].get("lr", own["param_groups"][0]["lr"])
    optimizer.load_state_dict({"state": filled, "param_groups": [{**group, "lr": lr} for group in own["param_groups"]]})


def _plain(tensor: Tensor) -> list[int]:
    return [side for side in tensor.shape if side != 1]
