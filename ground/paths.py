"""Where things lie: one home, and below it the folders that families and studies name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ground.errors import BadInput
from ground.limits import shown

RESULTS = "ray_results"


def home() -> Path:
    """NLB_HOME, by default $HOME/nlb_2021."""
    return Path(os.environ.get("NLB_HOME") or Path.home() / "nlb_2021").expanduser()


def expanded(path: str | Path) -> Path:
    """A user's path with `~` replaced by the home that it means.

    Raises:
        BadInput: there is no such user, or no file could be called so.
    """
    text = str(path)
    if "\0" in text:
        raise BadInput(f"{shown(text)} is no path: it holds a NUL")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise BadInput(f"{shown(text)}: there is no such user's home") from None


def folder(variable: str, default: str) -> Path:
    """The folder that the environment variable names, or its default below `home`."""
    set_to = os.environ.get(variable)
    return Path(set_to).expanduser() if set_to else home() / default


@contextlib.contextmanager
def made_if_all_is_well(path: Path) -> Iterator[Path]:
    """`path`, a folder made if missing; what was made goes again if the block fails and nothing is there."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield path
    except BaseException:
        with contextlib.suppress(OSError):
            for folder in missing:
                folder.rmdir()
        raise


def made(path: Path) -> Path:
    """`path`, a folder made if missing."""
    path.mkdir(parents=True, exist_ok=True)
    return path
