"""Where studies lie, and how one is found by its name whatever its family."""

from __future__ import annotations

import os
from pathlib import Path

from ground.errors import BadInput
from ground.names import plain
from ground.paths import RESULTS, expanded, home
from models.base import Family

HOME = "RAY_TUNE_HOME"
_MARKS = ("study.json", "ensemble.json")


def studies_home(family: Family) -> Path:
    """The folder of new studies: RAY_TUNE_HOME for every family where it is set, else one a family."""
    set_to = os.environ.get(HOME)
    return expanded(set_to) if set_to else home() / RESULTS / family.studies_folder


def place(name: str, family: Family) -> Path:
    """Where a study of that name and family lies or is to lie; a path is taken as it is.

    Raises:
        BadInput: a name that is no plain folder name.
    """
    if "/" not in name:
        return studies_home(family) / plain(name, "a study")
    path = expanded(name)
    plain(path.name, "a study")
    return path


def find(name: str) -> Path:
    """An existing study (or a copied ensemble's folder), by name or path.

    Raises:
        BadInput: there is none, or two families have one of that name.
    """
    if "/" in name:
        return expanded(name)
    plain(name, "a study")
    found = [path / name for path in homes() if any((path / name / mark).is_file() for mark in _MARKS)]
    if len(found) > 1:
        raise BadInput(f"there are {len(found)} studies {name}: {', '.join(map(str, found))}; give the path of one")
    if not found:
        where = os.environ.get(HOME) or home() / RESULTS
        raise BadInput(f"no study {name} in {where}")
    return found[0]


def homes() -> list[Path]:
    """Every folder in which studies are looked for by name."""
    set_to = os.environ.get(HOME)
    if set_to:
        return [expanded(set_to)]
    results = home() / RESULTS
    return sorted(path for path in results.iterdir() if path.is_dir()) if results.is_dir() else []
