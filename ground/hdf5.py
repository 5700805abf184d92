"""HDF5 files from outside, opened and read so that what is wrong with one is said in one line.

A file says how large its arrays are, and need not hold them: an array of a terabyte that was never written takes a few
hundred bytes. `described` believes sizes as far as there are bytes for them, and everything is read after it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ground.documents import regular
from ground.errors import BadInput
from ground.machine import available_memory

NUMBERS = "iufb"
LARGEST_RATIO = 200
SLACK = 64 * 2**20
"""Bytes that an array may unpack to whatever it takes in the file."""
_LARGEST_CHUNK = 512 * 2**20
_MOST_OBJECTS = 100_000
_MOST_AXES = 8
_LOOKED_AT: set[tuple[int, int, int, int]] = set()


def _refuse_elsewhere(path: Path, file: h5py.File) -> None:
    """A file may name others on the machine of who opens it: none of them is read."""
    seen = 0

    def look(name: str, link: object) -> str | None:
        nonlocal seen
        seen += 1
        if seen > _MOST_OBJECTS:
            return f"more than {_MOST_OBJECTS} objects"
        if isinstance(link, h5py.ExternalLink):
            return f"{_shown(name)} is a link into another file; that is not followed"
        try:  # nothing may be raised within the library's own walk
            found = file.get(name) if isinstance(link, (h5py.SoftLink, h5py.HardLink)) else None
            if isinstance(link, h5py.HardLink) and found is None:
                return f"{_shown(name)} cannot be read"
            if isinstance(found, h5py.Dataset) and (found.external or found.is_virtual):
                return f"{_shown(name)} has its values in other files; that is not followed"
        except Exception as error:
            return f"{_shown(name)} cannot be read ({str(error)[:80]})"
        return None

    reason = file.visititems_links(look)
    if reason:
        raise BadInput(f"{path}: {reason}")


def _shown(name: str) -> str:
    return name if len(name) <= 80 and name.isprintable() else ascii(name)[1:80]


@contextlib.contextmanager
def reading_hdf5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file of a user's, open for reading.

    Raises:
        BadInput: it is missing, cannot be read (also in the course of the block), or keeps its data in other files.
    """
    try:
        about = regular(path)
        version = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)
        with h5py.File(path, "r") as file:
            if version not in _LOOKED_AT:  # once a file: it takes longer than opening it
                try:
                    _refuse_elsewhere(path, file)
                except (RuntimeError, KeyError, ValueError, TypeError, SystemError) as error:
                    raise error if isinstance(error, BadInput) else OSError(str(error)) from None
                _LOOKED_AT.add(version)
            yield file
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except UnicodeEncodeError:
        raise BadInput(f"{str(path)!r}: not a name that HDF5 can open") from None
    except OSError as error:
        line = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise BadInput(f"{path}: not a readable HDF5 file ({line})") from None


def described(
    file: h5py.Group,
    path: Path,
    name: str,
    *,
    kinds: str = NUMBERS,
    rank: int | None = None,
    shape: Sequence[int | None] | None = None,
    filled: bool = False,
    meant: str = "",
) -> h5py.Dataset:
    """An array of a file, checked as far as the file describes it; nothing is read.

    Args:
        kinds: numpy's letters of the types that it may have.
        rank: how many axes it must have; None: any.
        shape: the sizes that it must have, None for those that are free.
        filled: whether it must have values.
        meant: what the axes are, for the message: "spike counts are (trials, bins, units)".

    Raises:
        BadInput: it is missing, no array, of another type or shape, or larger than its bytes in the file can be.
    """
    found = member(file, path, name)
    if not isinstance(found, h5py.Dataset):
        raise BadInput(f"{path}: {name} is not an array of numbers")
    try:
        dtype, sizes = found.dtype, found.shape
    except (TypeError, ValueError, OverflowError, OSError) as error:
        raise BadInput(f"{path}: {name} is damaged ({str(error)[:80]})") from None
    if dtype.kind not in kinds:
        raise BadInput(f"{path}: {name} is not an array of numbers, but of {str(dtype)[:60]}")
    # half, single and double precision; beyond, numpy and torch disagree on what a number is
    if dtype.kind == "f" and dtype.itemsize > 8:
        raise BadInput(f"{path}: {name} holds numbers of {dtype.itemsize} bytes; 8 are the most")
    if sizes is None:
        raise BadInput(f"{path}: {name} is empty")
    wanted = None if shape is None else tuple("any" if size is None else size for size in shape)
    unlike = shape is not None and (
        len(shape) != len(sizes) or any(w not in (None, s) for w, s in zip(shape, sizes, strict=True))
    )
    if unlike or (rank is not None and len(sizes) != rank) or len(sizes) > _MOST_AXES:
        hint = meant or (f"{wanted} is wanted" if wanted else f"{rank} axes are wanted" if rank is not None else "")
        raise BadInput(f"{path}: {name} has shape {sizes}{'; ' if hint else ''}{hint}")
    if filled and 0 in sizes:
        raise BadInput(f"{path}: {name} is empty, shape {sizes}")
    _refuse_swollen(found, path, name)
    return found


