"""Families by name: the folders of this package, folders named by CONCERT_FAMILIES, and entry points in the group
`concert.families`, in this order."""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from ground.errors import BadInput
from models.base import Family

_HERE = Path(__file__).parent
EXTRA_FOLDERS = "CONCERT_FAMILIES"
"""Environment variable: further folders (separated as in PATH) that hold one package a family."""
GROUP = "concert.families"


def names() -> list[str]:
    """Every family that can be asked for."""
    found = {path.parent.name for folder in (_HERE, *_extra()) for path in folder.glob("*/__init__.py")}
    return sorted(found | {point.name for point in entry_points(group=GROUP)})


def _extra() -> list[Path]:
    return [Path(part) for part in os.environ.get(EXTRA_FOLDERS, "").split(os.pathsep) if part]


def get(name: str) -> Family:
    """The family of that name.

    Raises:
        BadInput: there is none (with the nearest name that there is), or its package cannot be imported.
    """
    return _get(name, os.environ.get(EXTRA_FOLDERS, ""))


def every(say: Callable[[str], None] | None = None) -> list[Family]:
    """All families that can be used; what is wrong with another is said, by default on stderr."""
    found = []
    for name in names():
        try:
            found.append(get(name))
        except BadInput as error:
            (say or _complain)(f"{error}; it is left out")
    return found


def _complain(text: str) -> None:
    print(text, file=sys.stderr)


def having(hook: str) -> list[Family]:
    """The families that have their own version of one of the contract's optional methods or attributes."""
    return [family for family in every() if _has(family, hook)]


def _has(family: Family, hook: str) -> bool:
    return getattr(type(family), hook) is not getattr(Family, hook)


def choose(hook: str, name: str | None = None) -> Family:
    """The family whose hook a command is to call: the one named, else the only one that has it.

    Raises:
        BadInput: it has not, none has, or several have and none is named.
    """
    if name is not None:
        family = get(name)
        if not _has(family, hook):
            raise BadInput(f"--family {name}: this family has no {hook}")
        return family
    found = having(hook)
    if len(found) == 1:
        return found[0]
    if not found:
        raise BadInput(f"no model family here has {hook}")
    raise BadInput(f"families {', '.join(f.name for f in found)} have {hook}; say which with --family NAME")


@functools.cache
def _get(name: str, extra: str) -> Family:
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
        raise BadInput(f"unknown model family {name!r}{hint}")
    try:
        found = _import(name)
    except BadInput:
        raise
    except Exception as error:  # whatever somebody's package does when it is imported, it is one family less
        line = (str(error).splitlines() or [""])[0][:160]
        raise BadInput(f"model family {name!r} cannot be imported ({type(error).__name__}: {line})") from None
    family = found if isinstance(found, Family) else getattr(found, "FAMILY", None)
    if not isinstance(family, Family):
        raise BadInput(f"model family {name!r} has no FAMILY")
    if getattr(family, "name", None) != name:
        raise BadInput(f"model family {name!r} calls itself {getattr(family, 'name', None)!r}")
    return family


def _import(name: str) -> object:
    """The package (or, of an entry point, the object) that is to have the family."""
    if (_HERE / name / "__init__.py").exists():
        return importlib.import_module(f"models.{name}")
    for folder in _extra():
        if (folder / name / "__init__.py").exists():
            return _from_file(f"concert_family_{name}", folder / name / "__init__.py")
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    if len({point.value for point in points}) > 1:
        raise BadInput(f"model family {name!r} is registered by {', '.join(sorted(p.value for p in points))}")
    return points[0].load()


def _from_file(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=[str(path.parent)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
