"""What can be downloaded: the families' `sources`, by the names that users know."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from ground import paths
from ground.errors import BadInput
from models.base import Family, Source
from models.registry import every, get


def available(holds: str | None = None, family: str | None = None) -> list[tuple[Family, Source]]:
    """All sources of data or of checkpoints (default: of both), of one family or of every one that can be used.

    Raises:
        BadInput: there is no such family.
    """
    families = every() if family is None else [get(family)]
    return [(f, source) for f in families for source in f.sources if holds in (None, source.holds)]


def folder_of(family: Family, source: Source) -> Path:
    """Where a source goes: the folder that its environment variable names, or the family's default."""
    return paths.folder(source.folder, family.folders[source.folder])


def chosen(holds: str, names: Sequence[str], family: str | None, root: Path | None = None) -> dict[Source, Path]:
    """The sources of these names (default: all) and the folders they go to.

    Args:
        root: a folder in place of the source's own.

    Raises:
        BadInput: nothing is there to download, an unknown name (with the nearest), or one that two families use.
    """
    there = available(holds, family)
    if not there:
        raise BadInput(f"no model family{f' {family}' if family else ''} names {holds} to download")
    wanted: list[tuple[Family, Source]] = []
    for name in names or [source.name for _, source in there]:
        found = [(f, source) for f, source in there if source.name == name]
        if not found:
            known = [source.name for _, source in there]
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise BadInput(f"unknown {holds} {name!r}; {hint}")
        if len(found) > 1:
            raise BadInput(f"{name} is of families {', '.join(f.name for f, _ in found)}; say which with --family NAME")
        wanted += found
    return {source: root or folder_of(f, source) for f, source in wanted}
