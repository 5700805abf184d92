"""npz archives of a user's, read member by member: sizes are checked before anything is read, and nothing is run.

Object arrays are pickles. Of those only the few words that numpy writes for an array of arrays are understood, and
they build plain records here, never numpy objects: whatever else a file asks for is refused.
"""

from __future__ import annotations

import contextlib
import io
import math
import pickle
import pickletools
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ground.errors import BadInput
from ground.zips import opened_zip

LARGEST = 4 << 30
"""Bytes that one member of an archive may take when unpacked."""
LARGEST_OBJECTS = 1 << 30
"""The same of a member that holds objects."""
_RATIO, _SLACK = 500, 64 << 20  # voxels compress well
_CHUNK = 1 << 20  # bytes unpacked at once
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError, RuntimeError, NotImplementedError)


class Npz:
    """An open archive.

    Attributes:
        path: for messages.
        names: its members without `.npy`, in the order they were written.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self._archive = path, archive
        self._members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        self.names = list(self._members)

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and type of a member; its content is not read.

        Raises:
            BadInput: there is no such member, or it is not an array.
        """
        with self._open(name) as (shape, dtype, _, _):
            return shape, dtype

    def array(self, name: str, largest: int = LARGEST) -> np.ndarray:
        """A member that holds numbers.

        Raises:
            BadInput: it is missing, damaged, larger than `largest` bytes or holds something else.
        """
        with self._open(name) as (shape, dtype, fortran, stream):
            if dtype.kind not in "fiub":
                raise BadInput(f"{self.path}: {name} holds {_kind(dtype)}; it takes numbers")
            size = math.prod(shape) * dtype.itemsize
            if size > largest:
                raise BadInput(f"{self.path}: {name} takes {size} bytes unpacked; at most {largest} are read")
            short = size > self._members[name].file_size
            flat = np.empty(0 if short else math.prod(shape), dtype)
            content, done = flat.view(np.uint8), 0
            while done < len(content) and (more := stream.readinto(content[done : done + _CHUNK])):
                done += more
            if short or done != size or stream.read(1):
                raise BadInput(f"{self.path}: {name} is not of the size that its header says")
        return flat.reshape(shape, order="F" if fortran else "C")

    def arrays(self, name: str, largest: int = LARGEST_OBJECTS) -> list[np.ndarray]:
        """A member that holds arrays of different lengths: an object array, or an ordinary one taken row by row.

        Raises:
            BadInput: it is missing, damaged, too large, or holds anything but arrays of numbers.
        """
        if self.header(name)[1].kind != "O":
            return list(self.array(name, largest))
        with self._open(name) as (_, _, _, stream):
            content = stream.read(largest + 1)
        if len(content) > largest:
            raise BadInput(f"{self.path}: {name} takes more than {largest} bytes unpacked")
        try:
            return _unpickled(content)
        except _Refused as error:
            raise BadInput(f"{self.path}: {name} is refused: it holds {error}, not arrays of numbers") from None
        except Exception as error:  # a damaged pickle can end in anything
            raise BadInput(f"{self.path}: {name} is damaged ({type(error).__name__})") from None

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[tuple[tuple[int, ...], np.dtype[Any], bool, Any]]:
        if name not in self._members:
            raise BadInput(f"{self.path}: has no {name}; there is {', '.join(self.names[:8]) or 'nothing'}")
        try:
            with self._archive.open(self._members[name]) as stream:
                version = np.lib.format.read_magic(stream)
                if version not in ((1, 0), (2, 0)):
                    raise ValueError(f"npy version {version}")
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, fortran, dtype = read(stream)
                if any(side < 0 for side in shape):
                    raise ValueError("a negative side")
                yield shape, dtype, fortran, stream
        except BadInput:
            raise
        except _DAMAGE as error:
            raise BadInput(f"{self.path}: {name} is damaged ({_line(error)})") from None


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Npz]:
    """An npz archive, open for reading.

    Raises:
        BadInput: it is missing, truncated or no npz archive.
    """
    if path.is_dir():
        raise BadInput(f"{path}: a folder, not an npz file")
    with opened_zip(path, _RATIO, _SLACK, "npz file") as archive:
        yield Npz(path, archive)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:100]


def _kind(dtype: np.dtype[Any]) -> str:
    return "objects" if dtype.kind == "O" else f"values of type {dtype}"


class _Refused(ValueError):
    """What a pickle asks for and does not get."""


class _Dtype:
    """A numpy type in a pickle: its word, then its byte order."""

    def __init__(self, word: Any = "", *_: Any) -> None:
        self.word, self.order = word.decode() if isinstance(word, bytes) else str(word), "="

    def __setstate__(self, state: Any) -> None:
        self.order = str(state[1])

    def made(self) -> np.dtype[Any]:
        dtype = np.dtype(self.word)
        if dtype.kind not in "fiubO":
            raise _Refused(f"values of type {self.word}")
        return dtype.newbyteorder(">") if self.order == ">" else dtype


class _Array:
    """An array in a pickle, built only when its parts were checked."""

    state: Any = None

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def parts(self) -> tuple[tuple[int, ...], np.dtype[Any], bool, Any]:
        _, shape, dtype, fortran, content = self.state
        return tuple(int(side) for side in shape), dtype.made(), bool(fortran), content

    def numbers(self) -> np.ndarray:
        """The array; numbers that were stored one by one as Python's become float64."""
        shape, dtype, fortran, content = self.parts()
        if dtype.kind == "O":
            flat = np.array([_number(value) for value in content], dtype=np.float64)
        else:
            flat = np.frombuffer(bytearray(content), dtype)
        return flat.reshape(shape, order="F" if fortran else "C")


def _scalar(dtype: _Dtype, content: bytes) -> float:
    return float(np.frombuffer(content, dtype.made(), count=1)[0])


def _frombuffer(content: Any, dtype: _Dtype, shape: Any, order: str) -> _Array:
    array = _Array()
    array.state = (1, shape, dtype, order == "F", content)
    return array


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise _Refused(f"text in {encoding}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _number(value: Any) -> float:
    if isinstance(value, (int, float)):
        return float(value)
    raise _Refused(f"a {type(value).__name__.strip('_')}")


_KNOWN: dict[tuple[str, str], Any] = {("numpy", "ndarray"): _Array, ("numpy", "dtype"): _Dtype}
_KNOWN |= {(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")}
_KNOWN |= {(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")}
_KNOWN |= {(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")}
_KNOWN |= {("_codecs", "encode"): _latin1, ("__builtin__", "bytes"): _no_bytes, ("builtins", "bytes"): _no_bytes}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}"[:80]) from None

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("a reference to something outside")


def _unpickled(content: bytes) -> list[np.ndarray]:
    """The arrays of a pickled array of arrays."""
    # the unpickler makes room for whatever memo number or length it is told; genops reads every length first
    words = 0
    for words, (opcode, argument, _) in enumerate(pickletools.genops(content), 1):
        if opcode.name in ("EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "INST", "OBJ"):
            raise _Refused(f"a {opcode.name}")
        if opcode.name in ("PUT", "LONG_BINPUT") and int(argument or 0) > words:
            raise _Refused("a memo out of order")
    outer = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    if not isinstance(outer, _Array):
        raise _Refused(f"a {type(outer).__name__.strip('_')}")
    shape, dtype, _, items = outer.parts()
    if dtype.kind != "O" or len(shape) > 1 or any(not isinstance(item, _Array) for item in items):
        return list(outer.numbers())
    return [item.numbers() for item in items]
