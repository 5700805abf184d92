"""Which HDF5 files a data block means."""

from __future__ import annotations

from pathlib import Path

from ground.listing import resolve_files
from models.xtcav import generate
from models.xtcav.options import Options

__all__ = ["files_of", "resolve_files"]


def files_of(options: Options) -> tuple[list[Path], int, str]:
    """The files of a data block, how many were named twice, and what to call them; generated where it says so.

    Raises:
        BadInput: there are none.
    """
    if options.generator:
        place = generate.ensure(options.options)
        return (*resolve_files(str(place / generate.LABELLED)), f"generated XTCAV experiment ({place.name})")
    return (*resolve_files(options.path), options.path)
