"""The folder of generated events, by its environment variable."""

from __future__ import annotations

from pathlib import Path

from ground import paths

FOLDERS = {"CELLNET_DATA": "cellnet"}


def folder() -> Path:
    """CELLNET_DATA, or its default below NLB_HOME."""
    return paths.folder("CELLNET_DATA", FOLDERS["CELLNET_DATA"])
