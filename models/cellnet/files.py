"""Which xy files are meant, and in which part of the data each of them is."""

from __future__ import annotations

import functools
import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ground.errors import BadInput
from ground.paths import expanded
from models.cellnet import npz
from models.cellnet.names import Name, parse
from models.cellnet.options import PARTS, Options, Range

_WILD = frozenset("*?[")


@dataclass(frozen=True)
class File:
    """An xy file of the data, or some of its events.

    Attributes:
        path: where it is.
        folder: the number of the path it belongs to.
        name: what its name says.
        events: how many there are in it.
        voxels: how many rows there are in it.
        first: the number of its first event among all of its part.
        chosen: numbers of those of its events that count, ascending; None: all.
    """

    path: Path
    folder: int
    name: Name
    events: int
    voxels: int
    first: int = 0
    chosen: tuple[int, ...] | None = None

    @property
    def numbers(self) -> np.ndarray:
        """(n,) int64: which of its events count."""
        return np.arange(self.events) if self.chosen is None else np.array(self.chosen, np.int64)


def found(path: str) -> list[Path]:
    """The xy files of a folder, a glob or a file; not sorted.

    Raises:
        BadInput: there is no such folder or file, or no xy file in it.
    """
    text = os.path.expandvars(path)
    if "$" in text:
        raise BadInput(f"{path}: the environment variable in it is not set")
    place = expanded(text)
    if place.is_file():
        parse(place)
        return [place.absolute()]
    if place.is_dir():
        candidates = [file for file in place.iterdir() if file.suffix == ".npz" and not file.name.startswith(".")]
    elif _WILD & set(text):
        candidates = [Path(match) for match in glob.glob(str(place), recursive=True)]
    else:
        raise BadInput(f"{place}: no such file or folder")
    files = [file.absolute() for file in candidates if _is_xy(file)]
    if not files:
        raise BadInput(f"{path}: {'matches' if _WILD & set(text) else 'holds'} no xy file (*_xy*.npz)")
    return files


def _is_xy(file: Path) -> bool:
    try:
        return parse(file).product == "xy"
    except BadInput:
        return False


def select(paths: Sequence[str], ranges: Sequence[Range], tpcs: Sequence[tuple[int, ...] | None]) -> list[File]:
    """Files whose index and TPC are asked for, sorted by full path.

    Args:
        ranges: of each path, the first and last index, both included; None skips the path.
        tpcs: of each path; None: any.

    Raises:
        BadInput: nothing is left, or a file is none.
    """
    files = []
    for number, (path, wanted, planes) in enumerate(zip(paths, ranges, tpcs, strict=True)):
        if wanted is None:
            continue
        for file in found(path):
            name = parse(file)
            if wanted[0] <= name.index <= wanted[1] and (planes is None or name.tpc in planes):
                files.append(described(file, number, name))
    if not files:
        asked = ", ".join(
            f"{p}: {'skipped' if r is None else f'{r[0]} to {r[1]}'}" for p, r in zip(paths, ranges, strict=True)
        )
        raise BadInput(f"no xy file has an index and TPC that is asked for ({asked})")
    return numbered(sorted(files, key=lambda file: str(file.path)))


def described(path: Path, folder: int, name: Name) -> File:
    """A file with its sizes.

    Raises:
        BadInput: it cannot be read, or is no xy file.
    """
    stat = path.stat()
    events, voxels = _sizes(path, stat.st_size, stat.st_mtime_ns)
    return File(path, folder, name, events, voxels)


@functools.lru_cache(maxsize=100_000)
def _sizes(path: Path, size: int, changed: int) -> tuple[int, int]:
    """Events and voxels, from the headers of the file's arrays."""
    with npz.opened(path) as file:
        (events, *_), (voxels, *_) = ((*file.header(name)[0], 0) for name in ("starts", "X"))
    return events, voxels


def numbered(files: Sequence[File]) -> list[File]:
    """The files with the numbers that their events have among all of them."""
    out, first = [], 0
    for file in files:
        out.append(File(file.path, file.folder, file.name, file.events, file.voxels, first, file.chosen))
        first += file.events
    return out


def parts(options: Options, paths: Sequence[str], source: str) -> dict[str, list[File]]:
    """The files of training, validation and test.

    Raises:
        BadInput: a part that is needed is empty, or a file is in two of them.
    """
    if options.ranged:
        out = {
            part: select(paths, wanted, options.tpcs) if (wanted := getattr(options, part)) else [] for part in PARTS
        }
    else:
        out = _shared_out(options, paths, source)
    seen: dict[Path, str] = {}
    for part, files in out.items():
        for file in files:
            if file.path in seen:
                raise BadInput(f"{file.path}: is in both {seen[file.path]} and {part} of the data block")
            seen[file.path] = part
    return {part: numbered(files[: options.limit or None]) for part, files in out.items()}


def _shared_out(options: Options, paths: Sequence[str], source: str) -> dict[str, list[File]]:
    """Shares of the files: units of one event type and index are drawn by the seed, never split."""
    files = select(paths, [(0, 2**62)] * len(paths), options.tpcs)
    units: dict[tuple[str, int], list[File]] = {}
    for file in files:
        units.setdefault((file.name.event_type, file.name.index), []).append(file)
    wanted = [part for part, share in zip(PARTS, options.split, strict=True) if share > 0]
    if len(units) < len(wanted):
        raise BadInput(
            f"{source}: {len(units)} numbered files cannot be split into {', '.join(wanted)}; write fewer events a file"
        )
    order = np.random.default_rng([options.seed, 0xCE11]).permutation(len(units))
    # every part that has a share gets at least one
    ends = np.round(np.cumsum(options.split) * len(units)).astype(int)
    for n in range(len(wanted) - 1, 0, -1):
        ends[n - 1] = min(ends[n - 1], ends[n] - 1)
    for n in range(len(wanted)):
        ends[n] = max(ends[n], n + 1)
    keys = list(units)
    bounds = [0, *ends.tolist()]
    out: dict[str, list[File]] = {}
    for number, part in enumerate(PARTS):
        mine = [file for k in sorted(order[bounds[number] : bounds[number + 1]]) for file in units[keys[k]]]
        out[part] = sorted(mine, key=lambda file: str(file.path))
    return out
