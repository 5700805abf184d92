"""Which HDF5 files a user means: a file, a folder, a glob or a list of them."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py

from ground.documents import read_text
from ground.errors import BadInput
from ground.paths import expanded

SUFFIXES = (".h5", ".hdf5", ".hdf")
_MOST_LINES = 100_000
_WILD = frozenset("*?[")


def resolve_files(path: str) -> tuple[list[Path], int]:
    """The HDF5 files that a glob, a folder, a list or a file names, sorted; and how many were named twice.

    A list is a text file with a file, folder or glob a line, relative to itself; `#` starts a comment.

    Raises:
        BadInput: there are none.
    """
    found = _named(path, Path())
    unique = sorted({file.resolve() for file in found}, key=lambda file: (file.name, str(file)))
    if not unique:
        raise BadInput(f"{path}: {'matches no file' if _WILD & set(path) else 'names no HDF5 file'}")
    return unique, len(found) - len(unique)


def own_block(path: str, block: Mapping[str, Any]) -> dict[str, Any]:
    """What `--data path` makes of a search space's `data` block: these files in place of generated ones.

    Raises:
        BadInput: there are none.
    """
    kept = {k: v for k, v in block.items() if k not in ("generator", "options", "path")}
    resolve_files(path)
    return {**kept, "path": str(expanded(path).absolute())}


def _named(path: str, below: Path) -> list[Path]:
    place = below / expanded(path)
    if place.is_dir():
        return [file for file in place.iterdir() if file.suffix in SUFFIXES and not file.name.startswith(".")]
    if place.is_file():
        if place.suffix in SUFFIXES or h5py.is_hdf5(place):
            return [place]
        return _listed(place)
    if _WILD & set(path):
        return [Path(match) for match in glob.glob(str(place), recursive=True) if Path(match).is_file()]
    raise BadInput(f"{place}: no such file or folder")


def listed(path: Path) -> list[Path]:
    """The files that a list names; nothing where `path` is no list."""
    if path.suffix in SUFFIXES or not path.is_file() or h5py.is_hdf5(path):
        return []
    try:
        return _listed(path)
    except BadInput:
        return []


def _listed(place: Path) -> list[Path]:
    try:
        text = read_text(place)
    except BadInput:
        raise BadInput(f"{place}: neither an HDF5 file nor a text file that lists some") from None
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    if "\0" in text or len(lines) > _MOST_LINES:
        raise BadInput(f"{place}: neither an HDF5 file nor a text file that lists some")
    found: list[Path] = []
    for line in filter(None, lines):
        target = place.parent / expanded(line)
        if target.resolve() == place.resolve():
            raise BadInput(f"{place}: lists itself")
        if target.is_file() and target.suffix not in SUFFIXES and not h5py.is_hdf5(target):
            raise BadInput(f"{place}: lists {line}, which is no HDF5 file")
        found += _named(line, place.parent)
    return found
