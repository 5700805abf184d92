"""Families by name: the folders of this package, and entry points in the group `concert.families`."""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import os
import sys
from importlib.metadata import entry_points
from pathlib import Path

from ground.errors import BadInput
from models.base import Family

_HERE = Path(__file__).parent
EXTRA_FOLDERS = "CONCERT_FAMILIES"
"""Environment variable: further folders (separated as in PATH) that hold one package a family."""


def names() -> list[str]:
    """Every family that can be asked for."""
    found = {path.parent.name for path in _HERE.glob("*/__init__.py")}
    found |= {path.parent.name for folder in _extra() for path in folder.glob("*/__init__.py")}
    found |= {point.name for point in entry_points(group="concert.families")}
    return sorted(found)


def _extra() -> list[Path]:
    return [Path(part) for part in os.environ.get(EXTRA_FOLDERS, "").split(os.pathsep) if part]


def get(name: str) -> Family:
    """The family of that name.

    Raises:
        BadInput: there is none, with the nearest name that there is.
    """
    return _get(name, os.environ.get(EXTRA_FOLDERS, ""))


@functools.cache
def _get(name: str, extra: str) -> Family:
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
        raise BadInput(f"unknown model family {name!r}{hint}")
    if (_HERE / name / "__init__.py").exists():
        return _family(importlib.import_module(f"models.{name}"), name)
    for folder in _extra():
        path = folder / name / "__init__.py"
        if path.exists():
            spec = importlib.util.spec_from_file_location(
                f"concert_family_{name}", path, submodule_search_locations=[str(path.parent)]
            )
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
            return _family(module, name)
    (point,) = (point for point in entry_points(group="concert.families") if point.name == name)
    return _family(point.load(), name)


def _family(module: object, name: str) -> Family:
    family = module if isinstance(module, Family) else getattr(module, "FAMILY", None)
    if not isinstance(family, Family):
        raise BadInput(f"model family {name!r} has no FAMILY")
    return family
