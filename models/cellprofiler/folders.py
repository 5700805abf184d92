"""The folder of generated plates, by its environment variable."""

from __future__ import annotations

from pathlib import Path

from ground import paths

FOLDERS = {"CELLS_DATA": "cells"}


def folder() -> Path:
    """CELLS_DATA, or its default below NLB_HOME."""
    return paths.folder("CELLS_DATA", FOLDERS["CELLS_DATA"])
