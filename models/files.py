"""Files that are whole or absent: atomic writes, and tensors with JSON beside them in one safetensors file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from models.base import BadInput

_TENSOR = "__tensor__"


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; what was written there takes its place when the block ends well.

    The data is on disk before the rename, the rename before the return. After a crash there is the old file or
    the new one, and at worst a leftover `.tmp-*`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Atomic."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Atomic, readable, non-finite numbers as null."""
    write_text(path, json.dumps(finite(value), indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """What `write_json` wrote, or None where there is no such file or no JSON in it."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None


@contextlib.contextmanager
def reading_hdf5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file of a user's, open for reading.

    Raises:
        BadInput: it is missing, or cannot be read (also in the course of the block).
    """
    try:
        with h5py.File(path, "r") as file:
            yield file
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except OSError as error:
        line = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise BadInput(f"{path}: not a readable HDF5 file ({line})") from None


def finite(value: Any) -> Any:
    """`value` with NaN and infinities replaced by None, ready for strict JSON."""
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, float) and value - value != 0:
        return None
    return value


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write nested dicts and lists of tensors and JSON values as one safetensors file, atomically.

    No pickle: the structure is JSON in the header, the tensors are raw. Dict keys become text.
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
        save_file(tensors, temporary, metadata={"concert": structure})


def load_state(path: Path, device: str = "cpu") -> dict[str, Any]:
    """What `save_state` wrote.

    Raises:
        ValueError: the file is damaged or was not written by `save_state`.
        FileNotFoundError: there is no such file.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    try:
        with safe_open(path, framework="pt", device=device) as file:
            metadata = file.metadata() or {}
            structure = json.loads(metadata["concert"])

            def join(value: Any) -> Any:
                if isinstance(value, dict):
                    if _TENSOR in value:
                        return file.get_tensor(value[_TENSOR])
                    return {k: join(v) for k, v in value.items()}
                if isinstance(value, list):
                    return [join(v) for v in value]
                return value

            return dict(join(structure))
    except (SafetensorError, KeyError, json.JSONDecodeError, OSError) as error:
        raise ValueError(f"{path}: damaged checkpoint ({str(error)[:100]})") from None
