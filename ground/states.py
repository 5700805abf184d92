"""Tensors and JSON values, nested, in one safetensors file: no pickle is ever written or read."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ground.documents import parse_json, regular
from ground.errors import BadInput
from ground.files import atomic_path
from ground.limits import shown

_LONGEST_HEADER = 16 * 2**20
_TENSOR = "__tensor__"


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write nested dicts and lists of tensors and JSON values as one safetensors file, atomically.

    No pickle: the structure is JSON in the header, the tensors are raw. Dict keys become text.

    Raises:
        OSError: it could not be written, a full disk among the reasons.
    """
    tensors: dict[str, torch.Tensor] = {}

    def split(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            name = str(len(tensors))
            # a clone of its own: safetensors refuses shared storage
            tensors[name] = value.detach().cpu().contiguous().clone()
            return {_TENSOR: name}
        if isinstance(value, Mapping):
            return {str(k): split(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [split(v) for v in value]
        return value

    structure = json.dumps(split(state))
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={"concert": structure})
        except SafetensorError as error:  # the library hides the system's error number in its words
            code = re.search(r"os error (\d+)", str(error))
            raise OSError(int(code[1]) if code else errno.EIO, str(error), str(path)) from None


def load_state(path: Path, device: str = "cpu") -> dict[str, Any]:
    """What `save_state` wrote.

    Raises:
        BadInput: the file is damaged or was not written by `save_state`.
        FileNotFoundError: there is no such file.
    """
    try:
        _refuse_long_header(path)
        with safe_open(path, framework="pt", device=device) as file:
            metadata = file.metadata() or {}
            # training may have written numbers that are none, random generators have states of 128 bits
            structure = parse_json(metadata["concert"], str(path), constants=True, bits=256)
            unread = set(file.keys())

            def join(value: Any) -> Any:
                if isinstance(value, dict):
                    if _TENSOR in value:
                        name = value[_TENSOR]
                        if name not in unread:  # each stands in one place: what is small stays so
                            raise KeyError(f"tensor {shown(name, 40)}")
                        unread.discard(name)
                        return file.get_tensor(name)
                    return {k: join(v) for k, v in value.items()}
                if isinstance(value, list):
                    return [join(v) for v in value]
                return value

            return dict(join(structure))
    except FileNotFoundError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError, OSError, RuntimeError) as error:
        reason = str(error).removeprefix(f"{path}: ")[:100]
        raise BadInput(f"{path}: damaged checkpoint ({reason})") from None


def _refuse_long_header(path: Path) -> None:
    regular(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > _LONGEST_HEADER:
        raise ValueError(f"a header of {length} bytes")


def fit_network(network: torch.nn.Module, weights: Mapping[str, Any]) -> None:
    """Give a network another model's weights (the setting INIT): its snapshot's entry `network`.

    Raises:
        BadInput: they are not of such a network.
    """
    try:
        network.load_state_dict(weights["network"])
    except (KeyError, RuntimeError) as error:
        reason = [line.strip() for line in str(error).splitlines()][-1][:160]
        raise BadInput(f"INIT: the snapshot's network does not fit this trial's ({reason})") from None
