"""The folder of generated collections, by its environment variable."""

from __future__ import annotations

from pathlib import Path

from ground import paths

FOLDERS = {"XTCAV_DATA": "xtcav"}


def folder() -> Path:
    """XTCAV_DATA, or its default below NLB_HOME."""
    return paths.folder("XTCAV_DATA", FOLDERS["XTCAV_DATA"])
