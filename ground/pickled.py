"""Checkpoints of other programs (`.pth`, `.pth.tar`), read without trusting them.

A `.pth` is a pickle, and a pickle can run any code or ask for any amount of memory. Only what such files are made of is
let through: torch tensors and plain containers, and what a family names besides. Tensors are believed as far as there
are bytes for them in the file.
"""

from __future__ import annotations

import io
import mmap
import pickletools
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from ground.documents import regular
from ground.errors import BadInput
from ground.limits import refuse_overgrown
from ground.zips import opened_zip

LARGEST = 4 * 2**30
"""Bytes of a checkpoint."""
_LARGEST_LEGACY = 2**30
_MOST_WORDS = 2_000_000  # of a pickle: each takes about a microsecond
_LARGEST_PICKLE = 16 * 2**20
_RATIO, _SLACK = 20, 64 * 2**20  # torch stores plainly
_MOST_SHARED = 4  # how often the bytes of a file may stand for tensors
_STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_ALLOWED = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch Size",
    "torch device",
    "torch storage.UntypedStorage",
    "_codecs encode",
    *(f"{module} {name}" for module in ("__builtin__", "builtins") for name in ("set", "frozenset")),
    *(f"torch {kind}Storage" for kind in _STORAGES),
    *(f"torch.storage {kind}" for kind in ("UntypedStorage", "TypedStorage")),
}


def load(path: Path, also: Iterable[str] = (), types: Sequence[Any] = ()) -> Any:
    """The content of a checkpoint; tensors lie on the CPU and are finite.

    Args:
        also: what its pickle may name besides tensors and containers, as "module name".
        types: what torch's restricted loader is to let through for these, as `torch.serialization.safe_globals` takes.

    Raises:
        BadInput: unreadable, truncated, swollen, a pickle that asks for anything not on the list, or tensors that the
            file has no bytes for.
    """
    try:
        size = regular(path).st_size
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    if size > LARGEST:
        raise BadInput(f"{path}: {size} bytes; {LARGEST} are the most")
    try:
        _refuse_strangers(path, size, _ALLOWED | set(also))
        with torch.serialization.safe_globals(list(types)):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except BadInput:
        raise
    except Exception as error:  # whatever a damaged file makes torch raise, it is one bad file
        raise BadInput(f"{path}: not a readable checkpoint ({_reason(error)})") from None
    refuse_overgrown(content, str(path))
    _refuse_tensors(content, path, size)
    return content


def _reason(error: Exception) -> str:
    """The one line of torch's many that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    told = next((line for line in lines if "WeightsUnpickler error" in line or "nsupported" in line), lines[0])
    return told[max(told.find("WeightsUnpickler error"), 0) :][:160]


def _refuse_strangers(path: Path, size: int, allowed: set[str]) -> None:
    """Look through the pickles of a file without running them, and name what is not on the list.

    torch's own restricted loader stands behind this; here the refusal gets a clear name.
    """
    if zipfile.is_zipfile(path):
        with opened_zip(path, _RATIO, _SLACK) as archive:
            inside = [entry for entry in archive.infolist() if entry.filename.endswith(".pkl")]
            if sum(entry.file_size for entry in inside) > _LARGEST_PICKLE:
                raise BadInput(f"{path}: refused, its pickle is larger than {_LARGEST_PICKLE} bytes")
            streams: list[Any] = [io.BytesIO(archive.read(entry)) for entry in inside]
            _look_through(path, streams, allowed)
        return
    if size > _LARGEST_LEGACY:
        raise BadInput(f"{path}: {size} bytes; {_LARGEST_LEGACY} are the most of the old form")
    if not size:
        raise BadInput(f"{path}: not a readable checkpoint (it is empty)")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        _look_through(path, [mapped], allowed)


def _look_through(path: Path, streams: Sequence[Any], allowed: set[str]) -> None:
    left = _MOST_WORDS
    for stream in streams:
        stream.seek(0, io.SEEK_END)
        end = stream.tell()
        stream.seek(0)
        while stream.tell() < end:  # several pickles may follow one another
            texts: list[str] = ["", ""]
            try:
                for opcode, argument, _ in pickletools.genops(stream):
                    left -= 1
                    if left < 0:
                        raise BadInput(f"{path}: refused, its pickle has over {_MOST_WORDS} words")
                    wanted = ""
                    if isinstance(argument, str):
                        texts = [texts[1], argument]
                    if opcode.name in ("GLOBAL", "INST"):
                        wanted = str(argument)
                    elif opcode.name == "STACK_GLOBAL":
                        wanted = " ".join(texts)
                    if wanted and wanted not in allowed:
                        raise BadInput(f"{path}: refused, its pickle asks for {wanted.replace(' ', '.')[:120]}")
            except BadInput:
                raise
            except (ValueError, UnicodeDecodeError):
                break  # a legacy file's raw tensor data follows; torch reads or refuses it


def _refuse_tensors(content: Any, path: Path, size: int) -> None:
    """Refuse tensors that claim more numbers than the file has bytes for, and any that is not finite."""
    total = 0
    for name, tensor in _tensors(content, ()):
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.layout != torch.strided:
            raise BadInput(f"{path}: {name} is no plain tensor")
        if tensor.is_quantized or tensor.device.type != "cpu":
            raise BadInput(f"{path}: {name} is no plain tensor")
        claimed = tensor.numel() * tensor.element_size()
        total += claimed
        if claimed > tensor.untyped_storage().nbytes() or total > _MOST_SHARED * size + 2**20:
            raise BadInput(f"{path}: {name} claims {tuple(tensor.shape)} numbers, for which the file has no bytes")
        if tensor.is_complex():
            raise BadInput(f"{path}: {name} is complex")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BadInput(f"{path}: {name} holds numbers that are not all finite")


def _tensors(value: Any, at: tuple[str, ...]) -> Iterable[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield ".".join(at)[:120] or "its content", value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _tensors(inner, (*at, str(key)))
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(cast(Sequence[Any], value)):
            yield from _tensors(inner, (*at, str(number)))
