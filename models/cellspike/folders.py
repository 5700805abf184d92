"""The folder of generated cells, by its environment variable."""

from __future__ import annotations

from pathlib import Path

from ground import paths

FOLDERS = {"CELLSPIKE_DATA": "cellspike"}


def folder() -> Path:
    """CELLSPIKE_DATA, or its default below NLB_HOME."""
    return paths.folder("CELLSPIKE_DATA", FOLDERS["CELLSPIKE_DATA"])