def member(file: h5py.Group, path: Path, name: str) -> Any:
    """What a file has under a name.

    Raises:
        BadInput: nothing, or it cannot be reached.
    """
    try:
        found = file.get(name)
    except (KeyError, RuntimeError, ValueError, TypeError, OSError) as error:
        raise BadInput(f"{path}: {name} cannot be read ({str(error)[:100]})") from None
    if found is None:
        raise BadInput(f"{path}: has no {name}")
    return found


def _refuse_swollen(dataset: h5py.Dataset, path: Path, name: str) -> None:
    size = math.prod(dataset.shape) * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    if size > LARGEST_RATIO * stored + SLACK:
        raise BadInput(
            f"{path}: {name} claims shape {dataset.shape}, {size / 2**30:.2f} GiB, and the file holds "
            f"{stored / 2**20:.2f} MiB of it"
        )
    if dataset.chunks and math.prod(dataset.chunks) * dataset.dtype.itemsize > max(_LARGEST_CHUNK, 2 * size):
        raise BadInput(f"{path}: {name} is stored in chunks of {dataset.chunks}, far larger than itself")


def array(
    file: h5py.Group,
    path: Path,
    name: str,
    *,
    kinds: str = NUMBERS,
    rank: int | None = None,
    shape: Sequence[int | None] | None = None,
    filled: bool = False,
    meant: str = "",
    finite: bool = False,
    least: float | None = None,
    dtype: Any = None,
) -> np.ndarray:
    """An array of a file, checked and read.

    Args:
        kinds, rank, shape, filled, meant: as `described` takes them.
        finite: whether NaN and infinities are refused.
        least: the smallest value that there may be.
        dtype: what it becomes; None: as it is stored.

    Raises:
        BadInput: as `described`, it does not fit into memory, or its values are not of those that it may have.
    """
    found = described(file, path, name, kinds=kinds, rank=rank, shape=shape, filled=filled, meant=meant)
    kept = np.dtype(dtype or found.dtype)
    refuse_too_large(path, name, math.prod(found.shape) * (found.dtype.itemsize + kept.itemsize))
    values: np.ndarray = np.asarray(found[()])
    if dtype is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            values = values.astype(kept, copy=False)
    if finite or least is not None:
        refuse_values(values, path, name, least)
    return values


def refuse_too_large(path: Path, name: str, size: int) -> None:
    """Raises BadInput where so many bytes do not fit into memory."""
    free = available_memory()
    if size > SLACK and size > 0.8 * free:
        raise BadInput(f"{path}: {name} takes {size / 2**30:.1f} GiB of memory; there are {free / 2**30:.1f} GiB")


def refuse_values(values: np.ndarray, path: Path, name: str, least: float | None = None) -> None:
    """Raises BadInput where a value is not finite, or below `least`."""
    if values.dtype.kind == "f":
        bad = values.size - int(np.count_nonzero(np.isfinite(values)))
        if bad:
            raise BadInput(f"{path}: {name} holds {bad} non-finite values")
    if least is not None and values.size and values.min() < least:
        what = "negative values" if least == 0 else f"values below {least:g}"
        raise BadInput(f"{path}: {name} holds {what} (smallest {values.min():g})")


def text(file: h5py.Group, path: Path, name: str, most: int = 16 * 2**20) -> str | bytes:
    """A text of a file: a scalar, or the first of a list.

    Raises:
        BadInput: it is missing, no text, or longer than `most` bytes.
    """
    found = described(file, path, name, kinds="OSU")
    if found.dtype.kind == "O" and h5py.check_string_dtype(found.dtype) is None:
        raise BadInput(f"{path}: {name} is no text")
    if found.dtype.itemsize > most:
        raise BadInput(f"{path}: {name} is text of {found.dtype.itemsize} bytes; {most} are the most")
    if found.ndim and not found.shape[0]:
        raise BadInput(f"{path}: {name} is empty")
    try:
        value = found[(0,) * found.ndim]
    except (OSError, ValueError, TypeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: {name} cannot be read ({str(error)[:80]})") from None
    if not isinstance(value, (str, bytes)) or len(value) > most:
        raise BadInput(f"{path}: {name} is no text, or too long")
    return value


def arrays(file: h5py.Group, path: Path, kinds: str = NUMBERS) -> dict[str, np.ndarray]:
    """Every array of a group; groups in it are left out.

    Raises:
        BadInput: as `array`, or they do not fit into memory together.
    """
    names = [name for name in file if isinstance(member(file, path, name), h5py.Dataset)]
    found = [described(file, path, name, kinds=kinds) for name in names]
    refuse_too_large(path, "what it holds", sum(math.prod(d.shape) * d.dtype.itemsize for d in found))
    return {name: np.asarray(dataset[()]) for name, dataset in zip(names, found, strict=True)}
