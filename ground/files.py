"""Files that are whole or absent: atomic writes of text, JSON and whatever else."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ground import documents
from ground.errors import BadInput
from ground.limits import shown
from ground.paths import expanded

_LONGEST_NAME = 240  # a file system takes 255, and what is being written has a longer one
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
"""The error numbers of a full disk."""


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
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def refuse_over(out: Path, inputs: Iterable[Path]) -> None:
    """Refuse an output that is one of the inputs, lies in a folder of them, or is no file.

    Args:
        inputs: files, folders or patterns of files; links of either kind are followed.

    Raises:
        BadInput: it is.
    """
    if not str(out).strip() or not out.name or (out.exists() and not (out.is_file() or out.is_dir())):
        raise BadInput(f"{str(out)!r} is no file to write")
    if len(os.fsencode(out.name)) > _LONGEST_NAME or not str(out).isprintable():
        raise BadInput(f"{shown(str(out))} is no file's name")
    above = next(folder for folder in out.absolute().parents if folder.exists() or folder.is_symlink())
    if not above.is_dir():
        raise BadInput(f"{out}: {above} is no folder")
    about = out.stat() if out.exists() else None
    for given in inputs:
        place = expanded(given)
        found = [place] if place.exists() else [Path(match) for match in glob.glob(str(place), recursive=True)]
        for one in found:
            if one.is_dir() and _within(out, one):
                raise BadInput(f"{out} lies in {one}, which is read: write elsewhere")
            files = (file for file in one.rglob("*") if file.is_file()) if one.is_dir() else (one,)
            if about is not None and any(os.path.samestat(about, file.stat()) for file in files):
                raise BadInput(f"{out} is read ({given}): it is not written over")


def _within(out: Path, folder: Path) -> bool:
    return out.resolve().is_relative_to(folder.resolve())


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """What was made, renamed or deleted in the folder is on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Every file below the folder, and every folder, is on disk."""
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        else:
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


def write_text(path: Path, text: str) -> None:
    """Atomic."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Atomic, readable, keys in the order given (a search space's order matters), non-finite numbers as null."""
    write_text(path, json.dumps(finite(value), indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """What `write_json` wrote of our own, or None where there is no such file or no mapping in it: what is half there
    after a crash counts as absent. What a user hands over is read by `ground.documents`, which says what is wrong."""
    try:
        return documents.read_json(path)
    except BadInput:
        return None


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
